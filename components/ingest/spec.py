"""ingest: claim open labelled cases and join them with the base annotations and everything merged before."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from components.core.contract import Port, Resources, Spec
from components.core.params import Frozen, StepParams

__all__ = ["SPEC", "Features", "Params", "Quota", "Selection", "Source"]


class Source(Frozen):
    """Where the base annotations come from.

    Attributes:
        reader: A module of `components/ingest/readers`.
        options: The reader's own options.
    """

    reader: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    options: dict[str, Any] = Field(default_factory=dict)


class Quota(Frozen):
    """At most `most` rows per value of `column`; which ones is decided by content hash, so it is stable."""

    column: str
    most: int = Field(gt=0)


class Selection(Frozen):
    """Dynamic sample matching: which base rows take part. Cases always do.

    Attributes:
        where: SQL conditions over the dataset's columns, all of which must hold (DuckDB's syntax).
        newest: Keep only this many of the newest base rows, by the reader's order.
        quotas: Upper bounds per class or slice.
    """

    where: tuple[str, ...] = ()
    newest: int | None = Field(None, gt=0)
    quotas: tuple[Quota, ...] = ()


class Features(Frozen):
    """Point-in-time features from Feast.

    Attributes:
        entity: The join key's column in the base annotations.
        time: The event-timestamp column in the base annotations.
        views: Feature view -> features to take, in order.
    """

    entity: str
    time: str
    views: dict[str, tuple[str, ...]]


class Params(StepParams):
    """The scenario's `ingest` section."""

    source: Source
    selection: Selection = Selection()
    features: Features | None = None
    at_least: int = Field(1, ge=1, description="labelled cases needed for a run once a model serves")
    mode: Literal["cases", "always"] = Field("cases", description="'always' runs without new cases too")


SPEC = Spec(
    name="ingest",
    summary="Claim open labelled cases and join them with the base annotations.",
    params=Params,
    inputs={},
    outputs={
        "snapshot": Port("Snapshot", "the ledger as this run sees it: champion, parent version, claimed cases"),
        "dataset": Port("Dataset", "one row an annotation, unmerged"),
    },
    resources=Resources(memory_mb=2048, image="core"),
    memory_of="run",
)
