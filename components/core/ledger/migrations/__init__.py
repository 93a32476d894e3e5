"""The schema's history. A new migration: `versions/rNNNN_what.py`, and `HEAD` set to its revision."""

from __future__ import annotations

__all__ = ["HEAD"]

HEAD = "0002"
