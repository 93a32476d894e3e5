"""train: fit the recipe, check the export against the model in memory, write the code-free model."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from components.core.artifacts import OBSERVED
from components.core.contract import Context
from components.core.errors import IntegrityError
from components.evaluate.metrics import finite, score
from components.model import Answer, load, save
from components.train.card import card
from components.train.data import read_data
from components.train.learners import learner
from components.train.recipe import Recipe, fit, read_recipe
from components.train.spec import Params

__all__ = ["run"]

logger = logging.getLogger(__name__)
_LARGEST_DIFFERENCE = 1e-3


def run(ctx: Context, params: Params) -> None:
    """Train on `train`, stop early by `validation`; the other splits are never read."""
    recipe = _with_epochs(read_recipe(ctx.path("recipe"), params.task), params.epochs)
    began = time.monotonic()
    data = read_data(ctx.path("dataset"), params.task)
    read_s = time.monotonic() - began
    trained, predictor = fit(data, recipe, seed=params.seed)
    fit_s = time.monotonic() - began - read_s
    rows = data.validation.mappings()
    answers = predictor.predict(rows)
    figures = finite({name: round(value, 6) for name, value in score(params.task, data.validation.labels, answers).items()})
    folder = ctx.out("model")
    save(
        folder,
        task=params.task,
        learner=recipe.learner,
        runtime=trained.runtime,
        weights=trained.weights,
        preprocessing=trained.preprocessing,
        recipe=recipe.model_dump(mode="json"),
        card=card(params.scenario, data, recipe, figures, seed=params.seed, weights_bytes=len(trained.weights)),
    )
    check_same(answers, load(folder).predict(rows))
    (folder / OBSERVED).mkdir()
    log = {"read_s": read_s, "fit_s": fit_s, "train_rows": len(data.train), "validation_rows": len(data.validation), "log": trained.log}
    (folder / OBSERVED / "training.json").write_text(json.dumps(log, indent=1))
    ctx.note("model", learner=recipe.learner, bytes=len(trained.weights), format=trained.runtime)
    logger.info("trained %s on %d rows in %.1f s: validation %s", recipe.learner, len(data.train), fit_s, json.dumps(figures))


def check_same(ours: Sequence[Answer], theirs: Sequence[Answer]) -> None:
    """Check that the saved model answers what the trained one did.

    Raises:
        IntegrityError: An answer differs by more than rounding.
    """
    scale = max([1.0, *(abs(a.label) for a in ours if isinstance(a.label, float))])
    for mine, other in zip(ours, theirs, strict=True):
        difference = float(np.max(np.abs(np.subtract(_figures(mine), _figures(other)))))
        if difference > _LARGEST_DIFFERENCE * scale:
            raise IntegrityError(f"the saved model answers {other}, the trained one {mine}", do="report this: the model is not kept")


def _figures(answer: Answer) -> list[Any]:
    number = [answer.label] if isinstance(answer.label, float) else []
    return [*number, answer.confidence, *(answer.scores or {}).values()]


def _with_epochs(recipe: Recipe, epochs: int | None) -> Recipe:
    """Override the recipe's epochs where its learner counts in epochs."""
    if epochs is None or "epochs" not in learner(recipe.learner).params.model_fields:
        return recipe
    return recipe.model_copy(update={"params": {**recipe.params, "epochs": epochs}})
