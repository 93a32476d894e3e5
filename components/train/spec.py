"""train: the recipe at full fidelity, with a fixed seed, into a code-free model."""

from __future__ import annotations

from pydantic import Field

from components.core.contract import Port, Resources, Spec
from components.core.params import StepParams
from components.train.parallel.section import Parallel

__all__ = ["SPEC", "Params"]


class Params(StepParams):
    """The scenario's `train` section."""

    seed: int = 0
    epochs: int | None = Field(None, gt=0, description="overrides the recipe's epochs")
    parallel: Parallel | None = Field(None, description="train by several processes; see components.train.parallel.section")
    refit: bool = Field(False, description="fit again, even if the search kept the models that it fitted on this dataset")


SPEC = Spec(
    name="train",
    summary="Train the recipe on train and validation rows; export a code-free model.",
    params=Params,
    inputs={"dataset": Port("Dataset", "the dataset version"), "recipe": Port("Recipe", "what to train")},
    outputs={"model": Port("Model", "the ensemble's members, ONNX or LightGBM text, with model.json and a card")},
    resources=Resources(memory_mb=4096, image="learn"),
)
