"""Where a study lives: one journal that any number of processes append to, and a folder of what they fitted.

A killed worker loses the job it was at and nothing else: the kernel drops its locks with it, and another worker sees that.
"""

from __future__ import annotations

import fcntl
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock

__all__ = ["Workplace", "open_study"]

optuna.logging.set_verbosity(optuna.logging.WARNING)


class _FileLock(BaseJournalFileLock):  # type: ignore[misc]
    """A lock of the kernel's: Optuna's own lock files outlive a killed process and block the next one.

    Whoever gets it first cuts a line that a kill left half written; the next append would glue itself to it.
    """

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._held: IO[bytes] | None = None

    def acquire(self) -> bool:
        held = self._journal.with_suffix(".lock").open("ab")
        fcntl.flock(held, fcntl.LOCK_EX)
        self._held = held
        _drop_torn_line(self._journal)
        return True

    def release(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None


def open_study(path: Path, *, maximize: bool) -> optuna.Study:
    """Open or create the study in `path`; several processes may have it open."""
    path.parent.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(JournalFileBackend(str(path), lock_obj=_FileLock(path)))
    direction = "maximize" if maximize else "minimize"
    return optuna.create_study(study_name="genesis", storage=storage, direction=direction, load_if_exists=True)


class Workplace:
    """One worker's presence: a locked file for as long as its process lives.

    Args:
        folder: Shared by all workers of the study.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "workers"

    @contextmanager
    def enter(self) -> Iterator[str]:
        """Yield a name that no other worker has; it counts as alive until the block or the process ends."""
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        path = self._folder / name
        with path.open("wb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            try:
                yield name
            finally:
                path.unlink(missing_ok=True)

    def is_alive(self, name: str) -> bool:
        """Whether the worker's process still holds its file."""
        try:
            with (self._folder / name).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False


def _drop_torn_line(path: Path) -> None:
    size = path.stat().st_size if path.exists() else 0
    if not size:
        return
    with path.open("r+b") as file:
        file.seek(size - 1)
        if file.read(1) == b"\n":
            return
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
