"""How pipelines are judged: options that a scenario may set."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from components.core.params import Frozen

__all__ = ["Validation"]


class Validation(Frozen):
    """How a pipeline is judged.

    Attributes:
        kind: `hash`: cross-validation, the fold is a hash of the row's group key; `time`: every fold is judged on the rows that
            come next in time, by a model of the rows before; `holdout`: the validation split, as label_merge drew it; `none`: one
            model of all rows, judged by nobody, for exactly the rounds it is given.
        folds: How many; kinds `holdout` and `none` have one.
        time: The feature that orders the rows, for kind `time`.
    """

    kind: Literal["hash", "time", "holdout", "none"] = "hash"
    folds: int = Field(5, ge=1, le=20)
    time: str | None = None

    @model_validator(mode="after")
    def _complete(self) -> Validation:
        if (self.kind == "time") != (self.time is not None):
            raise ValueError("kind 'time' needs `time`, the feature that orders the rows; other kinds have none")
        if self.kind == "hash" and self.folds < 2:
            raise ValueError("kind 'hash' needs 2 folds or more")
        if self.kind in ("holdout", "none") and self.folds != 1:
            raise ValueError(f"kind '{self.kind}' has 1 fold")
        return self
