"""What every step's params share: the scenario's name and its task."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from components.core.errors import DataError

__all__ = ["MOST_NODES", "NAME", "Frozen", "GraphSource", "Node", "StepParams", "Tabular", "Task", "TextLine", "is_finite"]

MOST_NODES = 1 << 24
"""Of a graph: a model's input is float32, which has no gaps up to there."""
NAME = r"^[a-z][a-z0-9_]{0,39}$"
"""A scenario's name."""


_METRICS: Mapping[str, tuple[str, ...]] = {
    "binary": ("auc", "logloss", "accuracy"),
    "multiclass": ("accuracy", "logloss"),
    "regression": ("rmse", "mae"),
}
"""What may decide; the first is the default."""


def is_finite(number: float) -> bool:
    """Whether a number, however large an integer, fits a finite float."""
    try:
        return math.isfinite(number)
    except OverflowError:
        return False


class Frozen(BaseModel):
    """A pydantic model that refuses unknown keys and never changes."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TextLine(Frozen):
    """Reading one line of text from an image.

    Attributes:
        alphabet: Every character a label may hold; the label vocabulary.
        max_length: Characters in the longest label.
    """

    kind: Literal["text_line"] = "text_line"
    alphabet: str = Field("0123456789", min_length=1)
    max_length: int = Field(16, gt=0, le=256)

    @property
    def metric(self) -> str:
        """The figure that decides: the share of lines read without an error."""
        return "exact_match"

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger metric is better."""
        return True

    def check_label(self, label: Any) -> str:
        """Return the label, or raise DataError: it is no text, too long, or outside the alphabet."""
        if not isinstance(label, str) or not label:
            raise DataError(f"label {label!r} is not a text", do="give the characters of the line as a string")
        if len(label) > self.max_length:
            raise DataError(
                f"label '{label}' has {len(label)} characters, at most {self.max_length} are allowed",
                do="shorten it, or raise task.max_length",
            )
        if strange := "".join(sorted(set(label) - set(self.alphabet))):
            raise DataError(
                f"label '{label}' has characters outside the vocabulary: '{strange}'; allowed are '{self.alphabet}'",
                do="correct the label, or add them to task.alphabet",
            )
        return label


class Tabular(Frozen):
    """Predicting a class or a number from a row.

    Attributes:
        problem: `binary`, `multiclass` or `regression`.
        classes: The label vocabulary; for binary (negative, positive). Empty for regression.
        features: Feature name -> `number` or `category`: the input signature. Values may be missing.
        metric: The figure that decides; by default auc, accuracy or rmse.
    """

    kind: Literal["tabular"] = "tabular"
    problem: Literal["binary", "multiclass", "regression"]
    classes: tuple[str, ...] = ()
    features: dict[str, Literal["number", "category"]] = Field(min_length=1)
    metric: Literal["auc", "accuracy", "logloss", "rmse", "mae"] = "auc"

    @model_validator(mode="before")
    @classmethod
    def _usual_metric(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("metric") is not None:
            return given
        problem = str(given.get("problem", cls.model_fields["problem"].default))
        return {**given, "metric": _METRICS[problem][0]} if problem in _METRICS else given

    @model_validator(mode="after")
    def _vocabulary(self) -> Tabular:
        needs = {"binary": len(self.classes) == 2, "multiclass": len(self.classes) > 2, "regression": not self.classes}
        if not needs[self.problem]:
            raise ValueError(
                f"classes {list(self.classes)} do not fit problem '{self.problem}': binary has 2, multiclass more, regression none"
            )
        if self.metric not in _METRICS[self.problem]:
            raise ValueError(f"metric '{self.metric}' is none of a {self.problem} task: use one of {', '.join(_METRICS[self.problem])}")
        return self

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger metric is better."""
        return self.metric in ("auc", "accuracy")

    def check_label(self, label: Any) -> str | float:
        """Return the label, or raise DataError: it is outside the vocabulary, or not a finite number."""
        if self.problem == "regression":
            if isinstance(label, bool) or not isinstance(label, int | float) or not is_finite(label):
                raise DataError(f"label {label!r} is not a finite number", do="give a number")
            return float(label)
        if label not in self.classes:
            raise DataError(f"label {label!r} is outside the vocabulary", do=f"use one of: {', '.join(self.classes)}")
        return str(label)


class GraphSource(Frozen):
    """Where a graph is: files, or, where none are at hand, one that is drawn.

    Attributes:
        folder: With `edges.npy`, (E, 2) source and target from 0 to N - 1, and `features.npy`, (N, F) float32; below ATLAS_DATA unless
            it is absolute. None: a planted partition of the size below, the same for the same seed.
        nodes: N.
        communities: Which are the classes, in their order.
        degree: Mean neighbours of a node.
        inside: Share of the edges that stay in a community.
        dims: F.
        signal: Distance of the communities' mean features, in units of the noise.
        seed: Of the draw.
    """

    folder: str | None = None
    nodes: int = Field(2000, ge=4, le=MOST_NODES)
    communities: int = Field(5, ge=2)
    degree: float = Field(12.0, gt=0)
    inside: float = Field(0.9, ge=0, le=1)
    dims: int = Field(16, ge=1)
    signal: float = Field(0.5, ge=0)
    seed: int = 0


class Node(Tabular):
    """Telling the class of a node of a graph; the only feature is the node's number.

    Attributes:
        graph: Its edges and what is known of its nodes.
    """

    kind: Literal["node"] = "node"  # type: ignore[assignment]  # a table of one column for all who need not know the graph
    problem: Literal["binary", "multiclass"] = "multiclass"
    features: dict[str, Literal["number", "category"]] = Field({"node": "number"}, min_length=1)
    graph: GraphSource = GraphSource()

    @model_validator(mode="after")
    def _one_feature(self) -> Node:
        if self.features != {"node": "number"}:
            raise ValueError("a node's only feature is its number: leave task.features out")
        return self


Task = Annotated[TextLine | Tabular | Node, Field(discriminator="kind")]


class StepParams(Frozen):
    """What a step gets beside its own section: `build` fills these in, a scenario file does not repeat them."""

    scenario: str = Field(pattern=NAME)
    task: Task
