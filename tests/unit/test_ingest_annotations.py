"""Typing, hashing, selecting and laying annotations together."""

from __future__ import annotations

import base64
import datetime as dt
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.core.artifacts import canonical
from components.core.errors import ConfigError, DataError
from components.core.items import item_from_bytes, item_from_json
from components.core.ledger import Case, Label
from components.core.params import Tabular, TextLine
from components.core.tables import annotation_schema
from components.ingest.annotations import base_rows, case_rows, check_labels
from components.ingest.matching import combine, select
from components.ingest.spec import Quota, Selection

LOANS = Tabular(problem="binary", classes=("good", "bad"), features={"amount": "number", "grade": "category"})
PRICES = Tabular(problem="regression", features={"amount": "number"})
DIGITS = TextLine()
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def loans(**columns: Any) -> pa.Table:
    return pa.table({"amount": [1, 2, 3], "grade": ["A", "B", None], "_label": ["good", "bad", "good"], **columns})


def case(payload: bytes, *labels: Any, media_type: str = "application/json", group: str | None = None) -> Case:
    item = item_from_bytes(payload, media_type, group)
    given = tuple(
        value
        if isinstance(value, Label)
        else Label(value, "feedback", reviewed=False, key=f"k{age}", created_at=NOW + dt.timedelta(seconds=age))
        for age, value in enumerate(labels)
    )
    return Case(
        item.content[:32], "loans", item.content, item.group, media_type, payload, "labelled", "feedback", None, given, None, NOW, None
    )


class TestBaseRows:
    def test_ids_are_those_of_the_same_item_sent_by_a_client(self) -> None:
        rows = base_rows(LOANS, loans())
        sent = [item_from_json(LOANS, {"features": {"amount": a, "grade": g}}) for a, g in [(1, "A"), (2.0, "B"), (3, None)]]
        assert rows["_id"].to_pylist() == [item.content for item in sent]
        assert rows["_group"].to_pylist() == [item.group for item in sent]

    def test_an_image_is_its_bytes(self) -> None:
        png = b"\x89PNG\r\n\x1a\n..."
        rows = base_rows(DIGITS, pa.table({"image": [png], "_label": ["12"], "_group": ["writer 1"]}))
        sent = item_from_json(DIGITS, {"image": base64.b64encode(png).decode()})
        assert rows["_id"].to_pylist() == [sent.content]
        assert rows["_group"].to_pylist() == ["writer 1"]

    def test_columns_are_typed(self) -> None:
        table = pa.table(
            {
                "grade": pa.array(["A", "B"]).dictionary_encode(),
                "amount": pa.array([1.0, float("nan")], pa.float32()),
                "_label": ["bad", "good"],
                "at": [1, 2],
            }
        )
        rows = base_rows(LOANS, table)
        assert rows.schema.names == [*annotation_schema(LOANS).names, "at"]
        assert rows["amount"].to_pylist() == [1.0, None]
        assert rows.drop_columns(["at"]).schema.equals(annotation_schema(LOANS))

    @pytest.mark.parametrize(
        ("task", "table", "says"),
        [
            (LOANS, loans().slice(0, 0), "no rows"),
            (LOANS, loans().drop_columns(["grade"]), "no column 'grade'"),
            (LOANS, loans().rename_columns(["amuont", "grade", "_label"]), "did you mean 'amuont'"),
            (LOANS, loans().set_column(0, "amount", pa.array(["1", "2", "3"])), "column 'amount' holds string, numbers are expected"),
            (LOANS, loans().set_column(1, "grade", pa.array([0.5, 1, 2])), "column 'grade' holds double, categories"),
            (LOANS, loans().set_column(0, "amount", pa.array([1, float("inf"), 3])), "infinite"),
            (LOANS, loans().set_column(2, "_label", pa.array(["good", "evil", None])), "rows 1, 2 of the source: label 'evil' is outside"),
            (DIGITS, pa.table({"image": ["text"], "_label": ["1"]}), "holds string, encoded images"),
            (DIGITS, pa.table({"image": pa.array([None], pa.binary()), "_label": ["1"]}), "lacks the image of 1 rows"),
            (DIGITS, pa.table({"image": [b"x"] * 9, "_label": ["1a"] * 9}), r"rows 0, 1, 2, 3, 4 \(and 4 more\)"),
            (PRICES, pa.table({"amount": [1], "_label": ["1"]}), "column '_label' holds string, numbers"),
            (PRICES, pa.table({"amount": [1, 2], "_label": [None, 2.0]}), "rows 0 of the source: label None is not a finite number"),
        ],
    )
    def test_broken_tables(self, task: Any, table: pa.Table, says: str) -> None:
        with pytest.raises(DataError, match=says):
            check_labels(task, base_rows(task, table))


class TestCaseRows:
    def test_one_row_a_label_oldest_first(self) -> None:
        rows = case_rows(LOANS, [case(canonical({"amount": 1.0, "grade": "A"}), "good", "bad", group="g")]).to_pylist()
        assert [row["_label"] for row in rows] == ["good", "bad"]
        assert rows[0] | {"_label": "", "_order": 0} == rows[1] | {"_label": "", "_order": 0}
        assert rows[0]["_group"] == "g"
        assert rows[0]["_author"] == "feedback"

    @pytest.mark.parametrize(
        ("task", "given", "says"),
        [
            (LOANS, case(b"no json", "good"), "not JSON"),
            (LOANS, case(b"[1]", "good"), "not an object"),
            (LOANS, case(canonical({"amount": "much", "grade": "A"}), "good"), "feature 'amount' is 'much', a number"),
            (LOANS, case(canonical({"amount": 1, "grade": 2}), "good"), "feature 'grade' is 2, a text"),
            (DIGITS, case(b"{}", "1"), "application/json, an image is expected"),
            (PRICES, case(canonical({"amount": 1}), "dear"), "label 'dear' is not a finite number"),
        ],
    )
    def test_what_does_not_fit_is_named_not_refused(self, task: Any, given: Case, says: str) -> None:
        (row,) = case_rows(task, [given]).to_pylist()
        assert says in row["_problem"]

    def test_a_feature_that_is_new_to_the_task_is_missing(self) -> None:
        (row,) = case_rows(LOANS, [case(canonical({"amount": 1.0}), "good")]).to_pylist()
        assert row["grade"] is None
        assert row["_problem"] is None


class TestSelect:
    BASE = base_rows(
        LOANS,
        pa.table({"amount": list(range(10)), "grade": list("AABBCCDDEE"), "_label": ["good", "bad"] * 5, "day": list(range(10))}),
    )

    def test_conditions_see_the_readers_other_columns(self) -> None:
        kept = select(self.BASE, Selection(where=("day >= 2", "grade != 'C' OR _label = 'bad'")))
        assert kept["day"].to_pylist() == [2, 3, 5, 6, 7, 8, 9]

    def test_a_time_window_is_in_utc(self) -> None:
        hours = [dt.datetime(2026, 1, 1, hour, tzinfo=dt.UTC) for hour in range(10)]
        timed = self.BASE.append_column("seen", pa.array(hours, pa.timestamp("us", "UTC")))
        kept = select(timed, Selection(where=("seen >= TIMESTAMPTZ '2026-01-01 07:00:00'", "seen < '2026-01-01 09:00:00'")))
        assert kept["day"].to_pylist() == [7, 8]

    def test_a_condition_may_leave_unlabelled_rows_out(self) -> None:
        rows = base_rows(LOANS, loans().set_column(2, "_label", pa.array(["good", None, "bad"])))
        check_labels(LOANS, select(rows, Selection(where=("_label IS NOT NULL",))))

    def test_newest(self) -> None:
        assert select(self.BASE, Selection(newest=3))["day"].to_pylist() == [7, 8, 9]

    @given(dropped=st.sets(st.integers(0, 9), max_size=5))
    @settings(max_examples=10, deadline=None)
    def test_a_quota_does_not_move_when_other_rows_go(self, dropped: set[int]) -> None:
        quota = Selection(quotas=(Quota(column="_label", most=2),))
        ours = set(select(self.BASE, quota)["day"].to_pylist())
        rest = self.BASE.filter(pa.array([day not in dropped for day in range(10)]))
        assert ours - dropped <= set(select(rest, quota)["day"].to_pylist())

    @pytest.mark.parametrize(
        ("selection", "error", "says"),
        [
            (Selection(where=("amuont > 1",)), ConfigError, "amuont"),
            (Selection(where=("amount >",)), ConfigError, "where"),
            (Selection(where=("1 = 1); DROP TABLE base; --",)), ConfigError, "where"),
            (Selection(where=("_id IN (SELECT content FROM read_text('/etc/hostname'))",)), ConfigError, "disabled"),
            (Selection(where=("amount > 99",)), DataError, "none of the base rows"),
            (Selection(quotas=(Quota(column="grad", most=1),)), ConfigError, "did you mean 'grade'"),
        ],
    )
    def test_broken_selections(self, selection: Selection, error: type[Exception], says: str) -> None:
        with pytest.raises(error, match=says):
            select(self.BASE, selection)


class TestCombine:
    def test_base_comes_before_cases_and_gives_the_group(self) -> None:
        base = base_rows(LOANS, loans(_group=["a", "b", "c"]))
        again = case(canonical({"amount": 1.0, "grade": "A"}), "bad", "good", group="elsewhere")
        rows = combine(base, case_rows(LOANS, [again]), None).to_pylist()
        mine = [row for row in rows if row["_id"] == again.content]
        assert [(row["_order"], row["_author"], row["_label"]) for row in mine] == [
            (0, "base", "good"),
            (1, "feedback", "bad"),
            (2, "feedback", "good"),
        ]
        assert {row["_group"] for row in mine} == {"a"}

    def test_the_parent_version_pins_group_and_split(self) -> None:
        base = base_rows(LOANS, loans(_group=["a", "b", "c"]))
        ids = base["_id"].to_pylist()
        parent = pa.table({"_id": [ids[0], "gone"], "_group": ["old", "b"], "_split": ["test", "validation"]})
        rows = {row["_id"]: row for row in combine(base, annotation_schema(LOANS).empty_table(), parent).to_pylist()}
        assert (rows[ids[0]]["_group"], rows[ids[0]]["_pinned"]) == ("old", "test")
        assert (rows[ids[1]]["_group"], rows[ids[1]]["_pinned"]) == ("b", "validation")
        assert (rows[ids[2]]["_group"], rows[ids[2]]["_pinned"]) == ("c", None)
