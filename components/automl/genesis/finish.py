"""The end of a search on a table: candidates, the chosen ensemble, its merged members.

Candidates are the pipelines that were judged on every fold, and the members of the model that serves now: their fold models never saw
the rows of their folds, so what they say about today's rows is an honest judgement, and costs no training.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.automl.genesis.board import Board
from components.automl.genesis.configuration import Configuration
from components.automl.genesis.ensemble import Candidate, Judge, Limits, Selection, select
from components.automl.genesis.evaluators.table import FoldFit, TableEvaluator
from components.automl.genesis.footprint import megabytes, microseconds
from components.core.errors import IntegrityError
from components.core.params import Tabular
from components.model import Predictor, load
from components.model.format import Member, Runtime
from components.train.data import Data
from components.train.fitting import Fitted, fit_member, merge, taken
from components.train.folds import Folds
from components.train.learners import Trained
from components.train.recipe import Pipeline, Recipe
from components.train.validation import Validation

__all__ = ["Inherited", "assemble", "inherit", "judge_of"]

logger = logging.getLogger(__name__)
EVERYTHING = Validation(kind="none", folds=1)
"""After a validation by time the members are fitted once more, on all rows: the latest ones tell most."""


@dataclass(frozen=True)
class Inherited:
    """A member of the model that serves now, judged on today's rows.

    Attributes:
        pipeline: As it was written down.
        member: Of its `model.json`.
        weights: Its file's bytes.
    """

    pipeline: Pipeline
    member: Member
    weights: bytes
    answers: NDArray[np.float32]

    @property
    def name(self) -> str:
        """Differs from the identity of the same pipeline fitted today."""
        return f"inherited:{self.configuration.identity}"

    @property
    def configuration(self) -> Configuration:
        """What was fitted."""
        return Configuration(self.pipeline.learner, self.pipeline.features, self.pipeline.params, "champion")


def inherit(champion: Path, data: Data, validation: Validation, folds: Folds, model_ref: str) -> list[Inherited]:
    """Judge the serving model's members on today's rows, each row by the fold model that has not seen it.

    Empty when the champion was validated in another way or learned another task: then its answers would not be honest.
    """
    predictor: Predictor = load(champion)
    try:
        recipe = Recipe.model_validate(predictor.spec.recipe)
    except ValueError:
        return []
    task, members = predictor.task, predictor.spec.members
    alike = recipe.validation == validation and validation.kind == "hash" and task == data.task
    if (
        not isinstance(task, Tabular)
        or not alike
        or len(members) != len(recipe.members)
        or any(len(m.folds) != validation.folds for m in members)
    ):
        logger.info("the champion's members can't be judged on today's folds")
        return []
    rows = data.pooled().columns
    own = np.empty((len(members), len(folds.number), max(len(task.classes), 1)), dtype=np.float32)
    for fold in range(folds.count):
        judged = folds.judged(fold)
        if len(judged):
            own[:, judged] = predictor.fold(taken(rows, judged), fold)
    return [
        Inherited(_from(pipeline, model_ref), member, (champion / member.file).read_bytes(), said)
        for pipeline, member, said in zip(recipe.members, members, own, strict=True)
    ]


def judge_of(evaluator: TableEvaluator, folds: int) -> tuple[Judge, NDArray[np.intp]]:
    """Return the judge of the first `folds` folds, and which rows it judges, fold by fold."""
    table = evaluator.table(None)
    rows = np.concatenate([table.folds.judged(fold) for fold in range(folds)])
    task = evaluator.task
    return Judge(task.metric, task.higher_is_better, table.y[rows], table.folds.number[rows], folds), rows


def assemble(
    board: Board,
    evaluator: TableEvaluator,
    inherited: Sequence[Inherited],
    limits: Limits,
    *,
    members: int,
    validation: Validation,
    seed: int,
    until: float = float("inf"),
) -> tuple[Recipe, list[Fitted], Selection]:
    """Choose the ensemble and merge its members.

    Raises:
        IntegrityError: No pipeline could be fitted.
    """
    top = len(evaluator.rungs) - 1
    complete = [entry.job.configuration for entry in board.done(top)]
    folds = evaluator.rungs[top].folds
    if not complete:  # the time ended before any pipeline was judged on all folds
        complete = [entry.job.configuration for entry in board.done(top - 1)][:1] if top else []
        folds, inherited = 1, []
    fits = {c.identity: [evaluator.kept(c, fold) for fold in range(folds)] for c in complete}
    whole = {name: [fit for fit in found if fit is not None] for name, found in fits.items()}
    known = {c.identity: c for c in complete if len(whole[c.identity]) == folds}
    if not known and not inherited:
        raise IntegrityError("no pipeline was judged before the time ended", do="raise automl.budget_s, or set automl.max_rows")
    judge, rows = judge_of(evaluator, folds)
    candidates = [_candidate(c, whole[name]) for name, c in known.items()]
    candidates += [_old_candidate(entry, rows) for entry in inherited]
    selection = select(candidates, judge, limits, members=members, until=until)
    old = {entry.name: entry for entry in inherited}
    fitted, pipelines = [], []
    for number, (name, weight) in enumerate(selection.weights.items()):
        if name in old:
            pipeline = old[name].pipeline.model_copy(update={"weight": weight})
            suffix = Path(old[name].member.file).suffix
            member = old[name].member.model_copy(update={"weight": weight, "file": f"member-{number}{suffix}"})
            fitted.append(Fitted(member, old[name].weights, []))
        else:
            c = known[name]
            pipeline = Pipeline(learner=c.learner, features=dict(c.features), params=dict(c.params), weight=weight)
            if validation.kind == "time":
                pipeline = _at_length(pipeline, whole[name][-1].rounds)
                fitted.append(fit_member(evaluator.data, pipeline, EVERYTHING, seed=seed, number=number))
            else:
                fitted.append(merge(pipeline, evaluator.table(c).preprocessing, [_trained(fit) for fit in whole[name]], number=number))
        pipelines.append(pipeline)
    recipe = Recipe(
        task="tabular",
        members=tuple(pipelines),
        validation=EVERYTHING if validation.kind == "time" else validation,
        score=selection.value,
        metric=evaluator.task.metric,
        seed=seed,
    )
    return recipe, fitted, selection


def _at_length(pipeline: Pipeline, rounds: int | None) -> Pipeline:
    """Fix the rounds or epochs to those that were best on the latest rows: on all rows there is nothing to stop by."""
    name = next((key for key in ("rounds", "epochs") if key in pipeline.params), None)
    if name is None or rounds is None:
        return pipeline
    return pipeline.model_copy(update={"params": {**pipeline.params, name: max(rounds, 1)}})


def _candidate(c: Configuration, fits: Sequence[FoldFit]) -> Candidate:
    return Candidate(c.identity, c.learner, np.concatenate([fit.answers for fit in fits]), megabytes(fits), microseconds(fits))


def _old_candidate(entry: Inherited, rows: NDArray[np.intp]) -> Candidate:
    fit = [FoldFit(entry.answers, entry.member.runtime, entry.weights, None)]
    return Candidate(entry.name, entry.pipeline.learner, entry.answers[rows], megabytes(fit), microseconds(fit))


def _trained(fit: FoldFit) -> Trained:
    """A merge needs the bytes alone; the model in memory is gone with its worker."""
    runtime: Runtime = "onnx" if fit.runtime == "onnx" else "lightgbm"
    return Trained(runtime, fit.weights, _gone, fit.rounds)


def _gone(_: object) -> NDArray[np.float64]:
    raise NotImplementedError("the model is kept as bytes")


def _from(pipeline: Pipeline, model: str) -> Pipeline:
    return pipeline.model_copy(update={"inherited": pipeline.inherited or model})
