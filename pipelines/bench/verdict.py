"""From results to rows: what `atlas bench automl` has to show, beside the rivals and the limits."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from pipelines.bench.paired import error_cut, gain, mean_ranks, quantile, wilcoxon
from pipelines.bench.row import Row, row
from pipelines.bench.runs import Result, Run
from pipelines.bench.systems import OURS

__all__ = ["cold_rows", "cost_rows", "cpu_to", "parity", "table_rows", "warm_rows", "workers_rows"]

MARGIN = 0.005
"""Not worse by as much as that, as a share of the rival's score."""
NOISE = 0.25
"""A test score is reached when what it lacks is under this share of its standard error."""
LARGE = "diamonds"
P, PEAK_MB, MODEL_MB, US_A_ROW, OVERRUN, WORSE, SPEEDUP = 0.05, 800.0, 60.0, 60.0, 1.05, 0.1, 1.8


class Chosen(Protocol):
    """What of a `Choice` is needed here."""

    @property
    def systems(self) -> tuple[str, ...]: ...
    @property
    def budgets_s(self) -> tuple[float, ...]: ...
    @property
    def seeds(self) -> Sequence[int]: ...


def table_rows(results: Sequence[Result], before: Sequence[Result]) -> Iterator[Row]:
    """Yield a table's rows: our score beside each rival's; warm ones also beside our cold one."""
    run = results[0].run
    if run.case not in ("cold", "warm"):
        return
    ours = next((result for result in results if result.run.system == OURS), None)
    budget_s = max(result.run.budget_s for result in results)
    case, goal = f"{run.case} {budget_s:g} s: {run.table}", ">=" if results[0].higher_is_better else "<="
    mine = ours.score if ours else None
    for result in results:
        if result is not ours:
            yield row(case, mine, result.metric, _name(result), result.score, goal, seed=run.seed)
    if ours and run.case == "warm" and (cold := _find(before, "cold", run, OURS, budget_s)):
        yield row(case, mine, ours.metric, "ours, cold", cold.score, goal, seed=run.seed)


def cold_rows(found: Sequence[Result], chosen: Chosen) -> Iterator[Row]:
    """Yield mean ranks and paired tests, for each budget, over the tables that all systems have had their turn on.

    A table counts once, however many splits of it were measured: its difference is their mean.
    """
    for budget_s in chosen.budgets_s:
        case = f"cold {budget_s:g} s"
        lines = _complete(found, chosen.systems, budget_s)
        if not lines:
            continue
        higher = [next(iter(line.values())).higher_is_better for line in lines]
        ranks = mean_ranks([{name: result.score for name, result in line.items()} for line in lines], higher_is_better=higher)
        measured = f"{len({_table(line) for line in lines})} tables" + (f", {len(lines)} splits" if len(chosen.seeds) > 1 else "")
        for rival in (name for name in chosen.systems if name != OURS):
            yield row(f"{case}: mean rank of {measured}", ranks.get(OURS), "rank", rival, ranks[rival], "<", seed=chosen.seeds)
            pairs = [(line[OURS], line[rival]) for line in lines if OURS in line]
            yield from _paired(case, rival, pairs, chosen.seeds)


def _paired(case: str, rival: str, pairs: Sequence[tuple[Result, Result]], seeds: Sequence[int]) -> Iterator[Row]:
    if not pairs:
        return
    cuts, gains = _by_table(error_cut, pairs), _by_table(gain, pairs)
    better = f"{case}: p that we are no better than {rival} (Wilcoxon, one-sided)"
    yield row(better, wilcoxon(cuts), "p", "limit", P, "<", seed=seeds)
    worse = f"{case}: p that we are worse than {rival} by {MARGIN:.1%} (Wilcoxon, one-sided)"
    yield row(worse, wilcoxon(gains, margin=MARGIN), "p", "limit", P, "<", seed=seeds)
    share = sum(value >= -MARGIN for value in gains) / len(gains)
    yield row(f"{case}: tables not worse than {rival} by more than {MARGIN:.1%}", share, "share", "none", None, "", seed=seeds)


def _by_table(measure: Callable[..., float], pairs: Sequence[tuple[Result, Result]]) -> list[float]:
    """Return each table's mean difference; a run that failed has lost by 1."""
    values: dict[str, list[float]] = {}
    for ours, theirs in pairs:
        values.setdefault(ours.run.table, []).append(_compared(measure, ours, theirs, 1.0))
    return [statistics.mean(each) for each in values.values()]


def _compared(measure: Callable[..., float], ours: Result, theirs: Result, lost: float) -> float:
    """Compare two results; one that failed has lost by `lost`."""
    if ours.score is None or theirs.score is None:
        return lost * ((theirs.score is None) - (ours.score is None))
    return measure(ours.score, theirs.score, higher_is_better=ours.higher_is_better)


def warm_rows(found: Sequence[Result], chosen: Chosen) -> Iterator[Row]:
    """Yield the CPU that a warm search needs to be where a cold one ends, and how often warm is worse than cold."""
    longest = max(chosen.budgets_s)
    pairs = [(_find(found, "cold", warm.run, OURS, longest), warm) for warm in _of(found, "warm", OURS, longest)]
    known = [(cold, warm) for cold, warm in pairs if cold is not None]
    for field, what in (("score", f"test score, within {NOISE:g} standard errors"), ("validation", "out-of-fold score")):
        ratios = [both for cold, warm in known if (both := parity(cold, warm, field)) is not None]
        if ratios:
            spent, needed = zip(*ratios, strict=True)
            case = f"CPU until warm is where cold {longest:g} s ends ({what}), as a share of what cold"
            yield row(f"{case} spent, median of {len(ratios)}", statistics.median(spent), "share", "limit", 1 / 3, "<=", seed=chosen.seeds)
            yield row(f"{case} spent, 90th percentile", quantile(spent, 0.9), "share", "limit", 1.0, "<=", seed=chosen.seeds)
            # Stricter than what was promised: cold did not know that it was there already.
            yield row(f"{case} needed to be there first, median", statistics.median(needed), "share", "none", None, "", seed=chosen.seeds)
    shares = {name: share for name in chosen.systems if (share := _worse(found, name, chosen.budgets_s)) is not None}
    case = "warm runs worse than cold by more than a standard error"
    mine = shares.get(OURS)
    for name, share in shares.items():
        if name != OURS:
            yield row(case, mine, "share", name, share, "", seed=chosen.seeds)
    if mine is not None:
        yield row(case, mine, "share", "limit", WORSE, "<=", seed=chosen.seeds)


def parity(cold: Result, warm: Result, field: str) -> tuple[float, float] | None:
    """Return the CPU seconds that warm needed for cold's last score, as a share of what cold spent, and of what cold needed for it.

    Infinite: never reached.

    Args:
        cold: Our cold run.
        warm: Our warm run, on the same rows.
        field: `score` (on test rows, which are noisy: see `NOISE`) or `validation`.

    Returns:
        None where a trajectory was not written.
    """
    if not cold.trajectory or not warm.trajectory:
        return None
    last: float = getattr(cold.trajectory[-1], field)
    slack = NOISE * cold.se if field == "score" else 0.0
    target = last - slack if cold.higher_is_better else last + slack
    needed, used = cpu_to(cold, target, field), cpu_to(warm, target, field)
    spent = cold.trajectory[-1].cpu_s
    return (used / spent, used / needed) if math.isfinite(needed) and needed > 0 else None


def cpu_to(result: Result, target: float, field: str) -> float:
    """Return the CPU seconds after which a search first had the target; infinite: never."""
    for moment in result.trajectory:
        value: float = getattr(moment, field)
        if value >= target if result.higher_is_better else value <= target:
            return moment.cpu_s
    return math.inf


def _worse(found: Sequence[Result], name: str, budgets_s: Iterable[float]) -> float | None:
    steps = []
    for budget_s in budgets_s:
        for warm in _of(found, "warm", name, budget_s):
            cold = _find(found, "cold", warm.run, name, budget_s)
            if cold is None or cold.score is None:
                continue
            loss = math.inf if warm.score is None else (cold.score - warm.score) * (1 if cold.higher_is_better else -1)
            steps.append(loss > cold.se)
    return sum(steps) / len(steps) if steps else None


def cost_rows(found: Sequence[Result], chosen: Chosen) -> Iterator[Row]:
    """Yield what a run costs at the worst: overrun, memory, model size, batch prediction; beside limits and rivals."""
    searches = [result for result in found if result.run.case in ("cold", "warm") and result.error is None]
    large = [result for result in searches if result.run.table == LARGE]
    figures: list[tuple[str, str, float | None, Sequence[Result], Callable[[Result], float]]] = [
        ("seconds used, as a share of the budget, at most", "budgets", OVERRUN, [r for r in searches if r.run.budget_s], _overrun),
        (f"peak memory, {LARGE}", "MB", PEAK_MB, large, lambda result: result.peak_mb),
        ("model size, at most", "MB", MODEL_MB, searches, lambda result: result.model_mb),
        (f"batch prediction, {LARGE}", "us a row", US_A_ROW, large, lambda result: result.us_per_row),
        ("batch prediction, any table, at most", "us a row", None, searches, lambda result: result.us_per_row),
    ]
    for case, unit, limit, results, figure in figures:
        most = {name: max(values) for name in chosen.systems if (values := [figure(r) for r in results if r.run.system == name])}
        mine = most.get(OURS)
        for name, value in most.items():
            if name != OURS:
                yield row(case, mine, unit, name, value, "", seed=chosen.seeds)
        if mine is not None:
            yield row(case, mine, unit, "limit", limit, "<=" if limit else "", seed=chosen.seeds)
    for name in chosen.systems:
        if failed := {result.run for result in found if result.run.system == name and result.error is not None}:
            yield row(f"runs of {name} that failed", float(len(failed)), "runs", "limit", 0.0, "<=", seed=chosen.seeds)


def _overrun(result: Result) -> float:
    return result.wall_s / result.run.budget_s


def workers_rows(found: Sequence[Result], chosen: Chosen) -> Iterator[Row]:
    """Yield how much more work two workers do in the time of one, as long as there is work for both: the same pipelines, the same jobs."""
    runs = [result for result in found if result.run.case == "workers" and result.facts]
    for table, seed in sorted({(result.run.table, result.run.seed) for result in runs}):
        measured = [result for result in runs if (result.run.table, result.run.seed) == (table, seed)]
        jobs = {result.run.workers: {job["job"]: job for job in (result.facts or {})["jobs"]} for result in measured}
        if len(jobs) == 2:
            one, many = (jobs[count] for count in sorted(jobs))
            faster = _work_done(one, many)
            # Cores that share caches or an execution unit are slower together, which no scheduler can mend.
            slower = sum(many[name]["cpu_s"] for name in one if name in many) / sum(one[name]["cpu_s"] for name in one if name in many)
            case = f"work in the same time by {max(jobs)} workers, as many times that of 1: {table}"
            yield row(case, faster, "x", "limit", SPEEDUP, ">=", seed=seed)
            shared = f"{case}, the cores' own part ({slower:.2f} x the CPU seconds a job) taken out"
            yield row(shared, faster * slower, "x", "limit", SPEEDUP, "", seed=seed)


def _work_done(one: Mapping[str, Any], many: Mapping[str, Any]) -> float:
    """Return the seconds of one worker's jobs that several did in a second, until the last job was taken: then they begin to idle."""
    start, until = min(job["began"] for job in many.values()), max(job["began"] for job in many.values())
    done = 0.0
    for name, job in many.items():
        share = min(1.0, (until - job["began"]) / max(job["ended"] - job["began"], 1e-9))
        done += share * (one[name]["ended"] - one[name]["began"]) if name in one else 0.0
    return float(done / max(until - start, 1e-9))


def _complete(found: Sequence[Result], systems: Sequence[str], budget_s: float) -> list[dict[str, Result]]:
    """Return system -> result for each split where all systems have been measured cold."""
    runs = {(result.run.table, result.run.seed): result.run for result in found}.values()
    lines = [{name: _find(found, "cold", run, name, budget_s) for name in systems} for run in runs]
    return [{name: result for name, result in line.items() if result} for line in lines if all(line.values())]


def _table(line: Mapping[str, Result]) -> str:
    return next(iter(line.values())).run.table


def _of(found: Sequence[Result], case: str, system: str, budget_s: float) -> list[Result]:
    return [r for r in found if (r.run.case, r.run.system) == (case, system) and r.run.budget_s in (budget_s, 0.0)]


def _find(found: Sequence[Result], case: str, split: Run, system: str, budget_s: float) -> Result | None:
    """Return what a system has done on the split that another run was on."""
    wanted = (split.table, split.seed)
    return next((result for result in _of(found, case, system, budget_s) if (result.run.table, result.run.seed) == wanted), None)


def _name(result: Result) -> str:
    return result.run.system if result.error is None else f"{result.run.system} (failed)"
