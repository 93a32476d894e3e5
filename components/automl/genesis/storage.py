"""Where a study lives: one journal file, appended to and never rewritten, so a killed search loses at most the trial it was in."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock
from optuna.trial import TrialState

from components.core.errors import TryAgain

__all__ = ["open_study"]


class _Held(BaseJournalFileLock):  # type: ignore[misc]
    """The whole file is already locked by `open_study`. Optuna's own lock files outlive a killed process and block the next one."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        return None


@contextmanager
def open_study(path: Path, *, maximize: bool) -> Iterator[optuna.Study]:
    """Open or create the study in `path`, alone; trials that a killed process left running are marked as failed.

    Raises:
        TryAgain: Another process is searching in this file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel drops it with the process
        except OSError as error:
            raise TryAgain(f"another process is searching in {path.name}", do="wait for it to end, or end it") from error
        _drop_torn_line(path)
        storage = JournalStorage(JournalFileBackend(str(path), lock_obj=_Held()))
        study = optuna.create_study(
            study_name="genesis", storage=storage, direction="maximize" if maximize else "minimize", load_if_exists=True
        )
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)):
            study.tell(trial.number, state=TrialState.FAIL)
        yield study


def _drop_torn_line(path: Path) -> None:
    """Cut a last line that a kill left half written; the next append would glue itself to it."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)
