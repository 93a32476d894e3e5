"""evaluate: challenger against what serves now; the verdict is a blessing bound to digests."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from components.core.contract import Port, Resources, Spec
from components.core.params import Frozen, StepParams

__all__ = ["SPEC", "Gate", "Params"]


class Gate(Frozen):
    """What a challenger must reach. Metrics are the task's own; losses are in its units.

    The *judged* rows are the test split without the cases that this run claimed: those are in the data because the champion
    failed on them, so any other model, even a worse one, would look better there.

    Attributes:
        floor: On the judged rows the metric must be at least this good, champion or not.
        max_loss: On the judged rows the challenger must be shown to lose at most this against the champion: the lower
            confidence bound of its gain is at least `-max_loss`. With n rows on which the two disagree at a rate d, the bound of two equal
            models lies near `-2 * sqrt(d / n)`: a budget below that asks for a larger test split.
        guards: Other metrics of the task -> the largest loss, in their units, judged like `max_loss`. A model that ranks as well as
            before (auc) can still have lost its calibration (logloss), say by learning from outcome-selected cases.
        min_cases_fixed: Share of the champion's mistakes on the case holdout that the challenger must get right.
        max_closed_lost: Share of closed cases it may get wrong again.
        max_slice_loss: On no slice may the challenger be shown to lose more than this: the upper confidence bound of its gain
            (at a confidence corrected for the number of slices) must not lie below `-max_slice_loss`.
        min_rows: Fewest rows for a verdict: on the judged rows (fewer: refused) and on a slice (fewer: shown, not judged).
        max_latency_ms: p99 of one item at batch 1.
        max_size_mb: Bytes of the model's files.
    """

    floor: float | None = None
    max_loss: float = Field(default=0.01, ge=0)
    guards: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    min_cases_fixed: float = Field(default=0.0, ge=0, le=1)
    max_closed_lost: float = Field(default=0.0, ge=0, le=1)
    max_slice_loss: float = Field(default=0.1, ge=0)
    min_rows: int = Field(default=10, ge=2)
    max_latency_ms: float = Field(default=100, gt=0)
    max_size_mb: float = Field(default=100, gt=0)


class Params(StepParams):
    """The scenario's `evaluate` section."""

    gate: Gate = Gate()
    slices: tuple[str, ...] = Field(default=(), description="columns whose values are slices; '_length' and '_source' always exist")
    bootstrap: int = Field(default=1000, ge=100, description="resamples for confidence intervals")
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    seed: int = 0


SPEC = Spec(
    name="evaluate",
    summary="Measure challenger and champion on rows neither trained on; write the blessing and the report.",
    params=Params,
    inputs={
        "dataset": Port("Dataset", "the dataset version"),
        "model": Port("Model", "the challenger"),
        "snapshot": Port("Snapshot", "names the champion and the closed cases"),
    },
    outputs={"blessing": Port("Blessing", "accepted or refused, rule by rule"), "report": Port("Report", "figures and an HTML page")},
    resources=Resources(memory_mb=2048, image="learn"),
)
