"""Watches the ledger from Airflow's triggerer and says when a scenario has work.

What it says is only a hint: whoever acts on it asks the ledger again. So nothing is lost when a hint is (a sweep finds the
work later), and a hint too many starts a run that finds nothing to do.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent
from sqlalchemy.engine import make_url

from components.core.errors import AtlasError, TryAgain
from components.core.ledger import Ledger, Work
from components.core.settings import Settings
from pipelines import scenario
from pipelines.to_airflow.request import has_work

__all__ = ["BadCaseTrigger", "Memory", "Watch"]

logger = logging.getLogger(__name__)
POLL_S = 0.5
PATIENCE_S = 30.0
REPEATS = 2
LONGEST_PAUSE_S = 5.0


@dataclass
class Memory:
    """Which states of the ledger were said already, in this process.

    A state is said once. If no run takes the scenario within `PATIENCE_S`, the hint may have been lost (Airflow strands some
    asset events), so it is repeated after `PATIENCE_S` and after twice that; then the sweep is left to find the work.
    """

    said: dict[str, tuple[object, float, int]] = field(default_factory=dict)

    def is_news(self, name: str, work: Work, now_s: float) -> bool:
        """Return whether to say that `name` has `work`, and remember that it was said."""
        state = (work.claimable, work.latest, work.unfinished)
        before, since_s, times = self.said.get(name, (None, 0.0, 0))
        if state != before:
            self.said[name] = (state, now_s, 1)
            return True
        if times <= REPEATS and now_s - since_s >= PATIENCE_S * times:
            self.said[name] = (state, now_s, times + 1)
            return True
        return False

    def taken(self, name: str) -> None:
        """Remember that a run holds the scenario: what was said has been heard, and is not repeated."""
        if name in self.said:
            state, since_s, _ = self.said[name]
            self.said[name] = (state, since_s, REPEATS + 1)


class Watch:
    """Looks at the ledger; opens it when it is there, and again when it was replaced. Used from one thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._memory = Memory()
        self._ledger: Ledger | None = None
        self._file: tuple[int, int] | None = None
        self._at_least: dict[str, tuple[float, int]] = {}

    def look(self) -> list[str]:
        """Return the scenarios that have work that was not said yet.

        Raises:
            TryAgain: The ledger is not there now.
        """
        ledger = self._open()
        found = []
        for name, at_least in self._scenarios().items():
            work = ledger.work(name)
            if work.holder is not None:
                self._memory.taken(name)
            elif has_work(ledger, name, at_least, work) and self._memory.is_news(name, work, time.monotonic()):
                found.append(name)
        return found

    def close(self) -> None:
        """Let go of the ledger."""
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None

    def _open(self) -> Ledger:
        file = self._sqlite_file()
        if self._ledger is not None and file != self._file:
            self.close()  # an open connection would go on reading the file that was deleted
        if self._ledger is None:
            self._ledger, self._file = Ledger.open(self._settings.ledger), file
        return self._ledger

    def _sqlite_file(self) -> tuple[int, int] | None:
        url = make_url(self._settings.ledger)
        if url.get_backend_name() != "sqlite" or not url.database:
            return None
        try:
            status = os.stat(url.database)
        except OSError as error:
            raise TryAgain(
                f"the ledger {url.database} can't be read: {error.strerror}", do="it is made when the first case or run comes"
            ) from error
        return status.st_dev, status.st_ino

    def _scenarios(self) -> dict[str, int]:
        """Return scenario -> how many cases it wants; a file is read again when it has changed."""
        found = {}
        for folder in reversed(scenario.folders(self._settings)):
            for path in sorted(folder.glob("*.yaml")):
                changed_s = path.stat().st_mtime
                known = self._at_least.get(str(path))
                if known is None or known[0] != changed_s:
                    known = self._at_least[str(path)] = (changed_s, _wanted(path.stem, self._settings))
                if known[1]:
                    found[path.stem] = known[1]
        return found


def _wanted(name: str, settings: Settings) -> int:
    try:
        return scenario.find(name, settings).ingest.at_least
    except AtlasError as error:
        logger.warning("scenario '%s' is not watched: %s", name, error)
        return 0


class BadCaseTrigger(BaseEventTrigger):
    """Yields an event whenever a scenario has new work.

    Args:
        poll_s: Seconds between two looks at the ledger.
    """

    def __init__(self, poll_s: float = POLL_S) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.poll_s = poll_s

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return how another process makes the same trigger."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {"poll_s": self.poll_s}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll until cancelled; a ledger that is gone is asked again, ever more slowly."""
        watch = Watch(Settings.from_env())
        loop = asyncio.get_running_loop()
        pause_s = self.poll_s
        with ThreadPoolExecutor(1, thread_name_prefix="ledger") as thread:  # a slow database must not stop the other triggers
            try:
                while True:
                    try:
                        found = await loop.run_in_executor(thread, watch.look)
                        pause_s = self.poll_s
                    except Exception as error:  # a trigger that ends is gone until Airflow restarts
                        found, pause_s = [], min(pause_s * 2, LONGEST_PAUSE_S)
                        logger.warning("the ledger can't be watched, next look in %.1f s: %s", pause_s, error)
                        await loop.run_in_executor(thread, watch.close)
                    if found:
                        logger.info("work for %s", ", ".join(found))
                        yield TriggerEvent({"scenarios": found})  # type: ignore[no-untyped-call]
                    await asyncio.sleep(pause_s)
            finally:
                await asyncio.shield(loop.run_in_executor(thread, watch.close))
