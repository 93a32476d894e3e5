"""From many annotations to one label an item. Pure: the same annotations give the same label, in whatever order they come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Annotation", "Verdict", "merge"]

Label = str | float


@dataclass(frozen=True)
class Annotation:
    """What one author said about one item.

    Attributes:
        order: Age within the item; 0 is the oldest.
    """

    label: Label
    author: str
    reviewed: bool
    order: int


@dataclass(frozen=True)
class Verdict:
    """The label of an item, or why it has none.

    Attributes:
        label: None when the item is held for review.
        how: The rule that decided: `single`, `agreed`, `reviewed`, `majority`, `most_frequent` or `conflict`.
        reason: Why it is held; empty otherwise.
    """

    label: Label | None
    how: str
    reason: str = ""


def merge(annotations: Sequence[Annotation], on_conflict: Literal["review", "majority"]) -> Verdict:
    """Decide on one item's label.

    The newest reviewed annotation wins; else a label that more than half of the annotations give; else `on_conflict` decides:
    hold the item for review, or take the most frequent label, the newest of them on a tie.

    Args:
        annotations: At least one, in any order.
        on_conflict: The scenario's policy.
    """
    ordered = sorted(annotations, key=lambda each: each.order)
    labels = [each.label for each in ordered]
    reviewed = [each for each in ordered if each.reviewed]
    if reviewed:
        return Verdict(reviewed[-1].label, "reviewed")
    if len(set(labels)) == 1:
        return Verdict(labels[0], "single" if len(labels) == 1 else "agreed")
    counts = Counter(labels)
    newest = {label: place for place, label in enumerate(labels)}
    best = max(counts, key=lambda label: (counts[label], newest[label]))
    if 2 * counts[best] > len(labels):
        return Verdict(best, "majority")
    if on_conflict == "majority":
        return Verdict(best, "most_frequent")
    said = ", ".join(f"{label!r} ({counts[label]})" for label in sorted(counts, key=lambda label: (-counts[label], str(label))))
    return Verdict(None, "conflict", f"annotations disagree: {said}")
