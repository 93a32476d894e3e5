"""`atlas bench automl`: Genesis beside FLAML, AutoGluon and plain LightGBM, on the same rows, cores and seconds.

Runs go one after the other. Within a table and budget all systems have their turn before the next table starts, in an order that
rotates from table to table, so a benchmark that was stopped half-way has been fair so far. Started again, it goes on.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import pyarrow as pa

from components.core.errors import ConfigError, nearest
from components.core.settings import Settings
from pipelines.bench import systems, tables, verdict
from pipelines.bench.row import Row
from pipelines.bench.runs import CORES, Bench, Result, Run, lock

__all__ = ["CASES", "Choice", "automl"]

CASES = ("cold", "warm", "workers", "rgpe")
BUDGETS_S = (20.0, 60.0)
QUICK_TABLES, QUICK_BUDGETS_S = ("lending_club", "hpc_jobs", "air_quality"), (10.0,)
WORKERS_TABLES, WORKERS_S = ("credit_data", "bike"), 600.0


@dataclass(frozen=True)
class Choice:
    """What is measured.

    Attributes:
        tables: Their names.
        systems: Their names; ours first if it takes part.
        cases: Some of `CASES`.
        budgets_s: Ascending; yesterday's search has the largest.
        seeds: Of splits and systems; what is said of a table is then the mean over its splits.
        again: Whether what was measured before is measured anew.
        quick: Whether it is the small version.
    """

    tables: tuple[str, ...]
    systems: tuple[str, ...]
    cases: tuple[str, ...]
    budgets_s: tuple[float, ...]
    seeds: tuple[int, ...]
    again: bool
    quick: bool

    @classmethod
    def of(
        cls,
        *,
        quick: bool,
        tables: tuple[str, ...],
        systems: tuple[str, ...],
        cases: tuple[str, ...],
        budgets: tuple[str, ...],
        seeds: tuple[str, ...],
        again: bool,
    ) -> Choice:
        """Fill in what was left empty.

        Raises:
            ConfigError: There is no such system or case, a budget is no number of seconds, or a seed no whole number. Tables are
                checked when the index has been read.
        """
        _known("system", systems, tuple(SYSTEMS))
        _known("case", cases, CASES)
        return cls(
            tables=tables or (QUICK_TABLES if quick else TABLES),
            systems=tuple(name for name in SYSTEMS if not systems or name in systems),
            cases=tuple(name for name in CASES if not cases or name in cases),
            budgets_s=tuple(sorted(map(_seconds, budgets))) or (QUICK_BUDGETS_S if quick else BUDGETS_S),
            seeds=tuple(dict.fromkeys(map(_seed, seeds))) or (0,),
            again=again,
            quick=quick,
        )


SYSTEMS, TABLES = systems.SYSTEMS, tables.TABLES


def _seconds(given: str) -> float:
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ConfigError(f"a budget is '{given}', seconds above 0 are expected", do="give numbers with commas between: --budgets 20,60")
    return seconds


def _seed(given: str) -> int:
    if not given.isdecimal():
        raise ConfigError(
            f"a seed is '{given}', a whole number from 0 on is expected", do="give numbers with commas between: --seeds 0,1,2"
        )
    return int(given)


def _known(what: str, given: Sequence[str], allowed: Sequence[str]) -> None:
    for name in given:
        if name not in allowed:
            raise ConfigError(f"there is no {what} '{name}'", do=nearest(name, allowed))


def automl(choice: Choice) -> Iterator[Row]:
    """Yield a row a table and rival as soon as both are measured, then the figures over all tables.

    Raises:
        ConfigError: A table, or the folder of tables, is not there.
        TryAgain: Another process is measuring, or a rival could not be installed.
    """
    settings = Settings.from_env()
    entries = tables.index(settings)
    _known("table", choice.tables, tuple(entries))

    @cache
    def whole(name: str) -> tuple[tables.Entry, pa.Table]:
        return tables.read(entries, name)

    folder = settings.home / "bench" / "automl"
    with lock(folder):
        bench = Bench(folder, again=choice.again)
        found: list[Result] = []
        for group in groups(choice):
            today = tables.split(*whole(group[0].table), group[0].seed)
            results = [bench.result(run, today) for run in group]
            found += results
            yield from verdict.table_rows(results, found)
        yield from verdict.cold_rows(found, choice)
        yield from verdict.warm_rows(found, choice)
        yield from verdict.cost_rows(found, choice)
        yield from verdict.workers_rows(found, choice)
    if "rgpe" in choice.cases:
        yield from _rgpe(choice.quick)


def groups(choice: Choice) -> Iterator[list[Run]]:
    """Yield the runs in their order, seed after seed; those of one group are compared with each other."""
    for seed in choice.seeds:
        yield from _groups(choice, seed)


def _groups(choice: Choice, seed: int) -> Iterator[list[Run]]:
    if "cold" in choice.cases or "warm" in choice.cases:  # what is warm is compared with what is cold
        for budget_s in choice.budgets_s:
            for number, table in enumerate(choice.tables):
                yield [_cold(table, name, budget_s, seed) for name in _turn(choice.systems, number)]
    if "warm" in choice.cases:
        warm = [name for name in choice.systems if SYSTEMS[name].warm]
        longest = max(choice.budgets_s)
        for number, table in enumerate(choice.tables if warm else ()):
            turn = _turn(warm, number)
            yield [Run("yesterday", table, name, longest, seed) for name in turn]
            for budget_s in choice.budgets_s:
                yield [Run("warm", table, name, budget_s, seed, yesterday_s=longest) for name in turn]
    if "workers" in choice.cases and systems.OURS in choice.systems:
        budget_s = QUICK_BUDGETS_S[0] if choice.quick else WORKERS_S
        for table in WORKERS_TABLES:
            yield [Run("workers", table, systems.OURS, budget_s, seed, workers=workers) for workers in (1, CORES)]


def _cold(table: str, name: str, budget_s: float, seed: int) -> Run:
    case: Literal["cold"] = "cold"
    return Run(case, table, name, budget_s if SYSTEMS[name].budgeted else 0.0, seed)


def _turn(names: Sequence[str], number: int) -> list[str]:
    at = number % len(names)
    return [*names[at:], *names[:at]]


def _rgpe(quick: bool) -> Iterator[Row]:
    """The sampler's own benchmark; it needs the search's libraries, so it is loaded from its file and only now."""
    path = systems.ROOT / "tests" / "benchmarks" / "rgpe" / "compare.py"
    spec = importlib.util.spec_from_file_location("rgpe_compare", path) if path.is_file() else None
    if spec is None or spec.loader is None:
        raise ConfigError(f"there is no {path}", do="leave the case out: --cases cold,warm,workers")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    yield from module.rows(quick)
