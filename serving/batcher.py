"""Batches that form by themselves: whatever queued while the last batch ran is the next one. No timer, so nobody waits for company."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from components.core.errors import DataError
from serving.problems import Problem

if TYPE_CHECKING:
    from components.model import Answer
    from serving.champion import Live

__all__ = ["Batcher", "Rows"]

Rows = Sequence[Mapping[str, Any]]
Answered = tuple["list[Answer]", "Live"]


class _Waiting(NamedTuple):
    rows: Rows
    done: asyncio.Future[Answered]


class Batcher:
    """Runs the live model on one thread, a batch at a time; each batch is answered by one model from first row to last.

    Args:
        live: Returns what serves now; None while nothing does.
        max_rows: Rows in one batch; a single larger request still goes in one.
        max_waiting: Rows that may queue before requests are turned away.
    """

    def __init__(self, live: Callable[[], Live | None], *, max_rows: int = 128, max_waiting: int = 8192) -> None:
        self._live = live
        self._max_rows = max_rows
        self._max_waiting = max_waiting
        self._queue: deque[_Waiting] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="predict")
        self._running = False
        self.waiting = 0

    async def predict(self, rows: Rows) -> Answered:
        """Answer `rows`, and say which model did.

        Raises:
            DataError: A row can't be predicted on; the message says which.
            Problem: 503, no model is loaded, or too much is waiting.
        """
        if self._live() is None:
            raise Problem(503, "no model is loaded yet", do="ask /readyz why; run the loop once to get a first model", retry_after_s=1)
        if self.waiting + len(rows) > self._max_waiting:
            raise Problem(503, f"{self.waiting} rows are waiting for the model already", do="try again", retry_after_s=1)
        done: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(rows, done))
        self.waiting += len(rows)
        if not self._running:
            self._next()
        return await done

    def close(self) -> None:
        """Let the batch in hand finish."""
        self._thread.shutdown(wait=True)

    def _next(self) -> None:
        batch: list[_Waiting] = []
        size = 0
        while self._queue and (not batch or size + len(self._queue[0].rows) <= self._max_rows):
            request = self._queue.popleft()
            self.waiting -= len(request.rows)
            if not request.done.cancelled():  # the caller may have gone
                batch.append(request)
                size += len(request.rows)
        live = self._live()
        self._running = bool(batch)
        if not batch or live is None:
            return
        running = asyncio.get_running_loop().run_in_executor(self._thread, _run, live, [request.rows for request in batch])
        running.add_done_callback(lambda ran: self._finish(batch, live, ran))

    def _finish(self, batch: list[_Waiting], live: Live, ran: asyncio.Future[list[list[Answer] | Exception]]) -> None:
        error = asyncio.CancelledError() if ran.cancelled() else ran.exception()
        results: Sequence[list[Answer] | BaseException] = [error] * len(batch) if error else ran.result()
        for request, result in zip(batch, results, strict=True):
            if request.done.done():
                continue
            if isinstance(result, BaseException):
                request.done.set_exception(result)
            else:
                request.done.set_result((result, live))
        self._next()


def _run(live: Live, requests: list[Rows]) -> list[list[Answer] | Exception]:
    """Predict all requests at once; when a row spoils the batch, each on its own, so that only its sender hears of it."""
    try:
        answers = live.predictor.predict([row for rows in requests for row in rows])
    except DataError as error:
        return [_blame(live, requests[0], error)] if len(requests) == 1 else [_run(live, [rows])[0] for rows in requests]
    except Exception as error:  # whatever it is, the thread and the other requests must live on
        return [error] * len(requests)
    ends = iter(answers)
    return [[next(ends) for _ in rows] for rows in requests]


def _blame(live: Live, rows: Rows, error: DataError) -> DataError:
    for index, row in enumerate(rows):
        try:
            live.predictor.check(row)
        except DataError as found:
            return DataError(f"items[{index}]: {found.message}", do=found.do) if len(rows) > 1 else found
    return error
