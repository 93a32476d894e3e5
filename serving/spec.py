"""The light half of serving: the scenario's `serving` section."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Serving"]


class Serving(BaseModel):
    """How a scenario is served.

    Attributes:
        port: Loopback port of `atlas serve`.
        capture_below: Predictions less confident than this become unlabelled cases; 0 captures none.
        capture_per_hour: At most this many captured cases an hour.
        max_batch: Items in one request.
        max_body_bytes: Bytes in one request.
        keep_predictions: Logged predictions kept for feedback; older ones are dropped.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    port: int = Field(default=3000, gt=0, lt=65536)
    capture_below: float = Field(default=0.0, ge=0, le=1)
    capture_per_hour: int = Field(default=100, ge=0)
    max_batch: int = Field(default=64, gt=0)
    max_body_bytes: int = Field(default=4 << 20, gt=0)
    keep_predictions: int = Field(default=100_000, gt=0)
