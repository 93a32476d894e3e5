"""From a recipe to a model: every member is fitted once a fold, and a member's fold models are merged into one file.

Shapes: N rows, D matrix columns, F folds, K outputs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from components.core.errors import ConfigError, DataError, IntegrityError
from components.core.params import Tabular, Task
from components.model.answer import Answer
from components.model.format import SUFFIX, Member, spec_of
from components.model.plan import Columns, Plan, transform
from components.model.predictor import Predictor
from components.model.predictor import predictor_of as joined
from components.model.runtime import load_weights
from components.train.data import Data, check_enough, check_pooled
from components.train.features import folds_of
from components.train.learners import Learner, Progress, Trained, learner, never
from components.train.learners.base import Inheriting, Together, Weights, options
from components.train.merging import iterations_of, merge_lightgbm, merge_onnx
from components.train.parallel.section import Parallel
from components.train.recipe import FITS, Pipeline, Recipe
from components.train.reproducible import reproducible
from components.train.validation import Validation

__all__ = ["Fitted", "Processes", "Unseen", "fit", "fit_member", "merge", "predictor_of", "read_fits", "taken", "unseen", "write_fits"]

_CHECKED = 256
_LARGEST_DIFFERENCE = 1e-3


@dataclass(frozen=True)
class Fitted:
    """A member, fitted.

    Attributes:
        member: What `model.json` says of it.
        weights: The file's bytes.
        log: What happened, fold by fold; empty when it comes from a search.
    """

    member: Member
    weights: bytes
    log: list[dict[str, Any]]


@dataclass(frozen=True)
class Unseen:
    """Answers to rows by models that did not learn from them.

    Attributes:
        labels: (N,) the truth.
        answers: (N,) the ensemble's answers.
    """

    labels: list[Any]
    answers: list[Answer]


@dataclass(frozen=True)
class Processes:
    """Several processes that train a member together.

    Attributes:
        parallel: How many, and what they share.
        folder: Of this training alone: one that was killed goes on from what is in it.
    """

    parallel: Parallel
    folder: Path


def fit(
    data: Data,
    recipe: Recipe,
    *,
    seed: int,
    starts: Mapping[int, Weights] | None = None,
    progress: Progress = never,
    processes: Processes | None = None,
) -> list[Fitted]:
    """Execute a recipe, on one thread or by several processes; equal arguments give equal bytes.

    Args:
        data: Rows to fit on and to judge by.
        recipe: Its members are fitted on the folds that its validation makes.
        seed: Of everything random; every fold's fit gets the same.
        starts: Member's number -> weights that its training begins with.
        progress: May end each training early; not asked when several processes train.
        processes: Train by several processes; None: by this one.

    Raises:
        ConfigError: The recipe names an unknown learner or option, or one that several processes can't train.
        DataError: There is too little to learn from.
        TryAgain: One of several processes was killed: the same call goes on.
    """
    for pipeline in recipe.members:
        chosen = _learner_of(pipeline, data.task)
        if processes and not isinstance(chosen, Together):
            raise ConfigError(
                f"learner '{pipeline.learner}' can't be trained by several processes",
                do="remove train.parallel, or let automl.learners be [arcface]",
            )
    (check_enough if recipe.validation.kind == "holdout" else check_pooled)(data)
    with reproducible():
        return [
            fit_member(
                data,
                pipeline,
                recipe.validation,
                models=recipe.models,
                seed=seed,
                number=number,
                start=(starts or {}).get(number),
                progress=progress,
                processes=processes,
            )
            for number, pipeline in enumerate(recipe.members)
        ]


def fit_member(
    data: Data,
    pipeline: Pipeline,
    validation: Validation,
    *,
    models: int | None = None,
    seed: int,
    number: int = 0,
    start: Weights | None = None,
    progress: Progress = never,
    processes: Processes | None = None,
) -> Fitted:
    """Fit one member on every fold, or on the first `models` ones, and merge; the rest as in `fit`, `number` names its file."""
    chosen = _learner_of(pipeline, data.task)
    features = options(chosen.features, pipeline.features, f"features of {pipeline.learner}")
    params = options(chosen.params, pipeline.params, f"params of {pipeline.learner}")
    prepared = chosen.prepare(data, features, validation)

    def fitted_on(fold: int) -> Trained:
        part = prepared.part(fold)
        if start is not None and isinstance(chosen, Inheriting):
            return chosen.fit_from(part, params, start=start, seed=seed, progress=progress)
        if processes is None or not isinstance(chosen, Together):
            return chosen.fit(part, params, seed=seed, progress=progress)
        folder = processes.folder / f"member-{number}-fold-{fold}"
        return chosen.fit_together(part, params, seed=seed, parallel=processes.parallel, folder=folder)

    trained = [fitted_on(fold) for fold in range(models or validation.folds)]
    fitted = merge(pipeline, prepared.preprocessing, trained, number=number)
    if isinstance(data.task, Tabular):
        _check_same(fitted, trained, data)
    return fitted


def _learner_of(pipeline: Pipeline, task: Task) -> Learner:
    chosen = learner(pipeline.learner)
    if not chosen.fits(task):
        raise DataError(f"learner '{pipeline.learner}' can't learn a {task.kind} task", do="run automl for this scenario")
    return chosen


def merge(pipeline: Pipeline, preprocessing: Mapping[str, Any], trained: Sequence[Trained], *, number: int) -> Fitted:
    """Merge the models of a pipeline's folds into one member.

    Args:
        pipeline: What was fitted.
        preprocessing: Its plan, or another learner's JSON, which allows one fold only.
        trained: One model a fold, in order; only their bytes are used.
        number: Names the member's file.

    Raises:
        IntegrityError: The models can't be merged.
    """
    runtimes = sorted({entry.runtime for entry in trained})
    if len(runtimes) != 1:
        raise IntegrityError(f"the folds' models need {' and '.join(runtimes) or 'nothing'}", do="report this: the model is not saved")
    runtime, contents = trained[0].runtime, [entry.weights for entry in trained]
    folds: tuple[int, ...] = (1,) * len(trained)
    if "columns" not in preprocessing:
        if len(trained) > 1:
            raise IntegrityError(f"{pipeline.learner} has {len(trained)} folds and no plan of columns", do="validate it by a holdout")
        weights, folds = contents[0], folds if runtime == "onnx" else (iterations_of(contents[0]),)
    else:
        plan = Plan.model_validate(preprocessing)
        columns = [plan.columns_of(fold) for fold in range(len(trained))]
        if runtime == "lightgbm":
            weights, folds = merge_lightgbm(contents, columns, plan.width)
        else:
            weights = merge_onnx(contents, columns, plan.width)
    member = Member(
        learner=pipeline.learner,
        runtime=runtime,
        file=f"member-{number}.{SUFFIX[runtime]}",
        weight=pipeline.weight,
        folds=folds,
        preprocessing=dict(preprocessing),
    )
    log = [{"member": number, "fold": fold, "rounds": entry.rounds, "log": entry.log} for fold, entry in enumerate(trained)]
    return Fitted(member, weights, log)


def _check_same(fitted: Fitted, trained: Sequence[Trained], data: Data) -> None:
    """Check that each fold's model in the merged file answers what the model in memory does.

    Raises:
        IntegrityError: An answer differs by more than rounding.
    """
    rows = data.pooled().columns
    plan = Plan.model_validate(fitted.member.preprocessing)
    x = transform(plan, {name: values[:_CHECKED] for name, values in rows.items()})
    weights = load_weights(fitted.member.runtime, fitted.weights, fitted.member.folds)
    for fold, entry in enumerate(trained):
        ours, theirs = entry.scores(x[:, list(plan.columns_of(fold))]), weights.folds(x, [fold])[0]
        difference = float(np.abs(ours.reshape(theirs.shape) - theirs).max())
        if not difference <= _LARGEST_DIFFERENCE * max(1.0, float(np.abs(ours).max())):
            raise IntegrityError(
                f"fold {fold} of the exported {fitted.member.learner} model differs by {difference} from the one in memory",
                do="report this: the model is not kept",
            )


def predictor_of(task: Task, fitted: Sequence[Fitted]) -> Predictor:
    """Return a predictor over members that are in memory.

    Raises:
        DataError: See `components.model.save`.
        IntegrityError: A member's bytes are damaged.
    """
    contents = {entry.member.file: entry.weights for entry in fitted}
    return joined(spec_of(task, [(entry.member, entry.weights) for entry in fitted], {}, ""), lambda member: contents[member.file])


def unseen(predictor: Predictor, data: Data, validation: Validation) -> Unseen:
    """Answer every row that the folds judge by the models of its fold, which did not learn from it.

    Args:
        predictor: Its members have the folds of `validation`; where they have fewer, only those folds' rows are answered.
        data: What it learned from.
        validation: The recipe's.
    """
    if not isinstance(data.task, Tabular):
        return Unseen(list(data.validation.labels), predictor.predict(data.validation.mappings()))
    rows = data.pooled()
    folds, members = folds_of(data, rows, validation), predictor.spec.members
    weights = np.array([member.weight for member in members])
    labels: list[Any] = []
    answers: list[Answer] = []
    for fold in range(len(members[0].folds)):
        judged = folds.judged(fold)
        if len(judged):
            said = predictor.fold(taken(rows.columns, judged), fold)
            answers += predictor.answers_of(np.tensordot(weights, said, axes=1))
            labels += [rows.labels[row] for row in judged.tolist()]
    return Unseen(labels, answers)


def taken(columns: Columns, rows: np.ndarray[Any, np.dtype[np.intp]]) -> Columns:
    """Return the columns at some rows."""
    chosen = rows.tolist()
    return {name: values[rows] if isinstance(values, np.ndarray) else [values[row] for row in chosen] for name, values in columns.items()}


def write_fits(folder: Path, fitted: Sequence[Fitted]) -> None:
    """Write members into `fits/` of a Recipe artifact's folder, for train to assemble; equal members give equal bytes."""
    into = folder / FITS
    into.mkdir()
    for number, entry in enumerate(fitted):
        text = json.dumps(entry.member.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=False)
        (into / f"{number}.json").write_text(text + "\n", encoding="utf-8")
        (into / entry.member.file).write_bytes(entry.weights)


def read_fits(folder: Path, recipe: Recipe) -> list[Fitted]:
    """Read what `write_fits` wrote.

    Args:
        folder: Of the Recipe artifact.
        recipe: What it says; the members must be its members.

    Raises:
        IntegrityError: A file is missing or damaged, or the members are not the recipe's.
    """
    found = []
    for number, pipeline in enumerate(recipe.members):
        path = folder / FITS / f"{number}.json"
        try:
            member = Member.model_validate_json(path.read_bytes())
            weights = (path.parent / member.file).read_bytes()
        except (OSError, ValidationError) as error:
            raise IntegrityError(f"the fitted member {number} can't be read: {error}", do="run automl again, or set train.refit") from error
        if (member.learner, member.weight) != (pipeline.learner, pipeline.weight):
            raise IntegrityError(f"the fitted member {number} is not the recipe's", do="run automl again, or set train.refit")
        found.append(Fitted(member, weights, []))
    return found
