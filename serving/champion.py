"""The model that serves now: follows the ledger's pointer, loads the next one beside it, and swaps in one assignment.

A batch that has begun keeps the model it began with; the next batch takes whatever `live` is then. A model that can't be
loaded, or can't answer a trial row, changes nothing but the status.
"""

from __future__ import annotations

import gc
import logging
import struct
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from components.core.errors import AtlasError, TryAgain
from components.core.params import TextLine

if TYPE_CHECKING:
    from components.core.params import Tabular
    from components.core.store import ArtifactStore
    from components.model import Answer
    from serving.door import LedgerDoor
    from serving.metrics import Metrics

__all__ = ["Champion", "Live", "Predicts", "trial_row"]

_log = logging.getLogger(__name__)
_RETRY_S = 3.0
"""A pointer to a model that failed to load is tried again after this long."""


class Predicts(Protocol):
    """What serving needs of a model; `components.model.Predictor` is one."""

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[Answer]:
        """Answer rows."""

    def check(self, row: Mapping[str, Any]) -> None:
        """Raise DataError when the row can't be predicted on."""


@dataclass(frozen=True)
class Live:
    """A loaded model and where it comes from."""

    predictor: Predicts
    model: str
    dataset: str | None
    seq: int | None


@dataclass(frozen=True)
class _Pointer:
    model: str
    dataset: str | None
    seq: int | None


class Champion:
    """Keeps `live` equal to the ledger's champion.

    Args:
        scenario: Whose champion.
        task: Tells what a trial row looks like.
        door: The ledger, opened when it is there.
        store: Holds the models.
        load: Folder -> predictor.
        metrics: Told of swaps and failures.
        pinned: Serve this model and never ask the ledger.
        every_s: Time between two looks at the pointer.
    """

    def __init__(
        self,
        scenario: str,
        task: TextLine | Tabular,
        *,
        door: LedgerDoor,
        store: ArtifactStore,
        load: Callable[[Path], Predicts],
        metrics: Metrics,
        pinned: str | None = None,
        every_s: float = 0.3,
    ) -> None:
        self._scenario = scenario
        self._trial = trial_row(task)
        self._door = door
        self._store = store
        self._load = load
        self._metrics = metrics
        self._pinned = pinned
        self._every_s = every_s
        self._live: Live | None = None
        self._failed: tuple[str, str, float] | None = None
        self._why = "the first look at the ledger is not over yet"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="champion", daemon=True)

    @property
    def live(self) -> Live | None:
        """What serves now."""
        return self._live

    def start(self) -> None:
        """Look once, so that a server with a champion is ready when it starts; then follow in the background."""
        self.look()
        gc.collect()
        gc.freeze()  # what is loaded by now stays: collections need not walk it again
        self._thread.start()

    def stop(self) -> None:
        """Stop following; `live` stays."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=5)

    def status(self) -> dict[str, Any]:
        """Return what `/readyz` says."""
        live, failed = self._live, self._failed
        found: dict[str, Any] = {"ready": live is not None, "model": None, "dataset": None, "seq": None}
        if live is not None:
            found |= {"model": live.model, "dataset": live.dataset, "seq": live.seq}
        else:
            found |= {"error": self._why, "do": "run the loop once to get a first model, or bring the ledger back"}
        if failed is not None:
            found["failed"] = {"model": failed[0], "error": failed[1]}
        return found

    def look(self) -> bool:
        """Follow the pointer once. Returns whether another model took over."""
        try:
            pointer = self._pointer()
        except AtlasError as error:
            self._why = str(error)
            return False
        if pointer is None:
            self._why = f"scenario '{self._scenario}' has no champion yet"
            return False
        live = self._live
        if live is not None and live.model == pointer.model:
            self._failed = None
            if (live.dataset, live.seq) != (pointer.dataset, pointer.seq):  # deployed again, or rolled back to
                self._take_over(Live(live.predictor, pointer.model, pointer.dataset, pointer.seq))
            return False
        failed = self._failed
        if failed is not None and failed[0] == pointer.model and time.monotonic() < failed[2]:
            return False
        return self._swap(pointer)

    def _pointer(self) -> _Pointer | None:
        if self._pinned is not None:
            return _Pointer(self._pinned, None, None)
        found = self._door.run(lambda ledger: ledger.champion(self._scenario))
        return _Pointer(found.model, found.dataset, found.seq) if found else None

    def _swap(self, pointer: _Pointer) -> bool:
        try:
            predictor = self._load(self._store.fetch(pointer.model))
            for _ in range(3):  # the first calls allocate; that must not happen to a client
                predictor.predict([self._trial])
        except Exception as error:  # a model that can't serve must not stop the one that can
            self._why = str(error)
            self._failed = (pointer.model, str(error), time.monotonic() + _RETRY_S)
            self._metrics.load_failures.inc()
            _log.log(logging.WARNING if isinstance(error, TryAgain) else logging.ERROR, "%s can't serve: %s", pointer.model, error)
            return False
        if self._live is not None:
            self._metrics.swaps.inc()
        self._failed = None
        self._take_over(Live(predictor, pointer.model, pointer.dataset, pointer.seq))
        _log.info("serving %s", pointer.model)
        return True

    def _take_over(self, live: Live) -> None:
        before, self._live = self._live, live
        if before is not None:
            self._metrics.model.remove(before.model, before.dataset or "", str(before.seq or ""))
        self._metrics.model.labels(live.model, live.dataset or "", str(live.seq or "")).set(1)

    def _follow(self) -> None:
        while not self._stop.wait(self._every_s):
            if self._pinned is not None and self._live is not None:
                return
            try:
                self.look()
            except Exception:
                _log.exception("looking at the ledger failed; looking again")


def trial_row(task: TextLine | Tabular) -> dict[str, Any]:
    """Return a row that any model of the task can answer: all features missing, or a white image."""
    if isinstance(task, TextLine):
        return {"image": _white_png(64, 32)}
    return dict.fromkeys(task.features)


def _white_png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    lines = zlib.compress((b"\x00" + b"\xff" * width) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")
