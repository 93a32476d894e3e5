"""The payload log: predictions wait in a bounded queue and are written in batches, so that no client waits for the ledger.

Until a prediction is written it can be found here, so feedback that comes at once finds its input. While the ledger is away
the queue keeps the newest; what it had to let go is counted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from components.core.errors import AtlasError, TryAgain

if TYPE_CHECKING:
    from components.core.ledger import NewCase, Prediction
    from serving.door import LedgerDoor
    from serving.metrics import Metrics

__all__ = ["PayloadLog"]

E = TypeVar("E")
_log = logging.getLogger(__name__)
_EVERY_S = 0.05
_PAUSE_S = 1.0
_BATCH = 500
_FLUSH_S = 5.0
_MOST_CASES = 2_000
_PRUNE_EVERY = 1_000


class PayloadLog:
    """Writes predictions and captured cases in the background.

    Args:
        scenario: Whose they are.
        door: The ledger.
        metrics: Told of the queue's length and of drops.
        keep: Predictions kept in the ledger; older ones are pruned.
        most: Entries that may wait.
        most_bytes: Payload bytes that may wait.
    """

    def __init__(
        self, scenario: str, door: LedgerDoor, metrics: Metrics, *, keep: int, most: int = 20_000, most_bytes: int = 64 << 20
    ) -> None:
        self._scenario = scenario
        self._door = door
        self._metrics = metrics
        self._kept = keep
        self._most = most
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._predictions: OrderedDict[str, Prediction] = OrderedDict()
        self._cases: list[NewCase] = []
        self._bytes = 0
        self._since_prune = max(_PRUNE_EVERY, keep)  # a server that is often restarted prunes too
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write_on, name="payloads", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """Write what waits, for a few seconds at most, and end."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=_FLUSH_S + 1)

    def add(self, predictions: list[Prediction], cases: list[NewCase]) -> None:
        """Queue predictions, and the cases they became; never waits."""
        with self._lock:
            for prediction in predictions:
                self._predictions[prediction.id] = prediction
                self._bytes += len(prediction.payload)
            self._cases += cases
            lost = 0
            while len(self._predictions) > self._most or self._bytes > self._most_bytes:
                self._bytes -= len(self._predictions.popitem(last=False)[1].payload)
                lost += 1
            lost_cases = max(0, len(self._cases) - _MOST_CASES)
            del self._cases[:lost_cases]
            self._metrics.queue.set(len(self._predictions) + len(self._cases))
        if lost:
            self._metrics.dropped.labels("prediction").inc(lost)
        if lost_cases:
            self._metrics.dropped.labels("case").inc(lost_cases)

    def find(self, prediction_id: str) -> Prediction | None:
        """Return a prediction that is not written yet."""
        with self._lock:
            return self._predictions.get(prediction_id)

    def write(self) -> int:
        """Write one batch. Returns the number of entries that it had.

        Raises:
            TryAgain: The ledger is away; the batch still waits.
        """
        with self._lock:
            predictions = [prediction for _, prediction in zip(range(_BATCH), self._predictions.values(), strict=False)]
            cases = self._cases[:_BATCH]
        if predictions:
            self._keep("prediction", predictions, self._log_predictions)
        if cases:
            self._keep("case", cases, self._add_cases)
        with self._lock:
            # Only now: until the ledger has a prediction, `find` must.
            for prediction in predictions:
                if self._predictions.pop(prediction.id, None) is not None:
                    self._bytes -= len(prediction.payload)
            written = {id(case) for case in cases}
            self._cases = [case for case in self._cases if id(case) not in written]
            self._metrics.queue.set(len(self._predictions) + len(self._cases))
        self._prune(len(predictions))
        return len(predictions) + len(cases)

    def _log_predictions(self, batch: list[Prediction]) -> None:
        self._door.run(lambda ledger: ledger.log_predictions(batch))

    def _add_cases(self, batch: list[NewCase]) -> None:
        receipts = self._door.run(lambda ledger: ledger.add_cases(self._scenario, batch))
        self._metrics.cases.labels("capture").inc(sum(receipt.created for receipt in receipts))

    def _keep(self, what: str, batch: list[E], write: Callable[[list[E]], None]) -> None:
        """Write a batch; when the ledger refuses it, entry by entry, so that one it will never take stops no other."""
        try:
            write(batch)
        except TryAgain:
            raise
        except AtlasError as error:
            if len(batch) > 1:
                for entry in batch:
                    self._keep(what, [entry], write)
                return
            self._metrics.dropped.labels(what).inc()
            _log.error("the ledger refused a %s: %s", what, error)

    def _prune(self, written: int) -> None:
        self._since_prune += written
        if written and self._since_prune >= max(_PRUNE_EVERY, self._kept // 20):
            self._door.run(lambda ledger: ledger.prune_predictions(self._scenario, self._kept))
            self._since_prune = 0

    def _write_on(self) -> None:
        while not self._stop.wait(_EVERY_S):
            if not self._drain(time.monotonic() + 60):
                self._stop.wait(_PAUSE_S)
        self._drain(time.monotonic() + _FLUSH_S)

    def _drain(self, until: float) -> bool:
        """Write batches until nothing waits; False when the ledger is away."""
        try:
            while self.write() and time.monotonic() < until:
                pass
        except TryAgain as error:
            _log.debug("the payload log waits: %s", error)
            return False
        except Exception:
            _log.exception("writing the payload log failed; trying again")
            return False
        return True
