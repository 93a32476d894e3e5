"""The ledger itself: leases, claims, dataset versions, and the database. One suite, inherited for SQLite and for PostgreSQL."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from components.core.errors import ConfigError, DataError, IntegrityError, NothingToDo, Refused, TryAgain
from components.core.ledger import STATES, Ledger, Work

_loader = SourceFileLoader("ledger_world", str(Path(__file__).with_name("ledger_world.py")))
world = module_from_spec(spec_from_loader("ledger_world", _loader))  # type: ignore[arg-type]
_loader.exec_module(world)
S, artifact, committed, deployed, new = world.S, world.artifact, world.committed, world.deployed, world.new


class LedgerContract:
    """Runs on every database."""

    # leases and claims

    def test_one_run_a_scenario(self, ledger: Ledger, clock: Any) -> None:
        lease = ledger.acquire(S, "r1", ttl_s=10)
        with pytest.raises(NothingToDo, match="run r1 is already working"):
            ledger.acquire(S, "r2")
        clock.move(5)
        assert ledger.acquire(S, "r1", ttl_s=10).token == lease.token
        assert ledger.lease(S) == ledger.renew(lease)
        assert ledger.work(S).holder == "r1"
        assert ledger.acquire("credit", "r2").token == 1

    def test_an_expired_lease_is_taken_over_and_the_zombie_is_refused(self, ledger: Ledger, clock: Any) -> None:
        case_id = ledger.add_case(S, new("a", "5")).case_id
        zombie = ledger.acquire(S, "r1", ttl_s=10)
        ledger.claim(S, "r1")
        clock.move(11)
        assert ledger.lease(S) is None
        assert ledger.work(S) == Work(claimable=1, unfinished=False, holder=None, latest=ledger.work(S).latest)
        assert ledger.acquire(S, "r2").token == zombie.token + 1
        assert [case.id for case in ledger.claim(S, "r2")] == [case_id]
        for late in (
            lambda: ledger.renew(zombie),
            lambda: ledger.claim(S, "r1"),
            lambda: ledger.commit_dataset(S, "r1", artifact("Dataset", "z"), merged=[case_id], held={}, quarantined={}),
            lambda: ledger.deploy(S, "r1", model="m", blessing="b", expected_seq=None, right=[], wrong=[]),
        ):
            with pytest.raises(Refused, match=r"does not hold the lease.*run r2 holds it"):
                late()
        assert not ledger.release(S, "r1")
        assert ledger.head(S) is None

    def test_a_run_that_only_slept_goes_on(self, ledger: Ledger, clock: Any) -> None:
        lease = ledger.acquire(S, "r1", ttl_s=10)
        clock.move(60)
        assert ledger.renew(lease).token == lease.token

    def test_a_released_lease_is_free(self, ledger: Ledger) -> None:
        first = ledger.acquire(S, "r1")
        assert ledger.release(S, "r1")
        assert not ledger.release(S, "r1")
        assert ledger.acquire(S, "r2").token > first.token
        with pytest.raises(Refused):
            ledger.renew(first)

    def test_a_claim_repeated_is_the_same_claim(self, ledger: Ledger) -> None:
        ledger.add_cases(S, [new(name, "5") for name in "abc"])
        ledger.add_case(S, new("unlabelled"))
        ledger.acquire(S, "r1")
        first = ledger.claim(S, "r1")
        assert [case.id for case in first] == sorted(case.id for case in first)
        assert len(first) == 3
        ledger.add_case(S, new("later", "5"))
        assert ledger.claim(S, "r1") == first
        assert ledger.work(S).claimable == 1

    def test_nothing_is_claimed_without_the_lease(self, ledger: Ledger) -> None:
        ledger.add_case(S, new("a", "5"))
        with pytest.raises(Refused, match="nobody holds it"):
            ledger.claim(S, "r1")

    def test_a_run_whose_ground_has_moved_is_refused(self, ledger: Ledger) -> None:
        ledger.acquire(S, "r1")
        ledger.claim(S, "r1")
        ledger.release(S, "r1")
        ledger.add_case(S, new("a", "5"))
        committed(ledger, "r2")
        ledger.release(S, "r2")
        ledger.acquire(S, "r1")  # it holds the lease again, but claimed before r2 committed
        with pytest.raises(Refused, match="r2 committed dataset version 1"):
            ledger.commit_dataset(S, "r1", artifact("Dataset", "old"), merged=[], held={}, quarantined={})
        with pytest.raises(Refused, match="start a new run"):
            ledger.claim(S, "r1")

    def test_two_threads_race_for_the_lease(self, ledger: Ledger) -> None:
        def run(name: str) -> bool:
            try:
                ledger.acquire(S, name)
            except NothingToDo:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(run, [f"r{number}" for number in range(8)])) == 1

    # dataset versions

    def test_versions_are_a_chain(self, ledger: Ledger) -> None:
        for run, name in (("r1", "a"), ("r2", "b")):
            ledger.add_case(S, new(name, "5"))
            committed(ledger, run)
            ledger.release(S, run)
        first, second = ledger.dataset_versions(S)
        assert (first.seq, first.parent, second.seq, second.parent) == (1, None, 2, first.ref)
        assert ledger.head(S) == second
        assert {case.dataset for case in ledger.merged_cases(S)} == {first.ref, second.ref}

    def test_a_commit_repeated_changes_nothing(self, ledger: Ledger) -> None:
        ledger.add_case(S, new("a", "5"))
        claimed = committed(ledger, "r1")
        before = ledger.history(claimed[0].id)
        again = ledger.commit_dataset(S, "r1", artifact("Dataset", "r1"), merged=[claimed[0].id], held={}, quarantined={})
        assert ledger.dataset_versions(S) == [again]
        assert ledger.history(claimed[0].id) == before

    def test_a_run_that_commits_other_content_appends(self, ledger: Ledger) -> None:
        a, b = (ledger.add_case(S, new(name, "5")).case_id for name in "ab")
        committed(ledger, "r1")
        ledger.commit_dataset(S, "r1", artifact("Dataset", "r1, new code"), merged=[a], held={b: "now held"}, quarantined={})
        assert [len(version.cases) for version in ledger.dataset_versions(S)] == [2, 0]
        assert (ledger.case(a).state, ledger.case(b).state) == ("merged", "held")

    def test_a_version_that_repeats_a_closed_case_leaves_it_closed(self, ledger: Ledger) -> None:
        case_id = ledger.add_case(S, new("a", "5")).case_id
        committed(ledger, "r1")
        deployed(ledger, "r1", [case_id])
        before = ledger.history(case_id)
        ledger.acquire(S, "r2")
        ledger.commit_dataset(S, "r2", artifact("Dataset", "r2"), merged=[case_id], held={}, quarantined={})
        assert ledger.history(case_id) == before
        assert [version.cases for version in ledger.dataset_versions(S)] == [(case_id,), ()]

    @pytest.mark.parametrize("wrong", ["unknown", "unlabelled", "twice"])
    def test_a_wrong_commit_leaves_no_trace(self, ledger: Ledger, wrong: str) -> None:
        a, b = ledger.add_case(S, new("a", "5")).case_id, ledger.add_case(S, new("b")).case_id
        ledger.acquire(S, "r1")
        ledger.claim(S, "r1")
        fates: dict[str, Any] = {"merged": [a], "held": {}, "quarantined": {}}
        fates |= {"unknown": {"merged": [a, "nobody"]}, "unlabelled": {"merged": [a, b]}, "twice": {"held": {a: "why"}}}[wrong]
        with pytest.raises(DataError):
            ledger.commit_dataset(S, "r1", artifact("Dataset", "d"), **fates)
        assert ledger.head(S) is None
        assert ledger.case(a).state == "labelled"

    def test_unfinished_work_is_tried_three_times(self, ledger: Ledger) -> None:
        ledger.add_case(S, new("a", "5"))
        committed(ledger, "r1")
        assert ledger.work(S).unfinished
        ledger.release(S, "r1")
        ledger.acquire(S, "r2")
        ledger.claim(S, "r2")
        ledger.release(S, "r2")
        assert ledger.work(S).unfinished
        ledger.acquire(S, "r3")
        ledger.claim(S, "r3")
        assert ledger.work(S).unfinished  # the third is at it
        ledger.commit_dataset(S, "r3", artifact("Dataset", "the same cases, another parent"), merged=[], held={}, quarantined={})
        assert ledger.work(S).unfinished
        ledger.release(S, "r3")
        assert not ledger.work(S).unfinished
        ledger.add_case(S, new("b", "5"))
        committed(ledger, "r4")
        assert ledger.work(S).unfinished

    def test_a_verdict_finishes_the_work(self, ledger: Ledger) -> None:
        ledger.add_case(S, new("a", "5"))
        committed(ledger, "r1")
        model = artifact("Model", "m", (artifact("Dataset", "r1").ref,))
        ledger.record_model(S, "r1", model)
        assert ledger.work(S).unfinished
        ledger.record_blessing(S, "r1", artifact("Blessing", "b", accepted=False, model=model.ref, baseline=None, evaluation_set="e"))
        assert not ledger.work(S).unfinished

    # the database itself

    def test_the_migrations_make_the_schema(self, ledger: Ledger, url: str) -> None:
        from alembic.autogenerate import compare_metadata
        from alembic.migration import MigrationContext

        from components.core.ledger.migrations import HEAD
        from components.core.ledger.schema import metadata

        engine = sa.create_engine(url, poolclass=sa.NullPool)
        with engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            assert context.get_current_revision() == HEAD
            assert compare_metadata(context, metadata) == []

    def test_a_newer_database_is_a_clear_error(self, own_url: str) -> None:
        engine = sa.create_engine(own_url, poolclass=sa.NullPool)
        with engine.begin() as connection:
            connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
        with pytest.raises(ConfigError, match="another version of ATLAS"):
            Ledger.open(own_url)

    def test_counts_name_every_state(self, ledger: Ledger) -> None:
        assert ledger.counts("nothing") == dict.fromkeys(STATES, 0)
        assert ledger.work("nothing") == Work(0, False, None, 0)


class TestSqlite(world.OnSqlite, LedgerContract):
    def test_a_locked_database_is_tried_again_later(self, ledger: Ledger, url: str) -> None:
        path = url.removeprefix("sqlite:///")
        other = sqlite3.connect(path, isolation_level=None)
        try:
            other.execute("BEGIN IMMEDIATE")
            with Ledger.open(f"{url}?timeout=0.1") as impatient:
                with pytest.raises(TryAgain, match="locked"):
                    impatient.add_case(S, new("a", "5"))
                assert impatient.cases(S) == []  # readers need not wait
            other.execute("ROLLBACK")
        finally:
            other.close()

    def test_a_full_disk_is_tried_again_later_and_keeps_what_was_kept(self, small_disk: Path, sqlite_template: Path) -> None:
        shutil.copyfile(sqlite_template, small_disk / "ledger.db")
        with Ledger.open(f"sqlite:///{small_disk / 'ledger.db'}") as ledger:

            def fill() -> None:
                for number in range(200):
                    ledger.add_case(S, new(f"{number} " + "x" * 10_000, "5"))
                    kept.append(number)

            kept: list[int] = []
            with pytest.raises(TryAgain, match="disk"):
                fill()
            assert len(ledger.cases(S)) == len(kept) > 0

    def test_a_file_that_is_no_database_is_a_clear_error(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("not a database, whatever its name says" * 50)
        with pytest.raises(IntegrityError, match="is not a ledger"):
            Ledger.open(f"sqlite:///{tmp_path / 'notes.txt'}")

    def test_writes_are_durable(self, ledger: Ledger) -> None:
        with ledger._db.read() as connection:
            pragmas = {
                name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous", "foreign_keys")
            }
        assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


class TestPostgres(world.OnPostgres, LedgerContract):
    def test_a_database_that_is_gone_is_tried_again_later(self, own_url: str) -> None:
        url = sa.make_url(own_url)
        admin = sa.create_engine(url.set(database="postgres"), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with Ledger.open(own_url) as ledger:
            with admin.connect() as connection:
                connection.execute(sa.text(f"DROP DATABASE {url.database} WITH (FORCE)"))
            with pytest.raises(TryAgain, match="can't be used now"):
                ledger.add_case(S, new("a", "5"))

    def test_the_database_keeps_the_time(self, url: str) -> None:
        with Ledger.open(url) as ledger:
            assert abs(ledger.acquire(S, "r1", ttl_s=0).expires_at - datetime.now(UTC)) < timedelta(seconds=5)


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("sqlite://", ConfigError),
        ("mysql://localhost/atlas", ConfigError),
        ("not a url", ConfigError),
        ("postgresql://nobody@127.0.0.1:1/atlas?connect_timeout=1", TryAgain),
        ("sqlite:////proc/atlas/ledger.db", TryAgain),
    ],
)
def test_a_wrong_or_absent_database_is_a_clear_error(url: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        Ledger.open(url)


def test_processes_that_open_a_fresh_database_together_migrate_it_once(tmp_path: Path, postgres: Callable[[str], str]) -> None:
    for url in (f"sqlite:///{tmp_path / 'new' / 'ledger.db'}", postgres("template0")):
        with ThreadPoolExecutor(4) as pool:
            for ledger in pool.map(lambda _: Ledger.open(url), range(4)):  # noqa: B023
                ledger.close()
