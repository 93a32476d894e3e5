"""Every error ATLAS raises on purpose, and the exit code each one becomes.

AtlasError
├── ContractError      64   what was given breaks a contract; the same call can't succeed, so it is never retried
│   ├── ConfigError         a scenario file, an option, an environment variable
│   ├── DataError           a table, a row, an item, a label
│   ├── IntegrityError      a digest, a manifest, a model file that is not what it says
│   └── Refused             the gate, a stale baseline, a lost lease
├── TryAgain           75   a database, a store, a disk, a server that is not there *now*
└── NothingToDo        99   no work, or another run is already doing it

A message has two parts: what was given and what is allowed, then (`do`) what to do next.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "AtlasError",
    "ConfigError",
    "ContractError",
    "DataError",
    "IntegrityError",
    "NothingToDo",
    "Refused",
    "TryAgain",
    "nearest",
]


class AtlasError(Exception):
    """The root. `exit_code` is what `python -m components` returns.

    Args:
        message: What was given, and what is allowed.
        do: What the reader can do next.
    """

    exit_code: ClassVar[int] = 64

    def __init__(self, message: str, *, do: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.do = do

    def __str__(self) -> str:
        return f"{self.message} -> {self.do}" if self.do else self.message


class ContractError(AtlasError):
    """What was given breaks a contract. Never retried."""


class ConfigError(ContractError):
    """A scenario file, an option or an environment variable is wrong."""


class DataError(ContractError):
    """A table, a row, an item or a label is wrong."""


class IntegrityError(ContractError):
    """Stored bytes are not what their digest says."""


class Refused(ContractError):
    """The gate, a stale baseline or a lost lease forbids it."""


class TryAgain(AtlasError):
    """Something outside is not there now; the same call may succeed later."""

    exit_code = 75


class NothingToDo(AtlasError):
    """There is no work. Airflow shows the task as skipped."""

    exit_code = 99


def nearest(given: str, allowed: Iterable[str]) -> str:
    """Return `"did you mean 'x'?"` or the list of what is allowed."""
    names = sorted(allowed)
    close = get_close_matches(given, names, n=1)
    return f"did you mean '{close[0]}'?" if close else f"use one of: {', '.join(names) or 'nothing'}"
