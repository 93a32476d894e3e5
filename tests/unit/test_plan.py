"""What plans do with columns: every operator, by hand-computed results."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from components.core.errors import DataError
from components.model.plan import Bins, Category, Joined, Moment, Number, Pair, Plan, Reader, columns_of, numbers, texts, transform

CITIES = ["Bern", "Oslo", None, "Lima", "Bern"]


def made(column: Any, **columns: Any) -> list[list[float]]:
    return transform(Plan(columns=(column,)), columns).astype(float).round(5).tolist()


def city(encoding: Any, **more: Any) -> Category:
    return Category(name="city", values=("Bern", "Oslo"), encoding=encoding, shares=(0.2, 0.1, 0.5, 0.2), **more)


def test_numbers_are_read_strictly() -> None:
    found = numbers("n", [1, 2.5, None, math.nan, math.inf, -math.inf, 1e39, 10**400, np.float32(3)])
    assert found[[0, 1, 8]].tolist() == [1, 2.5, 3]
    assert np.isnan(found[2:8]).all()
    assert np.isnan(numbers("n", np.array([np.inf, np.nan]))).all()
    assert numbers("n", np.array([1, 2], dtype=np.int32)).tolist() == [1, 2]
    assert numbers("n", []).tolist() == []
    for wrong in ("7", True, np.bool_(True), [1], 1j):
        with pytest.raises(DataError, match=r"feature 'n' is .*a number is expected"):
            numbers("n", [1.0, None, wrong])


def test_texts_are_read_strictly() -> None:
    assert list(texts("t", ["a", None, math.nan, np.str_("b")])) == ["a", None, None, "b"]
    assert list(texts("t", np.array(["a", None], dtype=object))) == ["a", None]
    for wrong in (7, 7.5, True, b"a"):
        with pytest.raises(DataError, match=r"feature 't' is .*a text is expected"):
            texts("t", ["a", wrong])


def test_a_number_is_logged_filled_scaled_and_clipped() -> None:
    n = [0.0, None, math.e - 1, -(math.e - 1), 1e30]
    assert made(Number(name="n", fill=0.5, indicator=True, log=True, center=1.0, scale=0.5), n=n) == [
        [-2, 0],
        [-1, 1],
        [0, 0],
        [-4, 0],
        [10, 0],
    ]
    assert np.isnan(made(Number(name="n", fill=None), n=n)[1])
    assert made(Number(name="n", fill=7.0), n=n)[1] == [7]


def test_quantile_tables_are_interpolated_and_end_flat() -> None:
    column = Number(name="n", fill=1.0, knots=((0.0, -1.0), (2.0, 0.0), (10.0, 4.0)))
    assert made(column, n=[-5.0, 1.0, None, 6.0, 99.0]) == [[-1], [-0.5], [-0.5], [2], [4]]
    assert np.isnan(made(column.model_copy(update={"fill": None}), n=[None])[0])


def test_numbers_in_texts() -> None:
    given = ["12", "-1.5", "+3e2", "007", "1_0", " 4", "nan", "1e999", "", "x", None]
    found = [row[0] for row in made(Number(name="t", text=True, fill=None), t=given)]
    assert found[:3] == [12, -1.5, 300]
    assert np.isnan(found[3:]).all()


def test_parts_of_dates() -> None:
    start = datetime(1969, 12, 25, 5, 30)
    moments = [start + timedelta(days=37.3 * index) for index in range(60)]
    seconds = [(moment - datetime(1970, 1, 1)).total_seconds() for moment in moments]
    for part, of in (
        ("year", lambda m: m.year),
        ("month", lambda m: m.month),
        ("weekday", lambda m: m.weekday()),
        ("hour", lambda m: m.hour + m.minute / 60 + m.second / 3600),
        ("day_sin", lambda m: math.sin(2 * math.pi * (m.hour * 3600 + m.minute * 60 + m.second) / 86400)),
        ("year_cos", lambda m: math.cos(2 * math.pi * ((m - datetime(m.year, 1, 1)).total_seconds() / 86400) / 365.2425)),
    ):
        wanted = np.array([[of(moment)] for moment in moments])
        for form, values in (
            ("iso", [m.isoformat() for m in moments]),
            ("seconds", seconds),
            ("milliseconds", [1000 * s for s in seconds]),
        ):
            found = made(Moment(name="d", form=form, part=part, fill=None), d=values)  # type: ignore[arg-type]
            assert np.allclose(found, wanted, atol=1e-3), (part, form)


def test_what_is_no_date_is_missing() -> None:
    iso = ["2024-02-29", "2024-02-29T12:00:00Z", "2024-02-29 12:00+02:00", "2023-02-29", "20240229", "2024-13-01", "soon", "", None]
    days = np.array(made(Moment(name="d", form="iso", part="days", fill=None), d=iso))[:, 0]
    assert days[:3].tolist() == [19782, 19782.5, 19782.5]  # wall time: a zone does not move the hour
    assert np.isnan(days[3:]).all()
    calendar = [20240229, 20230229, 20241301, 20240100, 20240230, 19700101, 1, 2e30, None, 20240229.5]
    days = np.array(made(Moment(name="d", form="calendar", part="days", fill=None), d=calendar))[:, 0]
    assert days[[0, 5, 9]].tolist() == [19782, 0, 19782]
    assert np.isnan(days[[1, 2, 3, 4, 6, 7, 8]]).all()


def test_two_numbers_in_one() -> None:
    columns = {"a": [6.0, 1.0, None, 1e38], "b": [3.0, 0.0, 2.0, 1e-300]}
    for operation, wanted in (("ratio", [2, None, None, None]), ("difference", [3, 1, None, 1e38]), ("product", [18, 0, None, 1e-262])):
        found = transform(Plan(columns=(Pair(left="a", right="b", operation=operation, fill=None),)), columns)[:, 0]  # type: ignore[arg-type]
        assert [None if math.isnan(v) else pytest.approx(v) for v in found.tolist()] == wanted


def test_encodings_of_a_text() -> None:
    assert made(city("code"), city=CITIES) == [[2], [3], [0], [1], [2]]
    assert made(city("onehot"), city=CITIES) == [[0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
    assert made(city("onehot", levels=(2, 3)), city=CITIES) == [[1, 0], [0, 1], [0, 0], [0, 0], [1, 0]]
    assert made(city("frequency"), city=CITIES) == [[0.5], [0.2], [0.2], [0.1], [0.5]]
    assert made(city("code", own=1, beside=True), city=CITIES) == [[2, 0.5], [1, 0.2], [0, 0.2], [1, 0.1], [2, 0.5]]
    assert made(city("onehot", own=1), city=CITIES) == [[0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_intervals_of_a_number() -> None:
    column = Bins(name="n", edges=(0.0, 5.0), encoding="code", shares=(0.0,) * 5)
    assert made(column, n=[-1.0, 0.0, 4.9, 5.0, 1e9, None, math.inf]) == [[2], [3], [3], [4], [4], [0], [0]]
    in_text = column.model_copy(update={"name": "t", "text": True})
    assert made(in_text, t=["-1", "7", "?"]) == [[2], [4], [0]]


def test_two_codes_as_one() -> None:
    left, right = city("none"), Bins(name="n", edges=(0.0,), encoding="none", shares=(0.0,) * 4)
    pairs = (2 * 4 + 2, 0 * 4 + 3)  # Bern below 0; no city, above 0
    column = Joined(left=left, right=right, values=pairs, encoding="code", shares=(0.0,) * 4)
    assert made(column, city=["Bern", None, "Bern", None], n=[-1.0, 1.0, 1.0, None]) == [[2], [3], [1], [1]]
    assert Plan(columns=(column,)).features == ("city", "n")


def test_columns_learned_from_labels_come_once_a_fold() -> None:
    tables = (((0.0, 0.1, 0.2, 0.3),), ((1.0, 1.1, 1.2, 1.3),))
    plan = Plan(
        columns=(
            city("none", tables=tables),
            Number(name="n"),
            city("code", tables=(((5.0,) * 4, (6.0,) * 4), ((7.0,) * 4, (8.0,) * 4))),
        )
    )
    x = transform(plan, {"city": ["Oslo", None], "n": [4.0, 5.0]})
    assert x.dtype == np.float32
    assert np.allclose(x, [[4, 3, 0.3, 5, 6, 1.3, 7, 8], [5, 0, 0, 5, 6, 1, 7, 8]])
    assert (plan.shared, plan.own, plan.folds, plan.width) == (2, 3, 2, 8)
    assert plan.columns_of(0) == (0, 1, 2, 3, 4)
    assert plan.columns_of(1) == (0, 1, 5, 6, 7)
    assert plan.coded == [1]
    assert plan.coded_of(1) == (1,)
    seen = plan.model_copy(update={"views": ((0, 3), (1, 6))})
    assert seen.columns_of(1) == (1, 6)
    assert (seen.coded_of(0), seen.coded_of(1)) == ((), (0,))


def test_without_labels_all_folds_see_the_same() -> None:
    plan = Plan(columns=(Number(name="n"), city("code")))
    assert plan.columns_of(0) == plan.columns_of(4) == (0, 1)


def test_a_plan_survives_json_and_one_row_is_like_many() -> None:
    plan = Plan(
        columns=(
            Number(name="n", knots=((0.0, -1.0), (2.0, 1.0))),
            Moment(name="d", form="iso", part="week_sin"),
            Pair(left="n", right="m", operation="ratio", fill=0.0, indicator=True),
            city("onehot", tables=(((0.0, 0.1, 0.2, 0.3),),)),
            Bins(name="m", edges=(1.0,), encoding="frequency", shares=(0.1, 0.2, 0.3, 0.4)),
        ),
        dropped={"id": "it is different in nearly every row"},
    )
    columns = {"n": [1.0, None, 3.0], "m": [0.0, 2.0, 4.0], "d": ["2024-01-01", None, "2024-01-03"], "city": ["Oslo", "Rome", None]}
    x = transform(plan, columns)
    again = Plan.model_validate(json.loads(json.dumps(plan.model_dump(mode="json"))))
    assert again == plan
    assert np.array_equal(transform(again, columns), x)
    for index in range(3):
        assert np.array_equal(transform(plan, {name: values[index : index + 1] for name, values in columns.items()})[0], x[index])
    assert transform(plan, {name: [] for name in columns}).shape == (0, plan.width)


def test_what_a_plan_lacks_is_said() -> None:
    with pytest.raises(DataError, match=r"feature 'n' is missing"):
        transform(Plan(columns=(Number(name="n"),)), {"m": [1.0]})
    with pytest.raises(DataError, match="no columns"):
        transform(Plan(columns=()), {"m": [1.0]})
    with pytest.raises(DataError, match=r"feature 'm' is missing"):
        columns_of([{"n": 1}], ["m"])


@pytest.mark.parametrize(
    "column",
    [
        {"kind": "category", "name": "c", "values": ["a"], "encoding": "code", "shares": [0.1]},
        {"kind": "category", "name": "c", "values": ["a"], "encoding": "none", "shares": [0.1] * 3, "tables": [[[0.1, 0.2]]]},
        {"kind": "category", "name": "c", "values": ["a"], "encoding": "none", "shares": [0.1] * 3, "tables": [[[0.1] * 3], []]},
        {"kind": "category", "name": "c", "values": ["a"], "encoding": "onehot", "shares": [0.1] * 3, "levels": [3]},
        {"kind": "bins", "name": "n", "edges": [2.0, 1.0], "encoding": "code", "shares": [0.1] * 5},
        {
            "kind": "joined",
            "left": {"kind": "category", "name": "c", "values": [], "encoding": "none", "shares": [0, 0]},
            "right": {"kind": "category", "name": "d", "values": [], "encoding": "none", "shares": [0, 0]},
            "values": [4],
            "encoding": "code",
            "shares": [0.1] * 3,
        },
        {"kind": "number", "name": "n", "knots": [[1.0, 0.0], [1.0, 1.0]]},
        {"kind": "number", "name": "n", "module": "os"},
        {"kind": "python", "name": "n"},
    ],
)
def test_broken_plans_are_refused(column: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Plan.model_validate({"columns": [column]})


def test_views_name_columns_that_exist() -> None:
    with pytest.raises(ValidationError, match="none of 1"):
        Plan.model_validate({"columns": [{"kind": "number", "name": "n"}], "views": [[1]]})


def test_a_column_is_read_once() -> None:
    reader = Reader({"n": [1.0, 2.0], "t": ["1", "x"]})
    assert reader.numbers("n") is reader.numbers("n")
    assert reader.numbers("t", text=True) is reader.numbers("t", text=True)
    assert reader.texts("t") is reader.texts("t")
    assert reader.distinct("t") is reader.distinct("t")
