"""Lines of text: a reader is judged on the validation split after a share of its epochs; a rung is a share.

A promoted reader starts again with more epochs: its schedule of learning rates depends on their number.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from components.automl.genesis.configuration import Configuration
from components.automl.genesis.worker import OutOfTime, Result
from components.train.data import Data
from components.train.learners import learner
from components.train.learners.base import Inheriting, Weights, options
from components.train.validation import Validation

__all__ = ["HOLDOUT", "LineEvaluator"]

HOLDOUT = Validation(kind="holdout", folds=1)
_SHARES = (0.25, 0.5)
"""Of a reader's epochs; train runs all of them."""
_EPOCHS = "epochs"


class LineEvaluator:
    """Judges readers of lines.

    Args:
        data: Train and validation rows.
        seed: Of every training.
        start_of: Returns the weights that a pipeline's training begins with; None: from nothing.
    """

    def __init__(self, data: Data, *, seed: int, start_of: Callable[[Configuration], Weights | None] = lambda _: None) -> None:
        self._data, self._seed, self._start_of = data, seed, start_of
        self.rungs = _SHARES

    @property
    def new_rows(self) -> list[int]:
        """Lines that a rung's training sees, once an epoch, in units of whole trainings."""
        return [max(1, int(len(self._data.train) * share)) for share in _SHARES]

    def evaluate(self, configuration: Configuration, rung: int, until: float) -> Result:
        """Return the share of validation lines read without an error, at the best epoch."""
        chosen = learner(configuration.learner)
        features = options(chosen.features, configuration.features, f"features of {configuration.learner}")
        given = dict(configuration.params)
        given[_EPOCHS] = max(1, math.ceil(given[_EPOCHS] * self.rungs[rung]))
        params = options(chosen.params, given, f"params of {configuration.learner}")
        reached: list[tuple[int, float]] = []

        def progress(epoch: int, exact: float) -> bool:
            if time.monotonic() > until:
                raise OutOfTime
            reached.append((epoch, exact))
            return exact == 1.0  # the best epoch is kept: no further one is needed to judge it

        part: Any = chosen.prepare(self._data, features, HOLDOUT).part(0)
        start = self._start_of(configuration)
        if start is not None and isinstance(chosen, Inheriting):
            chosen.fit_from(part, params, start=start, seed=self._seed, progress=progress)
        else:
            chosen.fit(part, params, seed=self._seed, progress=progress)
        return Result(max((exact for _, exact in reached), default=float("nan")), {"steps": [list(step) for step in reached]})

    def assist(self, configuration: Configuration, rung: int, until: float) -> bool:
        """Do nothing: a reader is trained in one piece."""
        return False
