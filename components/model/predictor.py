"""Loading a model's folder and predicting with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.core.errors import DataError
from components.core.params import Tabular, Task, TextLine
from components.model.answer import Answer
from components.model.format import ModelSpec, read_spec
from components.model.runtime import Scores, load_lightgbm, load_onnx
from components.model.tabular import TabularModel
from components.model.text_line import TextLineModel

if TYPE_CHECKING:
    import pyarrow as pa

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
        return self._model.answers_of_columns({name: column_values(table, name) for name in known})


def column_values(table: pa.Table, name: str) -> Any:
    """Return a column for `components.model.tabular`: float columns as NumPy (null becomes NaN), others as a list."""
    column = table.column(name)
    return column.to_numpy() if str(column.type) in ("double", "float") else column.to_pylist()


def load(folder: Path) -> Predictor:
    """Load a model.

    Args:
        folder: What `components.model.save` wrote; `ctx.path(port)` of a Model.

    Raises:
        IntegrityError: A file is missing, altered, damaged, too large, or of another format.
    """
    spec = read_spec(folder)
    path = folder / spec.weights
    return predictor_of(spec, load_onnx(path.read_bytes()) if spec.runtime == "onnx" else load_lightgbm(path))


def predictor_of(spec: ModelSpec, scores: Scores) -> Predictor:
    """Join a model's description with what executes its weights."""
    task: TextLine | Tabular = spec.task
    if isinstance(task, TextLine):
        return Predictor(spec, TextLineModel(task, spec.preprocessing, scores))
    return Predictor(spec, TabularModel(task, spec.preprocessing, scores))
