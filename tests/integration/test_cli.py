"""`atlas`, as a person types it: a new scenario, its suite, cases, status, errors; and a rollback of what serves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from components.core.ledger import Ledger
from components.core.settings import Settings
from pipelines import scenario
from pipelines.local import run_local
from pipelines.loop import build


def atlas(settings: Settings, *words: str, code: int = 0) -> str:
    env = os.environ | settings.env() | {"COLUMNS": "200"}
    done = subprocess.run([sys.executable, "-m", "pipelines.cli", *words], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_new_scenario_starts_from_a_shipped_one(settings: Settings) -> None:
    said = atlas(settings, "init", "loans", "--like", "credit")
    folder = settings.home / "scenarios"
    assert {path.name for path in folder.iterdir()} == {"loans.yaml", "loans.suite.json"}
    assert "atlas run loans" in said
    assert scenario.find("loans", settings).validate_.scenario == "loans"
    assert "choose another name" in atlas(settings, "init", "loans", code=64)
    assert "small letters" in atlas(settings, "init", "Loans!", code=64)

    (folder / "loans.suite.json").unlink()
    assert "atlas profile loans" in atlas(settings, "run", "loans", code=64)


def test_a_suite_is_drafted_from_the_data(settings: Settings, tmp_path: Path) -> None:
    atlas(settings, "profile", "ocr", "--to", str(tmp_path / "draft.json"))
    drafted = json.loads((tmp_path / "draft.json").read_text())
    assert {rule["meta"]["level"] for rule in drafted["expectations"]} == {"row", "table"}


def test_a_case_is_added_labelled_and_shown(settings: Settings, tmp_path: Path) -> None:
    task = scenario.find("credit", settings).task
    row = {name: 1.0 if kind == "number" else "x" for name, kind in task.features.items()}  # type: ignore[union-attr]
    (tmp_path / "row.json").write_text(json.dumps(row))
    case = atlas(settings, "cases", "add", "credit", str(tmp_path / "row.json")).split()[1]
    assert "open" in atlas(settings, "cases", "list", "credit")
    assert "vocabulary" in atlas(settings, "cases", "label", case, "ugly", code=64)
    assert "labelled" in atlas(settings, "cases", "label", case, "bad", "--reviewed")
    shown = json.loads(atlas(settings, "cases", "show", case))
    assert (shown["state"], shown["labels"]) == ("labelled", [{"value": "bad", "source": "cli", "reviewed": True}])
    assert "1 labelled" in atlas(settings, "status", "credit")


@pytest.mark.slow
def test_what_serves_can_be_rolled_back(bootstrapped: Callable[[str], Settings], clone: Callable[[Settings, str], Settings]) -> None:
    settings = clone(bootstrapped("ocr"), "here")
    atlas(settings, "rollback", "ocr", code=64)  # there is only one
    run_local(build(scenario.find("ocr", settings)), run_id="loop", settings=settings)
    assert "report.html" in atlas(settings, "report", "ocr")
    with Ledger.open(settings.ledger) as ledger:
        first, second = ledger.deployments("ocr")
        assert "again" in atlas(settings, "rollback", "ocr")
        now = ledger.champion("ocr")
        assert now is not None
        assert (now.kind, now.model, now.previous) == ("rollback", first.model, second.seq)


def test_nothing_to_roll_back_or_report(settings: Settings) -> None:
    assert "->" in atlas(settings, "rollback", "ocr", code=64)
    assert "atlas run ocr" in atlas(settings, "report", "ocr", code=99)
    assert "no run holds" in atlas(settings, "release", "ocr", code=99)
