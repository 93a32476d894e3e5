"""The model that serves now, judged on today's rows: its members are candidates of today's ensemble.

A fold's model never saw the rows of its fold, nor any that joined it since, so what it says about them is an honest judgement and
costs no training.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.automl.genesis.configuration import Configuration
from components.core.params import Tabular
from components.model import Predictor, load
from components.model.format import Member
from components.train.data import Data
from components.train.fitting import taken
from components.train.folds import Folds
from components.train.recipe import Pipeline, Recipe
from components.train.validation import Validation

__all__ = ["Inherited", "inherit"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inherited:
    """A member of the model that serves now, judged on today's rows.

    Attributes:
        pipeline: As it was written down.
        member: Of its `model.json`.
        weights: Its file's bytes.
        answers: (N, K) what it says about each row, as far as the row is in a fold that it has a model of.
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
    same_folds = len(members) == len(recipe.members) and all(len(m.folds) == (recipe.models or validation.folds) for m in members)
    if not isinstance(task, Tabular) or not alike or not same_folds:
        logger.info("the champion's members can't be judged on today's folds")
        return []
    rows = data.pooled().columns
    own = np.zeros((len(members), len(folds.number), max(len(task.classes), 1)), dtype=np.float32)
    for fold in range(len(members[0].folds)):
        judged = folds.judged(fold)
        if len(judged):
            own[:, judged] = predictor.fold(taken(rows, judged), fold)
    return [
        Inherited(_from(pipeline, model_ref), member, (champion / member.file).read_bytes(), said)
        for pipeline, member, said in zip(recipe.members, members, own, strict=True)
    ]


def _from(pipeline: Pipeline, model: str) -> Pipeline:
    return pipeline.model_copy(update={"inherited": pipeline.inherited or model})
