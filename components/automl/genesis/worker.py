"""A worker: takes the next job, does it, writes the outcome down, until a budget ends. Any number may share a study."""

from __future__ import annotations

import ctypes
import logging
import math
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.trial import TrialState

from components.automl.genesis.board import Board, Job, claim, read_board, settle
from components.automl.genesis.configuration import Configuration
from components.automl.genesis.cost import Costs
from components.automl.genesis.schedule import Ladder, next_known
from components.automl.genesis.space import Space
from components.automl.genesis.storage import Workplace
from components.core.errors import AtlasError

__all__ = ["Budget", "Evaluator", "OutOfTime", "Proposer", "Result", "Search", "work"]

logger = logging.getLogger(__name__)
_WAIT_S = 0.05
_GRACE_S, _AGAIN_S = 0.1, 0.2
_LIBC = ctypes.CDLL(None)


class OutOfTime(Exception):
    """The time ended within a fit."""


@dataclass(frozen=True)
class Result:
    """What an evaluation found.

    Attributes:
        value: The metric.
        figures: JSON facts for the report.
        seconds: CPU seconds of parts that this process found done: by a worker that assisted, or by one that was killed.
        wall: Wall-clock seconds of those.
    """

    value: float
    figures: dict[str, Any]
    seconds: float = 0.0
    wall: float = 0.0


class Evaluator(Protocol):
    """Judges pipelines: the seam between the search and what is searched for."""

    def evaluate(self, configuration: Configuration, rung: int, until: float) -> Result:
        """Judge a pipeline at a rung; what its lower rungs fitted may be used again.

        Raises:
            OutOfTime: `time.monotonic()` has passed `until`.
            Exception: The pipeline can't be fitted.
        """

    def assist(self, configuration: Configuration, rung: int, until: float) -> bool:
        """Do a part of a job that another worker is at, the part it comes to last; it will find it done. False: there is none.

        Raises:
            OutOfTime: `time.monotonic()` has passed `until`.
            Exception: The pipeline can't be fitted.
        """


Proposer = Callable[[Board, Sequence[str]], Configuration | None]
"""Proposes a pipeline of one of the learners from what has settled; equal boards give equal proposals. None: nothing is left."""


@dataclass(frozen=True)
class Budget:
    """When to stop: pipelines tried, seconds of wall clock for all workers, a value that nothing can beat."""

    trials: int | None
    seconds: float
    perfect: float | None = None


@dataclass(frozen=True)
class Search:
    """Everything the workers of a study agree on.

    Attributes:
        known: Pipelines to try before any is proposed, in this order.
        reserve_s: Seconds at the end that are left for choosing and writing the result.
    """

    evaluator: Evaluator
    space: Space
    ladder: Ladder
    known: Sequence[Configuration]
    propose: Proposer
    costs: Costs
    budget: Budget
    reserve_s: float = 0.0


def work(study: optuna.Study, search: Search, place: Workplace, *, began: float) -> None:
    """Do jobs until nothing is left to do.

    Args:
        study: Shared.
        search: The same for every worker.
        place: Shared.
        began: `time.monotonic()` when the search's clock stood at 0.

    Raises:
        Exception: The very first job failed: the data, not the pipeline, are at fault.
    """
    until = began + search.budget.seconds - search.reserve_s
    with place.enter() as name:
        while True:
            bury(study, place)
            board = read_board(study)
            job = choose(board, search, until)
            if job is not None:
                _do(study, search, job, name, until, began)
                _give_back()
            elif board.running and (time.monotonic() < until or not board.settled):
                if not _assist(search, board, until):
                    time.sleep(_WAIT_S)  # what others are at may call for more
            else:
                return


@contextmanager
def _ended_by(at: float) -> Iterator[None]:
    """Raise OutOfTime in the block once `time.monotonic()` has passed `at`: an export of many trees asks nobody whether to go on.

    By the process's timer, so in its main thread only; a callback may swallow the exception, hence again and again.
    """
    if math.isinf(at) or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(_signal: int, _frame: object) -> None:
        raise OutOfTime

    before, timer = signal.signal(signal.SIGALRM, ring), (0.0, 0.0)
    try:
        timer = signal.setitimer(signal.ITIMER_REAL, max(at - time.monotonic(), 0.001), _AGAIN_S)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *timer)  # a test runner's, say


def _assist(search: Search, board: Board, until: float) -> bool:
    for _, job, _ in board.running:
        try:
            with _ended_by(until + _GRACE_S):
                if search.evaluator.assist(job.configuration, job.rung, until):
                    return True
        except OutOfTime:
            return False
        except Exception as error:  # whoever is at the job meets it too, and says so
            logger.debug("assisting failed: %s", error)
    return False


def _give_back() -> None:
    """Hand freed memory back to the system (glibc): the heaps that learners' libraries leave are large."""
    if hasattr(_LIBC, "malloc_trim"):
        _LIBC.malloc_trim(0)


def _forget_peak() -> None:
    """Let the kernel (Linux) measure this process's peak anew: a job must not be blamed for what an earlier one needed."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        logger.debug("peaks are those of the whole process: %s", error)


def bury(study: optuna.Study, place: Workplace) -> None:
    """Mark the jobs of dead workers as failed, without a result: they are open again."""
    for number, _, worker in read_board(study).running:
        if not place.is_alive(worker):
            try:
                study.tell(number, state=TrialState.FAIL)
            except (ValueError, RuntimeError) as error:  # another worker was faster
                logger.debug("trial %d is settled: %s", number, error)


def choose(board: Board, search: Search, until: float) -> Job | None:
    """Return the next job; None: there is none, or none fits into what is left of the budget."""
    if search.budget.perfect is not None and any(entry.value == search.budget.perfect for entry in board.settled):
        return None
    first = not board.settled and not board.running
    left = until - time.monotonic()
    if left <= 0 and not first:
        return None
    full = search.budget.trials is not None and board.started >= search.budget.trials
    started = {identity for identity, _ in board.taken}
    for job in next_known(board, search.ladder, search.known):
        if full and job.configuration.identity not in started:
            continue
        if first or (search.costs.seconds(board, job) <= left and search.costs.fits_memory(board, job)):
            return job
    if full or (board.running and not board.settled):
        return None
    learners = [name for name in search.space.learners if _affordable(board, search, name, left)]
    hopeful = search.ladder.hopeful(board, learners)
    for some in (hopeful, [name for name in learners if name not in hopeful]):
        proposed = search.propose(board, some) if some else None
        if proposed is not None:
            return Job(proposed, 0)
    return None


def _affordable(board: Board, search: Search, learner: str, left: float) -> bool:
    any_job = Job(Configuration(learner, {}, {}, ""), 0)
    return search.costs.seconds(board, any_job) <= left and search.costs.fits_memory(board, any_job)


def _do(study: optuna.Study, search: Search, job: Job, worker: str, until: float, began: float) -> None:
    trial = claim(study, search.space, job, worker)
    if trial is None:
        return
    first = not read_board(study).settled
    _forget_peak()
    cpu, start = time.process_time(), time.monotonic()
    facts: dict[str, Any] = {"figures": {}}
    found = Result(0.0, {})
    try:
        with _ended_by(math.inf if first else until + _GRACE_S):
            found = search.evaluator.evaluate(job.configuration, job.rung, math.inf if first else until)
        if not math.isfinite(found.value):
            raise ArithmeticError(f"the metric is {found.value}")
    except OutOfTime:
        study.tell(trial, state=TrialState.FAIL)
        return
    except Exception as error:  # learners' libraries raise what they like; one pipeline's error must not end the search
        if first:
            study.tell(trial, state=TrialState.FAIL)
            raise
        logger.warning("%s can't be fitted: %s", job.configuration.learner, error, exc_info=not isinstance(error, AtlasError))
        value, facts["figures"] = None, {"error": str(error)}
    else:
        value, facts["figures"] = found.value, found.figures
        logger.info("%s, from %s, rung %d: %.6g", job.configuration.learner, job.configuration.origin, job.rung, found.value)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    facts |= {"seconds": time.process_time() - cpu + found.seconds, "memory_mb": peak}
    facts |= {"clock": time.monotonic() - began, "wall": time.monotonic() - start + found.wall}
    settle(study, trial, value, **facts)
