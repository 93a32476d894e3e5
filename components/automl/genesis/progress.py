"""Watching a search: a live line for a person at a terminal, else a line in the log. It only reads, and it never holds a worker up."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import optuna
from rich.console import Console
from rich.live import Live
from rich.table import Table

from components.automl.genesis.board import Board, read_board
from components.automl.genesis.worker import Budget

__all__ = ["Status", "status_of", "watching"]

logger = logging.getLogger(__name__)
_LOOK_S = 0.5
"""Between two looks at the study, at a terminal."""
_LOG_S, _NEWS_S = 10.0, 2.0
"""Between two lines in a log; a better score may come so much sooner."""
_SHARE = 0.02
"""Of this process' time, at most, that looking may take."""

_looking = threading.Lock()
os.register_at_fork(before=_looking.acquire, after_in_parent=_looking.release, after_in_child=_looking.release)
# Whoever forks waits until a look is over: a child would inherit the locks that the look holds, and nobody to release them.


@dataclass(frozen=True)
class Status:
    """A search at one moment.

    Attributes:
        best: The best value at the highest rung that any pipeline reached; None: nothing was judged yet.
        learner: Whose that is.
        rung: That rung.
        pipelines: Tried so far.
        failed: Of them.
        jobs: Done so far.
        running: (learner, rung) of what the workers are at.
        left_s: Of the time; negative: it is over.
    """

    best: float | None
    learner: str
    rung: int
    pipelines: int
    failed: int
    jobs: int
    running: Sequence[tuple[str, int]]
    left_s: float

    def line(self, metric: str, rungs: int, trials: int | None, *, over: bool = False) -> str:
        """Say it in one line; `over`: the search has ended."""
        parts = ["nothing judged yet"]
        if self.best is not None:
            provisional = "" if self.rung == rungs - 1 else f", rung {self.rung + 1} of {rungs}"
            parts = [f"best {metric} {self.best:.5g} ({self.learner}{provisional})"]
        failed = f", {self.failed} failed" if self.failed else ""
        parts.append(f"{self.pipelines}{'' if trials is None else f' of {trials}'} pipelines{failed}")
        parts.append(f"{self.jobs} jobs done" if over else f"{len(self.running)} running")
        if trials is None and not over:
            parts.append(f"{max(self.left_s, 0):.0f} s left")
        return " · ".join(parts)


def status_of(board: Board, left_s: float) -> Status:
    """Return what a board tells."""
    judged = [entry for entry in board.settled if entry.value is not None]
    rung = max((entry.job.rung for entry in judged), default=0)
    best = min((entry for entry in judged if entry.job.rung == rung), key=board.loss, default=None)
    return Status(
        best=None if best is None else best.value,
        learner="" if best is None else best.job.configuration.learner,
        rung=rung,
        pipelines=board.started,
        failed=len({entry.job.configuration.identity for entry in board.settled if entry.value is None}),
        jobs=len(board.settled),
        running=[(job.configuration.learner, job.rung) for _, job, _ in board.running],
        left_s=left_s,
    )


@contextmanager
def watching(
    open_: Callable[[], optuna.Study],
    budget: Budget,
    *,
    began: float,
    metric: str,
    rungs: int,
    workers: int = 1,
    console: Console | None = None,
) -> Iterator[None]:
    """Show how a search goes, from a thread, for as long as the block runs.

    Args:
        open_: Opens the study; called once, here.
        budget: The search's.
        began: `time.monotonic()` when the search's clock stood at 0.
        metric: Its name.
        rungs: How many there are.
        workers: How many there should be.
        console: Where to show it; None: standard error. If it is no terminal, the log gets lines instead.
    """
    watch = _Watch(open_(), budget, began, metric, rungs, workers, console or Console(file=sys.stderr))
    thread = threading.Thread(target=watch.run, name="genesis-progress", daemon=True)
    with _quiet() if watch.console.is_terminal else nullcontext():
        thread.start()
        try:
            yield
        finally:
            watch.ended.set()
            thread.join()


@dataclass
class _Watch:
    study: optuna.Study
    budget: Budget
    began: float
    metric: str
    rungs: int
    workers: int
    console: Console
    ended: threading.Event = field(default_factory=threading.Event)
    _logged: float = field(default_factory=time.monotonic)
    _best: float | None = None

    def run(self) -> None:
        live = None
        if self.console.is_terminal:
            live = Live(console=self.console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False)
        shortest = _NEWS_S if live is None else _LOOK_S
        pause = shortest
        while not self.ended.wait(pause):
            cpu = time.thread_time()
            with _looking:
                self._look(live)
            pause = max(shortest, (time.thread_time() - cpu) / _SHARE)
        with _looking:
            if live is not None:
                live.stop()
            self._look(None, last=True)

    def _look(self, live: Live | None, *, last: bool = False) -> None:
        try:
            status = status_of(read_board(self.study), self.began + self.budget.seconds - time.monotonic())
        except (OSError, ValueError, KeyError) as error:  # whoever works on the study will say it better
            logger.debug("the study can't be read now: %s", error)
            return
        if live is not None:
            live.start()
            live.update(self._drawn(status), refresh=True)
            return
        now = time.monotonic()
        if last or now - self._logged >= _LOG_S or status.best != self._best:
            self._logged, self._best = now, status.best
            logger.info("%s", status.line(self.metric, self.rungs, self.budget.trials, over=last))

    def _drawn(self, status: Status) -> Table:
        if self.budget.trials is not None:
            share = status.pipelines / self.budget.trials
        else:
            share = 1 - status.left_s / self.budget.seconds
        width = 16
        done = round(width * min(max(share, 0.0), 1.0))
        table = Table.grid(padding=(0, 1))
        table.add_row(
            "[cyan]" + "━" * done + "[/][dim]" + "━" * (width - done) + "[/]", status.line(self.metric, self.rungs, self.budget.trials)
        )
        at = ", ".join(f"{learner} {rung + 1}/{self.rungs}" for learner, rung in status.running)
        table.add_row(f"[dim]{self.workers} {'worker' if self.workers == 1 else 'workers'}[/]", f"[dim]{at}[/]")
        return table


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep a worker's line a job out of a live display; warnings still come."""
    workers = logging.getLogger("components.automl.genesis.worker")
    before = workers.level
    workers.setLevel(logging.WARNING)
    try:
        yield
    finally:
        workers.setLevel(before)
