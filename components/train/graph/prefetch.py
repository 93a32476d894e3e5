"""The next items are made by a thread while this one is used."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from queue import Full, Queue
from typing import TypeVar

from components.core.errors import ConfigError

__all__ = ["prefetched"]

T = TypeVar("T")
_POLL_S = 0.1
"""How soon a thread that waits for room sees that nobody wants more."""


def prefetched(items: Iterable[T], depth: int = 2) -> Iterator[T]:
    """Yield the items, in order, made up to `depth` ahead by a thread; 0: made here, when asked for.

    What the iterable raises is raised here, after the items before it. Close the iterator, or exhaust it: then the thread has ended.

    Raises:
        ConfigError: The depth is negative.
    """
    if depth < 0:
        raise ConfigError(f"the prefetch depth is {depth}", do="give 0 or more")
    return _threaded(items, depth) if depth else iter(items)


@dataclass(frozen=True)
class _End:
    error: BaseException | None = None


def _threaded(items: Iterable[T], depth: int) -> Iterator[T]:
    ready: Queue[T | _End] = Queue(depth)
    stopped = threading.Event()
    thread = threading.Thread(target=_make, args=(items, ready, stopped), name="atlas-prefetch", daemon=True)
    thread.start()
    try:
        while not isinstance(item := ready.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stopped.set()
        thread.join()


def _make(items: Iterable[T], ready: Queue[T | _End], stopped: threading.Event) -> None:
    end = _End()
    try:
        for item in items:
            if not _put(ready, item, stopped):
                return
    except BaseException as error:
        end = _End(error)
    _put(ready, end, stopped)


def _put(ready: Queue[T | _End], item: T | _End, stopped: threading.Event) -> bool:
    while not stopped.is_set():
        try:
            ready.put(item, timeout=_POLL_S)
        except Full:
            continue
        return True
    return False
