"""How the processes of a job end: never after the one that started them, and with the exit code that says what happened."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from typing import NoReturn

from torch import distributed as dist

__all__ = ["disband", "end_with_parent", "leave"]

_PR_SET_PDEATHSIG = 1
_disbanded: list[object] = []


def end_with_parent(how: signal.Signals) -> None:
    """Let the kernel send this process a signal when its parent ends (Linux; elsewhere its peers' silence ends it)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, how)


def disband() -> None:
    """Destroy the process group, but keep it in memory until the process has left.

    If what DDP wrapped is the last to hold a group, freeing it waits for gloo's thread while it holds the interpreter's lock; that thread,
    which may still have a tensor to free, waits for the lock (torch 2.13: ~Reducer; a job that was done hung for ever).
    """
    _disbanded.append(dist.group.WORLD)
    dist.destroy_process_group()


def leave(code: int) -> NoReturn:
    """End this process, whose work is done and whose process group is disbanded, without taking the interpreter apart.

    A process that had many gloo groups now and then aborts there ("terminate called without an active exception", torch 2.13), which
    would turn a finished job into a failed one.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
