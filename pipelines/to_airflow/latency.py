"""Measures, on a running Airflow, how long after a bad case is in the ledger its loop run has started. No airflow here.

The scenarios measured with are probes: real ones whose loop ends at its first step, because their source is not there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from math import ceil
from pathlib import Path
from typing import TypeVar

from components.core.errors import TryAgain
from components.core.items import item_from_json
from components.core.ledger import Ledger, NewCase
from components.core.params import Tabular
from pipelines.to_airflow.api import Airflow, LoopRun

__all__ = ["Latency", "measure", "probe_case", "write_probes"]

T = TypeVar("T")
TIMEOUT_S = 90.0
POLL_S = 0.1
PROBE = """# Written by pipelines.to_airflow.latency: its loop ends at ingest, whose source is not there (exit 64).
name: {name}
task: {{kind: tabular, problem: binary, classes: ["no", "yes"], features: {{number: number}}}}
ingest: {{source: {{reader: table, options: {{path: /nonexistent/probe.parquet, label: label}}}}}}
validate: {{suite: {{name: {name}, expectations: []}}}}
"""
TASK = Tabular(problem="binary", classes=("no", "yes"), features={"number": "number"})


@dataclass(frozen=True)
class Latency:
    """Seconds from the ledger's commit to the start of the run, sorted."""

    seconds: tuple[float, ...]

    def at(self, share: float) -> float:
        """Return the quantile by nearest rank: the least value that at least `share` of the events do not exceed."""
        return self.seconds[max(ceil(share * len(self.seconds)) - 1, 0)]


def write_probes(folder: Path, count: int = 2) -> list[str]:
    """Write probe scenarios into a folder of scenario files; return their names.

    With two, an event need not wait until the loop of the one before has ended.
    """
    names = [f"probe_{number}" for number in range(count)]
    for name in names:
        (folder / f"{name}.yaml").write_text(PROBE.format(name=name))
    return names


def probe_case(number: int) -> NewCase:
    """Return the n-th bad case of a probe; each number is another item."""
    return NewCase(item_from_json(TASK, {"features": {"number": number}}), "probe", label="yes", reviewed=True)


def measure(airflow: Airflow, ledger: Ledger, probes: list[str], events: int) -> Latency:
    """Add cases one after the other, to the probes in turn, and wait each time until a run of atlas_loop has started.

    Args:
        airflow: A running one, which has read the probes.
        ledger: The one it watches.
        probes: From `write_probes`.
        events: How many.

    Raises:
        TryAgain: A run did not start, or did not end, within 90 s.
    """
    first, found = int(time.time()), []
    for number in range(events):
        name = probes[number % len(probes)]
        before = {run.run_id for run in _until(partial(_ended, airflow, ledger, name), f"the runs of '{name}' did not end")}
        ledger.add_case(name, probe_case(first + number))
        added_at = datetime.now(UTC)
        started_at = _until(partial(_started, airflow, name, before), f"no run of '{name}' started")
        found.append((started_at - added_at).total_seconds())
    return Latency(tuple(sorted(found)))


def _until(ask: Callable[[], T | None], complaint: str) -> T:
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        if (answer := ask()) is not None:
            return answer
        time.sleep(POLL_S)
    raise TryAgain(f"{complaint} within {TIMEOUT_S:.0f} s", do="see Airflow's log")


def _started(airflow: Airflow, scenario: str, before: set[str]) -> datetime | None:
    return next((run.started_at for run in airflow.loops(scenario) if run.run_id not in before and run.started_at), None)


def _ended(airflow: Airflow, ledger: Ledger, scenario: str) -> list[LoopRun] | None:
    runs = airflow.loops(scenario)
    idle = ledger.work(scenario).holder is None and all(run.state in ("success", "failed") for run in runs)
    return runs if idle else None
