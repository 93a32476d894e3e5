"""train: fit the recipe, or take the fits that the search kept; write the code-free model and check that it answers."""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from components.core.artifacts import OBSERVED, digest_of
from components.core.contract import Context
from components.core.errors import IntegrityError
from components.evaluate.metrics import finite, score
from components.model import Answer, load, save
from components.train.card import Figures, card
from components.train.data import check_enough, read_data
from components.train.fitting import Processes, fit, predictor_of, read_fits, unseen
from components.train.learners import learner
from components.train.recipe import FITS, Pipeline, Recipe, read_recipe
from components.train.spec import Params
from components.train.starts import read_starts

__all__ = ["run"]

logger = logging.getLogger(__name__)
_LARGEST_DIFFERENCE = 1e-9
_COMPARED = 256


def run(ctx: Context, params: Params) -> None:
    """Train on train and validation rows, as the recipe's folds say; the other splits are never read."""
    given = read_recipe(ctx.path("recipe"), params.task)
    recipe = _with_epochs(given, params.epochs)
    began = time.monotonic()
    data = read_data(ctx.path("dataset"), params.task)
    check_enough(data)
    read_s = time.monotonic() - began
    assembled = _is_fitted(ctx, given, recipe, params)
    processes = _processes(ctx, recipe, params)
    fitted = (
        read_fits(ctx.path("recipe"), recipe)
        if assembled
        else fit(data, recipe, seed=params.seed, starts=read_starts(ctx.path("recipe"), recipe), processes=processes)
    )
    fit_s = time.monotonic() - began - read_s
    predictor = predictor_of(params.task, fitted)
    judged = unseen(predictor, data, recipe.validation)
    values = finite({name: round(value, 6) for name, value in score(params.task, judged.labels, judged.answers).items()})
    figures = Figures(values, len(judged.labels), assembled)
    folder = ctx.out("model")
    text = card(params.scenario, data, recipe, figures, fitted, seed=recipe.seed if assembled else params.seed)
    members = [(entry.member, entry.weights) for entry in fitted]
    save(folder, task=params.task, members=members, recipe=recipe.model_dump(mode="json"), card=text)
    rows = data.validation.mappings()[:_COMPARED]
    saved = load(folder)
    check_same(predictor.predict(rows), saved.predict(rows))
    (folder / OBSERVED).mkdir()
    log = {
        "read_s": read_s,
        "fit_s": fit_s,
        "assembled": assembled,
        "train_rows": len(data.train),
        "validation_rows": len(data.validation),
        "log": [line for entry in fitted for line in entry.log],
    }
    (folder / OBSERVED / "training.json").write_text(json.dumps(log, indent=1))
    if processes:
        for page in processes.folder.glob("*/watch/watch.html"):
            shutil.copy(page, folder / OBSERVED / f"watch-{page.parents[1].name}.html")
        shutil.rmtree(processes.folder, ignore_errors=True)
    size = sum(len(entry.weights) for entry in fitted)
    ctx.note("model", learner=saved.spec.learner, bytes=size, members=len(fitted))
    done = "assembled" if assembled else "trained"
    logger.info("%s %d members on %d rows in %.1f s: unseen rows %s", done, len(fitted), len(data.train), fit_s, json.dumps(values))


def _is_fitted(ctx: Context, given: Recipe, recipe: Recipe, params: Params) -> bool:
    """Whether the search kept the very fits that are asked for."""
    same = recipe == given and not params.refit and params.parallel is None and given.fitted_on is not None
    return same and given.fitted_on == ctx.inputs["dataset"].ref and (ctx.path("recipe") / FITS).is_dir()


def _processes(ctx: Context, recipe: Recipe, params: Params) -> Processes | None:
    """Several processes have a folder that is the same when the step is tried again: they go on where they were."""
    if params.parallel is None:
        return None
    decides = {"recipe": recipe.model_dump(mode="json"), "dataset": ctx.inputs["dataset"].ref, "params": params.model_dump(mode="json")}
    return Processes(params.parallel, ctx.settings.home / "training" / digest_of(decides)[:16])


def check_same(ours: Sequence[Answer], theirs: Sequence[Answer]) -> None:
    """Check that the saved model answers what the trained one did, in finite numbers.

    Raises:
        IntegrityError: An answer differs by more than rounding, or is no number.
    """
    scale = max([1.0, *(abs(a.label) for a in ours if isinstance(a.label, float))])
    for mine, other in zip(ours, theirs, strict=True):
        difference = float(np.max(np.abs(np.subtract(_figures(mine), _figures(other)))))
        if not difference <= _LARGEST_DIFFERENCE * scale or not all(map(math.isfinite, _figures(other))):
            raise IntegrityError(f"the saved model answers {other}, the trained one {mine}", do="report this: the model is not kept")


def _figures(answer: Answer) -> list[Any]:
    number = [answer.label] if isinstance(answer.label, float) else []
    return [*number, answer.confidence, *(answer.scores or {}).values()]


def _with_epochs(recipe: Recipe, epochs: int | None) -> Recipe:
    """Override the epochs of members whose learner counts in epochs."""

    def changed(pipeline: Pipeline) -> Pipeline:
        if epochs is None or "epochs" not in learner(pipeline.learner).params.model_fields:
            return pipeline
        return pipeline.model_copy(update={"params": {**pipeline.params, "epochs": epochs}})

    return recipe.model_copy(update={"members": tuple(map(changed, recipe.members))})
