"""One measured run of one system on one table: made once, kept as JSON, never measured twice unless asked.

Below ATLAS_HOME/bench/automl: `envs` the rivals' environments; `results/KEY.json` with the answers beside it; `kept/KEY` what a
system remembers of yesterday; `logs/KEY.txt`.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq

from components.core.artifacts import digest_of
from components.core.errors import AtlasError, TryAgain
from pipelines.bench.systems import SYSTEMS, System, environment, interpreter, version
from pipelines.bench.tables import Split, judge, smaller, write
from pipelines.bench.watch import Watched, watch

__all__ = ["CORES", "Bench", "Moment", "Result", "Run", "lock"]

logger = logging.getLogger(__name__)
WORKERS_TRIALS = 16
"""Of the case `workers`."""
CORES = 2
PROTOCOL = 2
"""Raise it when splits, metrics or clocks change: every result becomes stale."""
LAST_LINES = 20


@dataclass(frozen=True)
class Run:
    """What is measured.

    Attributes:
        case: `cold`; `yesterday`: cold on the table 30 % smaller; `warm`: today, knowing yesterday's; `workers`.
        table: Its name.
        system: Its name.
        budget_s: 0 for a system that has none.
        seed: Of the split and the system.
        workers: Processes or threads the system may use.
        yesterday_s: The budget that a warm run's yesterday had; 0 for other cases.
    """

    case: Literal["cold", "yesterday", "warm", "workers"]
    table: str
    system: str
    budget_s: float
    seed: int
    workers: int = CORES
    yesterday_s: float = 0.0

    @property
    def prefix(self) -> str:
        """What the keys of all versions of this run start with."""
        return f"{self.case}.{self.table}.{self.system}.{self.budget_s:g}s.{self.seed}."

    @property
    def yesterday(self) -> Run:
        """The run on the smaller table that a warm one starts from."""
        return replace(self, case="yesterday", budget_s=self.yesterday_s, yesterday_s=0.0)


@dataclass(frozen=True)
class Moment:
    """A search as it stood at one moment, if it had been stopped there.

    Attributes:
        wall_s: Since the process was started.
        cpu_s: Of the process tree, until then.
        validation: The score that the search itself knew.
        score: On the test rows, computed afterwards.
    """

    wall_s: float
    cpu_s: float
    validation: float
    score: float


@dataclass(frozen=True)
class Result:
    """What came of a run.

    Attributes:
        run: What was measured.
        metric: auc, logloss or rmse.
        error: The last lines of the log of a run that failed; then there is no score.
        score: The metric on the test rows.
        se: Its standard error, by bootstrap of the test rows.
        wall_s: From the start of the process until the model was on disk: imports and export count, answering the test rows does not.
        cpu_s: CPU seconds of the process tree until then.
        peak_mb: Of the process tree, over its whole life.
        model_mb: The model on disk, as the system would deploy it.
        us_per_row: Answering a batch of 10,000 rows or more, both cores allowed.
        facts: What else the system said.
        trajectory: Ours: how the best model so far grew.
    """

    run: Run
    metric: str
    error: str | None = None
    score: float | None = None
    se: float = 0.0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_mb: float = 0.0
    model_mb: float = 0.0
    us_per_row: float = 0.0
    facts: dict[str, Any] | None = None
    trajectory: tuple[Moment, ...] = ()

    @property
    def higher_is_better(self) -> bool:
        """The metric's direction."""
        return self.metric == "auc"

    @classmethod
    def read(cls, path: Path) -> Result:
        """Read what `Bench` wrote."""
        given = json.loads(path.read_text())
        moments = tuple(Moment(**moment) for moment in given.pop("trajectory"))
        return cls(**given | {"run": Run(**given["run"]), "trajectory": moments})


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Measure alone: two runs at once would slow each other.

    Raises:
        TryAgain: Another process is measuring.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise TryAgain(f"another `atlas bench automl` is measuring in {folder}", do="wait for it to end") from error
        yield


class Bench:
    """Measures runs, and keeps what it measured.

    Args:
        folder: ATLAS_HOME/bench/automl.
        again: Whether runs that were measured before this one was made are measured anew.
        known: The systems by name.
    """

    def __init__(self, folder: Path, *, again: bool = False, known: Mapping[str, System] = SYSTEMS) -> None:
        self.folder = folder
        self._known = known
        self._again = again
        self._fresh: set[str] = set()
        for name in ("results", "kept", "logs", "work"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def key(self, run: Run) -> str:
        """Return the name of a run's result; it changes with what decides the figures."""
        decides = asdict(run) | {"version": version(self._known[run.system]), "protocol": PROTOCOL, "cores": CORES}
        return f"{run.prefix}{digest_of(decides)[:12]}"

    def result(self, run: Run, today: Split) -> Result:
        """Return a run's result; it is measured if that has not been done. A warm run's yesterday comes first.

        Raises:
            TryAgain: A rival's environment could not be installed.
        """
        key = self.key(run)
        path = self.folder / "results" / f"{key}.json"
        if path.is_file() and (not self._again or key in self._fresh):
            return Result.read(path)
        if run.case == "warm" and (failed := self.result(run.yesterday, today).error) is not None:
            result = Result(run, today.entry.metric, error=f"yesterday's run failed: {failed}")
        else:
            result = self._measure(run, smaller(today) if run.case == "yesterday" else today)
        _write_json(path, asdict(result))
        self._fresh.add(key)
        logger.info("%s", _line(result))
        return result

    def _measure(self, run: Run, given: Split) -> Result:
        system = self._known[run.system]
        python = interpreter(system, self.folder / "envs")
        work = Path(tempfile.mkdtemp(dir=self.folder / "work"))
        log = self.folder / "logs" / f"{self.key(run)}.txt"
        try:
            (work / "keep").mkdir()
            write(given, work)
            command = [str(python), str(system.scripts / system.script), str(work), *self._options(run, work)]
            # A system gets time to overrun its budget, and to answer; one that hangs is ended.
            limit_s = 180 + 3 * run.budget_s
            watched = watch(command, env=environment(system), cores=CORES, folder=work, log=log, limit_s=limit_s)
            if watched.code != 0:
                return Result(run, given.entry.metric, error=_why(watched, log))
            try:
                result = _judged(run, given, work, watched)
            except (OSError, AtlasError, KeyError, ValueError) as error:
                return Result(run, given.entry.metric, error=f"what it wrote can't be used: {error}")
            self._keep(run, work)
            return result
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _options(self, run: Run, work: Path) -> list[str]:
        options = ["--budget", f"{run.budget_s:g}", "--cores", str(run.workers), "--seed", str(run.seed), "--keep", str(work / "keep")]
        if run.case == "workers":
            options += ["--trials", str(WORKERS_TRIALS)]  # the same known pipelines, whoever does them
        if run.case == "warm":
            options += ["--yesterday", str(self.folder / "kept" / self.key(run.yesterday))]
        return options

    def _keep(self, run: Run, work: Path) -> None:
        os.replace(work / "predictions.parquet", self.folder / "results" / f"{self.key(run)}.parquet")
        if run.case == "yesterday":
            for old in (self.folder / "kept").glob(f"{run.prefix}*"):  # of earlier versions: nobody will ask for them
                shutil.rmtree(old)
            os.replace(work / "keep", self.folder / "kept" / self.key(run))


def _judged(run: Run, given: Split, work: Path, watched: Watched) -> Result:
    """Read what a system wrote, and compute what it could not: it never sees the test rows' target."""
    facts = json.loads((work / "facts.json").read_text())
    score, se = judge(given, pq.read_table(work / "predictions.parquet"), run.seed)
    wall_s = facts.pop("fitted_at") - watched.began
    cpu_s = watched.cpu_at(wall_s)
    moments = list(_trajectory(run, given, work, watched))
    if facts.get("validation") is not None:  # ours: the whole search is its last moment
        moments.append(Moment(wall_s, cpu_s, facts["validation"], score))
    return Result(
        run,
        given.entry.metric,
        score=score,
        se=se,
        wall_s=wall_s,
        cpu_s=cpu_s,
        peak_mb=watched.peak_mb,
        model_mb=facts.pop("model_bytes") / 2**20,
        us_per_row=facts.pop("us_per_row"),
        facts=facts,
        trajectory=tuple(moments),
    )


def _trajectory(run: Run, given: Split, work: Path, watched: Watched) -> Iterator[Moment]:
    path = work / "trajectory.json"
    for moment in json.loads(path.read_text()) if path.is_file() else []:
        at_s = moment["at"] - watched.began
        score, _ = judge(given, pq.read_table(work / moment["answers"]), run.seed)
        yield Moment(at_s, watched.cpu_at(at_s), moment["validation"], score)


def _why(watched: Watched, log: Path) -> str:
    lines: Sequence[str] = log.read_text(errors="replace").splitlines()[-LAST_LINES:]
    what = f"ended after {watched.wall_s:.0f} s, it hung" if watched.overdue else f"exit code {watched.code}"
    return "\n".join([what, *lines])


def _line(result: Result) -> str:
    run = result.run
    what = f"{run.case} {run.budget_s:g} s, {run.table}, {run.system}:"
    if result.error is not None or result.score is None:
        return f"{what} FAILED: {(result.error or '').splitlines()[-1]}"
    used = f"{result.wall_s:.1f} s, cpu {result.cpu_s:.1f} s, {result.peak_mb:.0f} MB"
    return f"{what} {result.metric} {result.score:.4f} ({used}; model {result.model_mb:.1f} MB, {result.us_per_row:.0f} us a row)"


def _write_json(path: Path, value: dict[str, Any]) -> None:
    """Write aside and rename: a killed benchmark leaves whole results only."""
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(value, indent=1, default=_plain))
    os.replace(aside, path)


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)
