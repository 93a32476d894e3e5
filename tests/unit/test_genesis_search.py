"""The search itself, on an objective that costs nothing: who is judged, in which order, when it ends, and that nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import psutil
import pytest

from components.automl.genesis.board import Board, Job, Settled, read_board
from components.automl.genesis.configuration import Configuration, PastStudy, PastTrial
from components.automl.genesis.cost import Costs
from components.automl.genesis.portfolio import portfolio
from components.automl.genesis.processes import run_workers
from components.automl.genesis.proposing import Proposals
from components.automl.genesis.samplers import tpe, uniform
from components.automl.genesis.schedule import Ladder
from components.automl.genesis.solve import Offered
from components.automl.genesis.space import Space, completed, long_tailed
from components.automl.genesis.storage import Workplace, open_study
from components.automl.genesis.strategy import plan
from components.automl.genesis.worker import Budget, Evaluator, OutOfTime, Result, Search, work
from components.automl.spec import Params
from components.core.errors import DataError
from components.core.params import Tabular, TextLine

SPACE = Space(("lightgbm", "logistic"))
FIRST = completed("lightgbm", {}, {}, "portfolio")
SECOND = completed("logistic", {}, {}, "portfolio")


@dataclass
class Bowl:
    """Best at learning rate 0.1; a rung only adds a little."""

    seconds: float = 0.0
    seen: list[tuple[str, int]] = field(default_factory=list)

    def evaluate(self, configuration: Configuration, rung: int, until: float) -> Result:
        self.seen.append((configuration.identity, rung))
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            if time.monotonic() > until:
                raise OutOfTime
            time.sleep(0.005)
        if configuration.learner == "logistic":
            return Result(0.5 + 0.01 * rung, {})
        return Result(1 - abs(configuration.params["learning_rate"] - 0.1) + 0.01 * rung, {"rung": rung})

    def assist(self, configuration: Configuration, rung: int, until: float) -> bool:
        return False


def plain_tpe(_: Space, seed: int, place: int) -> optuna.samplers.BaseSampler:
    return tpe(seed, place)


def a_search(evaluator: Evaluator, *, trials: int | None = 12, seconds: float = 1e6, rungs: int = 2, **given: Any) -> Search:
    usual: dict[str, Any] = {
        "space": SPACE,
        "ladder": Ladder(rungs),
        "known": [FIRST, SECOND],
        "propose": Proposals(SPACE, plain_tpe, "tpe", 0, rungs),
        "costs": Costs([1] * rungs, prior={"lightgbm": 0.0, "logistic": 0.0}),
        "budget": Budget(trials, seconds),
    }
    return Search(evaluator=evaluator, **{**usual, **given})


def opened(folder: Path) -> optuna.Study:
    return open_study(folder / "study.journal", maximize=True)


def searched(folder: Path, search: Search) -> Board:
    work(opened(folder), search, Workplace(folder), began=time.monotonic())
    return read_board(opened(folder))


def plain(board: Board) -> list[tuple[Any, ...]]:
    return [(e.job.key, e.job.configuration.origin, e.state, e.value) for e in board.settled]


def test_the_first_pipeline_reaches_the_top_before_any_other_starts(tmp_path: Path) -> None:
    bowl = Bowl()
    searched(tmp_path, a_search(bowl, rungs=3))
    assert bowl.seen[:4] == [(FIRST.identity, 0), (FIRST.identity, 1), (FIRST.identity, 2), (SECOND.identity, 0)]


def test_it_stops_after_its_trials_and_goes_on_with_more(tmp_path: Path) -> None:
    few = searched(tmp_path, a_search(Bowl(), trials=5))
    assert few.started == 5
    more = searched(tmp_path, a_search(Bowl(), trials=9))
    assert more.started == 9
    assert plain(more)[: len(few.settled)] == plain(few)


def test_the_best_third_climbs_and_every_climber_came_from_below(tmp_path: Path) -> None:
    board = searched(tmp_path, a_search(Bowl(), trials=20, rungs=3))
    below, above = board.done(0), board.done(1)
    assert len(below) == 20
    assert 7 <= len(above) < 20  # those that were among the best third when it was their turn
    climbed = {entry.job.configuration.identity for entry in above}
    assert climbed >= {entry.job.configuration.identity for entry in below[:7]}


def test_the_best_of_another_learner_climbs_if_it_is_nearly_as_good() -> None:
    other = completed("lightgbm", {}, {"learning_rate": 0.12}, "x")
    values = {FIRST.identity: 0.8, other.identity: 0.79, SECOND.identity: 0.77}

    class Table:
        def evaluate(self, configuration: Configuration, rung: int, until: float) -> Result:
            return Result(values[configuration.identity], {})

    def climbers(folder: Path, variety: float | None) -> set[str]:
        board = searched(folder, a_search(Table(), trials=3, known=[FIRST, other, SECOND], ladder=Ladder(2, variety=variety)))
        return {entry.job.configuration.identity for entry in board.done(1)}

    import tempfile

    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        assert climbers(Path(one), None) == {FIRST.identity}
        assert climbers(Path(two), 1.25) == {FIRST.identity, SECOND.identity}


def test_a_learner_that_is_far_behind_is_not_proposed_again(tmp_path: Path) -> None:
    board = searched(tmp_path, a_search(Bowl(), trials=20))
    assert {e.job.configuration.learner for e in board.settled if e.job.configuration.origin == "tpe"} == {"lightgbm"}


def test_one_worker_repeats_itself_and_the_seed_decides(tmp_path: Path) -> None:
    def run(name: str, seed: int) -> list[tuple[Any, ...]]:
        return plain(searched(tmp_path / name, a_search(Bowl(), trials=14, propose=Proposals(SPACE, plain_tpe, "tpe", seed, 2))))

    assert run("a", 0) == run("b", 0)
    assert run("a", 0) != run("c", 1)


def test_it_searches(tmp_path: Path) -> None:
    board = searched(tmp_path, a_search(Bowl(), trials=40))
    assert board.done(1)[0].job.configuration.params["learning_rate"] == pytest.approx(0.1, abs=0.01)


def test_a_pipeline_is_never_judged_twice(tmp_path: Path) -> None:
    bowl = Bowl()
    searched(tmp_path, a_search(bowl, trials=30, known=[FIRST, replace(FIRST, origin="champion"), SECOND]))
    assert max(Counter(bowl.seen).values()) == 1


def test_time_ends_it_but_something_is_always_judged(tmp_path: Path) -> None:
    assert len(searched(tmp_path / "none", a_search(Bowl(), trials=None, seconds=-1.0)).settled) == 1
    began = time.monotonic()
    board = searched(tmp_path / "some", a_search(Bowl(0.05), trials=None, seconds=0.6))
    assert board.settled
    assert time.monotonic() - began < 3


def test_nothing_is_started_that_does_not_fit_into_the_time(tmp_path: Path) -> None:
    bowl = Bowl()
    dear = Costs([1, 1], prior={"lightgbm": 0.0, "logistic": 1e12})
    searched(tmp_path, a_search(bowl, trials=10, seconds=60, costs=dear))
    assert SECOND.identity not in {identity for identity, _ in bowl.seen}


def test_what_a_learner_costs_is_told_from_what_others_cost_today() -> None:
    costs = Costs([1_000], prior={"lightgbm": 10.0, "logistic": 30.0}, margin=1.0)
    unknown = Job(SECOND, 0)
    nothing = costs.seconds(Board((), (), True), unknown)
    slow = Board((Settled(Job(FIRST, 0), 0, "done", 0.5, {}, 0.1, 1.0, 0.1, wall=0.1),), (), True)  # ten times the prior
    assert costs.seconds(slow, unknown) - nothing == pytest.approx(1.5 * (0.3 - 0.03))
    assert costs.seconds(slow, Job(FIRST, 0)) == pytest.approx(0.05 + 0.1)


@pytest.mark.parametrize(("classes", "times"), [(0, 1), (2, 1), (3, 3), (26, 26)])
def test_many_classes_cost_a_regression_more_than_they_cost_trees(classes: int, times: int) -> None:
    costs = Costs([1_000], classes=classes, prior={"lightgbm": 10.0, "logistic": 30.0}, margin=1.0)
    few = Costs([1_000], prior={"lightgbm": 10.0, "logistic": 30.0}, margin=1.0)
    nothing, start = Board((), (), True), 0.05
    assert costs.seconds(nothing, Job(SECOND, 0)) - start == pytest.approx(times * (few.seconds(nothing, Job(SECOND, 0)) - start))
    ratio = (costs.seconds(nothing, Job(FIRST, 0)) - start) / (few.seconds(nothing, Job(FIRST, 0)) - start)
    assert ratio == pytest.approx(min(times, 4))


def test_a_learner_that_needs_too_much_memory_is_not_started_again(tmp_path: Path) -> None:
    class Large(Bowl):
        def evaluate(self, configuration: Configuration, rung: int, until: float) -> Result:
            if configuration.learner == "logistic":
                bytearray(400 << 20)  # touched, and free again at once
            return super().evaluate(configuration, rung, until)

    limit_mb = psutil.Process().memory_info().rss / 2**20 + 200
    costs = Costs([1, 1], prior={"lightgbm": 0.0, "logistic": 0.0}, limit_mb=limit_mb)
    board = searched(tmp_path, a_search(Large(), known=[FIRST, SECOND], trials=8, costs=costs))
    assert Counter(job.configuration.learner for job in (entry.job for entry in board.settled if entry.job.rung == 0)) == {
        "lightgbm": 7,  # which go on: what the other one needed is not held against them
        "logistic": 1,
    }


def test_a_network_costs_more_than_a_narrower_one_of_the_same_learner() -> None:
    narrow, wide = (completed("resnet", {}, {"width": width}, "portfolio") for width in (96, 192))
    costs, nothing = Costs([1000], 1000), Board((), (), False)
    assert 2.3 <= costs.seconds(nothing, Job(wide, 0)) / costs.seconds(nothing, Job(narrow, 0)) <= 2.7
    known = Board((Settled(Job(narrow, 0), 0, "done", 0.5, {}, 2.0, 1.0, 2.0, wall=2.0),), (), False)
    assert costs.seconds(known, Job(wide, 0)) > 2 * costs.seconds(known, Job(narrow, 0))


@pytest.mark.parametrize(("rows", "starts"), [(50, False), (200, True)])
def test_a_learner_that_needed_too_much_for_no_more_rows_is_not_started(rows: int, starts: bool) -> None:
    past = PastStudy("demo", "binary", "auc", True, rows, {}, 2, (PastTrial(SECOND, 0.7, 1, 1.0, 900.0),))
    costs = Costs([1, 1], 100, past=[past], limit_mb=800.0)
    nothing = Board((), (), True)
    assert costs.fits_memory(nothing, Job(SECOND, 0)) is starts
    assert costs.fits_memory(nothing, Job(FIRST, 0))


def test_networks_come_first_where_trees_would_need_one_for_each_of_many_classes() -> None:
    learners = ("catboost", "lightgbm", "logistic", "mlp", "resnet", "xgboost")

    def order(classes: int) -> list[str]:
        task = Tabular(problem="multiclass", classes=tuple(f"c{n:02}" for n in range(classes)), features={"x": "number"})
        return [configuration.learner for configuration in portfolio(task, learners)]

    few, many = order(3), order(26)
    assert few[0] == many[0] == "lightgbm"
    assert many[1] == "resnet"  # it embeds no numbers, and is there for many classes only
    assert sorted([*few, many[1]]) == sorted(many)
    networks = sum(name in ("mlp", "resnet") for name in many)
    assert set(many[1 : 1 + networks]) == {"mlp", "resnet"}
    assert set(few[1:3]) != {"mlp", "resnet"}


def test_trees_learn_the_logarithm_of_labels_with_a_long_tail_and_of_no_others() -> None:
    task = Tabular(problem="regression", features={"x": "number"})
    even = np.random.default_rng(0).normal(size=2000)
    assert long_tailed(task, np.exp(even).tolist())
    classes = Tabular(problem="binary", classes=("0", "1"), features={"x": "number"})
    for other in (even, even - even.min() + 1, -np.exp(even), np.exp(even) - 1, np.full(9, 2.0), np.sqrt(np.abs(even)) + 1e-3, []):
        assert not long_tailed(task, list(other))
    assert not long_tailed(classes, ["1", "0"])

    def losses(*, tail: bool) -> set[tuple[str, str]]:
        space = Space(("lightgbm", "xgboost", "catboost", "mlp", "extra_trees"), tail=tail)
        study = optuna.create_study(sampler=uniform(0, 0))
        every = [*portfolio(task, space.learners, tail=tail), *(space.suggest(study.ask()) for _ in range(30))]
        return {(entry.learner, entry.params["loss"]) for entry in every if "loss" in entry.params}

    trees = ("catboost", "lightgbm", "xgboost")
    assert losses(tail=True) == {("mlp", "l2"), *((name, "poisson") for name in trees)}
    assert losses(tail=False) == {(name, "l2") for name in ("mlp", *trees)}


def test_what_served_learns_no_logarithm_of_labels_that_may_be_negative_now() -> None:
    task = Tabular(problem="regression", features={"x": "number"})
    params = Params.model_validate({"scenario": "demo", "task": task.model_dump()})
    served, robust = (completed("lightgbm", {}, {"loss": loss, "rounds": 77}, "champion") for loss in ("poisson", "l1"))

    def losses(*, tail: bool) -> list[str]:
        found = plan(task, params, ("lightgbm",), (), [served, robust], (), {}, 1, tail=tail).known
        return [entry.params["loss"] for entry in found if entry.params["rounds"] == 77]

    assert losses(tail=True) == ["poisson", "l1"]
    assert losses(tail=False) == ["l2", "l1"]


def test_how_an_offered_network_is_trained_varies_and_the_network_does_not() -> None:
    task, learners = TextLine(alphabet="0123456789", max_length=12), ("crnn", "recognizer")
    params = Params.model_validate({"scenario": "demo", "task": task.model_dump()})
    network = completed("recognizer", {}, {"width": 0.5, "options": [0, 1]}, "nas")
    found = plan(task, params, learners, (network,), (), (), {}, 2)
    assert [entry.learner for entry in found.known[:2]] == ["crnn", "recognizer"]  # something to compare with, then the offer
    study = optuna.create_study(sampler=uniform(0, 0))
    proposed = [found.space.suggest(study.ask()) for _ in range(40)]
    offered = Offered(network, {"weight": np.zeros(1)})
    trained = [entry for entry in (*found.known, *proposed) if offered.trains(entry)]
    assert trained == [entry for entry in (*found.known, *proposed) if entry.learner == "recognizer"]
    assert len({(entry.features["augment"], entry.params["lr"]) for entry in trained}) == len(trained) > 10
    assert not offered.trains(completed("recognizer", {}, {"width": 0.5, "options": [0, 0]}, "champion"))
    assert plan(task, params, learners, (), (), (), {}, 2).space.learners == ("crnn",)  # nobody said which network


def test_nothing_better_than_perfect_is_looked_for(tmp_path: Path) -> None:
    perfect = completed("lightgbm", {}, {"learning_rate": 0.1}, "expert")
    board = searched(tmp_path, a_search(Bowl(), known=[perfect, SECOND], budget=Budget(50, 1e6, 1.0)))
    assert board.started == 1


def test_a_pipeline_that_fails_costs_a_trial_and_says_why(tmp_path: Path) -> None:
    class Fragile(Bowl):
        def evaluate(self, configuration: Configuration, rung: int, until: float) -> Result:
            if configuration.learner == "logistic":
                raise DataError("no rows", do="add some")
            return super().evaluate(configuration, rung, until)

    board = searched(tmp_path, a_search(Fragile(), trials=4))
    failed = [entry for entry in board.settled if entry.state == "failed"]
    assert {entry.job.configuration.learner for entry in failed} == {"logistic"}
    assert "no rows" in failed[0].figures["error"]
    assert board.started == 4


def test_a_first_job_that_fails_ends_the_search(tmp_path: Path) -> None:
    class Broken(Bowl):
        def evaluate(self, configuration: Configuration, rung: int, until: float) -> Result:
            raise DataError("all labels are the same", do="add others")

    with pytest.raises(DataError, match="all labels"):
        searched(tmp_path, a_search(Broken()))


@pytest.mark.slow
def test_two_workers_share_a_search_and_a_killed_one_loses_nothing(tmp_path: Path) -> None:
    whole = a_search(Bowl(0.1), trials=16)
    script = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); import test_genesis_search as t\nfrom pathlib import Path\n"
        "f = Path(sys.argv[2]); t.work(t.opened(f), t.a_search(t.Bowl(0.1), trials=16), t.Workplace(f), began=time.monotonic())\n"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path)]
    other = subprocess.Popen(command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)})
    while not (tmp_path / "study.journal").exists() or not read_board(opened(tmp_path)).running:
        time.sleep(0.02)
    other.send_signal(signal.SIGKILL)
    other.wait()
    run_workers(lambda: opened(tmp_path), whole, Workplace(tmp_path), time.monotonic(), 2)
    board = read_board(opened(tmp_path))
    assert board.started == 16
    assert not board.running
    assert max(Counter(entry.job.key for entry in board.settled).values()) == 1
    assert {job for job in board.taken if job[1] == 0} == {(entry.job.configuration.identity, 0) for entry in board.done(0)}


_FORKED = """
import os, sys, time
from pathlib import Path
import torch  # its OpenMP is everybody's, since it comes first
import numpy as np, xgboost
from sklearn.neighbors import KNeighborsRegressor
from components.automl.genesis.portfolio import portfolio
from components.automl.genesis.processes import run_workers
from components.automl.genesis.storage import Workplace
from components.automl.genesis.worker import Result
from test_genesis_search import a_search, opened

folder = Path(sys.argv[1])
x = np.random.default_rng(0).random((5000, 8))
KNeighborsRegressor(1, algorithm="brute").fit(x, x).predict(x)  # starts OpenMP's threads

class Labelled:
    def evaluate(self, configuration, rung, until):
        (folder / f"pid-{os.getpid()}").touch()
        time.sleep(0.2)
        xgboost.QuantileDMatrix(x, x[:, 0], nthread=1)
        return Result(0.5, {})

    def assist(self, configuration, rung, until):
        return False

run_workers(lambda: opened(folder), a_search(Labelled(), trials=6, rungs=1), Workplace(folder), time.monotonic(), 2)
"""


@pytest.mark.slow
def test_a_fork_does_not_wait_for_threads_that_only_its_parent_has(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    env = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{Path(__file__).parent}", "OMP_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", _FORKED, str(tmp_path)], check=True, timeout=60, env=env)
    assert len(list(tmp_path.glob("pid-*"))) == 2
    assert not read_board(opened(tmp_path)).running


def test_a_journal_cut_anywhere_goes_on_to_the_same_end(tmp_path: Path) -> None:
    calm = plain(searched(tmp_path / "calm", a_search(Bowl(), trials=6)))
    journal = (tmp_path / "calm" / "study.journal").read_bytes()
    for number, cut in enumerate(range(len(journal) // 7, len(journal), len(journal) // 7)):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "study.journal").write_bytes(journal[:cut])
        assert plain(searched(folder, a_search(Bowl(), trials=6))) == calm


def test_a_sampler_that_only_repeats_itself_gives_way_to_chance(tmp_path: Path) -> None:
    class Stuck(optuna.samplers.RandomSampler):
        def __init__(self) -> None:
            super().__init__(seed=0)

    stuck = Proposals(SPACE, lambda _, __, ___: Stuck(), "stuck", 0, 2)
    board = searched(tmp_path, a_search(Bowl(), trials=9, propose=stuck))
    origins = [entry.job.configuration.origin for entry in board.settled if entry.job.rung == 0]
    assert origins == ["portfolio", "portfolio", "stuck", *["random"] * 6]


def test_a_fit_that_asks_nobody_is_ended_when_the_time_is_over(tmp_path: Path) -> None:
    class Deaf(Bowl):
        def evaluate(self, configuration: Configuration, rung: int, until: float) -> Result:
            end = time.monotonic() + (30 if configuration.learner == "logistic" else 0)
            while time.monotonic() < end:
                sum(range(1_000))
            return super().evaluate(configuration, rung, until)

    began = time.monotonic()
    board = searched(tmp_path, a_search(Deaf(), trials=None, seconds=1.0))
    assert time.monotonic() - began < 15
    assert {entry.job.configuration.learner for entry in board.settled} == {"lightgbm"}
    assert not board.running
