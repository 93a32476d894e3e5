"""A tabular benchmark for samplers: every cell of a grid of pipelines, fitted on many real tables once, looked up ever after.

    python tests/benchmarks/rgpe/build.py [--to grid.json] [--work FOLDER]

Three learners with dimensions of their own, so the space is conditional. One row sample (at most 1,500 rows, by hash) and three
hashed folds a table; one thread. A table's scores are written when they are complete, so a killed build goes on.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import itertools
import json
import logging
import math
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import lightgbm
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score

from components.automl.genesis.metafeatures import metafeatures
from components.core.params import Tabular
from components.core.settings import Settings
from components.train.data import Data, Rows

__all__ = ["GRID", "build", "cells"]

logger = logging.getLogger(__name__)

GRID: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "lightgbm": {
        "rounds": (20, 60, 180),
        "learning_rate": (0.02, 0.06, 0.2),
        "num_leaves": (4, 16, 64),
        "min_data_in_leaf": (3, 15, 75),
        "feature_fraction": (0.4, 1.0),
        "lambda_l2": (0.01, 10.0),
    },
    "extra_trees": {"max_features": (0.1, 0.3, 0.6, 1.0), "min_samples_leaf": (1, 3, 9, 27), "bootstrap": (0, 1)},
    "linear": {"strength": (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0), "log": (0, 1), "onehot": (0, 1)},
}
"""Learner -> dimension -> levels, in order."""
_ROWS = 1500
_FOLDS = 3
_SKIPPED = ("letter", "soybean", "hpc_jobs")  # multi-class: too few such tables to learn one from the others
Float64 = NDArray[np.float64]


def cells(learner: str) -> Iterator[dict[str, float]]:
    """Yield the cells of a learner's grid, the last dimension fastest; scores are kept in this order."""
    for values in itertools.product(*GRID[learner].values()):
        yield dict(zip(GRID[learner], values, strict=True))


def build(data: Path, work: Path, to: Path) -> None:
    """Fit everything that `work` does not hold yet, and write the benchmark's file.

    Args:
        data: The folder with `tabular/index.csv`.
        work: Where finished tables lie.
        to: The JSON file: table -> problem, metric, rows, meta-features, learner -> scores (higher is better).
    """
    work.mkdir(parents=True, exist_ok=True)
    found = {}
    for entry in csv.DictReader((data / "tabular" / "index.csv").open()):
        if entry["name"] in _SKIPPED:
            continue
        kept = work / f"{entry['name']}.json"
        if not kept.exists():
            began = time.process_time()
            kept.write_text(json.dumps(_table(data / "tabular" / entry["file"], entry)))
            logger.info("%s: %.0f CPU s", entry["name"], time.process_time() - began)
        found[entry["name"]] = json.loads(kept.read_text())
    tables = ",\n".join(f"{json.dumps(name)}: {json.dumps(table)}" for name, table in found.items())  # a table a line: the diff is read
    to.write_text(f'{{"grid": {json.dumps(GRID)},\n"tables": {{\n{tables}\n}}}}\n')


def _table(path: Path, entry: Mapping[str, str]) -> dict[str, Any]:
    data = _data(pq.read_table(path), entry)
    task = data.task
    assert isinstance(task, Tabular)
    rows = data.train
    y = np.array([task.classes.index(label) if task.classes else label for label in rows.labels], dtype=np.float64)
    fold = np.array([int(hashlib.sha256(f"fold:{n}".encode()).hexdigest()[:8], 16) % _FOLDS for n in range(len(y))])
    scores: dict[str, Float64] = {learner: np.zeros(len(list(cells(learner)))) for learner in GRID}
    for judge in range(_FOLDS):
        learned, judged = np.flatnonzero(fold != judge), np.flatnonzero(fold == judge)
        for name, fit in (("lightgbm", _lightgbm), ("extra_trees", _extra_trees), ("linear", _linear)):
            for at, predicted in enumerate(fit(task, rows, y, learned, judged)):
                scores[name][at] += _score(task.problem, y[judged], predicted) / _FOLDS
    return {
        "problem": task.problem,
        "metric": task.metric,
        "rows": len(y),
        "meta": {name: float(f"{value:.6g}") for name, value in metafeatures(data).items()},
        "scores": {name: [float(f"{value:.6g}") for value in found] for name, found in scores.items()},
    }


def _data(table: pa.Table, entry: Mapping[str, str]) -> Data:
    order = sorted(range(table.num_rows), key=lambda n: hashlib.sha256(f"row:{n}".encode()).digest())[:_ROWS]
    table = table.take(sorted(order))
    kinds, columns = {}, {}
    for name in table.column_names:
        if name == entry["target"]:
            continue
        kind = table.schema.field(name).type
        if pa.types.is_floating(kind) or pa.types.is_integer(kind):
            kinds[name], columns[name] = "number", table[name].cast(pa.float64()).to_numpy()
        else:
            kinds[name], columns[name] = "category", table[name].cast(pa.string()).to_pylist()
    target = table[entry["target"]]
    if entry["task"] == "regression":
        task = Tabular(problem="regression", features=kinds)
        return Data(task, Rows(columns, target.cast(pa.float64()).to_pylist()), Rows({name: [] for name in columns}, []))
    labels = target.cast(pa.string()).to_pylist()
    task = Tabular(problem="binary", classes=tuple(sorted(set(labels))), features=kinds)
    return Data(task, Rows(columns, labels), Rows({name: [] for name in columns}, []))


def _score(problem: str, y: Float64, predicted: Float64) -> float:
    if problem == "binary":
        return float(roc_auc_score(y, predicted))
    return -float(np.sqrt(np.mean((y - predicted) ** 2)))


def _coded(task: Tabular, rows: Rows) -> tuple[Float64, list[int]]:
    """Return (N, D) with categories as codes by frequency, and which columns are such."""
    columns, coded = [], []
    for at, (name, kind) in enumerate(task.features.items()):
        values = rows.columns[name]
        if kind == "category":
            known = sorted({v for v in values if v is not None}, key=lambda v: (-list(values).count(v), v))
            code = {value: float(number) for number, value in enumerate(known)}
            columns.append(np.array([code.get(v, np.nan) for v in values]))
            coded.append(at)
        else:
            columns.append(np.asarray(values, dtype=np.float64))
    return np.column_stack(columns), coded


def _lightgbm(task: Tabular, rows: Rows, y: Float64, learned: NDArray[np.intp], judged: NDArray[np.intp]) -> Iterator[Float64]:
    x, coded = _coded(task, rows)
    dimensions = {name: levels for name, levels in GRID["lightgbm"].items() if name != "rounds"}
    fitted = []
    for values in itertools.product(*dimensions.values()):
        params = dict(zip(dimensions, values, strict=True)) | {
            "objective": "binary" if task.problem == "binary" else "regression",
            "num_threads": 1,
            "deterministic": True,
            "force_row_wise": True,
            "seed": 0,
            "verbosity": -1,
            "min_data_per_group": 10,
            "cat_smooth": 10.0,
        }
        train = lightgbm.Dataset(x[learned], y[learned], categorical_feature=coded or "auto", params=params, free_raw_data=False)
        booster = lightgbm.train(params, train, num_boost_round=int(max(GRID["lightgbm"]["rounds"])))
        fitted.append([booster.predict(x[judged], num_iteration=int(rounds)) for rounds in GRID["lightgbm"]["rounds"]])
    for rounds in range(len(GRID["lightgbm"]["rounds"])):
        for predictions in fitted:
            yield predictions[rounds]


def _filled(x: Float64) -> Float64:
    median = np.array([np.median(c[~np.isnan(c)]) if (~np.isnan(c)).any() else 0.0 for c in x.T])
    return np.where(np.isnan(x), median, x)


def _extra_trees(task: Tabular, rows: Rows, y: Float64, learned: NDArray[np.intp], judged: NDArray[np.intp]) -> Iterator[Float64]:
    x = _filled(_coded(task, rows)[0])
    for cell in cells("extra_trees"):
        options = {
            "n_estimators": 50,
            "max_features": float(cell["max_features"]),
            "min_samples_leaf": int(cell["min_samples_leaf"]),
            "bootstrap": bool(cell["bootstrap"]),
            "random_state": 0,
        }
        if task.problem == "binary":
            yield ExtraTreesClassifier(**options).fit(x[learned], y[learned]).predict_proba(x[judged])[:, 1]
        else:
            yield ExtraTreesRegressor(**options).fit(x[learned], y[learned]).predict(x[judged])


def _linear(task: Tabular, rows: Rows, y: Float64, learned: NDArray[np.intp], judged: NDArray[np.intp]) -> Iterator[Float64]:
    made = {(log, onehot): _dense(task, rows, bool(log), bool(onehot)) for log in (0, 1) for onehot in (0, 1)}
    for cell in cells("linear"):
        x = made[int(cell["log"]), int(cell["onehot"])]
        if task.problem == "binary":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the weakest penalty need not converge
                model = LogisticRegression(C=1 / (cell["strength"] * len(learned)), max_iter=200).fit(x[learned], y[learned])
            yield model.predict_proba(x[judged])[:, 1]
        else:
            yield Ridge(alpha=cell["strength"] * len(learned)).fit(x[learned], y[learned]).predict(x[judged])


def _dense(task: Tabular, rows: Rows, log: bool, onehot: bool) -> Float64:
    x, coded = _coded(task, rows)
    columns = []
    for at in range(x.shape[1]):
        column = x[:, at]
        if at in coded and onehot:
            columns += [(column == level).astype(float) for level in range(min(20, int(np.nanmax(column, initial=0)) + 1))]
            continue
        column = _filled(column[:, None])[:, 0]
        if log and at not in coded:
            column = np.sign(column) * np.log1p(np.abs(column))
        spread = column.std()
        columns.append((column - column.mean()) / spread if spread > 0 and math.isfinite(spread) else np.zeros(len(column)))
    return np.column_stack(columns)


def _main() -> None:
    parser = argparse.ArgumentParser(description="Build the samplers' benchmark.")
    parser.add_argument("--to", type=Path, default=Path(__file__).with_name("grid.json"))
    parser.add_argument("--work", type=Path, default=Settings.from_env().home / "bench" / "rgpe")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    data = Settings.from_env().data
    if data is None:
        parser.error("set ATLAS_DATA to the folder with tabular/index.csv")
    build(data, given.work, given.to)


if __name__ == "__main__":
    _main()
