"""CONTRIBUTING's third scenario, and OCR's other sources: one YAML file each, the whole loop to a first deployment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components.core.ledger import Ledger
from components.core.settings import Settings
from pipelines import scenario
from pipelines.local import run_local
from pipelines.loop import build

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
FEW_LINES = {"reader": "mnist", "options": {"part": "train", "first": 0, "last": 600, "strings": 300, "length": [3, 4], "block": 20}}
DIAMONDS: dict[str, Any] = {"automl": {"trials": 3, "budget_s": 300}}
MNIST: dict[str, Any] = {
    "ingest": {"source": FEW_LINES},
    "automl": {"trials": 1, "budget_s": 300},
    "train": {"epochs": 8},
    "evaluate": {"gate": {"floor": 0.0, "max_latency_ms": 5000}},
}


@pytest.mark.parametrize(("name", "changes"), [("diamonds", DIAMONDS), ("ocr_mnist", MNIST)], ids=["diamonds", "ocr_mnist"])
def test_the_loop_turns_to_a_first_deployment(name: str, changes: dict[str, dict[str, Any]], settings: Settings) -> None:
    if settings.data is None:
        pytest.skip("its data are in ATLAS_DATA, which is not set")
    graph = build(scenario.load(HERE / f"{name}.yaml", changes))
    outputs = run_local(graph, run_id="first", settings=settings)
    assert outputs["evaluate"]["blessing"].metadata["accepted"]
    with Ledger.open(settings.ledger) as ledger:
        champion = ledger.champion(name)
    assert champion is not None
    assert champion.model == outputs["train"]["model"].ref
