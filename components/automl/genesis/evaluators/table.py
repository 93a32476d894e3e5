"""Tables: a pipeline is judged fold by fold on rows its models have not seen; every fold's model and answers are kept for the ensemble.

Rungs: one fold on a sample of the rows (large tables only), a few folds
(unless the table is small), three times as many where that is not yet most of them, all folds.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.automl.genesis.board import TOP
from components.automl.genesis.configuration import Configuration
from components.automl.genesis.ensemble import Limits
from components.automl.genesis.footprint import megabytes, microseconds
from components.automl.genesis.scoring import as_matrix, measure
from components.automl.genesis.worker import OutOfTime, Result
from components.core.artifacts import canonical, digest_of
from components.core.params import Tabular
from components.train.data import Data
from components.train.features import Table
from components.train.folds import Validation
from components.train.learners import learner
from components.train.learners.base import Prepared, options

__all__ = ["FoldFit", "Rung", "TableEvaluator"]

_JUDGED_BY = 1_000
"""Rows that judge a pipeline at its first full-sized rung: fewer tell too little to stop one."""
_SOME = 3
_KEPT = 3
"""Prepared tables that stay in memory."""


@dataclass(frozen=True)
class Rung:
    """A fidelity: the folds that are fitted, and how many rows a fit may learn from."""

    folds: int
    limit: int | None = None


@dataclass(frozen=True)
class FoldFit:
    """What is kept of a fold's model.

    Attributes:
        answers: (V, K) what it says on the fold's rows.
        runtime: What executes `weights`; empty for a fit on a sample, which is never used again.
        weights: The model's bytes.
        rounds: Rounds or epochs; None where there are none.
        seconds: CPU seconds that it took.
        wall: Wall-clock seconds.
    """

    answers: NDArray[np.float32]
    runtime: str
    weights: bytes
    rounds: int | None
    seconds: float = 0.0
    wall: float = 0.0


class TableEvaluator:
    """Judges pipelines on a table.

    Args:
        data: Train and validation rows.
        validation: Their folds.
        seed: Of every fit.
        folder: Where fits are kept, shared by all workers.
        limits: Of what is deployed, the models of all folds; None: there are none.
        sample: Tables with more rows than twice this get a first rung on so many; None: no such rung.
    """

    def __init__(
        self,
        data: Data,
        validation: Validation,
        *,
        seed: int,
        folder: Path,
        limits: Limits | None = None,
        sample: int | None = 10_000,
    ) -> None:
        if not isinstance(data.task, Tabular):
            raise TypeError("TableEvaluator judges tabular tasks")
        self.task: Tabular = data.task
        self.data, self._validation, self._seed, self._folder = data, validation, seed, folder
        self._limits = limits or Limits()
        self._prepared: OrderedDict[str, Table] = OrderedDict()
        rows = len(data.train) + len(data.validation)
        few = min(math.ceil(_JUDGED_BY * validation.folds / max(rows, 1)), validation.folds)
        steps = [few, _SOME * few, validation.folds]
        # A step that is not half of the next one saves too little to be worth a stop.
        full = [Rung(folds) for folds, above in zip(steps, [*steps[1:], 2 * steps[-1]], strict=True) if 2 * folds <= above]
        self.rungs = [Rung(1, sample), *full] if sample is not None and rows > 2 * sample else full
        self._rows = rows

    @property
    def new_rows(self) -> list[int]:
        """Rows that a rung's fits learn from, those left out that lower rungs fitted already."""
        folds = self._validation.folds
        one = int(self._rows * (1 - 1 / folds)) if folds > 1 else self._rows
        found, fitted = [], 0
        for rung in self.rungs:
            found.append(rung.limit or one * (rung.folds - fitted))
            fitted = fitted if rung.limit else rung.folds
        return found

    @property
    def models(self) -> list[int]:
        """(rungs,) how many models of a pipeline are deployed: one a fold, but only one after a validation by time, fitted anew."""
        return [1 if self._validation.kind == "time" else rung.folds for rung in self.rungs]

    def evaluate(self, configuration: Configuration, rung: int, until: float) -> Result:
        """Return the mean of the rung's folds."""
        spec, fitted = self.rungs[rung], self._fitted_below(rung)
        table = self.table(configuration)
        values, fits, seconds, wall = [], [], 0.0, 0.0
        for fold in range(spec.folds):
            fit = _read(self._path(configuration, fold, spec.limit))
            if fit is None:
                fit = self._fit(configuration, table, fold, spec.limit, until)
            elif fold >= fitted:
                seconds, wall = seconds + fit.seconds, wall + fit.wall
            fits.append(fit)
            values.append(measure(self.task.metric, table.y[table.folds.judged(fold)], fit.answers))
        known = [value for value in values if np.isfinite(value)]
        figures: dict[str, Any] = {"folds": [value if np.isfinite(value) else None for value in values]}
        if spec.limit is None:
            figures[TOP] = self._top(fits)
        return Result(float(np.mean(known)) if known else float("nan"), figures, seconds, wall)

    def assist(self, configuration: Configuration, rung: int, until: float) -> bool:
        """Fit the last fold that is still to be fitted, unless it is the one that the other worker is at."""
        spec = self.rungs[rung]
        left = [n for n in range(self._fitted_below(rung), spec.folds) if not self._path(configuration, n, spec.limit).exists()]
        if len(left) < 2:
            return False
        self._fit(configuration, self.table(configuration), left[-1], spec.limit, until)
        return True

    def _top(self, fits: Sequence[FoldFit]) -> int:
        """Return the highest rung whose models are within the limits, told from those of some folds; 0 if none is."""
        size, latency = megabytes(fits) / len(fits), microseconds(fits) / len(fits)
        return max((rung for rung, models in enumerate(self.models) if self._limits.hold(models * size, models * latency)), default=0)

    def _fitted_below(self, rung: int) -> int:
        """Return how many folds the rungs below have fitted on all their rows."""
        return max((spec.folds for spec in self.rungs[:rung] if spec.limit is None), default=0)

    def table(self, configuration: Configuration | None) -> Table:
        """Return the table as a configuration's features prepare it; None: as the last one did, or LightGBM's defaults."""
        if configuration is None:
            if self._prepared:
                return next(reversed(self._prepared.values()))
            configuration = Configuration("lightgbm", {}, {}, "")
        found = learner(configuration.learner)
        features = options(found.features, configuration.features, f"features of {configuration.learner}")
        key = digest_of(features.model_dump(mode="json"))
        if key not in self._prepared:
            prepared: Prepared = found.prepare(self.data, features, self._validation)
            if not isinstance(prepared, Table):
                raise TypeError(f"{configuration.learner} prepares no table")
            self._prepared[key] = prepared
            while len(self._prepared) > _KEPT:
                self._prepared.popitem(last=False)
        self._prepared.move_to_end(key)
        return self._prepared[key]

    def kept(self, configuration: Configuration, fold: int) -> FoldFit | None:
        """Return a fold's full fit, if there is one."""
        return _read(self._path(configuration, fold, None))

    def _fit(self, configuration: Configuration, table: Table, fold: int, limit: int | None, until: float) -> FoldFit:
        if time.monotonic() > until:
            raise OutOfTime
        cpu, start = time.process_time(), time.monotonic()

        def progress(_: int, __: float) -> bool:
            if time.monotonic() > until:
                raise OutOfTime
            return False

        chosen = learner(configuration.learner)
        params = options(chosen.params, configuration.params, f"params of {configuration.learner}")
        part = table.part(fold, limit)
        trained = chosen.fit(part, params, seed=self._seed, progress=progress)
        answers = as_matrix(trained.scores(part.x_validation), table.classes)
        keep = limit is None
        fit = FoldFit(
            answers,
            trained.runtime if keep else "",
            trained.weights if keep else b"",
            trained.rounds,
            time.process_time() - cpu,
            time.monotonic() - start,
        )
        _write(self._path(configuration, fold, limit), fit)
        return fit

    def _path(self, configuration: Configuration, fold: int, limit: int | None) -> Path:
        return self._folder / configuration.identity / (f"{fold}.npz" if limit is None else f"{fold}-of-{limit}.npz")


def _write(path: Path, fit: FoldFit) -> None:
    """Write whole or not at all; two workers that do the same job write the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {"runtime": fit.runtime, "rounds": fit.rounds, "seconds": fit.seconds, "wall": fit.wall}
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    with aside.open("wb") as file:
        np.savez(
            file,
            answers=fit.answers,
            weights=np.frombuffer(fit.weights, dtype=np.uint8),
            facts=np.frombuffer(canonical(facts), dtype=np.uint8),
        )
    aside.rename(path)


def _read(path: Path) -> FoldFit | None:
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as kept:
        facts = json.loads(kept["facts"].tobytes())
        return FoldFit(kept["answers"], weights=kept["weights"].tobytes(), **facts)
