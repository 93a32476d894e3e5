"""What a tabular learner fits on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.core.params import Tabular
from components.model.runtime import Float32
from components.train.data import Rows

__all__ = ["Matrices", "targets"]


@dataclass(frozen=True)
class Matrices:
    """What a tabular learner fits on: N rows to learn from, V rows to stop by, D columns, K classes.

    Attributes:
        x: (N, D) float32.
        y: (N,) class numbers as float, or the values.
        x_validation: (V, D). V may be 0: then the learner trains exactly the rounds or epochs it is given.
        y_validation: (V,).
        classes: K; 0 for regression.
        coded: Columns that hold category codes (small whole numbers without an order).
    """

    x: Float32
    y: NDArray[np.float64]
    x_validation: Float32
    y_validation: NDArray[np.float64]
    classes: int
    coded: tuple[int, ...] = ()


def targets(task: Tabular, rows: Rows) -> NDArray[np.float64]:
    """Return (N,) class numbers, or the values.

    Raises:
        DataError: A label is outside the vocabulary.
    """
    if task.problem == "regression":
        return np.asarray([float(label) for label in rows.labels], dtype=np.float64)
    number = {name: float(index) for index, name in enumerate(task.classes)}
    return np.asarray([number[label] if label in number else number[str(task.check_label(label))] for label in rows.labels])
