"""Bad input, one row each: the exit code, a line that says what is wrong and what to do, and nothing lost.

What a client can send to the server (corrupt image, 50 MB body, no token, unknown prediction id, …) has its own table in
`tests/unit/test_serving*.py` and, with a real server, `tests/integration/test_serving.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from components.core.items import item_from_json
from components.core.ledger import Ledger, NewCase
from components.core.settings import Settings
from pipelines import scenario

GOOD = {"size": [1.0, 2.0, 3.0] * 20, "kind": ["a", "b", None] * 20, "sold": ["no", "yes", "yes"] * 20}


@dataclass(frozen=True)
class World:
    """An installation with one small scenario and one labelled case that must survive everything."""

    settings: Settings
    folder: Path

    def write(self, table: Mapping[str, Any], change: Callable[[dict[str, Any]], None] = lambda given: None) -> None:
        pq.write_table(pa.table(dict(table)), self.folder / "table.parquet")
        given: dict[str, Any] = {
            "name": "shop",
            "task": {
                "kind": "tabular",
                "problem": "binary",
                "classes": ["no", "yes"],
                "features": {"size": "number", "kind": "category"},
            },
            "ingest": {"source": {"reader": "table", "options": {"path": str(self.folder / "table.parquet"), "label": "sold"}}},
            "validate": {"suite": {"name": "shop", "expectations": []}},
        }
        change(given)
        (self.folder / "shop.yaml").write_text(yaml.safe_dump(given))

    def atlas(self, *words: str, **env: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "pipelines.cli", *words],
            capture_output=True,
            text=True,
            env=os.environ | self.settings.env() | {"COLUMNS": "400"} | env,
            check=False,
        )
        return done.returncode, done.stderr + done.stdout


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    settings = Settings.from_env({"ATLAS_HOME": str(tmp_path / "home"), "ATLAS_SCENARIOS": str(tmp_path)})
    settings.home.mkdir()
    made = World(settings, tmp_path)
    made.write(GOOD)
    item = item_from_json(scenario.load(tmp_path / "shop.yaml").task, {"features": {"size": 9.0, "kind": "a"}})
    with Ledger.open(settings.ledger) as ledger:
        case = ledger.add_case("shop", NewCase(item=item, source="test", label="yes", reviewed=True))
    yield made
    with Ledger.open(settings.ledger) as ledger:  # nothing was lost: the case waits for the next run, and nobody holds the scenario
        assert ledger.case(case.case_id).state == "labelled"
        assert ledger.work("shop").claimable == 1
        assert ledger.work("shop").holder is None
        assert ledger.champion("shop") is None


def unknown_key(given: dict[str, Any]) -> None:
    given["evaluate"] = {"gate": {"max_los": 1}}


def unknown_reader(given: dict[str, Any]) -> None:
    given["ingest"]["source"]["reader"] = "tabel"


def impossible_rule(given: dict[str, Any]) -> None:
    rule = {"type": "expect_table_row_count_to_be_between", "kwargs": {"min_value": 1000}, "meta": {"level": "table"}}
    given["validate"]["suite"]["expectations"] = [rule]


NO_CHANGE: Callable[[dict[str, Any]], None] = lambda given: None  # noqa: E731
TABLE = [
    pytest.param(GOOD, unknown_key, 64, ["max_los", "did you mean 'max_loss'?"], id="unknown scenario key"),
    pytest.param(GOOD, unknown_reader, 64, ["tabel", "did you mean 'table'?"], id="unknown reader"),
    pytest.param({k: v for k, v in GOOD.items() if k != "size"}, NO_CHANGE, 64, ["size"], id="missing column"),
    pytest.param({**GOOD, "size": ["tall"] * 60}, NO_CHANGE, 64, ["size", "number"], id="wrong dtype"),
    pytest.param({k: pa.array([], pa.string() if k != "size" else pa.float64()) for k in GOOD}, NO_CHANGE, 64, ["row"], id="empty batch"),
    pytest.param({**GOOD, "sold": ["no", "yes", "maybe"] * 20}, NO_CHANGE, 64, ["maybe", "vocabulary"], id="label outside the vocabulary"),
    pytest.param(GOOD, impossible_rule, 64, ["table_row_count_to_be_between", "at least 1000"], id="broken table rule"),
]


@pytest.mark.parametrize(("table", "change", "code", "words"), TABLE)
def test_a_run_says_what_is_wrong_and_loses_nothing(
    world: World, table: Mapping[str, Any], change: Callable[[dict[str, Any]], None], code: int, words: list[str]
) -> None:
    world.write(table, change)
    found, said = world.atlas("run", "shop")
    assert found == code, said
    assert "->" in said
    for word in words:
        assert word in said
    assert "Traceback" not in said


def test_unknown_scenario_gets_the_nearest(world: World) -> None:
    code, said = world.atlas("run", "shpo")
    assert code == 64
    assert "did you mean 'shop'?" in said


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"item": {"features": {"size": "9", "kind": "a"}}, "label": "yes"}', ["size", "number"]),
        ('{"item": {"features": {"size": 9}}, "label": "yes"}', ["missing", "kind"]),
        ('{"item": {"features": {"size": 9, "kind": "a", "color": 1}}, "label": "yes"}', ["unknown", "color"]),
        ('{"item": {"features": {"size": 9, "kind": "a"}}, "label": "perhaps"}', ["perhaps", "vocabulary"]),
        ('{"item": ', ["line 2"]),
        ('{"item": {"features": {"size": 9, "kind": "a"}}, "label": "yes", "reviewed": "false"}', ["reviewed", "true or false"]),
        ('{"item": {"features": {"size": 9, "kind": "a"}}, "label": "yes", "id": 7}', ["'id' is 7"]),
    ],
)
def test_a_wrong_line_stops_an_import_before_anything_is_added(world: World, line: str, words: list[str]) -> None:
    good = json.dumps({"item": {"features": {"size": 5, "kind": "b"}}, "label": "no"})
    (world.folder / "cases.jsonl").write_text(good + "\n" + line + "\n")
    code, said = world.atlas("cases", "import", "shop", str(world.folder / "cases.jsonl"))
    assert code == 64
    for word in ["line 2", *words]:
        assert word in said


def test_a_full_disk_means_try_again(world: World) -> None:
    disk = world.folder / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"mounting a small tmpfs needs root: {mounted.stderr.strip()}")
    try:
        (disk / "ballast").write_bytes(b"x" * 60 * 1024)
        code, said = world.atlas("run", "shop", ATLAS_STORE=str(disk / "store"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert code == 75, said
    assert "space" in said


def test_a_database_that_is_gone_means_try_again(world: World) -> None:
    inside_a_file = f"sqlite:///{world.folder / 'table.parquet' / 'ledger.db'}"
    for url in (inside_a_file, "postgresql+psycopg://atlas:x@127.0.0.1:1/atlas"):
        code, said = world.atlas("run", "shop", ATLAS_LEDGER=url)
        assert code == 75, said
        assert "->" in said
        assert "Traceback" not in said
