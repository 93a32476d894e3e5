"""Genesis on one data set, from rows to a chosen pipeline or a chosen, fitted ensemble.

1. Known pipelines come first: the user's own, the serving model's members, winners of similar tasks, a static portfolio.
2. Workers judge them rung by rung; then a sampler proposes, in a space that the history may have narrowed.
3. The end is a greedy selection among everything that was judged on every fold, yesterday's members included.
"""

from __future__ import annotations

import gc
import logging
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna

from components.automl.genesis.board import Board, Settled, read_board
from components.automl.genesis.configuration import Configuration, PastStudy, PastTrial
from components.automl.genesis.cost import Costs
from components.automl.genesis.ensemble import Limits, Selection
from components.automl.genesis.evaluators.lines import HOLDOUT, LineEvaluator
from components.automl.genesis.evaluators.table import TableEvaluator
from components.automl.genesis.finish import assemble, judge_of
from components.automl.genesis.inheritance import Inherited, inherit
from components.automl.genesis.metafeatures import metafeatures
from components.automl.genesis.progress import watching
from components.automl.genesis.schedule import Ladder
from components.automl.genesis.space import completed
from components.automl.genesis.storage import Workplace, open_study
from components.automl.genesis.strategy import Strategy, plan
from components.automl.genesis.worker import Budget, Search, work
from components.automl.spec import Params
from components.core.errors import IntegrityError
from components.core.params import Tabular, Task
from components.model import read_spec
from components.train.data import Data, check_enough, check_pooled
from components.train.features import folds_of
from components.train.fitting import Fitted
from components.train.learners import learners_for
from components.train.recipe import Pipeline, Recipe
from components.train.validation import Validation

__all__ = ["Champion", "Solved", "cores", "solve", "study_of", "usual_validation"]

logger = logging.getLogger(__name__)
_RESERVED_S, _RESERVED_SHARE = 0.4, 0.04
"""Left at the end of the time for choosing, merging and writing."""
_SMALL, _LARGE = 2_000, 10_000
_VARIETY = 1.25
"""How far another learner's best may be behind and still be judged on all folds: see `Ladder`."""


@dataclass(frozen=True)
class Champion:
    """The model that serves now."""

    folder: Path
    ref: str


@dataclass(frozen=True)
class Solved:
    """What a search came to.

    Attributes:
        fitted: The members, ready to be written as a model; empty for lines of text, which `train` fits at full length.
        selection: How the ensemble was chosen; None for lines of text.
        board: Every job.
        meta: Meta-features of the data.
        notes: Sentences for the report: what was transferred, what was dropped and why.
        champion: What the model that serves now scores on today's rows; None: it can't be judged on them without leak.
    """

    recipe: Recipe
    fitted: list[Fitted]
    selection: Selection | None
    board: Board
    rungs: int
    meta: Mapping[str, float]
    notes: tuple[str, ...] = ()
    champion: float | None = None


def solve(
    data: Data,
    params: Params,
    *,
    folder: Path,
    started: float,
    history: Sequence[PastStudy] = (),
    champion: Champion | None = None,
) -> Solved:
    """Search.

    Args:
        data: Train and validation rows; a table's folds are drawn from both.
        params: The scenario's section.
        folder: Of this search alone: a killed one goes on from what is in it, several processes may share it.
        started: `time.monotonic()` when the budget began to run.
        history: Earlier searches.
        champion: Its members are candidates too.

    Raises:
        DataError: There is too little to learn from.
        IntegrityError: No pipeline could be judged.
    """
    table = isinstance(data.task, Tabular)
    (check_pooled if table else check_enough)(data)
    validation = (params.validation or usual_validation(data)) if table else HOLDOUT
    evaluator = (
        TableEvaluator(data, validation, seed=params.seed, folder=folder / "fits") if table else LineEvaluator(data, seed=params.seed)
    )
    inherited = _inherit(champion, data, validation) if champion and params.transfer and table else []
    meta = metafeatures(data)
    found = [entry.name for entry in learners_for(data.task, params.learners)]
    strategy = plan(data.task, params, found, _serving(champion, found), history, meta, len(evaluator.rungs))
    board = _search(data, params, evaluator, strategy, folder, started, history)
    notes = (*strategy.notes, *strategy.verdict(board))
    if isinstance(evaluator, LineEvaluator):
        return Solved(_best(board, data.task, params.seed), [], None, board, len(evaluator.rungs), meta, notes)
    recipe, fitted, selection = assemble(
        board,
        evaluator,
        inherited,
        Limits(params.max_size_mb, params.max_us_per_row),
        members=params.members,
        validation=validation,
        seed=params.seed,
        until=started + params.budget_s - _RESERVED_S if params.trials is None else float("inf"),
    )
    return Solved(recipe, fitted, selection, board, len(evaluator.rungs), meta, notes, _alone(inherited, evaluator))


def _search(
    data: Data,
    params: Params,
    evaluator: TableEvaluator | LineEvaluator,
    strategy: Strategy,
    folder: Path,
    started: float,
    history: Sequence[PastStudy],
) -> Board:
    task = data.task
    timed_table = isinstance(evaluator, TableEvaluator) and params.trials is None
    search = Search(
        evaluator=evaluator,
        space=strategy.space,
        ladder=Ladder(len(evaluator.rungs), variety=_VARIETY if isinstance(evaluator, TableEvaluator) else None),
        known=strategy.known,
        propose=strategy.propose,
        costs=Costs(evaluator.new_rows, len(data.train) + len(data.validation), history, params.max_memory_mb),
        budget=Budget(params.trials, params.budget_s, 1.0 if task.higher_is_better else 0.0),
        reserve_s=_RESERVED_S + _RESERVED_SHARE * params.budget_s if timed_table else 0.0,
    )
    journal = folder / "study.journal"

    def open_() -> optuna.Study:
        return open_study(journal, maximize=task.higher_is_better)

    began = started - read_board(open_()).clock
    count = _workers(params)
    with watching(open_, search.budget, began=began, metric=task.metric, rungs=len(evaluator.rungs), workers=count):
        run_workers(open_, search, Workplace(folder), began, count)
    return read_board(open_())


def study_of(solved: Solved, params: Params, rows: int) -> PastStudy:
    """Return the search as later ones will know it: every pipeline at the highest rung it reached, failed ones without a score."""
    task, weights = params.task, solved.selection.weights if solved.selection else {}
    last: dict[str, Settled] = {}
    spent: dict[str, float] = {}
    for entry in solved.board.settled:
        name = entry.job.configuration.identity
        spent[name] = spent.get(name, 0.0) + entry.seconds
        if name not in last or entry.value is not None:
            last[name] = entry
    trials = [
        PastTrial(e.job.configuration, e.value, e.job.rung, spent[name], e.memory_mb, weights.get(name, 0.0)) for name, e in last.items()
    ]
    problem = task.problem if isinstance(task, Tabular) else task.kind
    return PastStudy(params.scenario, problem, task.metric, task.higher_is_better, rows, solved.meta, solved.rungs, tuple(trials))


def usual_validation(data: Data) -> Validation:
    """Five folds; eight for small tables, where every row counts, and for large ones, whose first folds are enough to judge by."""
    rows = len(data.train) + len(data.validation)
    return Validation(folds=5 if _SMALL <= rows < _LARGE else 8)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_workers(open_: Callable[[], optuna.Study], search: Search, place: Workplace, began: float, count: int) -> None:
    """Work in this process and count - 1 forks of it; they share what is in memory, and end with it."""
    forks = [
        multiprocessing.get_context("fork").Process(target=_fork, args=(open_, search, place, began, os.getpid()), daemon=True)
        for _ in range(count - 1)
    ]
    gc.collect()
    gc.freeze()  # a collection would write to, and so copy, every page that the forks share
    for fork in forks:
        fork.start()
    try:
        work(open_(), search, place, began=began)
    finally:
        grace = max(began + search.budget.seconds - time.monotonic(), 0.5)
        gc.unfreeze()
        for fork in forks:
            fork.join(timeout=grace if search.budget.trials is None else None)
            if fork.is_alive():
                fork.kill()


def _fork(open_: Callable[[], optuna.Study], search: Search, place: Workplace, began: float, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    _end_with(parent)
    work(open_(), search, place, began=began)


def _end_with(parent: int) -> None:
    """Let the kernel end this process with its parent (Linux); elsewhere it ends after its job, when the budget does."""
    try:
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    except (OSError, AttributeError) as error:
        logger.debug("no parent-death signal here: %s", error)
    if os.getppid() != parent:
        os._exit(1)


def _workers(params: Params) -> int:
    return params.workers or (cores() if params.trials is None else 1)


def _serving(champion: Champion | None, learners: Sequence[str]) -> list[Configuration]:
    """Return the pipelines of the model that serves now, as far as their learners may still be used."""
    if champion is None:
        return []
    try:
        members = Recipe.model_validate(read_spec(champion.folder).recipe).members
        return [completed(m.learner, m.features, m.params, "champion") for m in members if m.learner in learners]
    except ValueError as error:
        logger.info("the serving model's recipe is not one of today's: %s", error)
        return []


def _inherit(champion: Champion, data: Data, validation: Validation) -> list[Inherited]:
    folds = folds_of(data, data.pooled(), validation)
    return inherit(champion.folder, data, validation, folds, champion.ref)


def _alone(inherited: Sequence[Inherited], evaluator: TableEvaluator) -> float | None:
    if not inherited:
        return None
    judge, rows = judge_of(evaluator, len(inherited[0].member.folds))
    mean = sum(entry.pipeline.weight * entry.answers[rows] for entry in inherited)
    loss = judge.loss(np.asarray(mean, dtype=np.float32))
    return None if math.isinf(loss) else -loss if judge.maximize else loss


def _best(board: Board, task: Task, seed: int) -> Recipe:
    """Return the pipeline that is best at the highest rung that any reached."""
    reached = max((entry.job.rung for entry in board.settled if entry.value is not None), default=None)
    if reached is None:
        raise IntegrityError("no pipeline was judged before the time ended", do="raise automl.budget_s")
    best = board.done(reached)[0]
    c = best.job.configuration
    member = Pipeline(learner=c.learner, features=dict(c.features), params=dict(c.params))
    return Recipe(task=task.kind, members=(member,), validation=HOLDOUT, score=best.value, metric=task.metric, seed=seed)
