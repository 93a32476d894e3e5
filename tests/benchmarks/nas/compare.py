"""Architecture search beside its rivals: what the issue asks of it, a row a figure.

    python tests/benchmarks/nas/compare.py [--quick] [--spaces mobilenet,resnet] [--cases search,ranking,budgets,ocr] [--seeds 5]
        [--without SYSTEM]

Looks up the ground truth beside this file (truth.py makes it). Runs are kept in ATLAS_HOME/bench/nas: started again, it goes on. `--quick`
has a world of its own that takes a minute, and shows that everything runs; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import ocr
from budgets import budget_rows
from contest import SHARES, SYSTEMS, Contest, Incumbent
from ocr import ocr_rows
from scipy.stats import kendalltau

from components.automl.nas.budget import Limits
from components.core.settings import Settings
from components.train.reproducible import reproducible
from components.train.spaces.space import Architecture
from pipelines.bench.paired import quantile, wilcoxon
from pipelines.bench.row import Row, row

__all__ = ["CASES", "rows"]

CASES = ("search", "ranking", "budgets", "ocr")
OURS = "single path"
"""The strategy that is judged; the others stand beside it."""
OURS_TOO = ("single path", "single path, evolution", "superposition")
NO_SEARCH = "most MACs within the limit"
FIRST_SEED = 3
"""Our settings were chosen with supernets of seeds 0, 1 and 2."""
_LINES_SEEDS = 5
_CLOSE = 0.5  # points of regret
_FASTER = {"DARTS, first order": 5.0, "DARTS, second order": 10.0}
_ORDERS = 200  # of random search
_TAU = 0.6
_P = 0.05


def rows(contest: Contest, cases: Sequence[str], seeds: Sequence[int]) -> Iterator[Row]:
    """Yield the rows of a space as they are measured."""
    if "search" in cases:
        yield from _time_rows(contest, seeds)
        yield from _regret_rows(contest, seeds)
    if "ranking" in cases:
        yield from _ranking_rows(contest, seeds)


def _time_rows(contest: Contest, seeds: Sequence[int]) -> Iterator[Row]:
    """CPU seconds after which a system's incumbent is, and stays, close to the best; quantiles over seeds and limits."""
    limits = contest.limits()
    lines = {
        system: [(contest.incumbents(system, seed, share), limits[share]) for seed in seeds for share in SHARES]
        for system in contest.systems
    }
    lines["random search"] = [
        (contest.random(seed, limits[share], uniform=True, most=10**6), limits[share]) for seed in range(_ORDERS) for share in SHARES
    ]
    lines[NO_SEARCH] = [(contest.most(share), limits[share]) for share in SHARES]
    for what, alone in (("everything counted", False), ("search alone, without training what it finds", True)):
        times = {system: [_settled(contest, *each, alone=alone) for each in found] for system, found in lines.items()}
        case = f"{contest.name}: CPU s until regret <= {_CLOSE}, {what}"
        for system, found in times.items():
            for name, share in (("median", 0.5), ("upper quartile", 0.75)):
                goal = "" if system in (*OURS_TOO, NO_SEARCH) else "<="
                yield row(f"{case}, {name}", quantile(times[OURS], share), "CPU s", system, quantile(found, share), goal)
        for system, faster in [(name, ratio) for name, ratio in _FASTER.items() if name in contest.systems]:
            runs = zip(times[system], lines[system], strict=True)
            at_least = [_spent(line, alone=alone) if math.isinf(time) else time for time, (line, _) in runs]
            ratio = _ratio(quantile(at_least, 0.5), quantile(times[OURS], 0.5))
            unsettled = f"{1 - _reached(times[system]):.0%} of its runs end before they are close, and count until then"
            yield row(f"{case}: times as fast as {system} ({unsettled})", ratio, "x", "limit", faster, ">=")
        if not alone:
            for system, found in times.items():
                yield row(f"{case}: share that gets there", _reached(times[OURS]), "share", system, _reached(found), "")


def _regret_rows(contest: Contest, seeds: Sequence[int]) -> Iterator[Row]:
    """Regret when all have used the CPU seconds that ours used in all; DARTS also at its own end. Seeds are compared, not their limits."""
    for smooth in (True, False):
        what = "regret at equal cost" if smooth else "regret at equal cost, truth not smoothed"
        ours, regrets = _regrets(contest, seeds, smooth)
        for system, found in regrets.items():
            if system in OURS_TOO:
                if smooth:
                    yield row(f"{contest.name}: {what}, mean", float(np.mean(ours)), "points", system, float(np.mean(found)), "")
                continue
            yield row(f"{contest.name}: {what}, mean", float(np.mean(ours)), "points", system, float(np.mean(found)), "<=")
            p = wilcoxon([theirs - mine for mine, theirs in zip(ours, found, strict=True)])
            goal = "<" if system.startswith("random") else ""
            yield row(f"{contest.name}: {what}, p of not being lower than {system}", p, "p", "limit", _P, goal)


def _regrets(contest: Contest, seeds: Sequence[int], smooth: bool) -> tuple[list[float], dict[str, list[float]]]:
    """Return our regret, and each rival's, for every seed: means over the limits, which share a supernet and so are not independent."""
    ours: list[list[float]] = []
    theirs: dict[str, list[list[float]]] = {}
    for number, seed in enumerate(seeds):
        ours.append([])
        for share, limits in contest.limits().items():
            own = contest.incumbents(OURS, seed, share)[-1]
            ours[-1].append(contest.truth.regret(own.architecture, limits, smooth=smooth))
            for name, lines in _rivals(contest, seed, share, own.cpu_s).items():
                at = math.inf if name.endswith("own end") else own.cpu_s
                values = [contest.truth.regret(_at(line, at), limits, smooth=smooth) for line in lines]
                theirs.setdefault(name, [[] for _ in seeds])[number].append(float(np.mean(values)))
    return [float(np.mean(each)) for each in ours], {name: [float(np.mean(each)) for each in found] for name, found in theirs.items()}


def _rivals(contest: Contest, seed: int, share: float, cpu_s: float) -> dict[str, list[list[Incumbent]]]:
    """Return what each rival finds with a seed: of random search, in many orders."""
    found = {NO_SEARCH: [contest.most(share)]}
    for system in contest.systems:
        if system != OURS:
            found[system] = [contest.incumbents(system, seed, share)]
            if system not in OURS_TOO:
                found[f"{system}, at its own end"] = found[system]
    for uniform, orders in ((True, _ORDERS), (False, _ORDERS // 10)):
        name = f"random search, {'uniform' if uniform else 'near the limits'}: mean of {orders} orders"
        limits = contest.limits()[share]
        found[name] = [contest.random(seed * orders + n, limits, uniform=uniform, most=10**6, cpu_s=cpu_s) for n in range(orders)]
    return found


def _ranking_rows(contest: Contest, seeds: Sequence[int]) -> Iterator[Row]:
    """Kendall's tau between a sample's order by inherited weights and by the truth; beside it what needs no training."""
    truth = contest.truth.tests
    for system in contest.systems:
        rankings = [contest.ranking(system, seed) for seed in seeds] if not system.startswith("DARTS") else []
        if not rankings:
            continue
        found = [_tau(ranking, truth) for ranking in rankings]
        case = f"{contest.name}: Kendall tau of {len(rankings[0])} architectures, {system}"
        yield row(f"{case}, mean of {len(seeds)} seeds", float(np.mean(found)), "tau", "limit", _TAU, ">=")
        yield row(f"{case}, least", min(found), "tau", "limit", _TAU, "")
        macs = {architecture: float(contest.truth.costs[architecture].macs) for architecture in rankings[0]}
        yield row(f"{case}, mean of {len(seeds)} seeds", float(np.mean(found)), "tau", "counting MACs", _tau(macs, truth), ">=")
        once = {a: contest.truth.trainings[a.options, 0].test for a in rankings[0]}
        again = {a: contest.truth.trainings[a.options, contest.truth.seeds - 1].test for a in rankings[0]}
        yield row(
            f"{case}, mean of {len(seeds)} seeds", float(np.mean(found)), "tau", "training each once, another seed", _tau(once, again), ""
        )
    yield row(f"{contest.name}: standard deviation between seeds of one architecture", 100 * contest.truth.noise(), "points", "", None, "")
    spread = 100 * float(np.std(list(truth.values())))
    yield row(f"{contest.name}: standard deviation between architectures", spread, "points", "", None, "")


def _tau(one: Mapping[Architecture, float], other: Mapping[Architecture, float]) -> float:
    return float(kendalltau([one[name] for name in one], [other[name] for name in one]).statistic)


def _settled(contest: Contest, line: Sequence[Incumbent], limits: Limits, *, alone: bool) -> float:
    """Return the CPU seconds from which on every incumbent is close to the best; infinite if the last one is not."""
    found = math.inf
    for incumbent in reversed(line):
        if contest.truth.regret(incumbent.architecture, limits) > _CLOSE:
            break
        found = incumbent.search_s if alone else incumbent.cpu_s
    return found


def _spent(line: Sequence[Incumbent], *, alone: bool) -> float:
    """Return the CPU seconds of the whole run: what a search that does not get there takes at least."""
    return line[-1].search_s if alone else line[-1].cpu_s


def _at(line: Sequence[Incumbent], cpu_s: float) -> Architecture:
    """Return the incumbent after so many CPU seconds; the first one, if there was none until then."""
    known = [incumbent for incumbent in line if incumbent.cpu_s <= cpu_s]
    return (known[-1] if known else line[0]).architecture


def _reached(times: Sequence[float]) -> float:
    return float(np.mean(np.isfinite(times)))


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
    parser.add_argument("--without", action="append", default=[], choices=[name for name in SYSTEMS if name != OURS], help="a rival")
    given = parser.parse_args()
    cases, spaces, seeds = given.cases.split(","), given.spaces.split(","), range(FIRST_SEED, FIRST_SEED + given.seeds)
    if unknown := set(cases) - set(CASES):
        parser.error(f"there is no case {', '.join(sorted(unknown))}: use some of {', '.join(CASES)}")
    if given.quick:
        spaces, seeds = ["quick"], range(2)
    with reproducible():
        for space in spaces if set(cases) & {"search", "ranking"} else []:
            systems = [name for name in SYSTEMS if name not in given.without]
            for found in rows(Contest(space, Settings.from_env().home / "bench" / "nas", systems), cases, seeds):
                print(json.dumps(found), flush=True)
        if "budgets" in cases:
            for found in budget_rows(20 if given.quick else 200, networks=4 if given.quick else 20):
                print(json.dumps(found), flush=True)
        if "ocr" in cases:
            work = Settings.from_env().home / "bench" / "nas"
            for found in ocr_rows(ocr.QUICK if given.quick else ocr.Sizes(), 1 if given.quick else _LINES_SEEDS, work):
                print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
