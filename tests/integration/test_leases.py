"""One run a scenario: processes that race, and a run that comes back from the dead too late."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.core.artifacts import Artifact, digest_of
from components.core.errors import NothingToDo
from components.core.items import item_from_bytes
from components.core.ledger import Ledger, NewCase

WORKERS = Path(__file__).with_name("lease_workers.py")


def start(*args: object) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(WORKERS.parents[2])}
    return subprocess.Popen([sys.executable, str(WORKERS), *map(str, args)], stdout=subprocess.PIPE, text=True, env=env)


def asleep(*args: object) -> subprocess.Popen[str]:
    """Start a worker, wait until it has stopped itself, and then until its lease has run out."""
    process = start(*args)
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), "it ended before it fell asleep"
    time.sleep(0.2)
    return process


def woken(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Let a stopped worker go on; return its exit code and what it said."""
    process.send_signal(signal.SIGCONT)
    said, _ = process.communicate(timeout=30)
    return process.returncode, said


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    with Ledger.open(url) as opened:
        opened.add_case("ocr", NewCase(item_from_bytes(b"a", "application/json"), "feedback", "5"))
        yield opened


def test_of_racing_processes_exactly_one_proceeds(url: str, ledger: Ledger, tmp_path: Path) -> None:
    for turn in range(3):
        go = tmp_path / f"go{turn}"
        runs = [f"{turn}-{number}" for number in range(3)]
        processes = [start("race", url, run, go) for run in runs]
        give_up = time.monotonic() + 60
        while not all(go.with_name(f"ready-{run}").exists() for run in runs) and time.monotonic() < give_up:
            time.sleep(0.01)
        go.touch()
        said = [process.communicate(timeout=60)[0] for process in processes]
        assert sorted(process.returncode for process in processes) == [0, NothingToDo.exit_code, NothingToDo.exit_code]
        lease = ledger.lease("ocr")
        assert lease is not None
        assert lease.token == turn + 1
        assert sum(f"run {lease.run_id} is already working on scenario 'ocr'" in text for text in said) == 2
        assert ledger.release("ocr", lease.run_id)


def test_a_zombie_may_not_commit(url: str, ledger: Ledger) -> None:
    zombie = asleep("commit", url, "zombie")
    ledger.acquire("ocr", "r2")
    claimed = [case.id for case in ledger.claim("ocr", "r2")]
    code, said = woken(zombie)  # r2 holds the lease
    assert (code, "does not hold the lease of scenario 'ocr': run r2 holds it" in said) == (64, True)
    version = ledger.commit_dataset("ocr", "r2", Artifact("Dataset", digest_of("r2")), merged=claimed, held={}, quarantined={})
    assert ledger.dataset_versions("ocr") == [version]
    assert len(version.cases) == 1


def test_a_zombie_whose_successor_is_done_may_not_commit(url: str, ledger: Ledger) -> None:
    zombie = asleep("commit", url, "zombie")
    ledger.acquire("ocr", "r2")
    claimed = [case.id for case in ledger.claim("ocr", "r2")]
    ledger.commit_dataset("ocr", "r2", Artifact("Dataset", digest_of("r2")), merged=claimed, held={}, quarantined={})
    ledger.release("ocr", "r2")
    code, said = woken(zombie)
    assert (code, "nobody holds it" in said) == (64, True)
    assert [version.run_id for version in ledger.dataset_versions("ocr")] == ["r2"]


def test_a_zombie_may_not_deploy(url: str, ledger: Ledger) -> None:
    zombie = asleep("deploy", url, "zombie")
    successor = start("deploy", url, "r2")  # takes the lease over, deploys, releases
    assert (successor.communicate(timeout=60)[0], successor.returncode) == ("", 0)
    before = ledger.champion("ocr")
    assert before is not None
    assert before.run_id == "r2"
    code, said = woken(zombie)
    assert (code, "does not hold the lease" in said) == (64, True)
    assert ledger.deployments("ocr") == [before]


def test_a_run_that_slept_alone_goes_on(url: str, ledger: Ledger) -> None:
    sleeper = asleep("commit", url, "sleeper")
    assert woken(sleeper) == (0, "")
    assert [version.run_id for version in ledger.dataset_versions("ocr")] == ["sleeper"]
