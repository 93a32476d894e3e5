"""The ledger's contract: one suite, inherited for SQLite and for PostgreSQL."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from components.core.artifacts import Artifact, Kind, digest_of
from components.core.errors import ConfigError, DataError, IntegrityError, NothingToDo, Refused, TryAgain
from components.core.items import Item, item_from_bytes
from components.core.ledger import STATES, Case, Ledger, NewCase, Prediction, Work

S = "ocr"


def item(name: str) -> Item:
    return item_from_bytes(name.encode(), "application/json", "writer-1")


def new(name: str, label: str | float | None = None, **rest: Any) -> NewCase:
    return NewCase(item(name), rest.pop("source", "feedback"), label, **rest)


def artifact(kind: Kind, name: str, parents: tuple[str, ...] = (), **metadata: Any) -> Artifact:
    return Artifact(kind, digest_of([kind, name]), metadata, parents)


def committed(ledger: Ledger, run: str, *, merged: bool = True) -> list[Case]:
    """Acquire, claim and commit everything that is labelled; the lease stays with the run."""
    ledger.acquire(S, run)
    claimed = ledger.claim(S, run)
    ids = [case.id for case in claimed]
    held = {} if merged else dict.fromkeys(ids, "two labels")
    ledger.commit_dataset(S, run, artifact("Dataset", run), merged=ids if merged else [], held=held, quarantined={})
    return claimed


def deployed(ledger: Ledger, run: str, right: list[str], wrong: list[str] = []) -> int:  # noqa: B006
    """Train, bless and deploy a model named after the run that holds the lease."""
    head, champion = ledger.head(S), ledger.champion(S)
    model = artifact("Model", run, (head.ref,) if head else ())
    ledger.record_model(S, run, model)
    baseline = champion.model if champion else None
    blessing = artifact("Blessing", run, accepted=True, model=model.ref, baseline=baseline, evaluation_set="e")
    ledger.record_blessing(S, run, blessing)
    expected = champion.seq if champion else None
    done = ledger.deploy(S, run, model=model.ref, blessing=blessing.ref, expected_seq=expected, right=right, wrong=wrong)
    ledger.release(S, run)
    return done.seq


def prediction(ledger: Ledger, id: str, model: str, at: datetime) -> str:
    about = item("a")
    ledger.log_predictions([Prediction(id, S, model, about.content, about.group, about.media_type, about.payload, {"label": "5"}, 0.4, at)])
    return id


class LedgerContract:
    """Subclasses give `url`, an empty ledger, and `own_url`, one that a test may spoil."""

    @pytest.fixture
    def ledger(self, url: str, clock: Any) -> Iterator[Ledger]:
        with Ledger.open(url, clock=clock) as opened:
            yield opened

    # cases: delivery

    def test_a_case_is_kept_once(self, ledger: Ledger) -> None:
        first = ledger.add_case(S, new("a", "5", key="k1"))
        again = ledger.add_case(S, new("a", "5", key="k1"))
        assert (first.created, again.created) == (True, False)
        assert first.case_id == again.case_id
        case = ledger.case(first.case_id)
        assert (case.state, case.content, case.payload, case.group) == ("labelled", item("a").content, b"a", "writer-1")
        assert [(label.value, label.key) for label in case.labels] == [("5", "k1")]
        assert [(event.before, event.after) for event in ledger.history(case.id)] == [(None, "open"), ("open", "labelled")]

    def test_a_batch_answers_in_order_and_counts_repeats_once(self, ledger: Ledger) -> None:
        names = ["b", "a", "b", "c", "a"]
        receipts = ledger.add_cases(S, [new(name, "5", key=name) for name in names])
        assert [receipt.created for receipt in receipts] == [True, True, False, True, False]
        assert receipts[0].case_id == receipts[2].case_id
        assert ledger.counts(S)["labelled"] == 3
        assert sum(ledger.counts(S).values()) == 3

    def test_a_batch_is_all_or_nothing(self, ledger: Ledger) -> None:
        with pytest.raises(DataError, match="label key"):
            ledger.add_cases(S, [new("a", "5"), new("b", "6", key="k" * 300)])
        assert ledger.cases(S) == []

    def test_the_same_content_in_two_scenarios_is_two_cases(self, ledger: Ledger) -> None:
        assert ledger.add_case("x", new("a")).case_id != ledger.add_case("y", new("a")).case_id

    def test_a_label_without_a_key_counts_once_a_source(self, ledger: Ledger) -> None:
        for source in ("ann", "bob", "ann"):
            receipt = ledger.add_case(S, new("a", "5", source=source))
        assert [label.source for label in ledger.case(receipt.case_id).labels] == ["ann", "bob"]

    def test_going_back_to_an_earlier_label_by_hand_counts(self, ledger: Ledger) -> None:
        case_id = ledger.add_case(S, new("a")).case_id
        for value in ("5", "5", "6", "5"):
            ledger.label_case(case_id, value, source="ann", reviewed=True)
        assert [label.value for label in ledger.case(case_id).labels] == ["5", "6", "5"]

    def test_labels_of_regression_are_numbers(self, ledger: Ledger) -> None:
        case_id = ledger.add_case(S, new("a", 2.5)).case_id
        assert ledger.label_case(case_id, 3.0, source="ann").labels[-1].value == 3.0

    @pytest.mark.parametrize("label", ["", "a\0b", "\ud800", float("nan"), float("inf"), True, "x" * 10_001])
    def test_a_malformed_label_is_refused(self, ledger: Ledger, label: Any) -> None:
        with pytest.raises(DataError, match="label"):
            ledger.add_case(S, new("a", label))
        assert ledger.cases(S) == []

    def test_a_payload_that_is_not_its_content_is_refused(self, ledger: Ledger) -> None:
        with pytest.raises(DataError, match="does not hash"):
            ledger.add_case(S, NewCase(Item(b"other", "application/json", item("a").content, "g"), "feedback"))

    def test_cases_are_listed_by_state_oldest_first(self, ledger: Ledger, clock: Any) -> None:
        for name in "cab":
            ledger.add_case(S, new(name, "5" if name != "a" else None))
            clock.move(1)
        assert [case.payload for case in ledger.cases(S)] == [b"c", b"a", b"b"]
        assert [case.payload for case in ledger.cases(S, states=["labelled"], limit=1)] == [b"c"]
        with pytest.raises(DataError, match="did you mean 'labelled'"):
            ledger.cases(S, states=["labeled"])

    def test_times_are_utc(self, ledger: Ledger, clock: Any) -> None:
        clock.time = clock.time.astimezone(timezone(timedelta(hours=5)))
        case = ledger.case(ledger.add_case(S, new("a", "5")).case_id)
        assert case.created_at == clock.time
        assert case.created_at.tzinfo is UTC
        assert case.labels[0].created_at.tzinfo is UTC

    @pytest.mark.parametrize("ask", ["case", "history", "label"])
    def test_an_unknown_case_is_a_clear_error(self, ledger: Ledger, ask: str) -> None:
        asked = {"case": ledger.case, "history": ledger.history, "label": lambda id: ledger.label_case(id, "5", source="me")}
        with pytest.raises(DataError, match="no case 'nobody'"):
            asked[ask]("nobody")

    def test_concurrent_deliveries_of_one_case_agree(self, ledger: Ledger) -> None:
        batch = [new(f"item {number}", "5", key="k") for number in range(40)]
        with ThreadPoolExecutor(6) as pool:
            receipts = list(pool.map(lambda turn: ledger.add_cases(S, batch[turn:] + batch[:turn]), range(6)))
        assert sum(receipt.created for some in receipts for receipt in some) == 40
        assert all(len(case.labels) == 1 for case in ledger.cases(S))

    # cases: the way back

    def test_a_relabelled_case_updates_the_next_version_but_keeps_its_first(self, ledger: Ledger) -> None:
        case_id = ledger.add_case(S, new("a", "5")).case_id
        committed(ledger, "r1")
        assert ledger.add_case(S, new("a", "5", source="bob")).state == "merged"  # says what is known
        assert ledger.label_case(case_id, "6", source="ann").state == "labelled"
        ledger.release(S, "r1")
        committed(ledger, "r2")
        assert ledger.case(case_id).state == "merged"
        assert [version.cases for version in ledger.dataset_versions(S)] == [(case_id,), ()]
        assert ledger.case(case_id).dataset == artifact("Dataset", "r1").ref

    def test_a_label_that_arrives_during_a_run_is_not_lost(self, ledger: Ledger) -> None:
        case_id = ledger.add_case(S, new("a", "5")).case_id
        ledger.acquire(S, "r1")
        ledger.claim(S, "r1")
        ledger.label_case(case_id, "6", source="ann")
        assert [label.value for label in ledger.claim(S, "r1")[0].labels] == ["5"]  # the run goes on with what it saw
        ledger.commit_dataset(S, "r1", artifact("Dataset", "d"), merged=[case_id], held={}, quarantined={})
        assert [event.after for event in ledger.history(case_id)] == ["open", "labelled", "merged", "labelled"]
        ledger.release(S, "r1")
        ledger.acquire(S, "r2")
        assert [label.value for label in ledger.claim(S, "r2")[0].labels] == ["5", "6"]

    def test_held_and_quarantined_cases_come_back_when_labelled(self, ledger: Ledger) -> None:
        held, bad = (ledger.add_case(S, new(name, "5")).case_id for name in "ab")
        ledger.acquire(S, "r1")
        ledger.claim(S, "r1")
        ledger.commit_dataset(S, "r1", artifact("Dataset", "d"), merged=[], held={held: "5 or 6?"}, quarantined={bad: "width > 0"})
        assert [(ledger.case(id).state, ledger.case(id).reason) for id in (held, bad)] == [
            ("held", "5 or 6?"),
            ("quarantined", "width > 0"),
        ]
        assert ledger.work(S).claimable == 0
        for id in (held, bad):
            case = ledger.label_case(id, "5", source="ann", reviewed=True)
            assert (case.state, case.reason) == ("labelled", None)

    def test_a_closed_case_is_reopened_by_a_newer_model_only(self, ledger: Ledger, clock: Any) -> None:
        case_id = ledger.add_case(S, new("a", "5")).case_id
        committed(ledger, "r1")
        deployed(ledger, "r1", [case_id])
        old = prediction(ledger, "p1", artifact("Model", "r1").ref, clock())
        assert ledger.add_case(S, new("a", "5", key="late", prediction_id=old)).state == "closed"
        clock.move(10)
        ledger.acquire(S, "r2")
        deployed(ledger, "r2", [])
        newer = prediction(ledger, "p2", artifact("Model", "r2").ref, clock())
        assert ledger.add_case(S, new("a", "5", key="late", prediction_id=newer)).state == "closed"  # a key counts once
        assert ledger.add_case(S, new("a", "5", key="again", prediction_id=newer)).state == "reopened"
        assert ledger.label_case(case_id, "5", source="ann").state == "labelled"

    def test_a_closed_case_with_another_label_is_labelled_again(self, ledger: Ledger) -> None:
        case_id = ledger.add_case(S, new("a", "5")).case_id
        committed(ledger, "r1")
        deployed(ledger, "r1", [case_id])
        assert ledger.add_case(S, new("a", "6")).state == "labelled"

    def test_the_audit_only_grows(self, ledger: Ledger, url: str) -> None:
        ledger.add_case(S, new("a", "5"))
        engine = sa.create_engine(url, poolclass=sa.NullPool)
        for statement in ("DELETE FROM case_events", "UPDATE case_events SET why = 'never'"):
            with engine.begin() as connection, pytest.raises(sa.exc.DBAPIError, match="append-only"):
                connection.execute(sa.text(statement))

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

    # models, blessings, deployments

    def test_models_and_verdicts_are_recorded_once(self, ledger: Ledger) -> None:
        model = artifact("Model", "m", ("Recipe/" + "0" * 64, "Dataset/" + "1" * 64), learner="svm")
        blessing = artifact("Blessing", "b", accepted=True, model=model.ref, baseline=None, evaluation_set="e")
        for run in ("r1", "r2"):
            ledger.record_model(S, run, model)
            ledger.record_blessing(S, run, blessing)
        (known,) = ledger.models(S)
        assert (known.ref, known.dataset, known.run_id, known.metadata) == (model.ref, "Dataset/" + "1" * 64, "r1", {"learner": "svm"})
        verdict = ledger.blessing(S, model.ref, None)
        assert verdict is not None
        assert (verdict.ref, verdict.accepted) == (blessing.ref, True)
        assert ledger.blessing(S, model.ref, "Model/x") is None

    def test_a_blessing_without_a_verdict_is_refused(self, ledger: Ledger) -> None:
        with pytest.raises(DataError, match="names no verdict"):
            ledger.record_blessing(S, "r1", artifact("Blessing", "b", accepted=True))

    def test_deploying_closes_and_reopens_cases(self, ledger: Ledger) -> None:
        a, b = (ledger.add_case(S, new(name, "5")).case_id for name in "ab")
        committed(ledger, "r1")
        assert deployed(ledger, "r1", [a], [b]) == 1
        assert (ledger.case(a).state, ledger.case(b).state) == ("closed", "merged")
        assert [event.after for event in ledger.history(a)] == ["open", "labelled", "merged", "verified", "closed"]
        ledger.acquire(S, "r2")
        assert deployed(ledger, "r2", [b], [a]) == 2
        assert (ledger.case(a).state, ledger.case(b).state) == ("reopened", "closed")
        champion = ledger.champion(S)
        assert champion is not None
        assert (champion.seq, champion.previous, champion.kind, champion.dataset) == (2, 1, "deploy", artifact("Dataset", "r1").ref)

    @pytest.mark.parametrize("blessing", ["missing", "refused", "of another model", "against another champion"])
    def test_no_deployment_without_its_blessing(self, ledger: Ledger, blessing: str) -> None:
        ledger.acquire(S, "r1")
        facts = {"accepted": blessing != "refused", "model": "Model/m", "baseline": None, "evaluation_set": "e"}
        facts |= {"of another model": {"model": "Model/x"}, "against another champion": {"baseline": "Model/x"}}.get(blessing, {})
        given = artifact("Blessing", blessing, **facts)
        if blessing != "missing":
            ledger.record_blessing(S, "r1", given)
        with pytest.raises(Refused):
            ledger.deploy(S, "r1", model="Model/m", blessing=given.ref, expected_seq=None, right=[], wrong=[])
        assert ledger.champion(S) is None

    def test_a_deployment_repeated_changes_nothing(self, ledger: Ledger) -> None:
        ledger.acquire(S, "r1")
        given = artifact("Blessing", "b", accepted=True, model="Model/m", baseline=None, evaluation_set="e")
        ledger.record_blessing(S, "r1", given)
        first, again = (
            ledger.deploy(S, "r1", model="Model/m", blessing=given.ref, expected_seq=None, right=[], wrong=[]) for _ in range(2)
        )
        assert ledger.deployments(S) == [first] == [again]

    def test_a_stale_pointer_is_refused(self, ledger: Ledger) -> None:
        for run in ("r1", "r2", "r3"):
            ledger.acquire(S, run)
            if run != "r3":
                deployed(ledger, run, [])
        ledger.rollback(S)  # r1's model serves again: what r3 compared with is not what serves now
        given = artifact("Blessing", "b", accepted=True, model="Model/m", baseline=artifact("Model", "r1").ref, evaluation_set="e")
        ledger.record_blessing(S, "r3", given)
        with pytest.raises(Refused, match=r"deployment 3 .* serves now, the run compared with 1"):
            ledger.deploy(S, "r3", model="Model/m", blessing=given.ref, expected_seq=1, right=[], wrong=[])

    def test_rolling_back_goes_further_back_each_time(self, ledger: Ledger) -> None:
        case_id = ledger.add_case(S, new("a", "5")).case_id
        committed(ledger, "r1")
        deployed(ledger, "r1", [])
        for run in ("r2", "r3"):
            ledger.acquire(S, run)
            deployed(ledger, run, [case_id] if run == "r3" else [])
        assert ledger.rollback(S).model == artifact("Model", "r2").ref
        assert ledger.case(case_id).state == "reopened"  # what serves now does not read it
        back = ledger.rollback(S)
        assert (back.seq, back.previous, back.kind, back.run_id, back.model) == (5, 4, "rollback", None, artifact("Model", "r1").ref)
        with pytest.raises(Refused, match="no earlier model"):
            ledger.rollback(S)
        assert ledger.rollback(S, to_seq=3).model == artifact("Model", "r3").ref
        with pytest.raises(Refused, match="serves already"):
            ledger.rollback(S, to_seq=3)
        with pytest.raises(DataError, match="no deployment 99"):
            ledger.rollback(S, to_seq=99)

    def test_nothing_to_roll_back(self, ledger: Ledger) -> None:
        with pytest.raises(Refused, match="nothing serves"):
            ledger.rollback(S)

    # predictions and runs

    def test_lineage_names_everything_behind_a_prediction(self, ledger: Ledger, clock: Any) -> None:
        case_id = ledger.add_case(S, new("a", "5")).case_id
        ledger.start_run(S, "r1", "local", "cli")
        committed(ledger, "r1")
        deployed(ledger, "r1", [case_id])
        prediction(ledger, "p1", artifact("Model", "r1").ref, clock())
        reported = ledger.add_case(S, new("b", "6", prediction_id="p1")).case_id
        found = ledger.lineage("p1")
        assert found["model"]["ref"] == artifact("Model", "r1").ref
        assert (found["deployment"]["seq"], found["dataset"]["seq"], found["run"]["run_id"]) == (1, 1, "r1")
        assert found["dataset"]["chain"] == [{"seq": 1, "ref": artifact("Dataset", "r1").ref, "cases": 1}]
        assert found["cases"] == [{"id": case_id, "state": "closed"}]
        assert found["reported"] == [{"id": reported, "state": "labelled"}]
        digest_of(found)  # plain JSON data

    def test_predictions_are_kept_once_and_pruned(self, ledger: Ledger, clock: Any) -> None:
        for number in [*range(10), 3]:
            prediction(ledger, f"p{number}", "Model/m", clock())
        ledger.add_case(S, new("a", "5", prediction_id="p0"))
        assert ledger.prediction("p3").answer == {"label": "5"}
        assert ledger.prune_predictions(S, 4) == 5
        assert ledger.prediction("p0").payload == b"a"  # a case is about it
        with pytest.raises(DataError, match="no prediction 'p5'"):
            ledger.prediction("p5")
        with pytest.raises(DataError, match="no prediction 'p5'"):
            ledger.lineage("p5")

    def test_an_answer_that_is_no_json_is_refused(self, ledger: Ledger, clock: Any) -> None:
        about = item("a")
        given = Prediction("p", S, "m", about.content, about.group, about.media_type, about.payload, {"score": float("nan")}, 0.1, clock())
        with pytest.raises(DataError, match="JSON"):
            ledger.log_predictions([given])

    def test_runs_are_written_down(self, ledger: Ledger, clock: Any) -> None:
        ledger.start_run(S, "r1", "local", "cli")
        clock.move(5)
        ledger.start_run(S, "r1", "local", "cli")  # after a kill
        ledger.finish_run("r1", "success", {"steps": 7})
        (run,) = ledger.runs(S)
        assert (run.state, run.engine, run.detail) == ("success", "local", {"steps": 7})
        assert run.finished_at == run.started_at + timedelta(seconds=5)
        with pytest.raises(DataError, match="belongs to scenario 'ocr'"):
            ledger.start_run("credit", "r1", "local", "cli")
        with pytest.raises(DataError, match="no run 'r2'"):
            ledger.finish_run("r2", "failed")

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


class TestSqlite(LedgerContract):
    @pytest.fixture
    def url(self, sqlite_url: str) -> str:
        return sqlite_url

    @pytest.fixture
    def own_url(self, sqlite_url: str) -> str:
        return sqlite_url

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


class TestPostgres(LedgerContract):
    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return postgres_url

    @pytest.fixture
    def own_url(self, postgres: Callable[[str], str]) -> str:
        return postgres("template")

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
