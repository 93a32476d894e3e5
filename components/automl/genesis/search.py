"""The search: known good configurations first, then TPE, under a trial budget and a wall-clock budget, whichever ends first.

A trial is *settled* once its outcome is stored: done, stopped at a rung, or failed. Its place is the number of settled trials
before it; place, seed and what was settled decide what it tries. So one worker under a trial budget gives the same trials and the
same winner however often it is killed and resumed.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from components.automl.genesis.samplers import Replay, tpe
from components.automl.genesis.space import Space
from components.core.artifacts import canonical
from components.core.errors import AtlasError, IntegrityError

__all__ = ["Budget", "Configuration", "OutOfTime", "Outcome", "Report", "Stopped", "Trial", "search", "settled_trials"]

logger = logging.getLogger(__name__)
optuna.logging.set_verbosity(optuna.logging.WARNING)
_ENOUGH = 3
"""Earlier trials that must have reached a rung before it stops one."""

Report = Callable[[int, float], None]
"""An objective calls it with (epoch, score so far); it may raise `Stopped` or `OutOfTime`."""


@dataclass(frozen=True)
class Configuration:
    """One pipeline to try.

    Attributes:
        origin: `default`, `champion` or `search`.
    """

    learner: str
    features: dict[str, Any]
    params: dict[str, Any]
    origin: str

    @property
    def identity(self) -> bytes:
        """Equal for equal pipelines, wherever they come from."""
        return canonical([self.learner, self.features, self.params])


Objective = Callable[[Configuration, Report], tuple[float, dict[str, float | None]]]
"""Trains a configuration and returns its value and all its figures."""


@dataclass(frozen=True)
class Budget:
    """Whichever ends first.

    Attributes:
        trials: Settled trials.
        seconds: Spent in trials, over all processes that worked on this study.
    """

    trials: int
    seconds: float


@dataclass(frozen=True)
class Trial:
    """A settled trial.

    Attributes:
        state: `done`, `stopped` or `failed`.
        value: None unless done.
        steps: (epoch, score) pairs that were reported.
        seconds: Volatile; never part of a digest.
    """

    configuration: Configuration
    state: str
    value: float | None
    figures: dict[str, float | None]
    steps: tuple[tuple[int, float], ...]
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """All settled trials in order, and which one won; equal values go to the earlier."""

    trials: tuple[Trial, ...]
    best: int


class Stopped(Exception):
    """The trial is worse at a rung than half of those before it."""


class OutOfTime(Exception):
    """The wall-clock budget ended within a trial."""


def search(
    study: optuna.Study,
    objective: Objective,
    known: Sequence[Configuration],
    space: Space,
    *,
    budget: Budget,
    seed: int,
    rungs: frozenset[int] = frozenset(),
    perfect: float | None = None,
) -> Outcome:
    """Settle trials until a budget ends, or nothing can be better; at least one.

    Args:
        study: From `open_study`; trials settled earlier count.
        objective: What is optimised, in the study's direction.
        known: Configurations to try first, in this order; repeated ones are tried once.
        space: What may be proposed.
        budget: Trials and seconds.
        seed: Of the proposals.
        rungs: Epochs at which a trial below the median of the earlier ones is stopped.
        perfect: The best value there is; a trial that reaches it is the last.

    Raises:
        AtlasError: The first trial failed: the data, not the configuration, are at fault.
        IntegrityError: No trial ended with a value.
    """
    first = _distinct(known)
    while (place := len(trials := settled_trials(study))) < budget.trials:
        if perfect is not None and any(trial.value == perfect for trial in trials):
            logger.info("the search ends after %d trials: nothing can be better", place)
            break
        spent = sum(trial.seconds for trial in trials)
        if place and spent >= budget.seconds:
            logger.info("the search ends after %d trials: its %g s are spent", place, budget.seconds)
            break
        given = first[place] if place < len(first) else None
        study.sampler = Replay(space.flatten(given.learner, given.features, given.params)) if given else tpe(seed, place)
        trial = study.ask()
        proposed = Configuration(*space.suggest(trial), "search")  # of a known one, it tells the study where in the space it lies
        deadline = time.monotonic() + budget.seconds - spent if place else float("inf")
        if not _settle(study, trial, given or proposed, objective, _reporter(study, trial, given, deadline, rungs)):
            break
    trials = settled_trials(study)[: budget.trials]
    done = [(trial.value, -number) for number, trial in enumerate(trials) if trial.value is not None]
    if not done:
        raise IntegrityError("no trial of the search ended with a value", do="look at the errors above; more rows may help")
    sign = 1 if study.direction == StudyDirection.MAXIMIZE else -1
    best = max(done, key=lambda entry: (sign * entry[0], entry[1]))
    return Outcome(tuple(trials), -best[1])


def _settle(study: optuna.Study, trial: optuna.Trial, configuration: Configuration, objective: Objective, report: Report) -> bool:
    """Run one trial and store its outcome; False when the time ended within it."""
    first = not settled_trials(study)
    trial.set_user_attr("configuration", json.loads(canonical(configuration.__dict__)))
    try:
        value, figures = objective(configuration, report)
    except OutOfTime:
        study.tell(trial, state=TrialState.FAIL)
        return False
    except Stopped:
        study.tell(trial, state=TrialState.PRUNED)
    except (AtlasError, ArithmeticError, ValueError) as error:
        if first:
            study.tell(trial, state=TrialState.FAIL)
            raise
        logger.warning("%s failed: %s", configuration.learner, error)
        trial.set_user_attr("failed", True)  # else a failed trial is one that was killed, and is tried again
        study.tell(trial, state=TrialState.FAIL)
    else:
        trial.set_user_attr("figures", figures)
        study.tell(trial, value)
        logger.info("%s, from %s: %.6g", configuration.learner, configuration.origin, value)
    return True


def _reporter(study: optuna.Study, trial: optuna.Trial, given: Configuration | None, deadline: float, rungs: frozenset[int]) -> Report:
    """Return what the objective reports to; it keeps the deadline and, for a proposed configuration, the rungs."""
    earlier = {rung: sorted(value for t in settled_trials(study) for epoch, value in t.steps if epoch == rung) for rung in rungs}
    maximize = study.direction == StudyDirection.MAXIMIZE

    def report(epoch: int, score: float) -> None:
        if time.monotonic() > deadline:
            raise OutOfTime
        if epoch not in rungs:
            return
        trial.report(score, epoch)
        reached = earlier[epoch]
        if given is None and len(reached) >= _ENOUGH:
            median = reached[len(reached) // 2]
            if score < median if maximize else score > median:
                raise Stopped

    return report


def settled_trials(study: optuna.Study) -> list[Trial]:
    """Return the settled trials in the order in which they were settled."""
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    trials = study.get_trials(deepcopy=False, states=states)
    return [_read(trial) for trial in trials if trial.state != TrialState.FAIL or trial.user_attrs.get("failed")]


def _distinct(known: Sequence[Configuration]) -> list[Configuration]:
    found: dict[bytes, Configuration] = {}
    for entry in known:
        found.setdefault(entry.identity, entry)
    return list(found.values())


def _read(trial: FrozenTrial) -> Trial:
    state = {TrialState.COMPLETE: "done", TrialState.PRUNED: "stopped"}.get(trial.state, "failed")
    return Trial(
        Configuration(**trial.user_attrs["configuration"]),
        state,
        trial.value if state == "done" else None,
        trial.user_attrs.get("figures", {}),
        tuple(sorted(trial.intermediate_values.items())),
        trial.duration.total_seconds() if trial.duration else 0.0,
    )
