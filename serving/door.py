"""The way to the ledger: opened when it is there, so that a server outlives its ledger."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from components.core.errors import TryAgain

if TYPE_CHECKING:
    from components.core.ledger import Ledger
    from serving.metrics import Metrics

__all__ = ["LedgerDoor", "sqlite_file"]

T = TypeVar("T")
_PAUSE_S = 1.0


class LedgerDoor:
    """Opens the ledger on first use, and again after it was away.

    A database file that was moved or deleted can still be written to by those who have it open, and all of that would be
    lost. So the file is looked at before each use, and one that vanished is waited for, never made anew.

    Args:
        open_ledger: Opens it; raises TryAgain while it is away.
        metrics: Told whether it answers.
        file: The database's file, if it is one.
    """

    def __init__(self, open_ledger: Callable[[], Ledger], metrics: Metrics, file: Path | None = None) -> None:
        self._open = open_ledger
        self._metrics = metrics
        self._file = file
        self._lock = threading.Lock()
        self._ledger: Ledger | None = None
        self._identity: tuple[int, int] | None = None
        self._closed_until = 0.0

    def run(self, work: Callable[[Ledger], T]) -> T:
        """Return `work(ledger)`.

        Raises:
            TryAgain: The ledger is away.
        """
        try:
            result = work(self._opened())
        except TryAgain:
            self._metrics.ledger_up.set(0)
            raise
        self._metrics.ledger_up.set(1)
        return result

    def close(self) -> None:
        """Close the ledger if it was opened."""
        with self._lock:
            self._shut()

    def _opened(self) -> Ledger:
        identity = self._look()
        ledger = self._ledger
        if ledger is not None and identity == self._identity:
            return ledger
        with self._lock:
            if self._ledger is not None and identity != self._identity:
                self._shut()
            if self._ledger is not None:
                return self._ledger
            if identity is None and self._identity is not None:
                raise TryAgain(
                    f"the ledger's file {self._file} is gone", do="bring the file or its disk back; the server finds it by itself"
                )
            if time.monotonic() < self._closed_until:
                raise TryAgain("the ledger was away a moment ago", do="try again in a few seconds")
            try:
                self._ledger = self._open()
            except TryAgain:
                self._closed_until = time.monotonic() + _PAUSE_S
                raise
            self._identity = self._look()
            return self._ledger

    def _look(self) -> tuple[int, int] | None:
        if self._file is None:
            return None
        try:
            found = self._file.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _shut(self) -> None:
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None


def sqlite_file(url: str) -> Path | None:
    """Return the file that a SQLite URL names; None for other databases."""
    from sqlalchemy import make_url

    parsed = make_url(url)
    return Path(parsed.database).absolute() if parsed.get_backend_name() == "sqlite" and parsed.database else None
