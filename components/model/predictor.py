"""Loading a model's folder and predicting with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from components.core.errors import DataError
from components.core.params import Tabular, Task, TextLine
from components.model.answer import Answer
from components.model.format import Member, ModelSpec, read_spec
from components.model.runtime import load_weights
from components.model.tabular import TabularModel
from components.model.text_line import TextLineModel

if TYPE_CHECKING:
    import pyarrow as pa

    from components.model.plan import Columns

__all__ = ["Predictor", "column_values", "load", "predictor_of"]


class Predictor:
    """A loaded model. It can be used by several threads at once.

    Attributes:
        spec: What `model.json` says.
    """

    def __init__(self, spec: ModelSpec, model: TextLineModel | TabularModel) -> None:
        self.spec = spec
        self._model = model

    @property
    def task(self) -> Task:
        """The task the model was trained for."""
        return self.spec.task

    @property
    def signature(self) -> dict[str, Any]:
        """Inputs and output as plain JSON: `{"inputs": {name: type}, "output": {…}}`."""
        return self.spec.signature

    def check(self, row: Mapping[str, Any]) -> None:
        """Check one row as `Item.row()` gives it.

        Raises:
            DataError: An image can't be decoded; a feature is missing or of the wrong type.
        """
        self._model.check(row)

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[Answer]:
        """Answer rows as `Item.row()` gives them; an answer does not depend on the other rows.

        Raises:
            DataError: See `check`.
        """
        return self._model.answers(rows) if rows else []

    def predict_table(self, table: pa.Table) -> list[Answer]:
        """Answer a table's rows; columns that the model does not know are ignored.

        Raises:
            DataError: A column is missing, or a value is of the wrong type.
        """
        if not table.num_rows:
            return []
        if isinstance(self._model, TextLineModel):
            if "image" not in table.column_names:
                raise DataError("the table has no column 'image'", do="give a Dataset of this task")
            return self._model.answers([{"image": image} for image in table.column("image").to_pylist()])
        known = [name for name in self._model.task.features if name in table.column_names]
        return self._model.answers_of(self._model.scores({name: column_values(table, name) for name in known}))

    def probabilities(self, columns: Columns, *, threads: int = 1) -> NDArray[np.float64]:
        """Answer columns of features without making an `Answer` of each row: for large tables.

        Args:
            columns: Every feature -> N values; others are ignored.
            threads: Work on parts of the table with this many; the result is the same to the last bit.

        Returns:
            (N, K) probabilities in the order of `task.classes`; (N, 1) values for regression.

        Raises:
            DataError: A feature is missing, a value is of the wrong type, or the model reads lines of text.
        """
        return self._tabular.scores(columns, threads=threads)

    def answers_of(self, probabilities: NDArray[np.float64]) -> list[Answer]:
        """Turn what `probabilities` returned into answers."""
        return self._tabular.answers_of(probabilities)

    def fold(self, columns: Columns, number: int) -> NDArray[np.float64]:
        """Return (M, N, K): what each of M members' models of one fold says alone.

        With folds by the hash of a row's key, the models of fold f learned from no row of fold f, and from none that joined it since.

        Args:
            columns: See `probabilities`.
            number: The fold, 0 to F - 1.

        Raises:
            DataError: See `probabilities`; or there is no such fold.
        """
        if not 0 <= number < self._fold_count:
            raise DataError(f"fold {number} was asked for, the model has {self._fold_count}", do="count folds from 0")
        return self._tabular.folds(columns, [number])[:, 0]

    def by_fold(self, columns: Columns) -> NDArray[np.float64]:
        """Return (M, F, N, K): `fold` of all F folds."""
        return self._tabular.folds(columns, range(self._fold_count))

    @property
    def _fold_count(self) -> int:
        return len(self.spec.members[0].folds)

    @property
    def _tabular(self) -> TabularModel:
        if isinstance(self._model, TextLineModel):
            raise DataError("a model of text lines takes images, no columns of features", do="use predict")
        return self._model


def column_values(table: pa.Table, name: str) -> Any:
    """Return a column for `components.model.plan`: float columns as NumPy (null becomes NaN), others as a list."""
    column = table.column(name)
    return column.to_numpy() if str(column.type) in ("double", "float") else column.to_pylist()


def load(folder: Path) -> Predictor:
    """Load a model.

    Args:
        folder: What `components.model.save` wrote; `ctx.path(port)` of a Model.

    Raises:
        IntegrityError: A file is missing, altered, damaged, too large, or of another format.
    """
    return predictor_of(read_spec(folder), lambda member: (folder / member.file).read_bytes())


def predictor_of(spec: ModelSpec, weights: Callable[[Member], bytes]) -> Predictor:
    """Join a model's description with its members' bytes.

    Raises:
        IntegrityError: A member's bytes are damaged, or do not fit its description.
    """
    loaded = [(member, load_weights(member.runtime, weights(member), member.folds)) for member in spec.members]
    task: TextLine | Tabular = spec.task
    if isinstance(task, TextLine):
        return Predictor(spec, TextLineModel(task, loaded[0][0].preprocessing, loaded[0][1].scores))
    return Predictor(spec, TabularModel(task, loaded))
