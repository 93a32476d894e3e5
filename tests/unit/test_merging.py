"""Merging: every fold's model answers from the merged file as it does alone, whatever its columns, splits and outputs."""

from __future__ import annotations

from typing import Any

import lightgbm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from components.core.errors import IntegrityError
from components.model.lightgbm_text import check_trees
from components.model.runtime import load_onnx, load_weights
from components.train.merging import merge_lightgbm, merge_onnx
from components.train.onnx_graph import OnnxGraph

OBJECTIVES: dict[str, dict[str, Any]] = {
    "binary": {"objective": "binary"},
    "multiclass": {"objective": "multiclass", "num_class": 3},
    "regression": {"objective": "regression"},
    "poisson": {"objective": "poisson"},
    "none": {"objective": "none", "num_class": 3},
}
SHARED, OWN = 4, 2
"""Columns that all folds see, and that each fold has for itself; column 1 holds categories."""


def matrix(rows: int, folds: int, seed: int) -> NDArray[np.float32]:
    """Return (rows, SHARED + folds * OWN) with categories and missing values."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(rows, SHARED + folds * OWN)).astype(np.float32)
    x[:, 1] = draw.integers(0, 40, rows)
    x[draw.random(x.shape) < 0.15] = np.nan
    return x


def columns_of(folds: int) -> list[list[int]]:
    return [[*range(SHARED), *range(SHARED + fold * OWN, SHARED + (fold + 1) * OWN)] for fold in range(folds)]


def trees(x: NDArray[np.float32], objective: str, rounds: int, seed: int) -> bytes:
    draw = np.random.default_rng(seed)
    signal = np.nan_to_num(x[:, 0]) + np.sin(np.nan_to_num(x[:, 1])) + draw.normal(size=len(x)) / 2
    y = {"regression": signal, "poisson": np.exp(signal)}.get(objective, np.digitize(signal, [0.0]))
    if objective in ("multiclass", "none"):
        y = np.digitize(signal, [-0.5, 0.5])
    parameters = {"verbose": -1, "num_threads": 1, "seed": seed, "min_data_in_leaf": 3, "min_data_per_group": 3, "cat_smooth": 1.0}
    parameters |= OBJECTIVES[objective] | ({"objective": squared} if objective == "none" else {})
    data = lightgbm.Dataset(x, y, categorical_feature=[1], params=parameters)
    return str(lightgbm.train(parameters, data, num_boost_round=rounds).model_to_string()).encode()


def squared(raw: NDArray[np.float64], data: lightgbm.Dataset) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A loss of our own: the file names no objective, and raw sums are the answer."""
    off = raw - np.eye(3)[np.asarray(data.get_label()).astype(int)]
    return off, np.ones_like(off)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(sorted(OBJECTIVES)), st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 1000))
def test_each_fold_of_merged_trees_answers_as_it_does_alone(objective: str, rounds: list[int], seed: int) -> None:
    x, columns = matrix(120, len(rounds), seed), columns_of(len(rounds))
    texts = [trees(x[:, seen], objective, count, seed + fold) for fold, (seen, count) in enumerate(zip(columns, rounds, strict=True))]
    merged, iterations = merge_lightgbm(texts, columns, x.shape[1])
    assert iterations == tuple(check_trees(text).iterations for text in texts)
    weights = load_weights("lightgbm", merged, iterations)
    assert weights.width == x.shape[1]
    alone = [lightgbm.Booster(model_str=text.decode()) for text in texts]
    raws = []
    for fold, (booster, seen) in enumerate(zip(alone, columns, strict=True)):
        expected = np.asarray(booster.predict(x[:, seen], num_threads=1))
        assert weights.folds(x, [fold])[0].reshape(expected.shape) == pytest.approx(expected, rel=1e-6, abs=1e-12)
        raws.append(np.asarray(booster.predict(x[:, seen], num_threads=1, raw_score=True)))
    whole = lightgbm.Booster(model_str=merged.decode())
    assert whole.predict(x, raw_score=True, num_threads=1) == pytest.approx(np.mean(raws, axis=0), rel=1e-6, abs=1e-9)
    found = weights.scores(x)
    assert found == pytest.approx(np.asarray(whole.predict(x, num_threads=1)).reshape(found.shape), rel=1e-9)
    assert np.concatenate([weights.scores(x[n : n + 1]) for n in range(9)]) == pytest.approx(found[:9], rel=1e-12)


def test_one_fold_that_sees_every_column_is_left_as_it_is() -> None:
    x = matrix(80, 1, 0)
    text = trees(x, "binary", 4, 0)
    assert merge_lightgbm([text], [range(x.shape[1])], x.shape[1]) == (text, (4,))
    graph = network(3, 2, 1, 0)
    assert merge_onnx([graph], [range(3)], 3) == graph


def test_a_constant_target_gives_trees_of_one_leaf() -> None:
    x = matrix(60, 2, 1)
    stump = str(
        lightgbm.train({"verbose": -1, "num_threads": 1}, lightgbm.Dataset(x[:, :6], np.full(60, 3.25)), 2).model_to_string()
    ).encode()
    merged, folds = merge_lightgbm([stump, trees(x[:, columns_of(2)[1]], "regression", 3, 1)], columns_of(2), x.shape[1])
    assert load_weights("lightgbm", merged, folds).folds(x, [0])[0] == pytest.approx(np.full((60, 1), 3.25))


def test_trees_that_can_not_be_merged() -> None:
    x, columns = matrix(80, 2, 0), columns_of(2)
    first, other = trees(x[:, columns[0]], "binary", 2, 0), trees(x[:, columns[1]], "regression", 2, 0)
    with pytest.raises(IntegrityError, match="objective"):
        merge_lightgbm([first, other], columns, x.shape[1])
    with pytest.raises(IntegrityError, match="takes 6 columns, its fold has 4"):
        merge_lightgbm([first, first], [columns[0], range(4)], x.shape[1])
    for broken in (b"", b"\xff", b"tree\n\nend of trees\n", first[:500]):
        with pytest.raises(IntegrityError, match="no LightGBM text"):
            merge_lightgbm([broken, first], columns, x.shape[1])


def network(inputs: int, outputs: int, hidden: int, seed: int, *, softmax: bool = True) -> bytes:
    draw = np.random.default_rng(seed)
    graph = OnnxGraph(["N", inputs])
    x = graph.add("Relu", graph.dense("x", draw.normal(size=(hidden, inputs)), draw.normal(size=hidden)))
    left, _ = split(graph, graph.dense(x, draw.normal(size=(2 * outputs, hidden)), draw.normal(size=2 * outputs)), outputs)
    return graph.to_bytes(graph.add("Softmax", left, axis=1) if softmax else left, ["N", outputs])


def split(graph: OnnxGraph, x: str, outputs: int) -> tuple[str, str]:
    """Return both halves, so that graphs with nodes of one use and constants of their own are merged too."""
    halves = [graph.add("Slice", x, *[graph.weight(np.array([v])) for v in (at, at + outputs, 1)]) for at in (0, outputs)]
    return halves[0], halves[1]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.sampled_from([1, 2, 4]), st.booleans(), st.integers(0, 1000))
def test_each_fold_of_merged_graphs_answers_as_it_does_alone(folds: int, outputs: int, everything: bool, seed: int) -> None:
    x = np.nan_to_num(matrix(50, folds, seed))
    columns = [list(range(x.shape[1]))] * folds if everything else columns_of(folds)
    graphs = [network(len(seen), outputs, 5, seed + fold, softmax=outputs > 1) for fold, seen in enumerate(columns)]
    merged = merge_onnx(graphs, columns, x.shape[1])
    assert merged == merge_onnx(graphs, columns, x.shape[1])
    weights = load_weights("onnx", merged, (1,) * folds)
    alone = [load_onnx(graph)(x[:, seen]) for graph, seen in zip(graphs, columns, strict=True)]
    for fold, expected in enumerate(alone):
        assert weights.folds(x, [fold])[0] == pytest.approx(expected, rel=1e-6, abs=1e-7)
    assert weights.scores(x) == pytest.approx(np.mean(alone, axis=0), rel=1e-5, abs=1e-6)


def test_graphs_that_can_not_be_merged() -> None:
    with pytest.raises(IntegrityError, match="shapes"):
        merge_onnx([network(3, 2, 4, 0), network(3, 3, 4, 0)], [range(3)] * 2, 3)
    with pytest.raises(IntegrityError, match="columns"):
        merge_onnx([network(3, 2, 4, 0)] * 2, [range(2)] * 2, 3)


def test_a_graph_without_the_folds_it_should_have() -> None:
    graph = network(3, 2, 4, 0)
    with pytest.raises(IntegrityError, match="do not fit 2 folds"):
        load_weights("onnx", graph, (1, 1))
    three = merge_onnx([graph] * 3, [range(3)] * 3, 3)
    with pytest.raises(IntegrityError, match="not \\(2, 5, K\\)"):
        load_weights("onnx", three, (1, 1)).folds(np.zeros((5, 3), np.float32), [0])
    with pytest.raises(IntegrityError, match="do not fit 1 folds"):
        load_weights("onnx", three, (1,))
