"""A scenario's architecture search: from its lines and its limits to a network that Genesis judges beside all other pipelines.

1. The budget's larger part trains an entangled supernet, from the last search's if there is one of the same shape.
2. The rest chooses on it, within the limits; what is chosen inherits its weights, with which `train` begins.
3. On request a sample is trained alone: how well do inherited weights rank?
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch

from components.automl.nas.budget import Limits, cost, costs
from components.automl.nas.latency import table
from components.automl.nas.problem import stream
from components.automl.nas.searched import Judged, Searched
from components.automl.nas.strategies import Budget, Effects, Found, Gradient, Meter, Random, SearchTask
from components.automl.nas.strategies.on_supernet import calibration
from components.automl.nas.strategies.random import trained
from components.automl.nas.supernet import Supernet, recalibrate
from components.automl.nas.texts import Texts
from components.automl.nas.training import Draws, Fitting, Rule, clipped, inherited_score, largest_first, sandwich, single_path, standalone
from components.automl.spec import Nas
from components.core.errors import DataError
from components.train.data import Data
from components.train.learners.base import Weights
from components.train.learners.recognizer import LEARNER, space_of
from components.train.lines import Features, Lines
from components.train.spaces.space import Architecture, Space
from components.train.validation import Validation

__all__ = ["Offer", "search"]

_HOLDOUT = Validation(kind="holdout", folds=1)
_FITTED_SHARE = 0.75  # of the time: the supernet's training, the rest chooses
_CALIBRATING = 8
_TIMED = 3
_LARGEST_SHARE = 0.4  # of the supernet's steps, the first ones
_NORM = 5.0
_RULES: Mapping[str, Rule] = {"single_path": single_path, "sandwich": sandwich}


@dataclass(frozen=True)
class Offer:
    """What a search hands on.

    Attributes:
        features: Of the recipe.
        params: Of the recipe.
        start: Weights that the network inherits; None: the strategy has no supernet.
        supernet: For the next search to go on from; None: there is none.
    """

    searched: Searched
    features: dict[str, Any]
    params: dict[str, Any]
    start: Weights | None
    supernet: Weights | None


def search(data: Data, given: Nas, *, seed: int, seconds: float = math.inf, past: tuple[str, Weights] | None = None) -> Offer:
    """Search the space that the scenario names.

    Args:
        data: Train and validation lines.
        given: The scenario's `automl.nas`.
        seed: Of everything that is drawn.
        seconds: CPU seconds for supernet and choice; without a limit, equal arguments give an equal offer.
        past: An earlier search and its supernet.

    Raises:
        DataError: There is too little to learn from, or no network of the space is within the limits.
        ConfigError: There is no such space, or it does not read lines.
    """
    features = Features()
    part: Lines = LEARNER.prepare(data, features, _HOLDOUT).part(0)
    task = _task(part, given, seed)
    begun, notes = _past(task, past)
    task = replace(task, start=begun)
    started = time.process_time()
    found, supernet_s = _found(task, given, seconds)
    search_s = time.process_time() - started - supernet_s
    started = time.process_time()
    judged = _judged(task, found, _sample(task, found, given))
    searched = Searched(
        space=task.space,
        strategy=given.strategy,
        limits=task.limits,
        found=next(each for each in judged if each.architecture == found.architecture),
        judged=judged,
        learned=_learned(found),
        supernet_s=supernet_s,
        search_s=search_s,
        sample_s=time.process_time() - started,
        start=past[0] if past and begun is not None else None,
        notes=notes,
    )
    document = task.space.encode(found.architecture)
    params = LEARNER.params.model_validate(document | {"options": tuple(document["options"])}).model_dump(mode="json")
    supernet = found.supernet
    return Offer(
        searched,
        features.model_dump(mode="json"),
        params,
        None if supernet is None else _inherited(task, supernet, found.architecture),
        None if supernet is None else _arrays(supernet.state_dict()),
    )


def _task(part: Lines, given: Nas, seed: int) -> SearchTask:
    problem = Texts.of(part, given.batch)
    columns = 4 * math.ceil(float(np.median([image.shape[1] for image, _ in part.learned])) / 4)
    whole = space_of(given.space, part.rule.height, len(part.task.alphabet) + 1, columns=columns, dropout=given.dropout)
    limits = Limits(given.max_params, given.max_macs, given.max_latency_ms)
    return SearchTask(_within(whole, limits), problem, limits, table(whole) if given.max_latency_ms else None, seed)


def _within(whole: Space, limits: Limits) -> Space:
    """Return the space without the widths whose networks are all beyond the limits: a supernet would learn them for nothing.

    Latencies do not count: they are measured anew for each search, and the next one could not go on from a supernet of other widths.
    """
    exact = replace(limits, max_latency_ms=None).counted()
    least = (costs(whole, width).least for width in range(len(whole.widths)))
    kept = [width for width, row in zip(whole.widths, least, strict=True) if all(row[column] <= most for column, most in exact)]
    return replace(whole, widths=tuple(kept)) if kept else whole


def _past(task: SearchTask, past: tuple[str, Weights] | None) -> tuple[dict[str, torch.Tensor] | None, tuple[str, ...]]:
    """Return the state of an earlier supernet, if it has today's shape, and what is to be said about it."""
    if past is None:
        return None, ()
    ref, weights = past
    wanted = {name: tuple(value.shape) for name, value in Supernet(task.space).state_dict().items()}
    if wanted != {name: values.shape for name, values in weights.items()}:
        return None, (f"The supernet of {ref} is of another space, height, alphabet or limit: today's began from nothing.",)
    return {name: torch.from_numpy(np.array(values)) for name, values in weights.items()}, ()


def _found(task: SearchTask, given: Nas, seconds: float) -> tuple[Found, float]:
    """Search; return also the CPU seconds of training a supernet."""
    fitting = Fitting(given.epochs, lr=given.lr)
    if given.strategy == "random":
        return Random(trained(fitting), judged=given.judged).search(task, Budget(seconds)), 0.0
    if given.strategy == "superposition":
        found = Gradient(fitting).search(task, Budget(seconds))
        return found, found.cpu_s
    fitting = _affordable(task, fitting, _RULES[given.strategy], _FITTED_SHARE * seconds)
    strategy = Effects(fitting, _rule(given.strategy, round(_LARGEST_SHARE * fitting.steps(task.problem))), judged=given.judged)
    meter = Meter(Budget(_FITTED_SHARE * seconds))
    supernets = strategy.trained(task, meter)
    spent_s = meter.spent_s
    return strategy.select(task, supernets, Meter(Budget(seconds), spent_s=spent_s)), spent_s


def _rule(name: str, first: int) -> Rule:
    return clipped(largest_first(_RULES[name], first), _NORM)


def _affordable(task: SearchTask, fitting: Fitting, rule: Rule, seconds: float) -> Fitting:
    """Shorten a training that would not end in time: its learning rate should have come down when it ends."""
    if math.isinf(seconds):
        return fitting
    supernet, draws = task.supernet().train(), Draws(task.space, task.seed)
    batches = stream(task.problem, "train", torch.Generator().manual_seed(task.seed))

    def step_s(some: Rule) -> float:
        some(supernet, task.problem, next(batches), draws)  # the first finds nothing prepared
        began = time.process_time()
        for batch in islice(batches, _TIMED):
            some(supernet, task.problem, batch, draws)
        return (time.process_time() - began) / _TIMED

    a_step = _LARGEST_SHARE * step_s(largest_first(rule, 1 + _TIMED)) + (1 - _LARGEST_SHARE) * step_s(rule)
    return replace(fitting, epochs=min(fitting.epochs, max(1.0, seconds / max(a_step, 1e-6)) / task.problem.steps()))


def _sample(task: SearchTask, found: Found, given: Nas) -> dict[Architecture, float]:
    """Train some of those that were judged alone, from the best to the worst."""
    ranked = list(found.ranking)
    if not given.sample or found.supernet is None or not ranked:
        return {}
    places = np.unique(np.linspace(0, len(ranked) - 1, min(given.sample, len(ranked))).round().astype(int))
    fitting = Fitting(given.epochs, lr=given.lr)
    return {ranked[place]: standalone(task.space, ranked[place], task.problem, fitting, task.seed)[1] for place in places}


def _judged(task: SearchTask, found: Found, alone: Mapping[Architecture, float]) -> tuple[Judged, ...]:
    ranking = dict(found.ranking)
    if found.architecture not in ranking:
        if found.supernet is None:
            raise DataError("the search judged nothing", do="raise automl.budget_s")
        ranking[found.architecture] = inherited_score(found.supernet, found.architecture, task.problem, calibration(task, _CALIBRATING))
    rows = [Judged(each, cost(task.space, each, task.latency), score, alone.get(each)) for each, score in ranking.items()]
    return tuple(sorted(rows, key=lambda row: -row.inherited))


def _learned(found: Found) -> tuple[tuple[float, float], ...]:
    """(CPU seconds, best score) where the strategy judges; empty where it only descends."""
    return tuple((moment.cpu_s, found.ranking[moment.architecture]) for moment in found.moments if moment.architecture in found.ranking)


def _inherited(task: SearchTask, supernet: Supernet, architecture: Architecture) -> Weights:
    recalibrate(supernet, architecture, calibration(task, _CALIBRATING))
    return _arrays(supernet.inherited(architecture))


def _arrays(state: Mapping[str, torch.Tensor]) -> Weights:
    return {name: value.detach().cpu().numpy().copy() for name, value in state.items()}
