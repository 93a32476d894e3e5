"""The end of a search: all folds or few, today's members or yesterday's, and that what is deployed is what was judged."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from components.automl.genesis.board import DONE, Board, Job, Settled
from components.automl.genesis.configuration import Configuration
from components.automl.genesis.ensemble import Limits
from components.automl.genesis.evaluators.table import TableEvaluator
from components.automl.genesis.finish import assemble
from components.automl.genesis.footprint import microseconds
from components.automl.genesis.inheritance import inherit
from components.automl.genesis.schedule import Ladder, next_known
from components.automl.genesis.space import completed
from components.core.params import Tabular
from components.model import save
from components.train.data import Data, Rows
from components.train.features import folds_of
from components.train.fitting import fit, predictor_of
from components.train.validation import Validation

TASK = Tabular.model_validate({"problem": "regression", "features": {"a": "number", "b": "number"}})
FOLDS = Validation(folds=4)
WEAK = completed("lightgbm", {}, {"rounds": 1}, "portfolio")
GOOD = completed("logistic", {}, {}, "portfolio")


def table(count: int, seed: int = 0) -> Data:
    draw = np.random.default_rng(seed)
    columns = {"a": draw.normal(size=count), "b": draw.normal(size=count)}
    labels = (columns["a"] + 2 * columns["b"] + 0.1 * draw.normal(size=count)).tolist()
    rows = Rows(columns, labels, {"base": count}, [str(number) for number in range(count)])
    return Data(TASK, rows, Rows({name: values[:0] for name, values in columns.items()}, []))


def an_evaluator(data: Data, folder: Path, limits: Limits | None = None) -> TableEvaluator:
    return TableEvaluator(data, FOLDS, seed=0, folder=folder / "fits", limits=limits)


def judged(evaluator: TableEvaluator, *jobs: tuple[Configuration, int]) -> Board:
    settled = []
    for number, (configuration, rung) in enumerate(jobs):
        result = evaluator.evaluate(configuration, rung, math.inf)
        settled.append(Settled(Job(configuration, rung), number, DONE, result.value, result.figures, 0.1, 1.0, float(number)))
    return Board(tuple(settled), (), False)


def test_what_was_judged_on_few_folds_is_deployed_when_it_is_much_better(tmp_path: Path) -> None:
    data = table(2_000)
    evaluator = an_evaluator(data, tmp_path)
    assert [rung.folds for rung in evaluator.rungs] == [2, 4]
    board = judged(evaluator, (WEAK, 0), (WEAK, 1), (GOOD, 0))
    recipe, fitted, _ = assemble(board, evaluator, [], Limits(), members=8, validation=FOLDS, seed=0)
    assert [member.learner for member in recipe.members] == ["logistic"]
    assert recipe.models == 2
    assert len(fitted[0].member.folds) == 2
    again = fit(data, recipe, seed=0)
    assert [entry.weights for entry in again] == [entry.weights for entry in fitted]


def test_all_folds_win_when_few_are_not_better_by_more_than_averaging_is_worth(tmp_path: Path) -> None:
    evaluator = an_evaluator(table(2_000), tmp_path)
    board = judged(evaluator, (GOOD, 0), (GOOD, 1), (WEAK, 0))
    recipe, _, _ = assemble(board, evaluator, [], Limits(), members=8, validation=FOLDS, seed=0)
    assert recipe.models is None


@pytest.mark.parametrize("complete", [True, False])
def test_yesterdays_members_answer_only_for_rows_they_have_not_seen(tmp_path: Path, complete: bool) -> None:
    yesterday = table(2_000)
    evaluator = an_evaluator(yesterday, tmp_path / "old")
    jobs = [(GOOD, 0), (GOOD, 1)] if complete else [(WEAK, 0), (WEAK, 1), (GOOD, 0)]
    recipe, fitted, _ = assemble(judged(evaluator, *jobs), evaluator, [], Limits(), members=8, validation=FOLDS, seed=0)
    folder = tmp_path / "model"
    folder.mkdir()
    save(folder, task=TASK, members=[(e.member, e.weights) for e in fitted], recipe=recipe.model_dump(mode="json"), card="# card")

    today = table(2_600)  # the same draw, 600 rows longer, so the keys of the first rows are the same
    folds = folds_of(today, today.pooled(), FOLDS)
    (old,) = inherit(folder, today, FOLDS, folds, "Model/x")
    alone = predictor_of(TASK, fitted)
    for fold in range(4 if complete else 2):
        rows = folds.judged(fold)
        own = alone.fold({name: np.asarray(values)[rows] for name, values in today.train.columns.items()}, fold)[0]
        assert old.answers[rows] == pytest.approx(own, abs=1e-5)

    again = an_evaluator(today, tmp_path / "new")
    board = judged(again, (WEAK, 0), (WEAK, 1))
    kept, _, selection = assemble(board, again, [old], Limits(), members=8, validation=FOLDS, seed=0)
    assert [member.inherited for member in kept.members] == ["Model/x"]
    assert selection.value < 0.2


def test_another_way_of_judging_makes_yesterdays_answers_dishonest(tmp_path: Path) -> None:
    data = table(2_000)
    evaluator = an_evaluator(data, tmp_path)
    recipe, fitted, _ = assemble(judged(evaluator, (GOOD, 1)), evaluator, [], Limits(), members=8, validation=FOLDS, seed=0)
    folder = tmp_path / "model"
    folder.mkdir()
    save(folder, task=TASK, members=[(e.member, e.weights) for e in fitted], recipe=recipe.model_dump(mode="json"), card="# card")
    other = Validation(folds=5)
    assert inherit(folder, data, other, folds_of(data, data.pooled(), other), "Model/x") == []


def test_a_worker_that_has_nothing_to_do_fits_the_folds_that_another_comes_to_last(tmp_path: Path) -> None:
    data = table(2_000)
    alone, busy, idle = an_evaluator(data, tmp_path / "a"), an_evaluator(data, tmp_path / "b"), an_evaluator(data, tmp_path / "b")
    assert idle.assist(GOOD, 1, math.inf)
    assert not idle.assist(GOOD, 1, math.inf)  # 2 is the other's own
    found, expected = busy.evaluate(GOOD, 1, math.inf), alone.evaluate(GOOD, 1, math.inf)
    assert (found.value, found.figures) == (expected.value, expected.figures)
    assert found.wall > 0 == expected.wall


def test_what_is_too_slow_on_all_folds_is_deployed_on_few(tmp_path: Path) -> None:
    evaluator = an_evaluator(table(2_000), tmp_path)
    slow = [completed("lightgbm", {}, {"rounds": 60, "num_leaves": leaves}, "portfolio") for leaves in (12, 13, 14)]
    board = judged(evaluator, *[(c, rung) for c in (WEAK, *slow) for rung in (0, 1)])
    most = max(microseconds([fit for fold in range(2) if (fit := evaluator.kept(c, fold)) is not None]) for c in slow)
    recipe, _, _ = assemble(board, evaluator, [], Limits(microseconds=most), members=1, validation=FOLDS, seed=0)
    assert recipe.models == 2
    assert recipe.members[0].params["rounds"] == 60


def test_what_is_too_slow_for_all_folds_does_not_climb_to_them(tmp_path: Path) -> None:
    data = table(2_000)
    slow = completed("lightgbm", {}, {"rounds": 60}, "portfolio")
    free = an_evaluator(data, tmp_path)
    free.evaluate(slow, 0, math.inf)
    few = microseconds([fit for fold in range(2) if (fit := free.kept(slow, fold)) is not None])
    evaluator = an_evaluator(data, tmp_path, Limits(microseconds=1.5 * few))
    board = judged(evaluator, (slow, 0), (GOOD, 0))
    assert [entry.may_climb for entry in board.settled] == [False, True]
    assert Ladder(2).climbers(board, 0) == [GOOD]
    assert all(job.configuration == GOOD for job in next_known(board, Ladder(2), [slow]))  # not even as the first pipeline
    assert all(entry.may_climb for entry in judged(free, (slow, 0)).settled)


def test_after_a_validation_by_time_one_model_is_deployed_and_counts(tmp_path: Path) -> None:
    by_time = Validation(kind="time", folds=3, time="a")
    evaluator = TableEvaluator(table(2_000), by_time, seed=0, folder=tmp_path / "fits")
    board = judged(evaluator, *[(c, rung) for c in (WEAK, GOOD) for rung in range(len(evaluator.rungs))])
    one = microseconds([evaluator.kept(GOOD, 2)])  # type: ignore[list-item]
    recipe, fitted, _ = assemble(board, evaluator, [], Limits(microseconds=one), members=1, validation=by_time, seed=0)
    assert [member.learner for member in recipe.members] == ["logistic"]
    assert len(fitted[0].member.folds) == 1
