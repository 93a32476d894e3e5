"""Which split a group is in: a stable hash of its key, so that rows more or less never move it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from components.label_merge.spec import Splits

__all__ = ["SPLITS", "split_of", "suggest_salt"]

SPLITS = ("train", "validation", "test", "holdout")


def split_of(group: str, splits: Splits, *, in_base: bool, pinned: str | None = None) -> str:
    """Return the group's split.

    Args:
        group: The group's key.
        splits: Shares and salt.
        in_base: Whether the base annotations have the group. If not, its rows are cases alone: a share of such groups is the
            case holdout, the others are for learning (train, validation). They never enter `test`: cases are what the champion
            got wrong, so a test split that took them in would flatter every challenger.
        pinned: The split that the group had in the parent dataset version; it keeps it.
    """
    if pinned in SPLITS:
        return pinned
    if not in_base and _unit(splits.salt, "case", group) < splits.case_holdout:
        return "holdout"
    place = _unit(splits.salt, "split", group)
    if not in_base:
        place *= splits.train + splits.validation
    if place < splits.train:
        return "train"
    return "validation" if place < splits.train + splits.validation else "test"


def suggest_salt(groups: list[str], splits: Splits) -> str | None:
    """Return the first salt of `1`, `2`, … that leaves no base split empty; None when 1,000 of them do."""
    for number in range(1, 1001):
        salted = splits.model_copy(update={"salt": str(number)})
        if len({split_of(group, salted, in_base=True) for group in groups}) == 3:
            return str(number)
    return None


def _unit(*parts: str) -> float:
    """Hash texts to a number in [0, 1)."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return int.from_bytes(digest[:6], "big") / (1 << 48)
