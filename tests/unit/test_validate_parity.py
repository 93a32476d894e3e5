"""One rule file, two engines: Great Expectations and SQL must judge alike, rule type by rule type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from components.core.errors import ConfigError
from components.validate.check import observe, row_failures
from components.validate.docs import judge
from components.validate.rules import _ROW, _TABLE, Rule, read_suite

pytestmark = pytest.mark.slow  # Great Expectations takes seconds to import

GOOD = pa.table({"n": [1.0, 5.0, None, 9.0, 5.0], "m": [0.0, 4.0, None, 8.0, 5.0], "t": ["A1", "B2", None, "A1", "A3"]})
BAD = pa.table({"n": [-1.0, 50.0, None, 9.0, None], "m": [0.0, 60.0, 1.0, None, 5.0], "t": ["", "zz9", None, "B2", "B2"]})
RANGE = {"min_value": 0, "max_value": 10}
KWARGS: dict[str, list[dict[str, Any]]] = {
    "expect_column_values_to_not_be_null": [{"column": "n"}, {"column": "n", "mostly": 0.7}],
    "expect_column_values_to_be_null": [{"column": "n"}, {"column": "n", "mostly": 0.3}],
    "expect_column_values_to_be_between": [
        {"column": "n", **RANGE},
        {"column": "n", "min_value": 9, "mostly": 0.25},
        {"column": "n", "max_value": 9, "strict_max": True},
    ],
    "expect_column_values_to_be_in_set": [
        {"column": "t", "value_set": ["A1", "A3", "B2"]},
        {"column": "t", "value_set": ["B2"], "mostly": 0.5},
    ],
    "expect_column_values_to_not_be_in_set": [{"column": "t", "value_set": ["zz9"]}, {"column": "n", "value_set": [5]}],
    "expect_column_values_to_match_regex": [{"column": "t", "regex": "^[AB][0-9]$"}, {"column": "t", "regex": "2", "mostly": 0.75}],
    "expect_column_values_to_not_match_regex": [{"column": "t", "regex": "z"}],
    "expect_column_value_lengths_to_be_between": [{"column": "t", "min_value": 2, "max_value": 2}],
    "expect_column_values_to_be_unique": [{"column": "t"}, {"column": "n", "mostly": 0.5}],
    "expect_column_pair_values_a_to_be_greater_than_b": [
        {"column_A": "n", "column_B": "m", "or_equal": True},
        {"column_A": "n", "column_B": "m"},
    ],
    "expect_table_row_count_to_be_between": [{"min_value": 5, "max_value": 5}, {"min_value": 6}],
    "expect_column_to_exist": [{"column": "n"}, {"column": "nn"}],
    "expect_column_mean_to_be_between": [{"column": "n", **RANGE}],
    "expect_column_median_to_be_between": [{"column": "n", "max_value": 5}],
    "expect_column_min_to_be_between": [{"column": "n", "min_value": 1}],
    "expect_column_max_to_be_between": [{"column": "n", "max_value": 9}],
    "expect_column_sum_to_be_between": [{"column": "n", "max_value": 20}],
    "expect_column_stdev_to_be_between": [{"column": "n", "min_value": 3, "max_value": 4}],
    "expect_column_unique_value_count_to_be_between": [{"column": "t", "max_value": 3}, {"column": "t", "min_value": 4}],
    "expect_column_proportion_of_unique_values_to_be_between": [{"column": "t", "min_value": 0.75}, {"column": "t", "max_value": 0.7}],
    "expect_column_proportion_of_non_null_values_to_be_between": [{"column": "t", "min_value": 0.8}, {"column": "n", "min_value": 0.7}],
    "expect_column_distinct_values_to_be_in_set": [{"column": "t", "value_set": ["A1", "A3", "B2"]}],
    "expect_column_distinct_values_to_contain_set": [{"column": "t", "value_set": ["A1"]}],
}


def rules() -> list[Rule]:
    expectations = []
    for kind, cases in KWARGS.items():
        for number, kwargs in enumerate(cases):
            level = "table" if kind in _TABLE or "mostly" in kwargs else "row"
            expectations.append({"type": kind, "kwargs": kwargs, "meta": {"rule": f"{kind} {number}", "level": level}})
    return read_suite({"name": "parity", "expectations": expectations})


def test_every_type_is_covered() -> None:
    assert set(KWARGS) == {*_ROW, *_TABLE}


@pytest.mark.parametrize("table", [GOOD, BAD], ids=["good", "bad"])
def test_great_expectations_and_sql_agree(table: pa.Table, tmp_path: Path) -> None:
    ours = {name: (not broken, len(broken)) for name, broken in row_failures(table, rules())}
    ours |= {found.rule.name: (found.passed, 0) for found in observe(table, rules())}
    theirs = {verdict.rule: verdict for verdict in judge({"rows": (table, rules())}, tmp_path, None)}
    assert {name: passed for name, (passed, _) in ours.items()} == {name: verdict.passed for name, verdict in theirs.items()}
    for rule in rules():
        if rule.level == "row":
            assert theirs[rule.name].broken == ours[rule.name][1], rule.name


def test_a_broken_check_is_told_from_bad_data(tmp_path: Path) -> None:
    kind = "expect_column_values_to_be_between"
    broken = read_suite({"expectations": [{"type": kind, "kwargs": {"column": "t", "min_value": 1}, "meta": {"rule": "numbers"}}]})
    with pytest.raises(ConfigError, match="rule 'numbers' can't be checked"):
        judge({"rows": (GOOD, broken)}, tmp_path, None)


def test_docs_are_small_and_say_what_was_judged(tmp_path: Path) -> None:
    site = tmp_path / "docs"
    judge({"rows": (GOOD, rules()[:3])}, tmp_path / "work", site)
    pages = [path.read_text() for path in site.rglob("*.html")]
    assert (site / "index.html").is_file()
    assert any("expect_column_values_to_be_null 0" in page or "must be null" in page for page in pages)
    assert sum(path.stat().st_size for path in site.rglob("*")) < 1 << 20
