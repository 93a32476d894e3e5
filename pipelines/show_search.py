"""What a search came to, as tables in the terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from components.core.artifacts import OBSERVED

__all__ = ["number", "show_search"]


def number(value: Any) -> str:
    """Return a value for a table."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "NO", None: "-"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def show_search(console: Console, folder: Path, scenario: str) -> None:
    """Print a search's ensemble, what it was compared with, and what it cost.

    Args:
        console: Where to.
        folder: Of automl's report.
        scenario: Its name.
    """
    report = json.loads((folder / "report.json").read_text())
    if "against" not in report:
        console.print(f"this search was made by an older version; make a new one: atlas run {scenario}")
        return
    console.print(_ensemble(report))
    if report["against"] and report["score"] is not None:
        console.print(_against(report))
    tried, rows, jobs = report["pipelines"], report["rows"], folder / OBSERVED / "jobs.json"
    failed = f" ({tried['failed']} failed)" if tried["failed"] else ""
    said = f"{tried['tried']} pipelines tried{failed} on {rows['train'] + rows['validation']} rows"
    spent = json.loads(jobs.read_text()) if jobs.is_file() else []  # what was observed may be cleared away, the report stays
    if spent:
        said += f", {math.fsum(job['seconds'] for job in spent):.1f} s of CPU in {max(job['clock'] for job in spent):.1f} s"
    console.print(said, highlight=False)
    for text in (*report["warnings"], *report["notes"]):
        console.print(f"- {text}", markup=False, highlight=False)


def _ensemble(report: Mapping[str, Any]) -> Table:
    members = report["ensemble"]["members"]
    many = "s" if len(members) > 1 else ""
    table = Table(title=f"{report['metric']} {number(report['score'])} with {len(members)} pipeline{many}", title_justify="left")
    for column in ("learner", "weight", f"{report['metric']} alone", "from"):
        table.add_column(column, justify="left" if column in ("learner", "from") else "right")
    for member in members:
        source = "the serving model, unchanged" if member["inherited"] else member["origin"]
        table.add_row(member["learner"], f"{100 * member['weight']:.0f} %", number(member["score"]), source)
    return table


def _against(report: Mapping[str, Any]) -> Table:
    table = Table()
    for column in ("compared with", report["metric"], "better by"):
        table.add_column(column, justify="left" if column == "compared with" else "right")
    for rival in report["against"]:
        gain = (report["score"] - rival["score"]) * (1 if report["higher_is_better"] else -1)
        who = rival["name"] + (f" ({rival['learner']})" if rival["learner"] else "")
        table.add_row(who, number(rival["score"]), f"{gain:+.3g}" if gain else "0")
    return table
