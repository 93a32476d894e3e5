"""label_merge: one label an item, with provenance and a split that never leaks."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from components.core.contract import Port, Resources, Spec
from components.core.params import Frozen, StepParams

__all__ = ["SPEC", "Params", "Splits"]


class Splits(Frozen):
    """Shares of the groups, by a stable hash of `salt` and the group's key.

    Attributes:
        case_holdout: Share of the groups that hold cases alone which never trains. The others of them train or validate: `test`
            is drawn from the base, because cases are what the champion got wrong.
    """

    train: float = Field(0.7, gt=0, lt=1)
    validation: float = Field(0.15, gt=0, lt=1)
    test: float = Field(0.15, gt=0, lt=1)
    case_holdout: float = Field(0.25, ge=0, lt=1)
    salt: str = ""

    @model_validator(mode="after")
    def _whole(self) -> Splits:
        if abs(self.train + self.validation + self.test - 1) > 1e-9:
            raise ValueError("train, validation and test must add up to 1")
        return self


class Params(StepParams):
    """The scenario's `label_merge` section."""

    on_conflict: Literal["review", "majority"] = Field(
        "review", description="when neither a review nor a majority decides: hold, or keep the most frequent"
    )
    splits: Splits = Splits()


SPEC = Spec(
    name="label_merge",
    summary="Merge annotations into one label an item, split by group, commit the dataset version.",
    params=Params,
    inputs={
        "dataset": Port("Dataset", "the rows that passed validation"),
        "quarantine": Port("Dataset", "the rows that did not"),
        "snapshot": Port("Snapshot", "the ledger as this run sees it"),
    },
    outputs={"dataset": Port("Dataset", "the dataset version"), "review": Port("Dataset", "items held for review, and why")},
    resources=Resources(memory_mb=2048, image="core"),
)
