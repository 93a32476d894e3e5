"""Samplers against one another on the tabular benchmark: each table in turn is new, the others' logged searches are the past.

    python tests/benchmarks/rgpe/compare.py [--quick]

A past search is 40 trials of TPE. Every sampler sees the same past and chooses among the same cells; who asks for a cell again is given
the nearest one that is new. Regret: how far the best so far is from the table's best cell, in the distance from best to worst.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from components.automl.genesis.configuration import Configuration, PastStudy, PastTrial
from components.automl.genesis.metafeatures import distance, spreads
from components.automl.genesis.samplers import rgpe, tpe, uniform
from components.automl.genesis.samplers.rgpe import alone
from components.automl.genesis.surrogate import Learned, learn

__all__ = ["CASES", "regrets", "rows"]

GRID_FILE = Path(__file__).with_name("grid.json")
_PAST = 40
_AT = (10, 20)
_SEEDS, _QUICK_SEEDS = 20, 2
_RIVALS = ("TPE", "TPE + old trials", "random")
_OURS = "RGPE"


@dataclass(frozen=True)
class Grid:
    """The benchmark's space: the number of a dimension's level, from 0."""

    sizes: Mapping[str, Mapping[str, int]]
    bounds: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def learners(self) -> tuple[str, ...]:
        return tuple(self.sizes)

    def distributions(self, name: str) -> dict[str, BaseDistribution]:
        levels = {f"{name}.params.{key}": IntDistribution(0, size - 1) for key, size in self.sizes[name].items()}
        return {"learner": CategoricalDistribution(self.learners), **levels}

    def flatten(self, configuration: Configuration) -> dict[str, Any]:
        levels = {f"{configuration.learner}.params.{key}": level for key, level in configuration.params.items()}
        return {"learner": configuration.learner, **levels}

    def suggest(self, trial: optuna.Trial) -> Configuration:
        name = trial.suggest_categorical("learner", self.learners)
        levels = {key: trial.suggest_int(f"{name}.params.{key}", 0, size - 1) for key, size in self.sizes[name].items()}
        return Configuration(name, {}, levels, "search")


@dataclass(frozen=True)
class Table:
    """One table's scores: learner -> an array with an axis a dimension."""

    name: str
    problem: str
    meta: Mapping[str, float]
    scores: Mapping[str, np.ndarray[Any, np.dtype[np.float64]]]

    def score(self, configuration: Configuration) -> float:
        return float(self.scores[configuration.learner][tuple(configuration.params.values())])

    def regret(self, scores: Sequence[float]) -> float:
        cells = np.concatenate([values.ravel() for values in self.scores.values()])
        return float((cells.max() - max(scores)) / (cells.max() - cells.min()))


Sampler = Callable[[int], BaseSampler]
"""From the number of the question to who answers it."""


@cache
def tables() -> dict[str, Table]:
    """Read the benchmark."""
    found = {}
    content = json.loads(GRID_FILE.read_text())
    for name, entry in content["tables"].items():
        scores = {
            learner: np.array(entry["scores"][learner]).reshape([len(levels) for levels in dimensions.values()])
            for learner, dimensions in content["grid"].items()
        }
        found[name] = Table(name, entry["problem"], entry["meta"], scores)
    return found


@cache
def space() -> Grid:
    """Return the benchmark's space."""
    content = json.loads(GRID_FILE.read_text())["grid"]
    return Grid({name: {key: len(levels) for key, levels in dimensions.items()} for name, dimensions in content.items()})


def searched(table: Table, sampler: Sampler, trials: int, old: Sequence[FrozenTrial] = ()) -> list[tuple[Configuration, float]]:
    """Run a search; with old trials in the study, today's scores are kept standardised as theirs are."""
    study = optuna.create_study(direction="maximize")
    study.add_trials(old)
    found: list[tuple[Configuration, float]] = []
    ours: list[int] = []
    for number in range(trials):
        study.sampler = sampler(number)
        asked = study.ask()
        configuration = _untried(space().suggest(asked), [tried for tried, _ in found])
        study.tell(asked, state=TrialState.FAIL)  # a question; what is told is the cell that was looked up
        found.append((configuration, table.score(configuration)))
        study.add_trial(_frozen(configuration, found[-1][1]))
        ours.append(asked.number + 1)
        if old:
            stored = study.get_trials(deepcopy=False)
            for at, score in zip(ours, _standardised([score for _, score in found]), strict=True):
                stored[at].value = score
    return found


def _untried(wanted: Configuration, tried: Sequence[Configuration]) -> Configuration:
    """Return the nearest cell of the same learner that was not looked up yet: nobody pays twice, nobody is stuck."""
    known = {configuration.identity for configuration in tried}
    if wanted.identity not in known:
        return wanted
    for name in (wanted.learner, *space().learners):
        sizes = space().sizes[name]
        at = np.array([wanted.params.get(key, 0) / max(size - 1, 1) for key, size in sizes.items()])
        cells = np.array(list(np.ndindex(*sizes.values())))
        away = np.abs(cells / np.maximum(np.array(list(sizes.values())) - 1, 1) - at).sum(axis=1)
        for cell in cells[np.argsort(away, kind="stable")]:
            found = Configuration(name, {}, dict(zip(sizes, map(int, cell), strict=True)), "search")
            if found.identity not in known:
                return found
    return wanted


def _frozen(configuration: Configuration, score: float) -> FrozenTrial:
    kinds = space().distributions(configuration.learner)
    return optuna.create_trial(params=space().flatten(configuration), distributions=kinds, value=score)


@cache
def _logged(table: str, seed: int) -> PastStudy:
    """Return the search that TPE made on a table: the past of all others."""
    known = tables()[table]
    trials = tuple(PastTrial(configuration, score, 0) for configuration, score in searched(known, lambda n: tpe(seed, n), _PAST))
    return PastStudy(table, known.problem, "score", True, 1500, known.meta, 1, trials)


@cache
def _past(table: str, seed: int) -> Learned:
    others = _others(table)
    spread = spreads([known.meta for known in tables().values() if known.problem == tables()[table].problem])
    away = [distance(tables()[table].meta, tables()[name].meta, spread) for name in others]
    return learn(space(), [_logged(name, seed) for name in others], away)


def _others(table: str) -> list[str]:
    return [name for name, known in tables().items() if name != table and known.problem == tables()[table].problem]


def _old(table: str, seed: int) -> list[FrozenTrial]:
    """Return all logged trials of the other tables, each study's scores standardised."""
    found = []
    for name in _others(table):
        trials = _logged(name, seed).trials
        for trial, score in zip(trials, _standardised([trial.score or 0.0 for trial in trials]), strict=True):
            found.append(_frozen(trial.configuration, score))
    return found


def _standardised(scores: Sequence[float]) -> list[float]:
    spread = float(np.std(scores)) if scores else 0.0
    return [(score - float(np.mean(scores))) / spread if spread > 0 else 0.0 for score in scores]


CASES: Mapping[str, Callable[[str, int], Sampler]] = {
    "RGPE": lambda table, seed: lambda number: rgpe(space(), _past(table, seed), seed, number),
    "TPE": lambda table, seed: lambda number: tpe(seed, number),
    "TPE + old trials": lambda table, seed: lambda number: tpe(seed, number),
    "random": lambda table, seed: lambda number: uniform(seed, number),
    "GP without a past": lambda table, seed: lambda number: alone(space(), seed, number),
}
"""Name -> (table, seed) -> who answers."""


def regrets(case: str, seeds: Sequence[int], names: Sequence[str] = ()) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return (seeds, tables, budgets) regrets of a sampler."""
    found = []
    for seed in seeds:
        of_seed = []
        for name in names or tables():
            old = _old(name, seed) if case == "TPE + old trials" else []
            scores = [score for _, score in searched(tables()[name], CASES[case](name, seed), max(_AT), old)]
            of_seed.append([tables()[name].regret(scores[:budget]) for budget in _AT])
        found.append(of_seed)
    return np.array(found)


def rows(quick: bool) -> list[dict[str, Any]]:
    """Measure; one row a rival and budget, ours against theirs, less is better. Standard errors are over seeds.

    Args:
        quick: Two seeds instead of twenty.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seeds = range(_QUICK_SEEDS if quick else _SEEDS)
    measured = {case: regrets(case, seeds) for case in CASES}
    return list(_rows(measured, len(seeds)))


def _rows(measured: Mapping[str, np.ndarray[Any, np.dtype[np.float64]]], seeds: int) -> Iterator[dict[str, Any]]:
    for at, budget in enumerate(_AT):
        means = {case: float(values[:, :, at].mean()) for case, values in measured.items()}
        errors = {case: float(values[:, :, at].mean(axis=1).std(ddof=1)) / math.sqrt(seeds) for case, values in measured.items()}
        for case in CASES:
            if case == _OURS:
                continue
            yield {
                "case": f"mean normalised regret after {budget} trials",
                "ours": round(means[_OURS], 5),
                "ours_se": round(errors[_OURS], 5),
                "unit": "share",
                "against": case,
                "theirs": round(means[case], 5),
                "theirs_se": round(errors[case], 5),
                "ratio": round(means[_OURS] / means[case], 3),
                "goal": "< 1" if case in _RIVALS else "",
                "holds": means[_OURS] < means[case],
                "seed": f"0-{seeds - 1}",
                "device": "cpu",
            }


def _main() -> None:
    parser = argparse.ArgumentParser(description="Compare samplers on the tabular benchmark.")
    parser.add_argument("--quick", action="store_true", help="two seeds instead of twenty")
    found = rows(parser.parse_args().quick)
    for row in found:
        print(json.dumps(row))
    print(f"\n{'after':>6} {'ours':>8} {'':>7} {'against':<18} {'theirs':>8} {'ratio':>6}", file=sys.stderr)
    for row in found:
        after = row["case"].split()[-2]
        print(
            f"{after:>6} {row['ours']:8.4f} ±{row['ours_se']:.4f} {row['against']:<18} {row['theirs']:8.4f} {row['ratio']:6.2f}",
            file=sys.stderr,
        )


if __name__ == "__main__":
    _main()
