"""What people look at in the terminal: progress, tables, places."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from components.core.artifacts import OBSERVED
from components.core.errors import NothingToDo
from components.core.ledger import Ledger
from components.core.store import ArtifactStore
from pipelines.local import StepReport
from pipelines.show_search import number, show_search

__all__ = ["Progress", "bench", "last_said", "outcome", "output", "places", "reports", "short", "states", "status"]

_TAIL_BYTES = 16_384
_LOGGED = re.compile(r"[DIWEC] ([\w.]+): (.*)")
"""A line of `components.core.log`: level, logger, message."""
_IN_A_FILE = 200
"""Columns where there is no terminal: a row of a table stays one line."""
_PAGES = {"evaluate": "report.html", "automl": "report.html", "validate": "report.html"}


def output() -> Console:
    """Return the console that results are printed to; what goes into a file or a pipe is not wrapped as if somebody watched."""
    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else _IN_A_FILE)


def short(ref: str | None) -> str:
    """Return a reference short enough for a table."""
    return "-" if ref is None else f"{ref.partition('/')[0]}/{ref.partition('/')[2][:12]}"


def states(counts: Mapping[Any, int]) -> str:
    """Return how many cases are in which state, without the empty ones."""
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "none"


class Progress:
    """A live table with a row a step; give it to `run_local` as `on_step`."""

    def __init__(self, console: Console, steps: Iterable[str]) -> None:
        self._reports: dict[str, StepReport | None] = dict.fromkeys(steps)
        self._began = time.monotonic()
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=8, transient=not console.is_terminal)
        self._console = console

    def __call__(self, report: StepReport) -> None:
        self._reports[report.step] = report
        if report.state == "started":
            self._began = time.monotonic()
        if not self._console.is_terminal and report.state != "started":
            self._console.print(f"{report.step:<12} {report.state:<8} {report.seconds:6.2f} s  {_facts(report)}", highlight=False)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def _render(self) -> Table:
        table = Table(box=None, padding=(0, 2))
        for column in ("step", "state", "seconds", "result"):
            table.add_column(column, justify="right" if column == "seconds" else "left")
        for step, report in self._reports.items():
            if report is None:
                table.add_row(step, "[dim]waits[/]")
            elif report.state == "started":
                said = Text(last_said(report.log), style="dim", overflow="ellipsis", no_wrap=True)
                table.add_row(step, Spinner("dots", "runs"), f"{time.monotonic() - self._began:.0f}", said)
            else:
                table.add_row(step, report.state, f"{report.seconds:.2f}", _facts(report))
        return table


def last_said(log: Path | None) -> str:
    """Return the last line that a running step logged, without its level and origin; one that tells its progress goes before others."""
    if log is None:
        return ""
    try:
        with log.open("rb") as file:
            file.seek(max(file.seek(0, 2) - _TAIL_BYTES, 0))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:  # it has not begun to write
        return ""
    found = [match.groups() for line in lines if (match := _LOGGED.match(_plain(line)))]
    told = [message for name, message in found if name.endswith(".progress")]
    return (told or [message for _, message in found] or [""])[-1]


def _plain(line: str) -> str:
    """Return a line as the text log has it; machines may have asked for JSON."""
    try:
        record = json.loads(line)
        return f"{record['level'][0].upper()} {record['from']}: {record['message']}"
    except (ValueError, KeyError, TypeError, IndexError):
        return line


def _facts(report: StepReport) -> str:
    """Return the few metadata of a step's outputs that a person wants to see."""
    wanted = ("rows", "claimed", "quarantined", "held", "learner", "score", "bytes", "accepted", "seq")
    found = {key: value for artifact in report.outputs.values() for key, value in artifact.metadata.items() if key in wanted}
    return ", ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in found.items())


def outcome(console: Console, ledger: Ledger, store: ArtifactStore, scenario: str, run_id: str) -> None:
    """Say how a run ended: the gate's rules, what serves now, where the report is."""
    made = ledger.outputs(run_id)
    if "evaluate" in made:
        folder = store.fetch(made["evaluate"]["blessing"])
        latency = json.loads((folder / "observed" / "latency.json").read_text())
        console.print(gate_table(json.loads((folder / "blessing.json").read_text()), latency))
    champion = ledger.champion(scenario)
    if champion is not None:
        console.print(f"serving: deployment {champion.seq}, {short(champion.model)}")
    if "evaluate" in made:
        reports(console, ledger, store, scenario, run_id)


def gate_table(blessing: Mapping[str, Any], latency: Mapping[str, Any]) -> Table:
    """Return the gate's rules, each with its numbers; the latency was observed, so it stands beside the blessing."""
    table = Table(title="accepted" if blessing["accepted"] else "refused", title_style="bold green" if blessing["accepted"] else "bold red")
    for column in ("rule", "", "value", "limit", "interval"):
        table.add_column(column, justify="right" if column in ("value", "limit") else "left")
    for rule in blessing["rules"]:
        interval = "" if rule.get("low") is None else f"{rule['low']:.4g} … {rule['high']:.4g}"
        verdict = "[green]ok[/]" if rule["passed"] else "[red]no[/]"
        value = latency["challenger"]["p99_ms"] if rule["name"] == "latency" else rule["value"]
        table.add_row(rule["name"], verdict, number(value), number(rule["limit"]), interval)
    return table


def status(console: Console, ledger: Ledger, scenarios: Sequence[str]) -> None:
    """Show one row a scenario."""
    table = Table()
    for column in ("scenario", "serves", "since", "cases", "to do", "held by", "last run"):
        table.add_column(column)
    for name in scenarios:
        champion, work, runs = ledger.champion(name), ledger.work(name), ledger.runs(name)
        last = max(runs, key=lambda run: run.started_at, default=None)
        cases = states(ledger.counts(name))
        table.add_row(
            name,
            f"#{champion.seq} {short(champion.model)}" if champion else "nothing: atlas run " + name,
            f"{champion.created_at:%Y-%m-%d %H:%M}" if champion else "-",
            cases,
            str(work.claimable) + (" + an unfinished version" if work.unfinished else ""),
            work.holder or "-",
            f"{last.state} ({last.engine}, {last.started_at:%H:%M})" if last else "-",
        )
    console.print(table)


def reports(
    console: Console, ledger: Ledger, store: ArtifactStore, scenario: str, run_id: str | None, *, in_full: bool = False
) -> list[Path]:
    """Print where a run's pages are, and return them.

    Args:
        run_id: None: the newest run that has one.
        in_full: Show what its search came to as well.

    Raises:
        NothingToDo: No run of the scenario has made one.
    """
    runs = [run_id] if run_id else [run.run_id for run in sorted(ledger.runs(scenario), key=lambda run: run.started_at, reverse=True)]
    for candidate in runs:
        made = ledger.outputs(candidate)
        found = {step: store.fetch(made[step]["report"]) for step in _PAGES if "report" in made.get(step, {})}
        if not found:
            continue
        if in_full and "automl" in found:
            show_search(console, found["automl"], scenario)
        pages = {step: folder / OBSERVED / _PAGES[step] for step, folder in found.items()}
        if "model" in made.get("train", {}):  # trained by several processes, which were watched
            watched = sorted((store.fetch(made["train"]["model"]) / OBSERVED).glob("watch-*.html"))
            pages |= {f"train, {page.stem.removeprefix('watch-')}": page for page in watched}
        networks = found["automl"] / OBSERVED / "architecture.html" if "automl" in found else None
        if networks and networks.is_file():
            pages["automl, networks"] = networks
        for step, page in pages.items():
            console.print(f"{step}: {page}", soft_wrap=True, highlight=False)
        return list(pages.values())
    if run_id:
        raise NothingToDo(f"run {run_id} has made no report", do=f"see the newest one: atlas report {scenario}")
    raise NothingToDo(f"no run of {scenario} has made a report", do=f"atlas run {scenario}")


def places(console: Console, found: Mapping[str, str]) -> None:
    """Print what runs, and where."""
    table = Table(title="running")
    table.add_column("what")
    table.add_column("where", overflow="fold")
    for what, where in found.items():
        table.add_row(what, where)
    console.print(table)


def bench(console: Console, rows: Iterable[Mapping[str, Any]], *, as_json: bool) -> None:
    """Print measurements as they come: JSON lines, or one table."""
    table = Table()
    columns = ("case", "ours", "unit", "against", "theirs", "ratio", "goal", "holds")
    for column in columns:
        table.add_column(column)
    for row in rows:
        if as_json:
            console.print(json.dumps(row), soft_wrap=True, highlight=False, markup=False)
        table.add_row(*(number(row.get(column)) for column in columns))
    if not as_json:
        console.print(table)
