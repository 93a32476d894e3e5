"""`atlas cases …`: look at bad cases, add, label and import them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from components.core.errors import ConfigError, DataError
from components.core.items import item_from_json
from components.core.ledger import Ledger, NewCase
from components.core.params import Tabular, TextLine
from components.core.settings import Settings
from pipelines import scenario
from pipelines.show import output, states

__all__ = ["app"]

app = typer.Typer(help="Bad cases: list, show, add, label, import.", no_args_is_help=True)
console = output()

_BATCH = 1000


@app.command("list")
def list_cases(
    name: Annotated[str, typer.Argument(metavar="SCENARIO")],
    state: Annotated[list[str] | None, typer.Option(help="only these states; repeat it")] = None,
    limit: Annotated[int, typer.Option(help="rows shown")] = 30,
) -> None:
    """List cases, newest first."""
    with Ledger.open(Settings.from_env().ledger) as ledger:
        cases = ledger.cases(name, states=tuple(state) if state else None, limit=limit, newest_first=True)
        counts = ledger.counts(name)
    table = Table(title=f"{name}: {states(counts)}")
    for column in ("case", "state", "label", "source", "since", "reason"):
        table.add_column(column, no_wrap=column == "case")
    for case in cases:
        label = str(case.labels[-1].value) if case.labels else ""
        table.add_row(case.id, case.state, label, case.source, f"{case.created_at:%Y-%m-%d %H:%M}", case.reason or "")
    console.print(table)


@app.command()
def show(case_id: Annotated[str, typer.Argument(metavar="CASE")]) -> None:
    """Show one case: its labels and its life so far."""
    with Ledger.open(Settings.from_env().ledger) as ledger:
        case = ledger.case(case_id)
        history = ledger.history(case_id)
    labels = [{"value": label.value, "source": label.source, "reviewed": label.reviewed} for label in case.labels]
    console.print_json(json.dumps({"case": case.id, "state": case.state, "labels": labels, "history": history}, default=str))


@app.command()
def add(
    name: Annotated[str, typer.Argument(metavar="SCENARIO")],
    item: Annotated[Path, typer.Argument(help="an image file, or a JSON file with the features")],
    label: Annotated[str | None, typer.Option(help="the correct answer; without it the case waits for one")] = None,
    reviewed: Annotated[bool, typer.Option(help="a reviewer has confirmed the label")] = False,
    group: Annotated[str | None, typer.Option(help="writer, customer, receipt: whatever must not be split")] = None,
) -> None:
    """Add one bad case."""
    settings = Settings.from_env()
    task = scenario.find(name, settings).task
    try:
        raw = item.read_bytes()
        given = {"image": base64.b64encode(raw).decode()} if isinstance(task, TextLine) else {"features": json.loads(raw)}
    except (OSError, ValueError) as error:
        raise DataError(f"{item} can't be read: {error}", do="give an image for text lines, a JSON object for tables") from error
    new = _case(task, {"item": {**given, **({"group": group} if group else {})}, "label": label, "reviewed": reviewed}, "cli")
    with Ledger.open(settings.ledger) as ledger:
        receipt = ledger.add_case(name, new)
    console.print(f"case {receipt.case_id} is {receipt.state}{'' if receipt.created else ' (it was known)'}")


@app.command("label")
def label_case(
    case_id: Annotated[str, typer.Argument(metavar="CASE")],
    value: Annotated[str, typer.Argument(metavar="LABEL")],
    reviewed: Annotated[bool, typer.Option(help="a reviewer has confirmed the label")] = False,
) -> None:
    """Give a case its correct answer."""
    settings = Settings.from_env()
    with Ledger.open(settings.ledger) as ledger:
        task = scenario.find(ledger.case(case_id).scenario, settings).task
        case = ledger.label_case(case_id, _label(task, value), source="cli", reviewed=reviewed)
    console.print(f"case {case.id} is {case.state}")


@app.command("import")
def import_cases(
    name: Annotated[str, typer.Argument(metavar="SCENARIO")],
    file: Annotated[Path, typer.Argument(help='JSON lines: {"item": {…}, "label"?: …, "reviewed"?: bool, "id"?: text}')],
) -> None:
    """Add many cases; a line that is wrong stops the import before anything is added."""
    settings = Settings.from_env()
    task = scenario.find(name, settings).task
    cases = list(_read(task, file))
    made = 0
    with Ledger.open(settings.ledger) as ledger:
        for start in range(0, len(cases), _BATCH):
            made += sum(receipt.created for receipt in ledger.add_cases(name, cases[start : start + _BATCH]))
    console.print(f"{len(cases)} lines: {made} new cases, {len(cases) - made} known")


def _read(task: TextLine | Tabular, file: Path) -> Iterator[NewCase]:
    try:
        lines = file.read_text("utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} can't be read: {error}", do="give a file of JSON lines in UTF-8") from error
    for number, line in enumerate(lines, 1):
        try:
            yield _case(task, json.loads(line), "import")
        except (DataError, json.JSONDecodeError) as error:
            raise DataError(f"{file} line {number}: {error}", do="mend the line; nothing was added") from error


def _case(task: TextLine | Tabular, given: Any, source: str) -> NewCase:
    if not isinstance(given, dict) or "item" not in given or set(given) - {"item", "label", "reviewed", "id"}:
        raise DataError("a case is an object with 'item' and, if need be, 'label', 'reviewed', 'id'", do="see atlas cases import --help")
    label, reviewed, key = given.get("label"), given.get("reviewed", False), given.get("id")
    if not isinstance(reviewed, bool):
        raise DataError(f"'reviewed' is {reviewed!r}", do="give true or false")
    if key is not None and not (isinstance(key, str) and 0 < len(key) <= 200 and "\0" not in key):
        raise DataError(f"'id' is {key!r}", do="give a text of 1 to 200 characters")
    return NewCase(
        item=item_from_json(task, given["item"]),
        source=source,
        label=None if label is None else _label(task, label),
        reviewed=reviewed,
        key=key,
    )


def _label(task: TextLine | Tabular, value: Any) -> str | float:
    """Check a label; a command line knows only text, so a number is read from it where the task wants one."""
    if isinstance(task, Tabular) and task.problem == "regression" and isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise DataError(f"label '{value}' is not a number", do="give a number") from None
    return task.check_label(value)
