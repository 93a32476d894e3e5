"""Bad cases in the ledger: delivery, labels, and the way from open to closed and back. One suite for both databases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, timedelta, timezone
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from components.core.errors import DataError
from components.core.items import Item
from components.core.ledger import Ledger, NewCase

_loader = SourceFileLoader("ledger_world", str(Path(__file__).with_name("ledger_world.py")))
world = module_from_spec(spec_from_loader("ledger_world", _loader))  # type: ignore[arg-type]
_loader.exec_module(world)
S, artifact, committed, deployed, item, new, prediction = (
    world.S,
    world.artifact,
    world.committed,
    world.deployed,
    world.item,
    world.new,
    world.prediction,
)


class CasesContract:
    """Runs on every database."""

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

    def test_a_case_that_falls_out_of_a_later_version_waits_for_a_person(self, ledger: Ledger) -> None:
        first = ledger.add_case(S, new("a", "5", key="k1")).case_id
        committed(ledger, "r1")
        deployed(ledger, "r1", right=[first])
        second = ledger.add_case(S, new("b", "6", key="k2")).case_id
        ledger.acquire(S, "r2")
        ledger.claim(S, "r2")
        ledger.commit_dataset(S, "r2", artifact("Dataset", "r2"), merged=[second], held={}, quarantined={first: "width"})
        assert (ledger.case(first).state, ledger.case(second).state) == ("quarantined", "merged")
        assert [event.after for event in ledger.history(first)][-3:] == ["closed", "labelled", "quarantined"]

    def test_the_newest_can_be_asked_for_first(self, ledger: Ledger, clock: Any) -> None:
        old = ledger.add_case(S, new("a", "5")).case_id
        clock.move(1)
        young = ledger.add_case(S, new("b", "6")).case_id
        assert [case.id for case in ledger.cases(S, limit=1)] == [old]
        assert [case.id for case in ledger.cases(S, limit=1, newest_first=True)] == [young]

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

    def test_a_model_that_serves_again_reopens_only_by_what_it_says_then(self, ledger: Ledger, clock: Any) -> None:
        case_id = ledger.add_case(S, new("a", "5")).case_id
        committed(ledger, "r1")
        deployed(ledger, "r1", [])
        early = prediction(ledger, "early", artifact("Model", "r1").ref, clock())
        clock.move(10)
        ledger.acquire(S, "r2")
        deployed(ledger, "r2", [case_id])
        clock.move(10)
        ledger.acquire(S, "r1 again")
        given = artifact(
            "Blessing",
            "r1 again",
            accepted=True,
            model=artifact("Model", "r1").ref,
            baseline=artifact("Model", "r2").ref,
            evaluation_set="e",
        )
        ledger.record_blessing(S, "r1 again", given)
        ledger.deploy(S, "r1 again", model=artifact("Model", "r1").ref, blessing=given.ref, expected_seq=2, right=[], wrong=[])
        late = prediction(ledger, "late", artifact("Model", "r1").ref, clock())
        assert ledger.add_case(S, new("a", "5", key="k1", prediction_id=early)).state == "closed"
        assert ledger.add_case(S, new("a", "5", key="k2", prediction_id=late)).state == "reopened"

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


class TestSqlite(world.OnSqlite, CasesContract):
    pass


class TestPostgres(world.OnPostgres, CasesContract):
    pass
