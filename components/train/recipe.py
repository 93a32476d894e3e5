"""Recipes: what to train, as plain JSON. automl writes one, train executes it, the model keeps it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from components.core.errors import DataError
from components.core.params import Frozen, Task
from components.train.folds import Validation

__all__ = ["FITS", "RECIPE_FILE", "Pipeline", "Recipe", "read_recipe", "write_recipe"]

RECIPE_FILE = "recipe.json"
FITS = "fits"
"""Folder of a Recipe artifact with the members that the search has already fitted, if it kept them."""


class Pipeline(Frozen):
    """One member of the ensemble.

    Attributes:
        learner: A name of `components.train.learners`.
        features: How rows become numbers; the learner's own options, all of them.
        params: Its hyperparameters, all of them.
        weight: Its share of the ensemble's answer; the members' weights sum to 1.
        start: File of the Recipe artifact with weights that its training begins with; None: from nothing.
        inherited: The model that its fitted form comes from, unchanged, because that was still the best; None: fitted on this data.
    """

    learner: str = Field(min_length=1)
    features: dict[str, Any]
    params: dict[str, Any]
    weight: float = Field(1.0, gt=0, le=1)
    start: str | None = None
    inherited: str | None = None


class Recipe(Frozen):
    """Whole pipelines, declaratively: each is fitted once a fold, and the weighted mean of all answers is the model's.

    Attributes:
        task: The kind of task it is for.
        members: The ensemble, the heaviest first.
        validation: Which folds each member is fitted on.
        models: On how many of the folds, the first ones, there is a model of each member; None: on all.
        score: What the ensemble reached on rows its models had not seen.
        metric: Which metric that is.
        seed: Of the search.
        fitted_on: The dataset that the models in `fits/` come from; None: there are none.
    """

    task: Literal["tabular", "text_line", "node"]
    members: tuple[Pipeline, ...] = Field(min_length=1)
    validation: Validation
    models: int | None = Field(None, ge=1)
    score: float | None
    metric: str
    seed: int
    fitted_on: str | None = None


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
