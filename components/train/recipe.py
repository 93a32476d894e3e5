"""Recipes: what to train, as plain JSON. automl writes one, train executes it, the model keeps it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from components.core.errors import DataError
from components.core.params import Frozen, Task
from components.model.predictor import Predictor
from components.train.data import Data, check_enough
from components.train.learners import Progress, Trained, learner, never
from components.train.reproducible import reproducible

__all__ = ["RECIPE_FILE", "Recipe", "fit", "read_recipe", "write_recipe"]

RECIPE_FILE = "recipe.json"


class Recipe(Frozen):
    """A whole pipeline, declaratively.

    Attributes:
        task: The kind of task it is for.
        learner: A name of `components.train.learners`.
        features: How rows become numbers; the learner's own options.
        params: Its hyperparameters.
        score: The validation metric it reached in the search.
        metric: Which metric that is.
        seed: Of the search.
    """

    task: Literal["tabular", "text_line"]
    learner: str = Field(min_length=1)
    features: dict[str, Any]
    params: dict[str, Any]
    score: float | None
    metric: str
    seed: int


def read_recipe(folder: Path, task: Task) -> Recipe:
    """Read a Recipe artifact.

    Raises:
        DataError: It is no recipe, or one for another kind of task.
    """
    try:
        recipe = Recipe.model_validate_json((folder / RECIPE_FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise DataError(f"{RECIPE_FILE} can't be read: {error}", do="give an artifact that automl wrote") from error
    if recipe.task != task.kind:
        raise DataError(f"the recipe is for {recipe.task}, the scenario's task is {task.kind}", do="run automl for this scenario")
    return recipe


def write_recipe(recipe: Recipe, folder: Path) -> None:
    """Write `recipe.json`; equal recipes give equal bytes."""
    (folder / RECIPE_FILE).write_text(json.dumps(recipe.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def fit(data: Data, recipe: Recipe, *, seed: int, progress: Progress = never) -> tuple[Trained, Predictor]:
    """Execute a recipe on one thread; equal arguments give equal bytes.

    Args:
        data: Rows to fit on and rows to stop early by.
        recipe: Its learner, features and params are used.
        seed: Of everything random.
        progress: May end the training early.

    Returns:
        What was trained, and a predictor over it as it is in memory.

    Raises:
        ConfigError: The recipe names an unknown learner or option.
        DataError: There is too little to learn from.
    """
    chosen = learner(recipe.learner)
    if not chosen.fits(data.task):
        raise DataError(f"learner '{recipe.learner}' can't learn a {data.task.kind} task", do="run automl for this scenario")
    check_enough(data)
    with reproducible():
        trained = chosen.train(data, recipe.features, recipe.params, seed=seed, progress=progress)
    return trained, trained.predictor(data.task, recipe.learner)
