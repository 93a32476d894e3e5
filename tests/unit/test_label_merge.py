"""Merging and splitting: properties that hold for any annotations, and the step on a small table."""

from __future__ import annotations

import json
import random
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.core.errors import DataError
from components.core.params import Tabular
from components.core.tables import annotation_schema
from components.label_merge.merging import Annotation, merge
from components.label_merge.run import fates, merge_table
from components.label_merge.spec import Params, Splits
from components.label_merge.splits import split_of, suggest_salt

TASK = Tabular(problem="binary", classes=("good", "bad"), features={"amount": "number"})
PARAMS = Params(scenario="loans", task=TASK)

annotations = st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.sampled_from(["base", "feedback"])), min_size=1, max_size=8).map(
    lambda given: [Annotation(label, author, reviewed, order) for order, (label, reviewed, author) in enumerate(given)]
)
policies = st.sampled_from(["review", "majority"])
pins = st.sampled_from([None, None, "train", "validation", "test", "holdout"])


def said(*labels: str, reviewed: tuple[int, ...] = ()) -> list[Annotation]:
    return [Annotation(label, "someone", order in reviewed, order) for order, label in enumerate(labels)]


class TestMerge:
    @pytest.mark.parametrize(
        ("given_", "policy", "label", "how"),
        [
            (said("a"), "review", "a", "single"),
            (said("a", "a"), "review", "a", "agreed"),
            (said("a", "a", "b"), "review", "a", "majority"),
            (said("a", "a", "b", reviewed=(2,)), "review", "b", "reviewed"),
            (said("a", "b", "c", reviewed=(0, 1)), "review", "b", "reviewed"),
            (said("a", "b"), "review", None, "conflict"),
            (said("a", "b"), "majority", "b", "most_frequent"),
            (said("a", "a", "b", "c"), "review", None, "conflict"),
            (said("a", "a", "b", "c"), "majority", "a", "most_frequent"),
        ],
    )
    def test_rules(self, given_: list[Annotation], policy: Any, label: str | None, how: str) -> None:
        verdict = merge(given_, policy)
        assert (verdict.label, verdict.how) == (label, how)

    @given(annotations, policies, st.randoms(use_true_random=False))
    def test_order_of_delivery_does_not_matter(self, given_: list[Annotation], policy: Any, chance: random.Random) -> None:
        shuffled = list(given_)
        chance.shuffle(shuffled)
        assert merge(shuffled, policy) == merge(given_, policy)

    @given(annotations, policies)
    def test_the_label_is_one_that_was_given_or_says_why_not(self, given_: list[Annotation], policy: Any) -> None:
        verdict = merge(given_, policy)
        if verdict.label is None:
            assert policy == "review"
            assert verdict.reason
        else:
            assert verdict.label in {each.label for each in given_}

    @given(annotations, st.sampled_from("abc"), policies)
    def test_a_new_review_decides(self, given_: list[Annotation], label: str, policy: Any) -> None:
        assert merge([*given_, Annotation(label, "reviewer", True, len(given_))], policy).label == label


class TestSplits:
    @given(st.text(max_size=20), st.text(max_size=5), st.booleans())
    def test_stable(self, group: str, salt: str, in_base: bool) -> None:
        splits = Splits(salt=salt)
        assert split_of(group, splits, in_base=in_base) == split_of(group, splits, in_base=in_base)

    @given(st.text(max_size=20), st.booleans(), st.sampled_from(["train", "validation", "test", "holdout"]))
    def test_a_pinned_group_never_moves(self, group: str, in_base: bool, pinned: str) -> None:
        assert split_of(group, Splits(), in_base=in_base, pinned=pinned) == pinned

    @given(st.text(max_size=20))
    def test_base_is_never_holdout_and_cases_are_never_test(self, group: str) -> None:
        assert split_of(group, Splits(), in_base=True) != "holdout"
        assert split_of(group, Splits(), in_base=False) != "test"

    def test_shares_are_kept(self) -> None:
        splits = Splits(train=0.6, validation=0.2, test=0.2, case_holdout=0.25)
        base = [split_of(str(number), splits, in_base=True) for number in range(20_000)]
        cases = [split_of(str(number), splits, in_base=False) for number in range(20_000)]
        assert base.count("test") / 20_000 == pytest.approx(0.2, abs=0.01)
        assert cases.count("holdout") / 20_000 == pytest.approx(0.25, abs=0.01)
        assert cases.count("validation") / 20_000 == pytest.approx(0.75 * 0.25, abs=0.01)

    def test_a_salt_that_fills_every_split_is_found(self) -> None:
        groups = ["a", "b", "c"]
        salt = suggest_salt(groups, Splits())
        assert salt is not None
        assert {split_of(group, Splits(salt=salt), in_base=True) for group in groups} == {"train", "validation", "test"}


def row(item: str, label: str = "good", *, group: str | None = None, case: bool = False, order: int = 0, **more: Any) -> dict[str, Any]:
    made = {"_id": item, "_group": group or item, "_label": label, "_source": "case" if case else "base", "amount": 1.0}
    made |= {"_case": f"case-{item}" if case else None, "_reviewed": False, "_order": order, "_author": "someone"}
    return {**made, "_pinned": None, "_problem": None, **more}


def table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=annotation_schema(TASK))


@st.composite
def worlds(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Annotations of base items and cases in few groups; a group is pinned as a whole."""
    groups = {f"g{number}": draw(pins) for number in range(draw(st.integers(1, 6)))}
    rows = []
    for number in range(draw(st.integers(1, 15))):
        group = draw(st.sampled_from(sorted(groups)))
        kinds = draw(st.lists(st.booleans(), min_size=1, max_size=3))
        for order, is_case in enumerate(sorted(kinds)):
            label = draw(st.sampled_from(["good", "bad"]))
            rows.append(row(f"i{number}", label, group=group, case=is_case, order=order, _pinned=groups[group]))
    return rows


class TestMergeTable:
    @given(worlds(), st.randoms(use_true_random=False))
    @settings(max_examples=60, deadline=None)
    def test_one_row_an_item_whatever_the_order(self, rows: list[dict[str, Any]], chance: random.Random) -> None:
        items, held = merge_table(table(rows), PARAMS)
        chance.shuffle(rows)
        again, held_again = merge_table(table(rows), PARAMS)
        assert items.equals(again)
        assert held.equals(held_again)
        ids = items["_id"].to_pylist()
        assert len(ids) == len(set(ids))
        assert set(ids) | set(held["_id"].to_pylist()) == {each["_id"] for each in rows}
        assert not set(ids) & set(held["_id"].to_pylist())

    @given(worlds())
    @settings(max_examples=60, deadline=None)
    def test_no_group_is_on_two_sides(self, rows: list[dict[str, Any]]) -> None:
        items, _ = merge_table(table(rows), PARAMS)
        sides: dict[str, set[str]] = {}
        for item in items.to_pylist():
            sides.setdefault(item["_group"], set()).add(item["_split"])
        assert all(len(splits) == 1 for splits in sides.values())

    @given(worlds(), worlds())
    @settings(max_examples=60, deadline=None)
    def test_new_cases_never_move_an_item_out_of_an_evaluation_split(self, rows: list[dict[str, Any]], more: list[dict[str, Any]]) -> None:
        before, _ = merge_table(table(rows), PARAMS)
        split_by_group = dict(zip(before["_group"].to_pylist(), before["_split"].to_pylist(), strict=True))
        new = [
            {**each, "_id": f"new-{each['_id']}", "_case": f"case-new-{each['_id']}", "_source": "case", "_pinned": None} for each in more
        ]
        # ingest pins what the parent version holds
        pinned = [{**each, "_pinned": split_by_group.get(each["_group"])} for each in [*rows, *new]]
        after, _ = merge_table(table(pinned), PARAMS)
        now = dict(zip(after["_id"].to_pylist(), after["_split"].to_pylist(), strict=True))
        for item, split in zip(before["_id"].to_pylist(), before["_split"].to_pylist(), strict=True):
            assert now[item] == split

    def test_provenance_says_how_and_from_what(self) -> None:
        rows = [row("a", "good"), row("a", "bad", case=True, order=1, _reviewed=True, _author="anna")]
        items, _ = merge_table(table(rows), PARAMS)
        (item,) = items.to_pylist()
        assert (item["_label"], item["_source"], item["_case"]) == ("bad", "case", "case-a")
        provenance = json.loads(item["_provenance"])
        assert provenance["how"] == "reviewed"
        assert [entry["author"] for entry in provenance["from"]] == ["someone", "anna"]

    def test_columns(self) -> None:
        items, held = merge_table(table([row("a"), row("b", "good"), row("b", "bad", case=True, order=1)]), PARAMS)
        assert items.column_names == ["_id", "_group", "_label", "_source", "_case", "amount", "_split", "_provenance"]
        assert held.column_names == [*annotation_schema(TASK).names, "_reason"]
        assert set(held["_reason"].to_pylist()) == {"annotations disagree: 'bad' (1), 'good' (1)"}


class TestFates:
    def test_every_claimed_case_has_one(self) -> None:
        items, held = merge_table(table([row("a", case=True), row("b", "good", case=True), row("b", "bad", case=True, order=1)]), PARAMS)
        quarantine = pa.table({"_case": ["case-c", "case-c", "case-a", None], "_rule": ["r2", "r1", "r1", "r1"]})
        found = fates(["case-a", "case-b", "case-c"], items, held, quarantine)
        assert found == {
            "merged": ["case-a"],
            "held": {"case-b": "annotations disagree: 'bad' (1), 'good' (1)"},
            "quarantined": {"case-c": "r1; r2"},
        }

    def test_a_lost_case_is_an_error(self) -> None:
        items, held = merge_table(table([row("a", case=True)]), PARAMS)
        with pytest.raises(DataError, match="case-z is in no output"):
            fates(["case-z"], items, held, pa.table({"_case": pa.array([], pa.string()), "_rule": pa.array([], pa.string())}))


def test_a_settled_case_that_falls_out_is_said_and_one_that_stays_is_not() -> None:
    items = pa.table({"_case": pa.array(["stays", None])})
    held = pa.table({"_case": ["fell"], "_reason": ["two labels"]})
    quarantine = pa.table({"_case": ["broke"], "_rule": ["width"]})
    found = fates([], items, held, quarantine, settled=["stays", "fell", "broke"])
    assert found == {"merged": [], "held": {"fell": "two labels"}, "quarantined": {"broke": "width"}}
