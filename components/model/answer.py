"""What every model answers."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Answer"]


@dataclass(frozen=True)
class Answer:
    """One prediction.

    Attributes:
        label: The text read, the class, or the number predicted.
        confidence: The model's own probability, 0 to 1, that `label` is right; 1 for a number, which has none.
        scores: Class -> probability; None for text and numbers.
    """

    label: str | float
    confidence: float
    scores: dict[str, float] | None = None
