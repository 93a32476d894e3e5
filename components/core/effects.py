"""What the ledger must learn from an artifact. Every effect is idempotent, so a re-run or a reuse applies it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from components.core.artifacts import Artifact
    from components.core.ledger import Ledger
    from components.core.store import ArtifactStore

__all__ = ["CASES_FILE", "apply_effects"]

CASES_FILE = "cases.json"
"""In a dataset that is to become a version: `{"merged": [id], "held": {id: reason}, "quarantined": {id: reason}}`."""


def apply_effects(ledger: Ledger, store: ArtifactStore, scenario: str, run_id: str, step: str, outputs: Mapping[str, Artifact]) -> None:
    """Commit dataset versions, register models and blessings, and write down what the run made.

    Raises:
        Refused: The run has lost its lease, so it may not commit a dataset version.
        TryAgain: The ledger can't be reached.
    """
    for artifact in outputs.values():
        if artifact.kind == "Dataset" and CASES_FILE in artifact.files:
            cases = json.loads((store.fetch(artifact.ref) / CASES_FILE).read_text())
            ledger.commit_dataset(scenario, run_id, artifact, merged=cases["merged"], held=cases["held"], quarantined=cases["quarantined"])
        elif artifact.kind == "Model":
            ledger.record_model(scenario, run_id, artifact)
        elif artifact.kind == "Blessing":
            ledger.record_blessing(scenario, run_id, artifact)
    ledger.record_outputs(run_id, step, {port: artifact.ref for port, artifact in outputs.items()})
