"""validate: rows pass or are quarantined with a reason; a broken table stops the run."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from components.core.contract import Port, Resources, Spec
from components.core.params import Frozen, StepParams

__all__ = ["SPEC", "Drift", "Params"]


class Drift(Frozen):
    """When the data count as drifted from what the champion was trained on.

    Attributes:
        psi: Population stability index from which a column is reported as drifted.
        ks: Two-sample Kolmogorov-Smirnov statistic, likewise.
        stop: Whether drift stops the run (a bad-case loop usually wants to learn from it instead).
    """

    psi: float = Field(0.25, gt=0)
    ks: float = Field(0.2, gt=0, le=1)
    stop: bool = False


class Params(StepParams):
    """The scenario's `validate` section."""

    suite: dict[str, Any] = Field(description="a Great Expectations suite; in a scenario file: the name of a JSON file beside it")
    drift: Drift = Drift()


SPEC = Spec(
    name="validate",
    summary="Check rows and table against the scenario's expectations; quarantine, stop, report drift.",
    params=Params,
    inputs={"dataset": Port("Dataset", "annotations from ingest"), "snapshot": Port("Snapshot", "the ledger as this run sees it")},
    outputs={
        "dataset": Port("Dataset", "the rows that passed"),
        "quarantine": Port("Dataset", "the rows that did not, each with the rule it broke"),
        "report": Port("Report", "rules, drift, and Data Docs"),
    },
    resources=Resources(memory_mb=2048, image="core"),
)
