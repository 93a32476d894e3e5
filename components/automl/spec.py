"""automl: Genesis searches the whole pipeline and writes the winner down as a recipe."""

from __future__ import annotations

from pydantic import Field

from components.core.contract import Port, Resources, Spec
from components.core.params import StepParams

__all__ = ["SPEC", "Params"]


class Params(StepParams):
    """The scenario's `automl` section."""

    trials: int = Field(20, gt=0, description="trial budget")
    budget_s: float = Field(120, gt=0, description="wall-clock budget; whichever ends first")
    learners: tuple[str, ...] = Field((), description="learners to try; empty: all that fit the task")
    seed: int = 0
    max_rows: int | None = Field(None, gt=0, description="search on at most this many training rows")


SPEC = Spec(
    name="automl",
    summary="Search features, model and hyperparameters under a budget; write the recipe.",
    params=Params,
    inputs={"dataset": Port("Dataset", "the dataset version"), "snapshot": Port("Snapshot", "names the champion, whose recipe is tried")},
    outputs={"recipe": Port("Recipe", "the winning pipeline, declarative"), "report": Port("Report", "every trial")},
    resources=Resources(memory_mb=4096, image="learn"),
)
