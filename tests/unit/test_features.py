"""Learning plans: type inference, encodings learned from labels without a leak, selection, and bad input."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.core.errors import ConfigError, DataError
from components.core.params import Tabular, TextLine
from components.model.plan import Plan, transform
from components.train.data import Data, Rows
from components.train.features import Features, Table, learn_plan, prepare, suspicious
from components.train.folds import Validation

CLASSES = {"binary": ("no", "yes"), "multiclass": ("low", "middle", "high"), "regression": ()}
TREES = {"fill": "none", "indicator": False, "scale": "none", "category": "code", "dates": "numbers", "bins": 0}
HASH, HOLDOUT, TIME = Validation(folds=3), Validation(kind="holdout", folds=1), Validation(kind="time", folds=3, time="age")


def task_of(columns: dict[str, Any], problem: str = "binary") -> Tabular:
    kinds = {}
    for name, values in columns.items():
        kinds[name] = "category" if any(isinstance(value, str) for value in values) else "number"
    return Tabular.model_validate({"problem": problem, "classes": CLASSES[problem], "features": kinds})


def table_of(columns: dict[str, Any], labels: Sequence[Any], *, problem: str = "binary", of: Validation = HASH, **options: Any) -> Table:
    return prepare(data_of(columns, labels, problem), Features(**{"bins": 0, **options}), of)


def data_of(columns: dict[str, Any], labels: Sequence[Any], problem: str = "binary") -> Data:
    cut = len(labels) * 4 // 5
    parts = [Rows({name: values[part] for name, values in columns.items()}, labels[part]) for part in (slice(cut), slice(cut, None))]
    return Data(task_of(columns, problem), *parts)


def mixed(count: int, problem: str, seed: int = 0) -> tuple[dict[str, Any], list[Any]]:
    """Numbers, texts, dates, ids, missing values; the label follows from amount and city."""
    draw = np.random.default_rng(seed)
    amount, city = draw.lognormal(2, 1, count), draw.choice(["Bern", "Oslo", "Rome", "Lima"], count)
    signal = np.log(amount) + np.isin(city, ["Oslo", "Lima"]) + 0.3 * draw.normal(size=count)
    columns: dict[str, Any] = {
        "amount": np.where(draw.random(count) < 0.2, np.nan, amount),
        "age": draw.integers(18, 30, count).astype(float),
        "city": [None if gone else str(name) for name, gone in zip(city, draw.random(count) < 0.1, strict=True)],
        "day": [str(day) for day in np.datetime64("2020-01-01") + draw.integers(0, 900, count)],
        "shop": [f"s{number}" for number in draw.integers(0, count // 4, count)],
        "text": [str(number / 4) for number in draw.integers(-200, 200, count)],
    }
    cuts = {"binary": [2.5], "multiclass": [1.8, 3.2], "regression": None}[problem]
    return columns, signal.tolist() if cuts is None else [CLASSES[problem][index] for index in np.digitize(signal, cuts)]


def found(columns: dict[str, Any], **options: Any) -> Plan:
    return learn_plan(task_of(columns), Features(**{"bins": 0, **options}), columns)


def kinds(plan: Plan) -> list[str]:
    return [column.kind for column in plan.columns]


# Type inference


def test_numbers_in_texts_are_read_as_numbers() -> None:
    texts = [str(number) for number in range(30)]
    assert found({"t": texts}).columns[0].model_dump()["text"] is True
    assert kinds(found({"t": texts}, parse="none", clean="none")) == ["category"]
    assert kinds(found({"t": [f"{number:03}" for number in range(30)] * 2})) == ["category"]  # codes: leading zeros
    assert kinds(found({"t": ["1", "2", "3"] * 10})) == ["category"]  # few: codes
    assert kinds(found({"t": [*texts, *texts, "none"]})) == ["category"]


def test_dates_become_parts_that_vary() -> None:
    days = [f"2024-{1 + index % 12:02}-{1 + index % 28:02}" for index in range(84)]
    plan = found({"d": days}, **TREES)
    assert [column.model_dump()["part"] for column in plan.columns] == ["days", "month", "weekday"]
    circle = [column.model_dump()["part"] for column in found({"d": days}).columns]
    assert circle == ["days", "year_sin", "year_cos", "week_sin", "week_cos"]
    assert kinds(found({"d": days}, dates="none", clean="none")) == ["category"]
    some = [*days, None]
    assert sum(column.model_dump()["indicator"] for column in found({"d": some}).columns) == 1
    assert kinds(found({"d": [*days, *days, "soon"]})) == ["category"]


def test_dates_in_numbers() -> None:
    index = np.arange(100)
    for values, form in (
        (1.6e9 + 86_400.0 * index, "seconds"),
        (1.6e12 + 86_400_000.0 * index, "milliseconds"),
        (20200101.0 + index % 28 + 100 * (index % 12), "calendar"),
    ):
        assert {column.model_dump()["form"] for column in found({"n": values}).columns} == {form}
        assert kinds(found({"n": values}, parse="none")) == ["number"]
    for values in (1.6e9 + index + 0.5, 20200101.0 + index, 5e4 * index, np.full(100, 1.6e9) + index % 3):
        assert kinds(found({"n": values})) == ["number"]


def test_what_tells_nothing_is_left_out_and_said() -> None:
    count = 60
    columns = {
        "n": list(range(count)),
        "empty": [None] * count,
        "same": [7] * count,
        "copy": np.arange(float(count)),
        "id": [f"id-{number}" for number in range(count)],
        "one": ["x"] * count,
        "half": ["x", None] * (count // 2),
        "again": ["x", None] * (count // 2),
        "infinite": [np.inf] * count,
    }
    plan = found(columns)
    assert plan.features == ("n", "half")
    assert plan.dropped == {
        "empty": "it has no value",
        "same": "it has one value only",
        "copy": "it is a copy of 'n'",
        "id": "60 of 60 values are different",
        "one": "it has one value only",
        "again": "it is a copy of 'half'",
        "infinite": "it has no value",
    }
    assert found(columns, clean="none").features == tuple(columns)
    assert np.isfinite(transform(found(columns, clean="none"), columns)).all()
    with pytest.raises(DataError, match=r"no feature tells rows apart \(same: it has one value only\)"):
        found({"same": columns["same"], "n": columns["n"]}, drop=("n",))


def test_names_are_checked() -> None:
    columns = {"amount": [1, 2], "age": [3, 4]}
    with pytest.raises(ConfigError, match=r"features.drop names 'amuont' -> did you mean 'amount'"):
        found(columns, drop=("amuont",))
    with pytest.raises(ConfigError, match=r"features.pairs names 'agee' -> did you mean 'age'"):
        found(columns, pairs=(("amount", "agee"),))
    with pytest.raises(ConfigError, match="leaves no feature"):
        found(columns, drop=("amount", "age"))
    with pytest.raises(ConfigError, match=r"validation.time names 'yaer'"):
        table_of(columns, ["no", "yes"], of=Validation(kind="time", folds=1, time="yaer"))
    with pytest.raises(DataError, match="tables only"):
        prepare(Data(TextLine(), Rows({}, []), Rows({}, [])), Features(), HASH)


# Single operators


def test_a_skewed_number_is_logged_and_ranks_are_normal() -> None:
    skewed = {"n": np.exp(np.random.default_rng(0).normal(0, 2, 400))}
    assert found(skewed, log="auto").columns[0].model_dump()["log"]
    x = transform(found(skewed, scale="rank"), skewed)[:, 0]
    assert abs(x.mean()) < 0.05
    assert 0.9 < x.std() < 1.05
    assert np.array_equal(np.argsort(x, kind="stable"), np.argsort(skewed["n"], kind="stable"))
    few = {"n": [1.0, 1.0, 1.0, 2.0, 3.0, 3.0]}
    assert np.allclose(transform(found(few, scale="rank"), few)[:, 0], [-0.6745] * 3 + [0.2104] + [0.9674] * 2, atol=1e-4)


def test_few_whole_values_are_a_category_as_well() -> None:
    columns = {"n": [1.0, 5.0, 5.0, np.nan, 9.0, 1.0] * 5}
    plan = found(columns, **TREES, whole=3)
    assert kinds(plan) == ["number", "bins"]
    assert plan.coded == [1]
    assert transform(plan, {"n": [1.0, 5.0, 9.0, None]})[:, 1].tolist() == [2, 3, 4, 0]
    assert kinds(found(columns, whole=2)) == ["number"]
    assert kinds(found({"n": [0.5, 1.0] * 9}, whole=9)) == ["number"]


def test_intervals_hold_equal_counts() -> None:
    columns = {"n": np.random.default_rng(1).permutation(1000).astype(float)}
    plan = found(columns, bins=4, binned="onehot")
    assert transform(plan, columns).sum(axis=0)[1:].tolist() == [250] * 4
    assert kinds(found({"n": [0.0] * 99 + [1.0]}, bins=4)) == ["number", "bins"] or kinds(found({"n": [0.0] * 99 + [1.0]}, bins=4)) == [
        "number"
    ]


def test_rare_values_share_a_code_but_keep_their_share() -> None:
    columns = {"c": ["a"] * 6 + ["b"] * 3 + ["d"] + [None] * 2}
    plan = found(columns, category="code", min_count=5, beside="frequency")
    x = transform(plan, {"c": ["a", "b", "d", "new", None]})
    assert x[:, 0].tolist() == [2, 1, 1, 1, 0]
    assert np.allclose(x[:, 1], np.array([6, 3, 1, 1, 2]) / 12)
    onehot = found({"c": ["a"] * 6 + ["b"] * 6}, category="onehot")
    assert transform(onehot, {"c": ["a", "b", None, "new"]}).tolist() == [[1, 0], [0, 1], [0, 0], [0, 0]]
    few = found({"c": ["a", "b", "d"] * 9}, category="onehot", max_values=1)
    assert transform(few, {"c": ["a", "b", "new"]}).tolist() == [[0, 1], [1, 0], [1, 0]]


def test_pairs_of_any_kinds() -> None:
    columns, _ = mixed(200, "binary")
    pairs = (("amount", "age"), ("city", "age"), ("city", "shop"), ("text", "amount"), ("day", "age"))
    plan = found(columns, pairs=pairs, operation="difference")
    assert kinds(plan)[-4:] == ["pair", "joined", "joined", "joined"]  # a date has no pair
    assert np.isfinite(transform(plan, columns)).all()


# Learned from labels


def test_target_encoding_is_the_smoothed_mean() -> None:
    columns = {"c": ["a", "b"] * 50, "n": list(range(100))}
    labels = ["yes" if index % 2 == 0 or index % 5 == 0 else "no" for index in range(100)]
    table = table_of(columns, labels, category="target", smoothing=10)
    assert table.plan.own == 1
    for fold in range(3):
        learned, judged = table.folds.learned(fold), table.folds.judged(fold)
        y, b = table.y[learned], np.array(columns["c"])[learned] == "b"
        wanted = ((y[b].sum() + 10 * y.mean()) / (b.sum() + 10) - y.mean()) / y.std()
        part = table.part(fold)
        assert part.x_validation[np.array(columns["c"])[judged] == "b", -1] == pytest.approx(wanted, rel=1e-4)
        row = int(np.flatnonzero(b)[0])
        others = table.folds.inner[learned] != table.folds.inner[learned][row]
        y, b = y[others], b[others]
        wanted = ((y[b].sum() + 10 * y.mean()) / (b.sum() + 10) - y.mean()) / y.std()
        assert part.x[row, -1] == pytest.approx(wanted, rel=1e-4)
        new = transform(table.plan, {"c": ["new"], "n": [0]})[0, list(table.plan.columns_of(fold))]
        assert new[-1] == pytest.approx(0, abs=1e-6)


def test_weight_of_evidence_is_the_log_of_the_odds_ratio() -> None:
    columns = {"c": ["a", "b"] * 100}
    labels = ["yes" if index % 4 < 2 or index % 2 == 0 else "no" for index in range(200)]
    table = table_of(columns, labels, category="woe", smoothing=0.01, of=HOLDOUT)
    learned = table.folds.learned(0)
    y, b = table.y[learned], np.array(columns["c"])[learned] == "b"
    p, q = y[b].mean(), y.mean()
    assert table.part(0).x_validation[1, 0] == pytest.approx(np.log(p / (1 - p)) - np.log(q / (1 - q)), rel=1e-2)


def test_each_frequent_class_has_a_column() -> None:
    columns, labels = mixed(300, "multiclass")
    assert table_of(columns, labels, problem="multiclass", category="target").plan.own == 2 * 3
    classes = tuple(f"k{number:02}" for number in range(14))
    task = Tabular.model_validate({"problem": "multiclass", "classes": classes, "features": {"c": "category"}})
    rows = Rows({"c": ["a", "b", "a"] * 70}, [classes[number % 14] for number in range(210)])
    table = prepare(Data(task, rows, Rows({"c": []}, [])), Features(category="woe"), HASH)
    assert table.plan.own == 10


@pytest.mark.parametrize("problem", CLASSES)
@pytest.mark.parametrize("of", [HASH, HOLDOUT, TIME], ids=lambda of: of.kind)
def test_a_fold_never_depends_on_its_judged_rows_labels(problem: str, of: Validation) -> None:
    columns, labels = mixed(240, problem)
    options: dict[str, Any] = {
        "category": "woe",
        "beside": "target",
        "bins": 5,
        "keep_best": 0.7,
        "pairs": (("city", "age"),),
        "clean": "none",
    }
    table = table_of(columns, labels, problem=problem, of=of, **options)
    for fold in range(of.folds):
        judged = table.folds.judged(fold)
        changed = list(labels)
        for row, other in zip(judged, np.random.default_rng(fold).permutation(judged), strict=True):
            changed[row] = labels[other]
        other = table_of(columns, changed, problem=problem, of=of, **options)
        first, second = table.part(fold), other.part(fold)
        assert np.array_equal(first.x, second.x)
        assert np.array_equal(first.y, second.y)
        assert np.array_equal(first.x_validation, second.x_validation)
        assert table.plan.views[fold] == other.plan.views[fold]
        for ours, theirs in zip(table.plan.columns, other.plan.columns, strict=True):
            assert ours.model_dump().get("tables", [None] * 3)[fold] == theirs.model_dump().get("tables", [None] * 3)[fold]


def test_ids_with_random_labels_do_not_help() -> None:
    draw = np.random.default_rng(3)
    columns = {"id": [f"id{number}" for number in draw.integers(0, 900, 1800)], "n": draw.normal(size=1800)}
    labels = draw.choice(["no", "yes"], 1800).tolist()
    for method in ("target", "woe"):
        table = table_of(columns, labels, category=method, clean="none", smoothing=1.0)
        for fold in range(3):
            part = table.part(fold)
            assert abs(_auc(part.x[:, -1], part.y) - 0.5) < 0.06, "out of fold, learning rows"
            assert abs(_auc(part.x_validation[:, -1], part.y_validation) - 0.5) < 0.06
    unique = {"id": [f"id{number}" for number in range(1800)], "n": columns["n"]}
    table = table_of(unique, labels, category="target", clean="none")
    assert np.ptp(table.part(0).x[:, -1]) == 0


def _auc(values: Any, y: Any) -> float:
    order = np.argsort(np.argsort(values + 1e-9 * np.arange(len(values)) % 7e-9))
    return float((order[y == 1].mean() - (sum(y == 1) - 1) / 2) / sum(y == 0))


def test_rows_of_a_group_never_teach_each_other() -> None:
    keys = [f"g{index // 10}" for index in range(400)]
    columns = {"g": list(keys)}
    labels = ["yes" if index // 10 % 2 else "no" for index in range(400)]
    rows = Rows(columns, labels, {}, keys)
    table = prepare(Data(task_of(columns), rows, Rows({"g": []}, [])), Features(category="target"), HASH)
    for fold in range(3):
        assert np.ptp(table.part(fold).x) == 0  # of its group every row knows nothing
        assert np.ptp(table.part(fold).x_validation) == 0


# The table


def test_a_limit_keeps_the_same_rows() -> None:
    columns, labels = mixed(300, "binary")
    table = table_of(columns, labels, category="target", beside="frequency")
    part, few = table.part(1), table.part(1, 50)
    at = np.searchsorted(table.folds.learned(1), table.folds.learned(1, 50))
    assert np.array_equal(few.x, part.x[at])
    assert np.array_equal(few.y, part.y[at])
    assert np.array_equal(few.x_validation, part.x_validation)


def test_codes_are_named_in_the_columns_that_a_fold_sees() -> None:
    columns, labels = mixed(300, "binary")
    table = table_of(columns, labels, **TREES, beside="target", keep_best=0.6)
    for fold in range(3):
        part = table.part(fold)
        assert part.coded
        for position in part.coded:
            assert set(np.unique(part.x[:, position])) <= set(range(60))
            assert table.plan.columns_of(fold)[position] in table.plan.coded


def test_the_best_columns_are_kept() -> None:
    draw = np.random.default_rng(0)
    columns = {f"n{number}": draw.normal(size=600) for number in range(20)}
    labels = ["yes" if value > 0 else "no" for value in columns["n7"]]
    table = table_of(columns, labels, keep_best=0.05)
    assert table.plan.views == ((7,),) * 3


SMALL = {problem: (mixed(120, problem), data_of(*mixed(120, problem), problem)) for problem in CLASSES}


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    problem=st.sampled_from(list(CLASSES)),
    of=st.sampled_from([HASH, HOLDOUT, TIME]),
    options=st.fixed_dictionaries(
        {},
        optional={
            "drop": st.sampled_from([("city",), ("amount", "day")]),
            "keep_best": st.sampled_from([0.3, 0.8]),
            "clean": st.just("none"),
            "parse": st.just("none"),
            "dates": st.sampled_from(["none", "numbers"]),
            "fill": st.sampled_from(["none", "mean"]),
            "indicator": st.just(False),
            "log": st.just("auto"),
            "scale": st.sampled_from(["none", "rank"]),
            "bins": st.sampled_from([2, 7]),
            "binned": st.sampled_from(["onehot", "target"]),
            "whole": st.just(20),
            "category": st.sampled_from(["code", "frequency", "target", "woe"]),
            "beside": st.sampled_from(["frequency", "target", "woe"]),
            "beside_from": st.just(5),
            "min_count": st.sampled_from([1, 50]),
            "max_values": st.sampled_from([1, 3]),
            "pairs": st.sampled_from([(("amount", "age"), ("city", "shop")), (("city", "amount"),)]),
            "operation": st.sampled_from(["difference", "product"]),
        },
    ),
)
def test_any_options_combine(problem: str, of: Validation, options: dict[str, Any]) -> None:
    (columns, _), data = SMALL[problem]
    table = prepare(data, Features(**options), of)
    assert table.x.dtype == np.float32
    assert table.x.shape == (120, table.plan.width)
    assert np.isfinite(table.x).all() or options.get("fill") == "none"
    again = Plan.model_validate(json.loads(json.dumps(table.preprocessing)))
    assert np.array_equal(transform(again, columns), table.x, equal_nan=True)
    for fold in range(of.folds):
        part, view = table.part(fold), table.plan.columns_of(fold)
        assert part.x.shape == (len(part.y), len(view))
        assert part.x.dtype == np.float32
        assert np.array_equal(part.x_validation, table.x[table.folds.judged(fold)][:, list(view)], equal_nan=True)
        shared = [position for position, column in enumerate(view) if column < table.plan.shared]
        assert np.array_equal(part.x[:, shared], table.x[table.folds.learned(fold)][:, [view[at] for at in shared]], equal_nan=True)


def test_every_kind_of_validation() -> None:
    columns, labels = mixed(100, "binary")
    table = table_of(columns, labels, of=Validation(kind="time", folds=2, time="day"))
    days = np.array(columns["day"])
    assert max(days[table.folds.learned(1)]) <= min(days[table.folds.judged(1)])
    everyone = table_of(columns, labels, of=Validation(kind="none", folds=1), category="target")
    assert (len(everyone.part(0).y), len(everyone.part(0).y_validation)) == (100, 0)
    with pytest.raises(ConfigError, match="'city', which holds no number and no ISO date"):
        table_of(columns, labels, of=Validation(kind="time", folds=2, time="city"))


# Bad input


def test_five_rows() -> None:
    columns = {"n": [1.0, 2.0, None, 4.0, 5.0], "c": ["a", "b", "a", None, "c"]}
    for options in ({}, {"category": "woe", "bins": 3, "keep_best": 0.5, "scale": "rank", "beside": "frequency"}):
        table = table_of(columns, ["no", "yes", "no", "yes", "no"], of=Validation(folds=5), **options)
        for fold in range(5):
            part = table.part(fold)
            assert len(part.y) + len(part.y_validation) == 5
            assert np.isfinite(part.x).all()
            assert np.isfinite(part.x_validation).all()


def test_ten_thousand_categories() -> None:
    draw = np.random.default_rng(0)
    columns = {"c": [f"v{number}" for number in draw.integers(0, 10_000, 20_000)]}
    labels = draw.choice(["no", "yes"], 20_000).tolist()
    for category, width in (("code", 1), ("onehot", 51), ("frequency", 1), ("target", 3)):
        table = table_of(columns, labels, category=category)
        assert table.x.shape == (20_000, width)
        assert len(table.plan.model_dump_json()) < 1_000_000
    columns["d"] = columns["c"][::-1]
    pair = table_of(columns, labels, category="target", pairs=(("c", "d"),), max_values=30).plan.columns[-1].model_dump()
    assert len(pair["left"]["values"]) == len(pair["right"]["values"]) == 30


def test_a_fold_without_one_class() -> None:
    columns = {"c": ["a", "b"] * 30}
    table = table_of(columns, ["no"] * 59 + ["yes"], category="woe", beside="target")
    assert all(np.isfinite(table.part(fold).x).all() for fold in range(3))


def test_labels_outside_the_vocabulary_are_refused() -> None:
    with pytest.raises(DataError, match="outside the vocabulary"):
        table_of({"n": [1.0, 2.0]}, ["no", "maybe"])


# Leaks


def leaks(columns: dict[str, Any], labels: Sequence[Any], problem: str) -> list[str]:
    return suspicious(task_of(columns, problem), Rows(columns, labels))


@pytest.mark.parametrize("problem", CLASSES)
def test_a_feature_that_is_the_target_is_found(problem: str) -> None:
    columns, labels = mixed(400, problem)
    number = np.array([CLASSES[problem].index(label) if CLASSES[problem] else label for label in labels], dtype=float)
    columns = {
        **columns,
        "same": number,
        "turned": 7 - 3 * number,
        "bent": np.exp(number),
        "text": [f"it is {label}" for label in labels],
        "id": [f"id{row}" for row in range(400)],
        "noisy": number + np.random.default_rng(0).normal(0, 1, 400),
    }
    wanted = ["same", "turned", "bent", *(["text"] if CLASSES[problem] else [])]
    assert leaks(columns, labels, problem) == sorted(wanted, key=list(columns).index)
    assert leaks({name: values[:40] for name, values in columns.items()}, labels[:40], problem) == []


def test_a_gap_that_is_the_target_is_found() -> None:
    columns, labels = mixed(400, "binary")
    columns["paid"] = np.where(np.array(labels) == "yes", np.nan, np.random.default_rng(0).normal(size=400))
    columns["known"] = ["x" if label == "yes" else None for label in labels]
    assert leaks(columns, labels, "binary") == ["paid", "known"]


def test_a_rare_class_is_no_reason_to_suspect() -> None:
    draw = np.random.default_rng(0)
    labels = ["yes" if index in (5, 700, 2100) else "no" for index in range(3000)]
    columns = {"n": draw.normal(size=3000), "c": draw.choice(["a", "b"], 3000).tolist(), "empty": [None] * 3000}
    assert leaks(columns, labels, "binary") == []
