"""What has happened in a study so far, read from its trials: a trial is one job, a pipeline at a rung."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from components.automl.genesis.configuration import Configuration
from components.automl.genesis.space import Space
from components.core.artifacts import canonical

__all__ = ["DONE", "FAILED", "TOP", "Board", "Job", "Settled", "claim", "read_board", "settle"]

DONE, FAILED = "done", "failed"
TOP = "top"
"""Figure of a job: the highest rung at which its pipeline alone is within the limits of size and latency."""
_JOB, _RESULT, _WORKER = "job", "result", "worker"


@dataclass(frozen=True)
class Job:
    """A pipeline to be judged at a rung; 0 is the cheapest."""

    configuration: Configuration
    rung: int

    @property
    def key(self) -> tuple[str, int]:
        """Equal for the same work."""
        return self.configuration.identity, self.rung


@dataclass(frozen=True)
class Settled:
    """A job whose outcome is stored.

    Attributes:
        number: The trial's number in the study.
        state: `done`, or `failed`: the pipeline can't be fitted.
        value: The metric; None when it failed.
        figures: What else was measured; JSON.
        seconds: CPU seconds. Volatile, as are the next three.
        memory_mb: Peak of the worker's process during the job.
        clock: Seconds of the search that had passed when it settled.
        wall: Seconds from its start to its end; on a busy machine more than `seconds`.
    """

    job: Job
    number: int
    state: str
    value: float | None
    figures: Mapping[str, Any]
    seconds: float
    memory_mb: float
    clock: float
    wall: float = 0.0

    @property
    def may_climb(self) -> bool:
        """Whether more models of this pipeline would still be within the limits; what can't be deployed is not worth a fit."""
        return int(self.figures.get(TOP, self.job.rung + 1)) > self.job.rung


@dataclass(frozen=True)
class Board:
    """A study at one moment.

    Attributes:
        settled: In the order in which they settled.
        running: (trial number, job, worker) of jobs that somebody is at.
        maximize: Whether a larger value is better.
    """

    settled: tuple[Settled, ...]
    running: tuple[tuple[int, Job, str], ...]
    maximize: bool

    @cached_property
    def taken(self) -> frozenset[tuple[str, int]]:
        """Keys of jobs that need not be started."""
        return frozenset([entry.job.key for entry in self.settled] + [job.key for _, job, _ in self.running])

    @cached_property
    def started(self) -> int:
        """How many pipelines were started, whatever became of them."""
        return len({identity for identity, _ in self.taken})

    @property
    def clock(self) -> float:
        """Seconds of the search that are behind us, also those of earlier processes."""
        return max((entry.clock for entry in self.settled), default=0.0)

    def done(self, rung: int) -> list[Settled]:
        """Return the jobs that have a value at a rung, the best first; equal values in the order they settled."""
        found = [entry for entry in self.settled if entry.job.rung == rung and entry.value is not None]
        return sorted(found, key=self.loss)

    def loss(self, entry: Settled) -> float:
        """Return the value so that less is better."""
        if entry.value is None:
            return float("inf")
        return -entry.value if self.maximize else entry.value

    def highest(self) -> dict[str, Settled]:
        """Return identity -> the job at the highest rung that has a value."""
        found: dict[str, Settled] = {}
        for entry in self.settled:
            before = found.get(entry.job.configuration.identity)
            if entry.value is not None and (before is None or before.job.rung < entry.job.rung):
                found[entry.job.configuration.identity] = entry
        return found


def read_board(study: optuna.Study) -> Board:
    """Read the study; trials of workers that died are neither settled nor running once they are marked as failed."""
    settled: list[tuple[str, Settled]] = []
    running = []
    for trial in study.get_trials(deepcopy=False):
        job = _job(trial)
        if job is None:
            continue
        if trial.state == TrialState.RUNNING:
            running.append((trial.number, job, trial.user_attrs.get(_WORKER, "")))
        elif _RESULT in trial.user_attrs:
            settled.append((str(trial.datetime_complete), _settled(trial, job)))
    in_order = [entry for _, entry in sorted(settled, key=lambda pair: (pair[0], pair[1].number))]
    return Board(tuple(in_order), tuple(running), study.direction == StudyDirection.MAXIMIZE)


def claim(study: optuna.Study, space: Space, job: Job, worker: str) -> optuna.Trial | None:
    """Open a trial for a job; None when another worker was faster: of two claims, the one with the lower number stands.

    One record of the journal holds the trial's number and its job, so nobody sees one without the other.
    """
    flat, name = space.flatten(job.configuration), job.configuration.learner
    kinds = space.distributions(name) if name in space.learners else {}  # what is not proposed has no place in the space
    within = {name: kind for name, kind in kinds.items() if name in flat}
    facts = {_WORKER: worker, _JOB: json.loads(canonical({"configuration": job.configuration.__dict__, "rung": job.rung}))}
    study.add_trial(
        optuna.create_trial(state=TrialState.RUNNING, params={name: flat[name] for name in within}, distributions=within, user_attrs=facts)
    )
    board = read_board(study)
    rivals = [(number, name) for number, other, name in board.running if other.key == job.key]
    own = next(number for number, name in rivals if name == worker)
    if own == min(rivals)[0] and job.key not in {entry.job.key for entry in board.settled}:
        return optuna.Trial(study, study.get_trials(deepcopy=False)[own]._trial_id)
    study.tell(own, state=TrialState.FAIL)
    return None


def settle(study: optuna.Study, trial: optuna.Trial, value: float | None, **facts: Any) -> None:
    """Write a result down, then close the trial: one that is closed without a result was killed, and its job is open again."""
    state = FAILED if value is None else DONE
    trial.set_user_attr(_RESULT, {"state": state, "value": value, **facts})
    study.tell(trial, value, state=TrialState.FAIL if value is None else None)


def _job(trial: FrozenTrial) -> Job | None:
    given = trial.user_attrs.get(_JOB)
    return Job(Configuration(**given["configuration"]), given["rung"]) if given else None


def _settled(trial: FrozenTrial, job: Job) -> Settled:
    return Settled(job, trial.number, **trial.user_attrs[_RESULT])
