"""What the ledger must learn from an artifact. Every effect is idempotent, so a re-run or a reuse applies it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from components.core.artifacts import OBSERVED
from components.core.errors import IntegrityError

if TYPE_CHECKING:
    from components.core.artifacts import Artifact
    from components.core.ledger import Ledger
    from components.core.store import ArtifactStore

__all__ = ["CASES_FILE", "COSTS_FILE", "STUDY_FILE", "apply_effects"]

CASES_FILE = "cases.json"
"""In a dataset that is to become a version: `{"merged": [id], "held": {id: reason}, "quarantined": {id: reason}}`."""
STUDY_FILE = "study.json"
"""In a report of a search: what `components.automl.genesis.history` writes."""
COSTS_FILE = f"{OBSERVED}/costs.json"
"""Beside it: one `{"seconds": …, "memory_mb": …}` a trial, in the same order."""


def apply_effects(ledger: Ledger, store: ArtifactStore, scenario: str, run_id: str, step: str, outputs: Mapping[str, Artifact]) -> None:
    """Commit dataset versions, register models, blessings and studies, and write down what the run made.

    Raises:
        IntegrityError: A report's study lacks something.
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
        elif artifact.kind == "Report" and STUDY_FILE in artifact.files:
            _record_study(ledger, store, scenario, run_id, artifact)
    ledger.record_outputs(run_id, step, {port: artifact.ref for port, artifact in outputs.items()})


def _record_study(ledger: Ledger, store: ArtifactStore, scenario: str, run_id: str, artifact: Artifact) -> None:
    folder = store.fetch(artifact.ref)
    study = json.loads((folder / STUDY_FILE).read_text())
    costs = json.loads((folder / COSTS_FILE).read_text()) if COSTS_FILE in artifact.observed else None
    try:
        facts: dict[str, Any] = {name: study[name] for name in ("problem", "metric", "rows", "meta")}
        trials = study["trials"] if costs is None else [{**trial, **cost} for trial, cost in zip(study["trials"], costs, strict=True)]
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"the study in {artifact.ref} can't be read: {error}", do="run automl again") from error
    dataset = next((parent for parent in artifact.parents if parent.startswith("Dataset/")), None)
    ledger.record_study(scenario, run_id, artifact.ref, dataset=dataset, trials=trials, **facts)
