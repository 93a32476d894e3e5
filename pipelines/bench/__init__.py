"""`atlas bench`: each case measures the real thing beside a rival or a limit, in the same run, and yields one row."""

from __future__ import annotations

from collections.abc import Iterator

from components.core.errors import ConfigError, nearest
from pipelines.bench.row import Row

__all__ = ["NAMES", "run"]

NAMES = ("loop", "automl", "scale", "nas")


def run(
    name: str,
    *,
    quick: bool,
    tables: tuple[str, ...] = (),
    systems: tuple[str, ...] = (),
    cases: tuple[str, ...] = (),
    budgets: tuple[str, ...] = (),
    seeds: tuple[str, ...] = (),
    again: bool = False,
) -> Iterator[Row]:
    """Yield the rows of one benchmark as they are measured.

    Args:
        name: One of `NAMES`.
        quick: A smaller version of the same measurement, a few minutes.
        tables: `automl`: only these tables; empty: all of the benchmark's.
        systems: `automl`: only these systems; empty: all.
        cases: `automl`, `scale`, `nas`: only these cases; empty: all.
        budgets: `automl`: seconds that a search may take; empty: those of the benchmark.
        seeds: `automl`: which splits are drawn; empty: that of seed 0.
        again: `automl`, `scale`: measure anew what was measured before.

    Raises:
        ConfigError: There is no such benchmark, or it has no such table, system, case, budget or seed.
    """
    if name not in NAMES:
        raise ConfigError(f"there is no benchmark '{name}'", do=nearest(name, NAMES))
    if name == "loop":
        from pipelines.bench.loop import loop

        return loop(quick)
    if name == "scale":
        from pipelines.bench.scale import scale

        return scale(cases, quick=quick, again=again)
    if name == "nas":
        from pipelines.bench.nas import nas

        return nas(cases, quick=quick)
    from pipelines.bench.automl import Choice, automl

    return automl(Choice.of(quick=quick, tables=tables, systems=systems, cases=cases, budgets=budgets, seeds=seeds, again=again))
