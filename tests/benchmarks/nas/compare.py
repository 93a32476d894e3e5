"""Architecture search beside its rivals: what the issue asks of it, a row a figure.

    python tests/benchmarks/nas/compare.py [--quick] [--spaces mobilenet,resnet] [--cases search,ranking,budgets] [--seeds 5]

Looks up the ground truth beside this file (truth.py makes it). Runs are kept in ATLAS_HOME/bench/nas: started again, it goes on. `--quick`
has a world of its own that takes a minute, and shows that everything runs; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from budgets import budget_rows
from contest import SHARES, SYSTEMS, Contest, Incumbent
from scipy.stats import kendalltau

from components.automl.nas.budget import Limits
from components.automl.nas.space import Architecture
from components.core.settings import Settings
from components.train.reproducible import reproducible
from pipelines.bench.paired import quantile, wilcoxon
from pipelines.bench.row import Row, row

__all__ = ["CASES", "rows"]

CASES = ("search", "ranking", "budgets")
OURS = "single path"
"""The strategy that is judged; the others stand beside it."""
_CLOSE = 0.5  # points of regret
_FASTER = {"DARTS, first order": 5.0, "DARTS, second order": 10.0}
_ORDERS = 200  # of random search
_TAU = 0.6
_P = 0.05


def rows(space: str, cases: Sequence[str], seeds: int, work: Path) -> Iterator[Row]:
    """Yield the rows of a space as they are measured."""
    contest = Contest(space, work)
    if "search" in cases:
        yield from _time_rows(contest, seeds)
        yield from _regret_rows(contest, seeds)
    if "ranking" in cases:
        yield from _ranking_rows(contest, seeds)


def _time_rows(contest: Contest, seeds: int) -> Iterator[Row]:
    """CPU seconds after which a system's incumbent is, and stays, close to the best; medians over seeds and limits."""
    limits = contest.limits()
    times = {
        system: [_settled(contest, contest.incumbents(system, seed, share), limits[share]) for seed in range(seeds) for share in SHARES]
        for system in SYSTEMS
    }
    times["random search"] = [
        _settled(contest, contest.random(seed, limits[share], uniform=True, most=10**6), limits[share])
        for seed in range(_ORDERS)
        for share in SHARES
    ]
    case = f"{contest.name}: CPU s until regret <= {_CLOSE}, {seeds} seeds x {len(SHARES)} limits"
    for system, found in times.items():
        for name, share in (("median", 0.5), ("upper quartile", 0.75)):
            yield row(
                f"{case}, {name}", quantile(times[OURS], share), "CPU s", system, quantile(found, share), "" if system == OURS else "<="
            )
    for system, times_faster in _FASTER.items():
        ratio = _ratio(quantile(times[system], 0.5), quantile(times[OURS], 0.5))
        yield row(f"{case}: times as fast as {system}", ratio, "x", "limit", times_faster, ">=")
    for system, found in times.items():
        reached = float(np.mean(np.isfinite(found)))
        yield row(f"{case}: share that gets there", float(np.mean(np.isfinite(times[OURS]))), "share", system, reached, "")


def _regret_rows(contest: Contest, seeds: int) -> Iterator[Row]:
    """Regret when all have used the CPU seconds that ours used in all; DARTS also at its own end."""
    for smooth in (True, False):
        what = "regret at equal cost" if smooth else "regret at equal cost, truth not smoothed"
        ours, regrets = _regrets(contest, seeds, smooth)
        for system, found in regrets.items():
            yield row(f"{contest.name}: {what}, mean", float(np.mean(ours)), "points", system, float(np.mean(found)), "<=")
            p = wilcoxon([theirs - mine for mine, theirs in zip(ours, found, strict=True)])
            goal = "<" if system.startswith("random") else ""
            yield row(f"{contest.name}: {what}, p of not being lower than {system}", p, "p", "limit", _P, goal)


def _regrets(contest: Contest, seeds: int, smooth: bool) -> tuple[list[float], dict[str, list[float]]]:
    """Return our regrets, and each rival's, for every seed and limit."""
    ours: list[float] = []
    theirs: dict[str, list[float]] = {}
    for seed in range(seeds):
        for share, limits in contest.limits().items():
            own = contest.incumbents(OURS, seed, share)[-1]
            ours.append(contest.truth.regret(own.architecture, limits, smooth=smooth))
            found: dict[str, list[list[Incumbent]]] = {}
            for system in SYSTEMS:
                if system != OURS:
                    found[system] = [contest.incumbents(system, seed, share)]
                    found[f"{system}, at its own end"] = [found[system][0][-1:]]
            for uniform, orders in ((True, _ORDERS), (False, _ORDERS // 10)):
                name = f"random search, {'uniform' if uniform else 'near the limits'}: mean of {orders} orders"
                options = {"uniform": uniform, "most": 10**6, "cpu_s": own.cpu_s}
                found[name] = [contest.random(seed * orders + n, limits, **options) for n in range(orders)]
            for name, lines in found.items():
                at = math.inf if name.endswith("own end") else own.cpu_s
                values = [contest.truth.regret(_at(line, at), limits, smooth=smooth) for line in lines]
                theirs.setdefault(name, []).append(float(np.mean(values)))
    return ours, theirs


def _ranking_rows(contest: Contest, seeds: int) -> Iterator[Row]:
    """Kendall's tau between a sample's order by inherited weights and by the truth; beside it what needs no training."""
    truth = contest.truth.tests
    for system in SYSTEMS:
        rankings = [contest.ranking(system, seed) for seed in range(seeds)] if not system.startswith("DARTS") else []
        if not rankings:
            continue
        found = [_tau(ranking, truth) for ranking in rankings]
        case = f"{contest.name}: Kendall tau of {len(rankings[0])} architectures, {system}"
        yield row(f"{case}, mean of {seeds} seeds", float(np.mean(found)), "tau", "limit", _TAU, ">=")
        yield row(f"{case}, least", min(found), "tau", "limit", _TAU, "")
        macs = {architecture: float(contest.truth.costs[architecture].macs) for architecture in rankings[0]}
        yield row(f"{case}, mean of {seeds} seeds", float(np.mean(found)), "tau", "counting MACs", _tau(macs, truth), ">=")
        once = {a: contest.truth.trainings[a.options, 0].test for a in rankings[0]}
        again = {a: contest.truth.trainings[a.options, contest.truth.seeds - 1].test for a in rankings[0]}
        yield row(f"{case}, mean of {seeds} seeds", float(np.mean(found)), "tau", "training each once, another seed", _tau(once, again), "")
    yield row(f"{contest.name}: standard deviation between seeds of one architecture", 100 * contest.truth.noise(), "points", "", None, "")
    spread = 100 * float(np.std(list(truth.values())))
    yield row(f"{contest.name}: standard deviation between architectures", spread, "points", "", None, "")


def _tau(one: Mapping[Architecture, float], other: Mapping[Architecture, float]) -> float:
    return float(kendalltau([one[name] for name in one], [other[name] for name in one]).statistic)


def _settled(contest: Contest, line: Sequence[Incumbent], limits: Limits) -> float:
    """Return the CPU seconds from which on every incumbent is close to the best; infinite if the last one is not."""
    found = math.inf
    for incumbent in reversed(line):
        if contest.truth.regret(incumbent.architecture, limits) > _CLOSE:
            break
        found = incumbent.cpu_s
    return found


def _at(line: Sequence[Incumbent], cpu_s: float) -> Architecture:
    """Return the incumbent after so many CPU seconds; the first one, if there was none until then."""
    known = [incumbent for incumbent in line if incumbent.cpu_s <= cpu_s]
    return (known[-1] if known else line[0]).architecture


def _ratio(theirs: float, ours: float) -> float:
    """Return how often ours fits into theirs; 0 where ours never gets there."""
    return 0.0 if math.isinf(ours) else theirs / ours


def main() -> None:
    """Print the rows, one JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--spaces", default="mobilenet,resnet")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    cases, spaces, seeds = given.cases.split(","), given.spaces.split(","), given.seeds
    if unknown := set(cases) - set(CASES):
        parser.error(f"there is no case {', '.join(sorted(unknown))}: use some of {', '.join(CASES)}")
    if given.quick:
        spaces, seeds = ["quick"], 2
    with reproducible():
        for space in spaces if set(cases) & {"search", "ranking"} else []:
            for found in rows(space, cases, seeds, Settings.from_env().home / "bench" / "nas"):
                print(json.dumps(found), flush=True)
        if "budgets" in cases:
            for found in budget_rows(20 if given.quick else 200, networks=4 if given.quick else 20):
                print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
