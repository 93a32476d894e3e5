"""The end of a search on a table: candidates, the chosen ensemble, its merged members.

Candidates are the pipelines that were judged on every fold, and the members of the model that serves now, alone and as they
are mixed today: their fold models never saw the rows of their folds, so what they say about today's rows is an honest judgement, and
costs no training.
"""

from __future__ import annotations

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
from components.automl.genesis.inheritance import Inherited
from components.core.errors import IntegrityError
from components.model.format import Runtime
from components.train.fitting import Fitted, fit_member, merge
from components.train.learners import Trained
from components.train.recipe import Pipeline, Recipe
from components.train.validation import Validation

__all__ = ["assemble", "judge_of"]

_ENOUGH = 4
_RAREST = 60
"""Rows that must judge a choice on few folds; for the AUC, rows of the rarer class."""
_AVERAGED = 0.02
"""What averaging over many models is worth, as a share of the error of one."""
EVERYTHING = Validation(kind="none", folds=1)
"""After a validation by time the members are fitted once more, on all rows: the latest ones tell most."""


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

    Among pipelines that were judged on all folds; or, where the time was short for that, among those judged on the first ones: the
    better choice wins, and being averaged over more folds counts for something that no judgement of single folds can show.

    Raises:
        IntegrityError: No pipeline could be fitted.
    """
    best: _Choice | None = None
    for rung in range(len(evaluator.rungs) - 1, -1, -1):
        if evaluator.rungs[rung].limit is None and (best is None or not best.is_enough):
            other = _choice(board, evaluator, inherited, limits, rung, members, until)
            if other is not None and (best is None or other.beats(best)):
                best = other
    if best is None:
        raise IntegrityError("no pipeline was judged before the time ended", do="raise automl.budget_s, or set automl.max_rows")
    pipelines, fitted = best.fitted(evaluator, validation, seed)
    by_time = validation.kind == "time"
    recipe = Recipe(
        task=evaluator.task.kind,
        members=tuple(pipelines),
        validation=EVERYTHING if by_time else validation,
        models=best.folds if best.folds < validation.folds and not by_time else None,
        score=best.selection.value,
        metric=evaluator.task.metric,
        seed=seed,
    )
    return recipe, fitted, best.selection


@dataclass(frozen=True)
class _Choice:
    """An ensemble of pipelines that were all judged on the same folds.

    Attributes:
        allowed: How many of them are within the limits alone: fitted on fewer folds they are smaller, and more of them may be.
    """

    folds: int
    judge: Judge
    known: dict[str, tuple[Configuration, list[FoldFit]]]
    old: dict[str, Inherited]
    answers: NDArray[np.float32]
    selection: Selection
    allowed: int

    @property
    def is_enough(self) -> bool:
        """Whether there was so much to choose from that choosing among more on fewer folds is not worth its noise."""
        return self.allowed >= _ENOUGH

    def beats(self, other: _Choice) -> bool:
        """Whether this choice, on fewer folds, is better than one on more by more than averaging and noise can explain."""
        rarest = int(np.unique(self.judge.y, return_counts=True)[1].min()) if self.judge.metric == "auc" else len(self.judge.y)
        worth = _AVERAGED * (1 / self.folds - 1 / other.folds)
        return rarest >= _RAREST and self.error(self.folds) < (1 - worth) * other.error(self.folds)

    def error(self, folds: int) -> float:
        """Return the error on the first `folds` folds, so that choices on more and on fewer can be compared."""
        rows = self.judge.fold < folds
        loss = Judge(self.judge.metric, self.judge.maximize, self.judge.y[rows], self.judge.fold[rows], folds).loss(self.answers[rows])
        return 1.0 + loss if self.judge.maximize else loss

    def fitted(self, evaluator: TableEvaluator, validation: Validation, seed: int) -> tuple[list[Pipeline], list[Fitted]]:
        """Return the members, as they are written down and as they are executed."""
        pipelines, fitted = [], []
        for number, (name, weight) in enumerate(self.selection.weights.items()):
            if name in self.old:
                pipeline = self.old[name].pipeline.model_copy(update={"weight": weight})
                suffix = Path(self.old[name].member.file).suffix
                member = self.old[name].member.model_copy(update={"weight": weight, "file": f"member-{number}{suffix}"})
                fitted.append(Fitted(member, self.old[name].weights, []))
            else:
                c, fits = self.known[name]
                pipeline = Pipeline(learner=c.learner, features=dict(c.features), params=dict(c.params), weight=weight)
                if validation.kind == "time":
                    pipeline = _at_length(pipeline, fits[-1].rounds)
                    fitted.append(fit_member(evaluator.data, pipeline, EVERYTHING, seed=seed, number=number))
                else:
                    fitted.append(merge(pipeline, evaluator.table(c).preprocessing, [_trained(fit) for fit in fits], number=number))
            pipelines.append(pipeline)
        return pipelines, fitted


def _choice(
    board: Board, evaluator: TableEvaluator, inherited: Sequence[Inherited], limits: Limits, rung: int, members: int, until: float
) -> _Choice | None:
    """Return the best ensemble of what was judged at a rung or above it; None: there is nothing."""
    folds = evaluator.rungs[rung].folds
    reached = {
        entry.job.configuration.identity: entry.job.configuration
        for above in range(rung, len(evaluator.rungs))
        for entry in board.done(above)
    }
    kept = {name: [evaluator.kept(c, fold) for fold in range(folds)] for name, c in reached.items()}
    fits = {name: [fit for fit in found if fit is not None] for name, found in kept.items()}
    known = {name: (c, fits[name]) for name, c in reached.items() if len(fits[name]) == folds}
    old = {entry.name: entry for entry in inherited if len(entry.member.folds) == folds}
    if not known and not old:
        return None
    judge, rows = judge_of(evaluator, folds)
    candidates = [_candidate(c, some, evaluator.models[rung]) for c, some in known.values()]
    candidates += [_old_candidate(entry, rows) for entry in old.values()]
    champion = {entry.name: entry.pipeline.weight for entry in old.values()}
    selection = select(candidates, judge, limits, members=members, until=until, start=champion)
    by_name = {candidate.name: candidate.answers for candidate in candidates}
    mean = sum(weight * by_name[name].astype(np.float64) for name, weight in selection.weights.items())
    allowed = sum(limits.allow([candidate]) for candidate in candidates)
    return _Choice(folds, judge, known, old, np.asarray(mean, dtype=np.float32), selection, allowed)


def _at_length(pipeline: Pipeline, rounds: int | None) -> Pipeline:
    """Fix the rounds or epochs to those that were best on the latest rows: on all rows there is nothing to stop by."""
    name = next((key for key in ("rounds", "epochs") if key in pipeline.params), None)
    if name is None or rounds is None:
        return pipeline
    return pipeline.model_copy(update={"params": {**pipeline.params, name: max(rounds, 1)}})


def _candidate(c: Configuration, fits: Sequence[FoldFit], models: int) -> Candidate:
    deployed = fits[-models:]  # the last one of a validation by time learned from most rows, as the deployed one will
    return Candidate(c.identity, c.learner, np.concatenate([fit.answers for fit in fits]), megabytes(deployed), microseconds(deployed))


def _old_candidate(entry: Inherited, rows: NDArray[np.intp]) -> Candidate:
    fit = [FoldFit(entry.answers, entry.member.runtime, entry.weights, None)]
    return Candidate(entry.name, entry.pipeline.learner, entry.answers[rows], megabytes(fit), microseconds(fit))


def _trained(fit: FoldFit) -> Trained:
    """A merge needs the bytes alone; the model in memory is gone with its worker."""
    runtime: Runtime = "onnx" if fit.runtime == "onnx" else "lightgbm"
    return Trained(runtime, fit.weights, _gone, fit.rounds)


def _gone(_: object) -> NDArray[np.float64]:
    raise IntegrityError("a fit of the search is kept as bytes only", do="load the merged member")
