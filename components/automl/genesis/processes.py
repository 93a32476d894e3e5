"""The processes of a search on one machine: this one and its forks."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable

import optuna

from components.automl.genesis.storage import Workplace
from components.automl.genesis.worker import Search, work
from components.train.reproducible import reproducible

__all__ = ["cores", "run_workers"]

logger = logging.getLogger(__name__)
_GRACE_S = 0.5


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_workers(
    open_: Callable[[], optuna.Study],
    search: Search,
    place: Workplace,
    began: float,
    count: int,
    meanwhile: Callable[[], object] = lambda: None,
) -> None:
    """Work in this process and count - 1 forks of it; they share what is in memory, and end with it.

    On one thread each, whatever was imported since the caller last said so: a fork has none of the threads that OpenMP started
    in its parent, and would wait for them for ever (XGBoost's labels after a landmarker's neighbours, for one).

    Args:
        meanwhile: What this process does before it works, too, while the forks do.
    """
    with reproducible():
        _run(open_, search, place, began, count, meanwhile)


def _run(
    open_: Callable[[], optuna.Study], search: Search, place: Workplace, began: float, count: int, meanwhile: Callable[[], object]
) -> None:
    forks = [
        multiprocessing.get_context("fork").Process(target=_fork, args=(open_, search, place, began, os.getpid()), daemon=True)
        for _ in range(count - 1)
    ]
    gc.collect()
    gc.freeze()  # a collection would write to, and so copy, every page that the forks share
    for fork in forks:
        fork.start()
    try:
        meanwhile()
        work(open_(), search, place, began=began)
    finally:
        until = began + search.budget.seconds - search.reserve_s
        grace = max(until - time.monotonic(), 0.0) + _GRACE_S  # no longer: the choice needs what is reserved
        gc.unfreeze()
        for fork in forks:
            fork.join(timeout=grace if search.budget.trials is None else None)
            if fork.is_alive():
                fork.kill()


def _fork(open_: Callable[[], optuna.Study], search: Search, place: Workplace, began: float, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    _end_with(parent)
    work(open_(), search, place, began=began)


def _end_with(parent: int) -> None:
    """Let the kernel end this process with its parent (Linux); elsewhere it ends after its job, when the budget does."""
    try:
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    except (OSError, AttributeError) as error:
        logger.debug("no parent-death signal here: %s", error)
    if os.getppid() != parent:
        os._exit(1)
