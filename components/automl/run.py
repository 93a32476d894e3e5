"""automl: search on train and validation rows, write the winner as a recipe and every trial as a report."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

from components.automl.genesis.page import page
from components.automl.genesis.ranking import ranking
from components.automl.genesis.search import Budget, Configuration, Objective, Outcome, Report, search
from components.automl.genesis.space import Space
from components.automl.genesis.storage import open_study
from components.automl.spec import Params
from components.core.artifacts import OBSERVED, digest_of
from components.core.contract import Context
from components.core.errors import DataError
from components.core.params import Task
from components.core.step import code_version
from components.evaluate.metrics import finite, score
from components.model import read_spec
from components.train.data import Data, read_data
from components.train.learners import Learner, learner, learners_for
from components.train.recipe import Recipe, fit, write_recipe

__all__ = ["run"]

logger = logging.getLogger(__name__)
_SEARCH_EPOCHS = 0.5
"""A line reader is compared after this share of its epochs; train runs all of them."""
_RUNGS = (0.5, 0.75)
"""Shares of those epochs at which a poor trial is stopped."""
_EPOCHS = "epochs"


def run(ctx: Context, params: Params) -> None:
    """Search; scores come from `validation`, the splits test and holdout are never read."""
    data = read_data(ctx.path("dataset"), params.task, max_rows=params.max_rows)
    found = learners_for(params.task, params.learners)
    champion = _champion(ctx, params.task, found)
    known = _known(found, champion)
    rungs = _rungs(params.task, found)
    journal = ctx.settings.home / "studies" / f"{_key(ctx, params, champion)}.journal"
    with open_study(journal, maximize=params.task.higher_is_better) as study:
        budget = Budget(params.trials, params.budget_s)
        space = Space(tuple(entry.name for entry in found), ranking(data, params.seed))
        outcome = search(
            study, _objective(data, params.seed), known, space, budget=budget, seed=params.seed, rungs=rungs, perfect=_perfect(params.task)
        )
    recipe = _recipe(outcome, params)
    write_recipe(recipe, ctx.out("recipe"))
    ctx.note("recipe", learner=recipe.learner, metric=recipe.metric, score=recipe.score)
    _write_report(ctx.out("report"), outcome, params, data)
    ctx.note("report", trials=len(outcome.trials), best=outcome.best)


def _key(ctx: Context, params: Params, champion: Configuration | None) -> str:
    """Name the study after everything that decides its trials; a larger budget continues an earlier search."""
    decides = params.model_dump(mode="json", exclude={"trials", "budget_s"})
    known = digest_of(champion.__dict__) if champion else None
    return digest_of({"params": decides, "dataset": ctx.inputs["dataset"].ref, "champion": known, "code": code_version()})[:32]


def _champion(ctx: Context, task: Task, found: list[Learner]) -> Configuration | None:
    """Return the recipe of the model that serves now, if its learner may still be used."""
    snapshot = json.loads((ctx.path("snapshot") / "snapshot.json").read_text())
    if not snapshot["champion"]:
        return None
    spec = read_spec(ctx.open(snapshot["champion"]["model"]))
    if spec.learner not in {entry.name for entry in found} or spec.task.kind != task.kind:
        logger.info("the champion's learner '%s' is not searched", spec.learner)
        return None
    return Configuration(spec.learner, dict(spec.recipe.get("features", {})), dict(spec.recipe.get("params", {})), "champion")


def _known(found: list[Learner], champion: Configuration | None) -> list[Configuration]:
    """The first learner's defaults, the champion, the other learners' defaults."""
    defaults = [Configuration(e.name, e.features().model_dump(mode="json"), e.params().model_dump(mode="json"), "default") for e in found]
    return [defaults[0], *([champion] if champion else []), *defaults[1:]]


def _objective(data: Data, seed: int) -> Objective:
    def objective(configuration: Configuration, report: Report) -> tuple[float, dict[str, float | None]]:
        recipe = _as_recipe(configuration, data.task, seed)

        def progress(epoch: int, value: float) -> bool:
            report(epoch, value)
            # The best epoch is kept, so a line reader that read every line needs no further one to be judged.
            return data.task.kind == "text_line" and value == _perfect(data.task)

        _, predictor = fit(data, recipe, seed=seed, progress=progress)
        figures = score(data.task, data.validation.labels, predictor.predict(data.validation.mappings()))
        value = figures[data.task.metric]
        if not math.isfinite(value):
            raise DataError(
                f"{data.task.metric} is undefined on the {len(data.validation)} validation rows",
                do="add rows: validation needs every class; or raise its share in label_merge.splits",
            )
        return value, finite(figures)

    return objective


def _as_recipe(configuration: Configuration, task: Task, seed: int) -> Recipe:
    """The cheap version of a recipe: fewer epochs for line readers."""
    params = dict(configuration.params)
    if task.kind == "text_line" and _EPOCHS in params:
        params[_EPOCHS] = _search_epochs(params[_EPOCHS])
    c = configuration
    return Recipe(task=task.kind, learner=c.learner, features=c.features, params=params, score=None, metric=task.metric, seed=seed)


def _search_epochs(epochs: int) -> int:
    return max(1, math.ceil(epochs * _SEARCH_EPOCHS))


def _perfect(task: Task) -> float:
    return 1.0 if task.higher_is_better else 0.0


def _rungs(task: Task, found: list[Learner]) -> frozenset[int]:
    """Only line readers report the metric itself as they go."""
    if task.kind != "text_line":
        return frozenset()
    epochs = _search_epochs(found[0].params().model_dump()[_EPOCHS])
    return frozenset(math.ceil(epochs * share) for share in _RUNGS)


def _recipe(outcome: Outcome, params: Params) -> Recipe:
    best = outcome.trials[outcome.best]
    c = best.configuration
    full = learner(c.learner)
    return Recipe(
        task=params.task.kind,
        learner=c.learner,
        features=full.features.model_validate(c.features).model_dump(mode="json"),
        params=full.params.model_validate(c.params).model_dump(mode="json"),
        score=best.value,
        metric=params.task.metric,
        seed=params.seed,
    )


def _write_report(folder: Path, outcome: Outcome, params: Params, data: Data) -> None:
    trials: list[dict[str, Any]] = [
        {
            "number": number,
            "origin": trial.configuration.origin,
            "learner": trial.configuration.learner,
            "features": trial.configuration.features,
            "params": trial.configuration.params,
            "state": trial.state,
            "value": trial.value,
            "figures": trial.figures,
            "steps": [list(step) for step in trial.steps],
        }
        for number, trial in enumerate(outcome.trials)
    ]
    report = {
        "scenario": params.scenario,
        "metric": params.task.metric,
        "higher_is_better": params.task.higher_is_better,
        "rows": {"train": len(data.train), "validation": len(data.validation)},
        "seed": params.seed,
        "best": outcome.best,
        "trials": trials,
    }
    (folder / "report.json").write_text(json.dumps(report, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    observed = folder / OBSERVED
    observed.mkdir()
    (observed / "seconds.json").write_text(json.dumps([trial.seconds for trial in outcome.trials]))
    (observed / "report.html").write_text(page(report, [trial.seconds for trial in outcome.trials]))
