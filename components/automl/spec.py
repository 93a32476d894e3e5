"""automl: Genesis searches the whole pipeline and writes the winner down as a recipe."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from components.core.contract import Port, Resources, Spec
from components.core.params import Frozen, StepParams
from components.train.validation import Validation

__all__ = ["SPEC", "Expert", "Nas", "Params"]


class Expert(Frozen):
    """A pipeline of the user's own; it is judged like any other, and the better one wins."""

    learner: str = Field(min_length=1)
    features: dict[str, Any] = Field(default_factory=dict)
    params: dict[str, Any] = Field(default_factory=dict)


class Nas(Frozen):
    """A search among networks, for lines of text: what it finds is judged beside the other pipelines, and the better one wins."""

    space: str = Field("recognizer", description="a space of components.train.spaces")
    max_params: int | None = Field(None, gt=0, description="trained numbers")
    max_macs: int | None = Field(None, gt=0, description="multiply-accumulates of a line of the usual width")
    max_latency_ms: float | None = Field(None, gt=0, description="of such a line on this machine, in ONNX Runtime on one thread")
    share: float = Field(0.15, gt=0, lt=1, description="of budget_s; the rest judges it beside the other pipelines")
    strategy: Literal["single_path", "sandwich", "superposition", "random"] = "single_path"
    epochs: float = Field(20, gt=0, le=1000, description="of the supernet, at most; fewer if the share would not suffice")
    lr: float = Field(4e-3, gt=0, le=0.1, description="its learning rate's peak")
    batch: int = Field(32, ge=2, le=512)
    dropout: float = Field(0.1, ge=0, lt=0.9)
    judged: int = Field(60, ge=1, le=10_000, description="networks judged with inherited weights, at most")
    sample: int = Field(0, ge=0, le=100, description="of them trained alone, beyond the budget: how well do inherited weights rank?")


class Params(StepParams):
    """The scenario's `automl` section. Nothing needs to be set."""

    trials: int | None = Field(None, gt=0, description="pipelines to try; with one worker equal data then give an equal recipe")
    budget_s: float = Field(120, gt=0, description="wall-clock budget; whichever ends first")
    workers: int = Field(0, ge=0, le=256, description="processes; 0: one a core if only the time is limited, else one")
    learners: tuple[str, ...] = Field((), description="learners to try; empty: all that fit the task")
    sampler: Literal["auto", "tpe", "gp", "rgpe", "random"] = Field("auto", description="auto: rgpe when there is a history, else tpe")
    validation: Validation | None = Field(None, description="how pipelines are judged; none: folds by the hash of the group key")
    expert: tuple[Expert, ...] = Field((), description="pipelines of your own to try first")
    nas: Nas | None = Field(None, description="search among networks too; for lines of text")
    transfer: bool = Field(True, description="learn from earlier searches")
    parents: tuple[str, ...] = Field((), description="scenarios whose data this one merges: their searches count as its own")
    members: int = Field(8, gt=0, le=50, description="pipelines in the ensemble, at most; 1: the best one alone")
    max_size_mb: float | None = Field(60, gt=0, description="of the model's files; none: no limit")
    max_us_per_row: float | None = Field(170, gt=0, description="of one core in a batch prediction, estimated; none: no limit")
    max_memory_mb: float | None = Field(None, gt=0, description="of a worker; learners that need more are not started again")
    seed: int = 0
    max_rows: int | None = Field(None, gt=0, description="search on at most this many training rows; train then fits on all")


SPEC = Spec(
    name="automl",
    summary="Search features, models, hyperparameters and an ensemble of them under a budget; write the recipe.",
    params=Params,
    inputs={"dataset": Port("Dataset", "the dataset version"), "snapshot": Port("Snapshot", "names the champion and earlier searches")},
    outputs={"recipe": Port("Recipe", "the winning ensemble and its fitted members"), "report": Port("Report", "every trial")},
    resources=Resources(memory_mb=4096, image="learn"),
)
