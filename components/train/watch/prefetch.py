"""Batches are loaded beside the step: threads, a bounded queue, the order of the source, exceptions where they belong.

Threads help where a load waits (disk, network) or computes outside Python's lock (NumPy, decoders, Arrow). A load in pure Python needs
worker processes (`torch.utils.data.DataLoader(num_workers=…)`): the preflight measures which it is before it switches this on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch.utils import _pytree as pytree

from components.core.errors import ConfigError

__all__ = ["Placer", "Prefetch"]

T = TypeVar("T")
_END = object()


class Prefetch(Generic[T]):
    """The batches of a source, loaded ahead. It can be iterated as often as its source.

    At most `depth` batches are being loaded or wait to be taken, whatever the source yields. The first batch is loaded in the caller's
    thread, which waits for it anyway: samplers that draw their seed from the global generator draw it there, as in a serial loop. The
    others are loaded in threads: what a load draws must come from a generator of its own, and thread-local modes of torch (`no_grad`, the
    default device) do not reach it. Leaving the loop early ends the threads; that waits for loads that are under way.

    Args:
        source: Batches; with `load`: whatever names one (indices, paths). Its iterator is used by one thread at a time.
        load: Makes a batch of what names it; with it, several can be loaded at a time.
        workers: Threads; 0: every batch is loaded when it is asked for, in the caller's thread.
        depth: 0: twice the workers.
        placer: Moves every batch to a device, at the end of its load.

    Raises:
        ConfigError: More than one worker without `load`: an iterator can't be asked for two batches at once. Or a number of workers
            below 0, or a depth below the workers.
    """

    def __init__(
        self,
        source: Iterable[Any],
        load: Callable[[Any], T] | None = None,
        *,
        workers: int = 1,
        depth: int = 0,
        placer: Placer | None = None,
    ) -> None:
        depth = depth or 2 * workers
        if workers < 0 or depth < workers:
            raise ConfigError(f"{workers} workers with a depth of {depth}", do="give 0 workers or more, and a depth not below the workers")
        if workers > 1 and load is None:
            raise ConfigError(f"{workers} workers for one iterator", do="give `load` and a source of what names a batch, or 1 worker")
        self.workers, self.depth = workers, depth
        self._source, self._load, self._placer = source, load or _same, placer or Placer(torch.device("cpu"))

    def __len__(self) -> int:
        """Return the source's length; TypeError where it has none, as `len` does."""
        return len(self._source)  # type: ignore[arg-type]

    def loaded_by(self, workers: int) -> Prefetch[T]:
        """Return the same batches, loaded by so many threads; by one where the source is an iterable of batches."""
        if self._load is _same:
            return Prefetch(self._source, workers=1, placer=self._placer)
        return Prefetch(self._source, self._load, workers=workers, placer=self._placer)

    def __iter__(self) -> Generator[T, None, None]:
        """Yield the batches in the source's order; an exception of the source or of a load comes where its batch would have come."""
        source, placer = iter(self._source), self._placer
        if not self.workers:
            yield from (placer.take(placer.put(self._load(key))) for key in source)
            return
        first = next(source, _END)
        if first is _END:
            return
        queue = _Queue(source, lambda key: placer.put(self._load(key)), self.workers, self.depth)
        try:
            batch = placer.put(self._load(first))
            del first
            queue.start()
            yield placer.take(batch)
            del batch  # nothing here may keep a batch alive while the next one is awaited
            while queue.more():
                yield placer.take(queue.take())
        finally:
            queue.close()


class Placer:
    """Moves batches to a device: from pinned memory, on a stream of its own, so that the copy runs beside the step.

    On a CPU it does nothing. Tensors in dicts, lists and (named) tuples are moved; what else a batch holds stays as it is.

    Args:
        device: Where batches go.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def put(self, batch: Any) -> Any:
        """Begin to copy; the result is for `take`."""
        if self._stream is None:
            return batch if self._device.type == "cpu" else pytree.tree_map_only(torch.Tensor, lambda t: t.to(self._device), batch)
        with torch.cuda.stream(self._stream):
            moved = pytree.tree_map_only(torch.Tensor, self._copied, batch)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(self._stream)
        return moved, event

    def _copied(self, tensor: torch.Tensor) -> torch.Tensor:
        pinned = tensor.pin_memory() if tensor.device.type == "cpu" and not tensor.is_pinned() else tensor
        return pinned.to(self._device, non_blocking=True)

    def take(self, put: Any) -> Any:
        """Return the batch; the caller's stream waits until the copy is done, the caller does not."""
        if self._stream is None:
            return put
        batch, event = put
        current = torch.cuda.current_stream(self._device)
        current.wait_event(event)
        # The allocator must not hand the memory to the copying stream while the caller's stream still reads it.
        pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.record_stream(current), batch)
        return batch


class _Queue:
    """Results by number: (batch,), or the exception that its load raised, or None after the last one."""

    def __init__(self, source: Iterator[Any], load: Callable[[Any], Any], workers: int, depth: int) -> None:
        self._source, self._load, self._depth = source, load, depth
        self._pulling, self._changed = threading.Lock(), threading.Condition()
        self._done: dict[int, tuple[Any] | BaseException | None] = {}
        self._pulled = self._taken = 0
        self._ended = False
        self._threads = [threading.Thread(target=self._run, name=f"prefetch-{number}", daemon=True) for number in range(workers)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def more(self) -> bool:
        """Wait for the next result; return whether it is a batch, or raise what it is instead."""
        with self._changed:
            self._changed.wait_for(lambda: self._taken in self._done)
            result = self._done[self._taken]
        if isinstance(result, BaseException):
            raise result
        return result is not None

    def take(self) -> Any:
        """Return the batch that `more` has seen."""
        with self._changed:
            result = self._done.pop(self._taken)
            self._taken += 1
            self._changed.notify_all()
        return result[0] if isinstance(result, tuple) else None

    def close(self) -> None:
        """End the threads and let go of what nobody took."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        self._done.clear()

    def _run(self) -> None:
        while self._one():
            pass

    def _one(self) -> bool:
        """Load one batch; return whether there may be another. Its locals end with it: no thread keeps a batch while it waits."""
        number = None
        try:
            with self._pulling:  # pulling and numbering are one act: the order is the source's, whichever thread pulls
                number = self._reserve()
                if number is None:
                    return False
                key = next(self._source, _END)
                if key is _END:
                    return self._finish(number, None)
            return self._finish(number, (self._load(key),))
        except BaseException as error:
            if number is None:
                raise
            return self._finish(number, error)

    def _reserve(self) -> int | None:
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._pulled - self._taken < self._depth)
            if self._ended:
                return None
            self._pulled += 1
            return self._pulled - 1

    def _finish(self, number: int, result: tuple[Any] | BaseException | None) -> bool:
        with self._changed:
            self._done[number] = result
            self._ended = self._ended or not isinstance(result, tuple)
            self._changed.notify_all()
            return not self._ended


def _same(batch: Any) -> Any:
    return batch
