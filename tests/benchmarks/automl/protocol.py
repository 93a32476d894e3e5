"""What every system of `atlas bench automl` is told, and what it hands back. Runs in the system's own environment.

    python run_NAME.py FOLDER --budget SECONDS --cores N --seed K [--keep FOLDER] [--yesterday FOLDER]

FOLDER holds `train.parquet`, `test.parquet` (without the target) and `task.json`; the script adds `predictions.parquet` (a column
a class, or `value`) and `facts.json`. The budget's clock starts with the process: imports count, and so does writing the model.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

__all__ = ["Job", "finish", "read_job"]

BATCH = 10_000
"""Rows of the batch that is timed, at least: test rows, repeated."""
PASSES = 3


@dataclass(frozen=True)
class Job:
    """One fit.

    Attributes:
        folder: Where the tables are and the answers go.
        budget_s: Wall-clock seconds that the system may use.
        cores: CPU cores it may use.
        seed: For whatever it draws.
        keep: What it writes here is given to the next fit as `yesterday`.
        yesterday: What its fit on the smaller table kept; None: there was none.
        task: name, target, problem (binary, multiclass, regression), classes, metric (auc, logloss, rmse), features;
            time: the column that orders the rows, which are in that order, or None.
    """

    folder: Path
    budget_s: float
    cores: int
    seed: int
    keep: Path | None
    yesterday: Path | None
    task: dict[str, Any]

    @property
    def target(self) -> str:
        """The column to predict."""
        return str(self.task["target"])

    def table(self, name: str) -> pd.DataFrame:
        """Return `train` or `test`."""
        return pd.read_parquet(self.folder / f"{name}.parquet")


def read_job(parser: argparse.ArgumentParser | None = None) -> tuple[Job, argparse.Namespace]:
    """Read the command line; `parser` may have options of its own."""
    parser = parser or argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--budget", type=float, required=True, help="seconds")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--yesterday", type=Path)
    given = parser.parse_args()
    task = json.loads((given.folder / "task.json").read_text())
    return Job(given.folder, given.budget, given.cores, given.seed, given.keep, given.yesterday, task), given


def finish(job: Job, predict: Callable[[pd.DataFrame], Any], *, model: Path | Callable[[], Path], **facts: Any) -> None:
    """Stop the clock, then predict, time a batch, and write down what is known. Call it when the model is on disk.

    Args:
        job: The fit.
        predict: Table without the target -> (N,) values, or (N, K) probabilities in the order of `task.classes`.
        model: The file or folder that holds the model; or a function that makes it, off the clock.
        facts: What else the result should say; JSON.
    """
    fitted_at = time.monotonic()
    test = job.table("test")
    answers = np.asarray(predict(test), dtype=np.float64)
    names = job.task["classes"] or ["value"]
    columns = answers.reshape(len(test), len(names))
    pd.DataFrame(columns, columns=names).to_parquet(job.folder / "predictions.parquet")
    where = model if isinstance(model, Path) else model()
    known = {"fitted_at": fitted_at, "us_per_row": _us_per_row(predict, test), "model_bytes": _bytes(where), **facts}
    (job.folder / "facts.json").write_text(json.dumps(known))


def _us_per_row(predict: Callable[[pd.DataFrame], Any], test: pd.DataFrame) -> float:
    batch = pd.concat([test] * -(-BATCH // len(test)), ignore_index=True)
    took = []
    for _ in range(PASSES):
        began = time.perf_counter()
        predict(batch)
        took.append(time.perf_counter() - began)
    return float(np.median(took)) / len(batch) * 1e6


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else path.stat().st_size
