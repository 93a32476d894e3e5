"""automl: search on train and validation rows, write the winner as a recipe and every trial as a report.

Started with `--join` and equal params and inputs (Airflow's mapped tasks, Kubeflow's ParallelFor), further processes take jobs from the
same study, and leave the end to the one without it.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import replace

from components.automl.genesis import architecture
from components.automl.genesis.configuration import PastStudy
from components.automl.genesis.history import read_study, write_study
from components.automl.genesis.report import write_report
from components.automl.genesis.solve import Champion, Setting, assist, solve, study_of
from components.automl.spec import Params
from components.core.artifacts import digest_of
from components.core.contract import Context
from components.core.errors import AtlasError
from components.core.step import code_version
from components.train.data import read_data
from components.train.fitting import write_fits
from components.train.learners.base import Weights
from components.train.recipe import write_recipe
from components.train.reproducible import reproducible
from components.train.starts import read_weights, write_weights

__all__ = ["join", "run"]

logger = logging.getLogger(__name__)


def run(ctx: Context, params: Params) -> None:
    """Search; what is judged are rows of train and validation, the splits test and holdout are never read."""
    with reproducible():
        given = _setting(ctx, params)
        solved = solve(given)
    recipe, data = solved.recipe, given.data
    if solved.fitted and params.max_rows is None:
        recipe = recipe.model_copy(update={"fitted_on": ctx.inputs["dataset"].ref})
        write_fits(ctx.out("recipe"), solved.fitted)
    write_recipe(recipe, ctx.out("recipe"))
    for name, weights in solved.starts.items():
        write_weights(ctx.out("recipe") / name, weights)
    learners = "+".join(dict.fromkeys(member.learner for member in recipe.members))
    ctx.note("recipe", learner=learners, members=len(recipe.members), metric=recipe.metric, score=recipe.score)
    write_report(ctx.out("report"), replace(solved, recipe=recipe), params, data, champion=solved.champion)
    write_study(ctx.out("report"), study_of(solved, params, len(data.train) + len(data.validation)))
    ctx.note("report", trials=len(solved.board.settled))
    architecture.publish(given.folder, ctx.out("report"))


def join(ctx: Context, params: Params) -> None:
    """Work on the search that `run` finishes with the same params and inputs; nothing is written but the study."""
    with reproducible():
        assist(_setting(ctx, params))


def _setting(ctx: Context, params: Params) -> Setting:
    started = time.monotonic()
    data = read_data(ctx.path("dataset"), params.task, max_rows=params.max_rows)
    snapshot = json.loads((ctx.path("snapshot") / "snapshot.json").read_text())
    serving = snapshot["champion"] and snapshot["champion"]["model"]
    champion = Champion(ctx.open(serving), serving) if serving else None
    history = _history(ctx, snapshot.get("studies", [])) if params.transfer else []
    folder = ctx.settings.home / "studies" / _key(ctx, params, serving, snapshot.get("studies", []))
    offered = [architecture.offered(data, params, folder, _supernet(ctx, params, snapshot.get("studies", [])))] if params.nas else []
    return Setting(data, params, folder, started, history, champion, offered)


def _supernet(ctx: Context, params: Params, refs: list[str]) -> tuple[str, Weights] | None:
    """Return the newest supernet of this scenario's earlier searches."""
    for ref in refs if params.transfer else ():
        found = ctx.open(ref) / architecture.SUPERNET
        if found.is_file() and read_study(found.parent).scenario in (params.scenario, *params.parents):
            return ref, read_weights(found)
    return None


def _history(ctx: Context, refs: list[str]) -> list[PastStudy]:
    """Read earlier searches; one that can't be read is left out, for the search can do without it."""
    found = []
    for ref in refs:
        try:
            found.append(read_study(ctx.open(ref)))
        except AtlasError as error:
            logger.warning("the search %s is left out: %s", ref, error)
    return found


def _key(ctx: Context, params: Params, champion: str | None, studies: list[str]) -> str:
    """Name the study after everything that decides its trials; a larger budget or more workers continue an earlier search."""
    decides = params.model_dump(mode="json", exclude={"trials", "budget_s", "workers"})
    known = {"champion": champion, "studies": studies if params.transfer else []}
    return digest_of({"params": decides, "dataset": ctx.inputs["dataset"].ref, "known": known, "code": code_version()})[:32]
