"""Rules as SQL: what breaks them, and suites that are broken themselves."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from components.core.errors import ConfigError, DataError
from components.core.params import TextLine
from components.core.tables import annotation_schema
from components.ingest.preview import main as preview_main
from components.ingest.readers._images import encode_png
from components.validate.check import LABEL_RULE, PAYLOAD_RULE, built_in, observe, row_failures
from components.validate.measures import MEASURES, measure
from components.validate.profile import draft
from components.validate.profile import main as profile_main
from components.validate.rules import read_suite

ROWS = pa.table(
    {
        "n": [1.0, 5.0, None, 9.0],
        "m": [0.0, 6.0, None, 9.0],
        "t": ["A1", "B2", None, "A1"],
    }
)


def rule(kind: str, level: str | None = None, **kwargs: Any) -> dict[str, Any]:
    return {"type": f"expect_{kind}", "kwargs": kwargs, "meta": {"rule": "r", **({"level": level} if level else {})}}


def suite(*rules: dict[str, Any]) -> dict[str, Any]:
    return {"name": "s", "expectations": list(rules)}


@pytest.mark.parametrize(
    ("given", "broken"),
    [
        (rule("column_values_to_not_be_null", column="n"), [2]),
        (rule("column_values_to_be_null", column="n"), [0, 1, 3]),
        (rule("column_values_to_be_between", column="n", min_value=1, max_value=5), [3]),
        (rule("column_values_to_be_between", column="n", min_value=1, strict_min=True), [0]),
        (rule("column_values_to_be_between", column="n", max_value=9, strict_max=True), [3]),
        (rule("column_values_to_be_in_set", column="t", value_set=["A1", "it's"]), [1]),
        (rule("column_values_to_not_be_in_set", column="n", value_set=[5]), [1]),
        (rule("column_values_to_match_regex", column="t", regex="^A"), [1]),
        (rule("column_values_to_not_match_regex", column="t", regex="1"), [0, 3]),
        (rule("column_value_lengths_to_be_between", column="t", max_value=1), [0, 1, 3]),
        (rule("column_values_to_be_unique", column="t"), [0, 3]),
        (rule("column_pair_values_a_to_be_greater_than_b", column_A="n", column_B="m"), [1, 3]),
        (rule("column_pair_values_a_to_be_greater_than_b", column_A="n", column_B="m", or_equal=True), [1]),
    ],
)
def test_row_rules_find_broken_rows(given: dict[str, Any], broken: list[int]) -> None:
    assert row_failures(ROWS, read_suite(suite(given))) == [("r", broken)]


@pytest.mark.parametrize(
    ("given", "value", "passed"),
    [
        (rule("table_row_count_to_be_between", min_value=5), 4, False),
        (rule("column_to_exist", column="n"), True, True),
        (rule("column_to_exist", column="nn"), False, False),
        (rule("column_mean_to_be_between", column="n", min_value=5, max_value=5), 5.0, True),
        (rule("column_median_to_be_between", column="n", max_value=4), 5.0, False),
        (rule("column_min_to_be_between", column="n", min_value=1), 1.0, True),
        (rule("column_max_to_be_between", column="n", max_value=9, strict_max=True), 9.0, False),
        (rule("column_sum_to_be_between", column="n", min_value=15), 15.0, True),
        (rule("column_stdev_to_be_between", column="n", min_value=4, max_value=4), 4.0, True),
        (rule("column_unique_value_count_to_be_between", column="t", min_value=3), 2, False),
        (rule("column_proportion_of_unique_values_to_be_between", column="t", min_value=0.6), pytest.approx(2 / 3), True),
        (rule("column_proportion_of_non_null_values_to_be_between", column="t", min_value=0.8), 0.75, False),
        (rule("column_distinct_values_to_be_in_set", column="t", value_set=["A1"]), ["A1", "B2"], False),
        (rule("column_distinct_values_to_contain_set", column="t", value_set=["A1"]), ["A1", "B2"], True),
        (rule("column_values_to_be_between", "table", column="n", max_value=5, mostly=0.6), pytest.approx(2 / 3), True),
        (rule("column_values_to_not_be_null", "table", column="n", mostly=0.9), 0.75, False),
    ],
)
def test_table_rules_observe_and_judge(given: dict[str, Any], value: Any, passed: bool) -> None:
    (found,) = observe(ROWS, read_suite(suite(given)))
    assert (found.value, found.passed) == (value, passed)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "no list 'expectations'"),
        (suite({"kwargs": {}}), "expectation 1 of the suite has no 'type'"),
        (suite(rule("column_values_to_be_betwen", column="n")), "did you mean 'expect_column_values_to_be_between'"),
        (suite(rule("column_values_to_be_between", column="n", min_valu=1)), "did you mean 'min_value'"),
        (suite(rule("column_values_to_be_between", column="n")), "min_value or max_value is needed"),
        (suite(rule("column_values_to_be_in_set", column="n", value_set=[])), "at least one value"),
        (suite(rule("column_values_to_be_in_set", column="n", value_set=[None])), "neither a number nor a text"),
        (suite(rule("column_values_to_be_between", min_value=1)), "needs 'column'"),
        (suite(rule("column_values_to_not_be_null", "row", column="n", mostly=0.9)), "'mostly' is about the table"),
        (suite(rule("table_row_count_to_be_between", "row", min_value=1)), "can't have the level 'row'"),
        (suite(rule("column_values_to_be_null", column="n"), rule("column_values_to_be_null", column="m")), "two rules named 'r'"),
    ],
)
def test_broken_suites(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read_suite(given)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (rule("column_values_to_not_be_null", column="nn"), "rule 'r' names the column 'nn', which does not exist"),
        (rule("column_values_to_be_between", column="t", min_value=1), "rule 'r' can't be checked: Binder Error"),
        (rule("column_values_to_match_regex", column="t", regex="("), "rule 'r' can't be checked"),
    ],
)
def test_a_broken_check_is_not_bad_data(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        row_failures(ROWS, read_suite(suite(given)))


class TestBuiltIn:
    def test_labels_and_payloads(self) -> None:
        png = encode_png(np.zeros((8, 8), np.uint8))
        values: dict[str, Any] = {
            "image": [png, png, b"x", png],
            "_label": ["1", "x", "1", None],
            "_problem": [None, None, None, "no image"],
        }
        blank = {name: [None] * 4 for name in annotation_schema(TextLine()).names}
        rows = pa.table({**blank, **values}, schema=annotation_schema(TextLine()))
        _, unreadable = measure(values["image"], values["_label"])
        assert dict(built_in(TextLine(), rows, unreadable)) == {PAYLOAD_RULE: [2, 3], LABEL_RULE: [1, 3]}


class TestMeasure:
    def test_figures(self) -> None:
        page = np.full((10, 20), 255, np.uint8)
        page[:, :5] = 0
        table, unreadable = measure([encode_png(page)], ["123"])
        assert table.to_pylist() == [{"_width": 20, "_height": 10, "_intensity": 0.75, "_ink": 0.25, "_length": 3}]
        assert not unreadable

    @pytest.mark.parametrize("cut", [0, 10, 60, -20])
    def test_damage_is_found(self, cut: int) -> None:
        file = io.BytesIO()
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 64), np.uint8)).save(file, "PNG")
        table, unreadable = measure([file.getvalue()[:cut]], ["1"])
        assert list(unreadable) == [0]
        assert "read" in unreadable[0]
        assert table["_width"].to_pylist() == [None]

    def test_a_flipped_bit_is_found(self) -> None:
        png = bytearray(encode_png(np.zeros((16, 64), np.uint8)))
        png[len(png) // 2] ^= 1
        _, unreadable = measure([bytes(png)], ["1"])
        assert list(unreadable) == [0]

    def test_a_bomb_is_refused(self) -> None:
        file = io.BytesIO()
        Image.new("L", (5000, 5000)).save(file, "PNG")
        _, unreadable = measure([file.getvalue()], ["1"])
        assert "at most" in unreadable[0]

    def test_no_rows(self) -> None:
        table, unreadable = measure([], [])
        assert table.column_names == list(MEASURES)
        assert not unreadable


class TestProfile:
    def test_a_draft_holds_on_its_own_data(self) -> None:
        from components.core.params import Tabular

        task = Tabular(problem="regression", features={"n": "number", "t": "category"})
        rows = pa.table({"n": [1.0, 2.5, None, 4.0], "t": list("ABAB"), "_label": [1.0, 2.0, 3.0, 4.0]})
        rules = read_suite(draft(rows, task, "drafted"))
        assert all(not broken for _, broken in row_failures(rows, rules))
        assert all(found.passed for found in observe(rows, rules))
        assert {"n_in_range", "n_mostly_present", "t_present", "label_present"} <= {each.name for each in rules}

    def test_images(self) -> None:
        png = [encode_png(np.full((8, width), 9, np.uint8)) for width in (8, 16)]
        rules = read_suite(draft(pa.table({"image": png, "_label": ["1", "22"]}), TextLine(), "drafted"))
        assert {"_width_in_range", "_length_in_range"} <= {each.name for each in rules}

    def test_the_command_reads_what_the_preview_wrote(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ATLAS_HOME", str(tmp_path))
        task = {"kind": "text_line"}
        source = {"reader": "digits", "options": {"strings": 20}}
        given = json.dumps({"scenario": "ocr", "task": task, "source": source})
        assert preview_main(["--params", given, "--out", str(tmp_path / "rows.parquet")]) == 0
        command = [
            "--task",
            json.dumps(task),
            "--table",
            str(tmp_path / "rows.parquet"),
            "--name",
            "ocr",
            "--out",
            str(tmp_path / "s.json"),
        ]
        assert profile_main(command) == 0
        assert len(read_suite(json.loads((tmp_path / "s.json").read_text()))) == 7

    def test_the_commands_answer_with_exit_codes(self, tmp_path: Path) -> None:
        assert preview_main(["--params", "{}", "--out", str(tmp_path / "x")]) == 64
        assert profile_main(["--task", "{}", "--table", str(tmp_path / "x"), "--name", "x"]) == 64

    def test_an_empty_table(self) -> None:
        with pytest.raises(DataError, match="no rows"):
            draft(pa.table({"_label": []}), TextLine(), "drafted")
