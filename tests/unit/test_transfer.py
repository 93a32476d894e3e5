"""What is taken over from earlier searches, whose comes first, and when the past is not believed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from components.automl.genesis.configuration import Configuration, PastStudy, PastTrial
from components.automl.genesis.history import read_study, write_study
from components.automl.genesis.space import Space
from components.automl.genesis.transfer import Transfer, agrees, kendall
from components.core.artifacts import describe
from components.core.effects import COSTS_FILE, STUDY_FILE
from components.core.errors import IntegrityError

SPACE = Space(("lightgbm", "logistic", "mlp", "extra_trees"))


def configuration(learner: str = "logistic", **params: Any) -> Configuration:
    return Configuration(learner, {}, params, "portfolio")


def trial(score: float | None, learner: str = "logistic", *, rung: int = 1, weight: float = 0.0, **params: Any) -> PastTrial:
    return PastTrial(configuration(learner, **params), score, rung, 1.5, 100.0, weight)


def study(scenario: str, trials: Sequence[PastTrial], *, rows: int = 100, at: float = 0.0, **facts: Any) -> PastStudy:
    given: dict[str, Any] = {"problem": "binary", "metric": "auc", "higher_is_better": True, "meta": {"rows": at}, **facts}
    return PastStudy(scenario, rows=rows, rungs=2, trials=tuple(trials), **given)


def winners(scenario: str, *strengths: float, **facts: Any) -> PastStudy:
    """A search whose ensemble has a pipeline of each strength, the heaviest first."""
    trials = [trial(0.8, strength=s, weight=1 / n) for n, s in enumerate(strengths, 2)]
    return study(scenario, [*trials, *(trial(0.5, strength=0.9 + n / 1000) for n in range(20))], **facts)


def transfer(*past: PastStudy, parents: tuple[str, ...] = (), at: float = 0.0) -> Transfer:
    return Transfer(past, {"rows": at}, "binary", "credit", parents)


def strengths(found: Sequence[Configuration]) -> list[float]:
    return [entry.params["strength"] for entry in found]


class TestHistory:
    def test_what_is_written_is_read(self, tmp_path: Path) -> None:
        given = study("credit", [trial(0.7, strength=0.25, weight=0.5), trial(None, "mlp", rung=0)], at=4.5)
        write_study(tmp_path, given)
        assert read_study(tmp_path) == given

    def test_costs_are_outside_the_digest_and_may_be_lost(self, tmp_path: Path) -> None:
        digests = set()
        for name, seconds in (("a", 1.0), ("b", 2.0)):
            (tmp_path / name).mkdir()
            write_study(tmp_path / name, study("credit", [PastTrial(configuration(), 0.7, 1, seconds, None)]))
            digests.add(describe(tmp_path / name, "Report", {}, ()).sha256)
        assert len(digests) == 1
        for damage in ("[]", "no json", '[{"seconds": "1"}]'):
            (tmp_path / "a" / COSTS_FILE).write_text(damage)
            assert read_study(tmp_path / "a").trials[0].seconds is None
        (tmp_path / "a" / COSTS_FILE).unlink()
        assert read_study(tmp_path / "a").trials[0].score == 0.7

    @pytest.mark.parametrize(
        "damage",
        [
            lambda content: content.pop("trials"),
            lambda content: content.update(format=99),
            lambda content: content.update(meta={"rows": "many"}),
            lambda content: content.update(meta=[1]),
            lambda content: content.update(higher_is_better="yes"),
            lambda content: content["trials"][0].pop("params"),
            lambda content: content["trials"][0].update(score=float("nan")),
            lambda content: content.update(trials=3),
        ],
    )
    def test_damage_is_a_clear_error(self, damage: Callable[[dict[str, Any]], Any], tmp_path: Path) -> None:
        write_study(tmp_path, study("credit", [trial(0.7)]))
        content = json.loads((tmp_path / STUDY_FILE).read_text())
        damage(content)
        (tmp_path / STUDY_FILE).write_text(json.dumps(content))
        with pytest.raises(IntegrityError, match=r"study\.json.*run automl again"):
            read_study(tmp_path)

    def test_no_study_and_no_json(self, tmp_path: Path) -> None:
        with pytest.raises(IntegrityError):
            read_study(tmp_path)
        (tmp_path / STUDY_FILE).write_bytes(b"\xff{")
        with pytest.raises(IntegrityError):
            read_study(tmp_path)


class TestReplay:
    def test_the_own_past_first_then_others_by_distance(self) -> None:
        given = transfer(winners("far", 0.3, at=9), winners("near", 0.2, at=1), winners("credit", 0.1, at=5))
        assert [task.scenario for task in given.nearest] == ["credit", "near", "far"]
        found = given.replay(5)
        assert strengths(found.configurations)[:3] == [0.1, 0.2, 0.3]
        assert min(strengths(found.configurations)[3:]) >= 0.9  # what was good beside the ensemble
        assert "3 of 'credit'" in found.note

    def test_ensembles_first_by_weight_each_pipeline_once(self) -> None:
        newest, older = winners("credit", 0.1, 0.2), winners("credit", 0.2, 0.3)
        found = transfer(newest, older).replay(3)
        assert strengths(found.configurations) == [0.1, 0.2, 0.3]
        assert {entry.origin for entry in found.configurations} == {"replay"}
        assert "3 of 'credit' (its own past, on 100 rows)" in found.note

    def test_a_plus_b_makes_c_both_contribute_in_turn(self) -> None:
        past = (winners("a", 0.1, 0.2), winners("b", 0.3, 0.4), winners("other", 0.5, at=0.1))
        found = transfer(*past, parents=("b", "a"), at=0.1).replay(4)
        assert strengths(found.configurations) == [0.3, 0.1, 0.4, 0.2]
        assert "2 of 'b' (merged into this one" in found.note

    def test_a_sample_of_the_same_scenario_counts_as_its_past(self) -> None:
        found = transfer(winners("credit", 0.1, rows=20, at=-5), winners("twin", 0.2, rows=100)).replay(1)
        assert strengths(found.configurations) == [0.1]
        assert "20 rows" in found.note

    def test_other_problems_and_learners_are_left_out(self) -> None:
        assert transfer(winners("credit", 0.1, problem="regression")).replay(5).configurations == ()
        assert transfer(winners("credit", 0.1)).replay(5, learners=("mlp",)).configurations == ()
        assert "No earlier search" in transfer().replay(5).note

    def test_without_an_ensemble_the_best_of_the_highest_rung(self) -> None:
        trials = [trial(0.9, rung=0, strength=0.1), trial(0.7, strength=0.2), trial(0.8, strength=0.3), *(trial(None) for _ in range(9))]
        lower_is_better = study("credit", [trial(2.0, strength=0.4), trial(1.0, strength=0.5)], metric="logloss", higher_is_better=False)
        assert strengths(transfer(study("credit", trials)).replay(1).configurations) == [0.3]
        assert strengths(transfer(lower_is_better).replay(1).configurations) == [0.5]


class TestLocked:
    def past(self, scenario: str = "credit", *, trials: int = 40, seed: int = 0) -> PastStudy:
        """LightGBM is good with few leaves and a low rate, whatever its l2; logistic is fair, mlp hopeless, extra trees never tried."""
        draw = random.Random(seed)
        found = []
        for _ in range(trials):
            leaves, rate, l2 = draw.randint(4, 128), draw.uniform(0.02, 0.2), 10 ** draw.uniform(-3, 1.4)
            score = 0.9 - 0.002 * leaves - rate
            found.append(trial(score, "lightgbm", num_leaves=leaves, learning_rate=rate, lambda_l2=l2))
        found += [trial(0.8, strength=0.01), trial(0.1, "mlp", lr=0.001), trial(0.11, "mlp", lr=0.002), trial(None, "mlp")]
        return study(scenario, found)

    def test_the_box_of_good_trials_widened(self) -> None:
        found = transfer(self.past()).locked(SPACE)
        good = [t for t in self.past().trials if t.configuration.learner == "lightgbm" and (t.score or 0) > 0.75]
        low, high = found.bounds["lightgbm.params.num_leaves"]
        assert low == 4
        assert max(t.configuration.params["num_leaves"] for t in good) <= high < 128
        assert found.bounds["lightgbm.params.learning_rate"][1] < 0.2
        assert not any(name.startswith("logistic") for name in found.bounds)
        assert any("lightgbm" in note for note in found.notes)

    def test_the_hopeless_are_left_out_the_untried_are_not(self) -> None:
        found = transfer(self.past()).locked(SPACE)
        assert found.learners == ("lightgbm", "logistic", "extra_trees")
        assert any("Left out" in note and "mlp" in note for note in found.notes)
        three = Space(("lightgbm", "logistic", "mlp"))
        assert transfer(self.past()).locked(three).learners == three.learners

    def test_what_never_mattered_is_fixed_to_the_best_known(self) -> None:
        found = transfer(*(self.past(trials=120, seed=seed) for seed in range(3))).locked(SPACE)
        fixed = {name for name, left in found.bounds.items() if len(left) == 1}
        assert "lightgbm.params.num_leaves" not in fixed
        assert "lightgbm.params.learning_rate" not in fixed
        assert all("never mattered" not in note or "num_leaves" not in note for note in found.notes)

    def test_bounds_fit_the_space(self) -> None:
        import optuna

        found = transfer(self.past()).locked(SPACE)
        narrow = Space(("lightgbm",), bounds=found.bounds)
        ask = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask
        for _ in range(20):
            proposed = narrow.suggest(ask())
            low, high = found.bounds["lightgbm.params.num_leaves"]
            assert low <= proposed.params["num_leaves"] <= high

    def test_strangers_lock_only_together(self) -> None:
        assert transfer(self.past("x"), self.past("y")).locked(SPACE).bounds == {}
        assert "whole" in transfer().locked(SPACE).notes[0]
        assert transfer(self.past("x"), self.past("y"), self.past("z")).locked(SPACE).bounds


class TestGuard:
    @pytest.mark.parametrize(
        ("pairs", "higher", "expected"),
        [
            ([(1, 0.5), (2, 0.6), (3, 0.7), (4, 0.8)], True, True),
            ([(1, 0.5), (2, 0.6), (3, 0.7), (4, 0.8)], False, False),
            ([(1, 0.8), (2, 0.7), (3, 0.6), (4, 0.5)], True, False),
            ([(1, 0.8), (2, 0.7), (3, 0.6)], True, True),
            ([(1, 0.5)] * 6, True, True),
        ],
    )
    def test_it_drops_a_past_that_ranks_differently(self, pairs: list[tuple[float, float]], higher: bool, expected: bool) -> None:
        found = agrees(pairs, higher_is_better=higher)
        assert found.agrees is expected
        assert ("dropped" in found.note) is not expected

    def test_tau_counts_ties(self) -> None:
        assert kendall([1, 2, 3], [1, 2, 3]) == 1
        assert kendall([1, 2, 3], [3, 2, 1]) == -1
        assert kendall([1, 2, 2, 3], [1, 3, 2, 4]) == pytest.approx(5 / (5 * 6) ** 0.5)
        assert kendall([1, 1], [1, 2]) is None

    def test_pipelines_that_were_tried_before_are_compared(self) -> None:
        past = study("credit", [trial(0.5 + n / 10, strength=n / 10) for n in range(1, 5)])
        lower = study("credit", [trial(0.5 + n / 10, strength=n / 10) for n in range(1, 5)], metric="logloss", higher_is_better=False)
        today = [(configuration(strength=n / 10), n / 7) for n in range(1, 5)] + [(configuration(strength=0.99), 0.0)]
        assert transfer(past).agrees(today, higher_is_better=True).tau == pytest.approx(1)
        assert not transfer(lower).agrees(today, higher_is_better=True).agrees
        assert transfer(lower).agrees(today, higher_is_better=False).agrees
        assert transfer(past).expected(configuration(strength=0.99)) is None
