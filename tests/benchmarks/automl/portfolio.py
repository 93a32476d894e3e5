"""Learn the static portfolio: judge many pipelines on tables that `atlas bench automl` does not use, keep those that complement each other.

    python portfolio.py FOLDER [--rows 6000] [--workers 2]     # judges; goes on where it was stopped
    python portfolio.py FOLDER --choose 16                     # writes components/automl/genesis/portfolio.json

Greedy as in auto-sklearn 2.0 (Feurer et al., arXiv 2007.04074, section 3): each next pipeline lowers the mean over tables of the logarithm
of the best error so far the most. The error is 1 - AUC, the log-loss or the RMSE, over two of five folds.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pyarrow as pa

from components.automl.genesis.configuration import Configuration
from components.automl.genesis.evaluators.table import Rung, TableEvaluator
from components.automl.genesis.samplers import uniform
from components.automl.genesis.space import Space, completed, suited
from components.core.settings import Settings
from components.model.predictor import column_values
from components.train.data import Data, Rows
from components.train.reproducible import reproducible
from components.train.validation import Validation
from pipelines.bench import tables

PER_LEARNER = {"lightgbm": 24, "xgboost": 16, "catboost": 16, "extra_trees": 8, "logistic": 8, "mlp": 10, "resnet": 4}
CHOSEN = Path(__file__).parents[3] / "components/automl/genesis/portfolio.json"


def main() -> None:
    """Judge or choose."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--choose", type=int)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    if given.choose:
        choose(given.folder, given.choose)
        return
    known = tables.index(Settings.from_env())
    names = [name for name in known if name not in tables.TABLES]
    with ProcessPoolExecutor(given.workers) as pool:
        for done in pool.map(judge, names, [given.folder] * len(names), [given.rows] * len(names)):
            print(done, flush=True)


def candidates(classes: int) -> Iterator[Configuration]:
    """Yield the defaults of every learner, then draws from its space; the same for every table but for the cap on trees."""
    for name, count in PER_LEARNER.items():
        yield suited(completed(name, {}, {}, "default"), classes)
        study = optuna.create_study(sampler=uniform(0, 0))
        for _ in range(count):
            yield Space((name,), classes=classes).suggest(study.ask())


def judge(name: str, folder: Path, limit: int) -> str:
    """Judge every candidate on a table; one JSON line each."""
    path = folder / f"{name}.jsonl"
    done = len(path.read_text().splitlines()) if path.exists() else 0
    data = read(name, limit)
    evaluator = TableEvaluator(data, Validation(folds=5), seed=0, folder=folder / "fits" / name)
    evaluator.rungs = [Rung(2)]
    with path.open("a") as file, reproducible():
        for number, configuration in enumerate(candidates(len(evaluator.task.classes))):
            if number < done:
                continue
            try:
                value = evaluator.evaluate(configuration, 0, math.inf).value
                error = 1 - value if evaluator.task.higher_is_better else value
            except Exception as problem:
                error = None
                print(name, configuration.learner, problem, flush=True)
            file.write(json.dumps({"error": error, **asdict(configuration)}) + "\n")
            file.flush()
    return name


def read(name: str, limit: int) -> Data:
    """Return at most `limit` rows of a table, drawn once."""
    entry, table = tables.read(tables.index(Settings.from_env()), name)
    task = tables.task_of(entry, table)
    table = table.take(np.sort(np.random.default_rng(0).permutation(table.num_rows)[:limit]))
    for number, column in enumerate(table.column_names):
        if task.features.get(column) == "number":
            table = table.set_column(number, column, table.column(column).cast(pa.float64()))
    labels: list[Any] = table.column(entry.target).to_pylist()
    columns = {feature: column_values(table, feature) for feature in task.features}
    rows = Rows(
        columns, labels if task.problem == "regression" else [str(label) for label in labels], {}, [str(n) for n in range(len(labels))]
    )
    return Data(task, rows, Rows({feature: values[:0] for feature, values in columns.items()}, [], {}, []))


def choose(folder: Path, count: int) -> None:
    """Write the portfolio."""
    lines = [[json.loads(line) for line in path.read_text().splitlines()] for path in sorted(folder.glob("*.jsonl"))]
    error = np.array([[math.inf if entry["error"] is None else max(entry["error"], 1e-4) for entry in table] for table in lines])
    ratio = np.log(error / error.min(axis=1, keepdims=True))  # (T, C)
    best = np.full(len(lines), np.inf)
    chosen: list[int] = []
    while len(chosen) < count:
        gain = np.minimum(best[:, None], np.minimum(ratio, 10.0)).mean(axis=0)
        gain[chosen] = np.inf
        at = int(gain.argmin())
        best = np.minimum(best, ratio[:, at])
        chosen.append(at)
        print(f"{len(chosen):2} {lines[0][at]['learner']:12} mean log error ratio {best.mean():.4f}", flush=True)
    # A table without many classes shows the options as they were drawn.
    plain = next(table for table in lines if len(table) > max(chosen))
    found = [{part: plain[at][part] for part in ("learner", "features", "params")} for at in chosen]
    CHOSEN.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
