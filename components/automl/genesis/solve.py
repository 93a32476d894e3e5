"""Genesis on one data set, from rows to a chosen pipeline or a chosen, fitted ensemble.

1. Known pipelines come first: the user's own, the serving model's members, winners of similar tasks, a static portfolio.
2. Workers judge them rung by rung; then a sampler proposes, in a space that the history may have narrowed.
3. The end is a greedy selection among everything that was judged on every fold, yesterday's members included.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
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
from components.automl.genesis.processes import cores, run_workers
from components.automl.genesis.progress import watching
from components.automl.genesis.schedule import Ladder
from components.automl.genesis.space import completed, long_tailed, network_of
from components.automl.genesis.storage import Workplace, open_study
from components.automl.genesis.strategy import Strategy, plan
from components.automl.genesis.worker import Budget, Search
from components.automl.spec import Params
from components.core.errors import IntegrityError
from components.core.params import Tabular, Task
from components.model import read_spec
from components.train.data import Data, check_enough, check_pooled
from components.train.features import folds_of
from components.train.fitting import Fitted
from components.train.learners import learners_for
from components.train.learners.base import Weights
from components.train.recipe import Pipeline, Recipe
from components.train.validation import Validation

__all__ = ["Champion", "Offered", "Setting", "Solved", "assist", "solve", "study_of", "usual_validation"]

logger = logging.getLogger(__name__)
_RESERVED_S, _RESERVED_SHARE = 0.4, 0.04
"""Left at the end of the time for choosing, merging and writing."""
_SMALL, _LARGE = 2_000, 10_000
_START = "start-0.npz"
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
        starts: File of the Recipe artifact -> weights that a member's training begins with.
    """

    recipe: Recipe
    fitted: list[Fitted]
    selection: Selection | None
    board: Board
    rungs: int
    meta: Mapping[str, float]
    notes: tuple[str, ...] = ()
    champion: float | None = None
    starts: Mapping[str, Weights] = field(default_factory=dict)


@dataclass(frozen=True)
class Offered:
    """A pipeline that another search hands in; it is judged like any other, and so are other trainings of its network.

    Attributes:
        start: Weights that these begin with; None: from nothing.
    """

    configuration: Configuration
    start: Weights | None = None

    def trains(self, other: Configuration) -> bool:
        """Whether the other pipeline trains the same network."""
        return other.learner == self.configuration.learner and network_of(other) == network_of(self.configuration)


@dataclass(frozen=True)
class Setting:
    """What a search is given.

    Attributes:
        data: Train and validation rows; a table's folds are drawn from both.
        params: The scenario's section.
        folder: Of this search alone: a killed one goes on from what is in it, several processes may share it.
        started: `time.monotonic()` when the budget began to run.
        history: Earlier searches.
        champion: Its members are candidates too.
        offered: So are these, for lines of text.

    Raises:
        DataError: There is too little to learn from.
    """

    data: Data
    params: Params
    folder: Path
    started: float
    history: Sequence[PastStudy] = ()
    champion: Champion | None = None
    offered: Sequence[Offered] = ()

    def __post_init__(self) -> None:
        (check_pooled if isinstance(self.data.task, Tabular) else check_enough)(self.data)

    @cached_property
    def validation(self) -> Validation:
        """Who judges whom."""
        return (self.params.validation or usual_validation(self.data)) if isinstance(self.data.task, Tabular) else HOLDOUT

    @cached_property
    def evaluator(self) -> TableEvaluator | LineEvaluator:
        """Judges pipelines."""
        if isinstance(self.data.task, Tabular):
            return TableEvaluator(self.data, self.validation, seed=self.params.seed, folder=self.folder / "fits", limits=self.limits)
        return LineEvaluator(self.data, seed=self.params.seed, start_of=self.start_of)

    @property
    def limits(self) -> Limits:
        """Of the model that is deployed."""
        return Limits(self.params.max_size_mb, self.params.max_us_per_row)

    def start_of(self, configuration: Configuration) -> Weights | None:
        """Return the weights that a pipeline's training begins with; None: from nothing."""
        return next((entry.start for entry in self.offered if entry.trains(configuration)), None)

    @cached_property
    def meta(self) -> Mapping[str, float]:
        """Meta-features of the data."""
        return metafeatures(self.data)

    @cached_property
    def strategy(self) -> Strategy:
        """What is tried first and who proposes."""
        found = [entry.name for entry in learners_for(self.data.task, self.params.learners)]
        serving = _serving(self.champion, found)
        offered = [entry.configuration for entry in self.offered]
        meta = self.meta if self.history else {}  # they are compared with the past's; without one, nobody waits for them
        tail = long_tailed(self.data.task, [*self.data.train.labels, *self.data.validation.labels])
        return plan(self.data.task, self.params, found, offered, serving, self.history, meta, len(self.evaluator.rungs), tail=tail)


def solve(given: Setting) -> Solved:
    """Search, choose, merge.

    Raises:
        IntegrityError: No pipeline could be judged.
    """
    data, params, evaluator = given.data, given.params, given.evaluator
    inherited = _inherit(given)
    board = _searched(given, meanwhile=lambda: given.meta)
    notes = (*given.strategy.notes, *given.strategy.verdict(board))
    if isinstance(evaluator, LineEvaluator):
        recipe, starts = _best(board, data.task, params.seed, given.start_of)
        return Solved(recipe, [], None, board, len(evaluator.rungs), given.meta, notes, starts=starts)
    recipe, fitted, selection = assemble(
        board,
        evaluator,
        inherited,
        given.limits,
        members=params.members,
        validation=given.validation,
        seed=params.seed,
        until=given.started + params.budget_s - _RESERVED_S if params.trials is None else float("inf"),
    )
    return Solved(recipe, fitted, selection, board, len(evaluator.rungs), given.meta, notes, _alone(inherited, evaluator))


def assist(given: Setting) -> Board:
    """Do jobs of a search until nothing is left to do; any number of processes may, one of them calls `solve`."""
    return _searched(given)


def _searched(given: Setting, meanwhile: Callable[[], object] = lambda: None) -> Board:
    data, params, evaluator, strategy, task = given.data, given.params, given.evaluator, given.strategy, given.data.task
    table = isinstance(evaluator, TableEvaluator)
    search = Search(
        evaluator=evaluator,
        space=strategy.space,
        ladder=Ladder(len(evaluator.rungs), variety=_VARIETY if table else None),
        known=strategy.known,
        propose=strategy.propose,
        costs=Costs(evaluator.new_rows, len(data.train) + len(data.validation), _classes(task), given.history, params.max_memory_mb),
        budget=Budget(params.trials, params.budget_s, 1.0 if task.higher_is_better else 0.0),
        reserve_s=_RESERVED_S + _RESERVED_SHARE * params.budget_s if table and params.trials is None else 0.0,
    )
    journal = given.folder / "study.journal"

    def open_() -> optuna.Study:
        return open_study(journal, maximize=task.higher_is_better)

    began = given.started - read_board(open_()).clock
    count = _workers(params)
    with watching(open_, search.budget, began=began, metric=task.metric, rungs=len(evaluator.rungs), workers=count):
        run_workers(open_, search, Workplace(given.folder), began, count, meanwhile)
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


def _classes(task: Task) -> int:
    return len(task.classes) if isinstance(task, Tabular) else 0


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


def _inherit(given: Setting) -> list[Inherited]:
    data, champion = given.data, given.champion
    if champion is None or not given.params.transfer or not isinstance(data.task, Tabular):
        return []
    return inherit(champion.folder, data, given.validation, folds_of(data, data.pooled(), given.validation), champion.ref)


def _alone(inherited: Sequence[Inherited], evaluator: TableEvaluator) -> float | None:
    if not inherited:
        return None
    judge, rows = judge_of(evaluator, len(inherited[0].member.folds))
    mean = sum(entry.pipeline.weight * entry.answers[rows] for entry in inherited)
    loss = judge.loss(np.asarray(mean, dtype=np.float32))
    return None if math.isinf(loss) else -loss if judge.maximize else loss


def _best(board: Board, task: Task, seed: int, start_of: Callable[[Configuration], Weights | None]) -> tuple[Recipe, dict[str, Weights]]:
    """Return the pipeline that is best at the highest rung that any reached, and the weights it begins with, by their file."""
    reached = max((entry.job.rung for entry in board.settled if entry.value is not None), default=None)
    if reached is None:
        raise IntegrityError("no pipeline was judged before the time ended", do="raise automl.budget_s")
    best = board.done(reached)[0]
    c = best.job.configuration
    start = start_of(c)
    member = Pipeline(learner=c.learner, features=dict(c.features), params=dict(c.params), start=None if start is None else _START)
    recipe = Recipe(task=task.kind, members=(member,), validation=HOLDOUT, score=best.value, metric=task.metric, seed=seed)
    return recipe, {} if start is None else {_START: start}
