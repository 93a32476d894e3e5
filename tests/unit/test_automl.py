"""Genesis: budgets, known configurations first, and a search that survives being killed with the same result."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.automl.genesis.page import page
from components.automl.genesis.ranking import ranking
from components.automl.genesis.search import Budget, Configuration, Outcome, Report, Stopped, search, settled_trials
from components.automl.genesis.space import SPACES, Choice, Real, Space, Weakest, Whole
from components.automl.genesis.storage import open_study
from components.core.artifacts import Artifact
from components.core.errors import ConfigError, DataError, IntegrityError, TryAgain
from components.core.params import Tabular
from components.core.settings import Settings
from components.core.step import execute
from components.core.store import ArtifactStore, open_store
from components.train.data import Data, Rows
from components.train.learners import LEARNERS, learner
from components.train.recipe import Recipe

_loader = SourceFileLoader("makers", str(Path(__file__).parents[1] / "makers.py"))
makers = module_from_spec(spec_from_loader("makers", _loader))  # type: ignore[arg-type]
_loader.exec_module(makers)

RunStep = Callable[..., dict[str, Artifact]]
ROOT = Path(__file__).parents[2]
LOANS = makers.LOANS
LEARNER = Configuration("logistic", {}, {"strength": 0.01}, "default")


def loans(store: ArtifactStore, *, other_seed: int = 1, count: int = 240) -> Artifact:
    rows = [makers.loan_row(row, "train" if i % 3 else "validation") for i, row in enumerate(makers.loans(count, seed=0))]
    rows += [makers.loan_row(row, split) for split in ("test", "holdout") for row in makers.loans(30, seed=other_seed)]
    return makers.dataset(store, rows)  # type: ignore[no-any-return]


def params(task: Any = LOANS, **given: Any) -> dict[str, Any]:
    return {"scenario": "demo", "task": task.model_dump(mode="json"), "trials": 3, "learners": ["logistic"], **given}


def bowl(configuration: Configuration, report: Report) -> tuple[float, dict[str, float | None]]:
    """A stand-in for training: the best strength is 1e-3."""
    strength = float(configuration.params["strength"])
    return -abs(strength - 1e-3), {"strength": strength}


def run_search(path: Path, trials: int, known: tuple[Configuration, ...] = (LEARNER,), **given: Any) -> Outcome:
    with open_study(path, maximize=True) as study:
        return search(study, given.pop("objective", bowl), known, Space(("logistic",)), budget=Budget(trials, 60), seed=0, **given)


class TestStep:
    def test_writes_a_recipe_that_train_takes(self, run_step: RunStep, store: ArtifactStore) -> None:
        dataset, snapshot = loans(store), makers.snapshot(store, "demo")
        out = run_step("automl", params(trials=4, learners=["lightgbm", "logistic"]), {"dataset": dataset, "snapshot": snapshot})
        recipe = Recipe.model_validate_json((store.fetch(out["recipe"].ref) / "recipe.json").read_bytes())
        report = json.loads((store.fetch(out["report"].ref) / "report.json").read_text())
        assert [trial["origin"] for trial in report["trials"]] == ["default", "default", "search", "search"]
        assert [trial["learner"] for trial in report["trials"]][:2] == ["lightgbm", "logistic"]
        best = report["trials"][report["best"]]
        assert (recipe.learner, recipe.score) == (best["learner"], best["value"])
        assert recipe.score == max(trial["value"] for trial in report["trials"])
        assert recipe.metric == "auc"
        given = {"scenario": "demo", "task": LOANS.model_dump(mode="json")}
        model = run_step("train", given, {"dataset": dataset, "recipe": out["recipe"]})["model"]
        assert model.metadata["learner"] == recipe.learner

    def test_the_page_stands_alone(self, run_step: RunStep, store: ArtifactStore) -> None:
        out = run_step("automl", params(trials=7), {"dataset": loans(store), "snapshot": makers.snapshot(store, "demo")})
        text = (store.fetch(out["report"].ref) / "observed/report.html").read_text()
        assert text.count("<svg") == 3
        assert not re.search(r"""(src|href)=["'](?!#)|@import|<script""", text)

    def test_nothing_that_varies_is_in_the_digest(self, run_step: RunStep, store: ArtifactStore) -> None:
        out = run_step("automl", params(), {"dataset": loans(store), "snapshot": makers.snapshot(store, "demo")})
        assert set(out["report"].files) == {"report.json"}
        assert set(out["recipe"].files) == {"recipe.json"}
        assert not re.search("second|/tmp|20[2-9][0-9]-", (store.fetch(out["report"].ref) / "report.json").read_text())

    def test_test_and_holdout_rows_do_not_steer_it(self, run_step: RunStep, store: ArtifactStore) -> None:
        found = []
        for seed in (1, 2):
            inputs = {"dataset": loans(store, other_seed=seed), "snapshot": makers.snapshot(store, "demo")}
            found.append((store.fetch(run_step("automl", params(trials=5), inputs)["report"].ref) / "report.json").read_bytes())
        assert found[0] == found[1]

    def test_the_champions_recipe_comes_second(self, run_step: RunStep, store: ArtifactStore) -> None:
        dataset = loans(store)
        given = Recipe(
            task="tabular", learner="logistic", features={}, params={"strength": 0.5, "iterations": 77}, score=0.5, metric="auc", seed=0
        )
        recipe = makers.publish(store, "Recipe", lambda folder: (folder / "recipe.json").write_text(given.model_dump_json()))
        task = {"scenario": "demo", "task": LOANS.model_dump(mode="json")}
        model = run_step("train", task, {"dataset": dataset, "recipe": recipe})["model"]
        snapshot = makers.snapshot(store, "demo", champion={"seq": 1, "model": model.ref, "dataset": dataset.ref})
        out = run_step("automl", params(trials=2), {"dataset": dataset, "snapshot": snapshot})
        second = json.loads((store.fetch(out["report"].ref) / "report.json").read_text())["trials"][1]
        assert second["origin"] == "champion"
        assert second["params"] == {"strength": 0.5, "iterations": 77}

    @pytest.mark.slow
    def test_lines_of_text(self, run_step: RunStep, store: ArtifactStore) -> None:
        rows = [makers.text_row(f"{i % 10}", "train" if i % 3 else "validation", shade=i) for i in range(45)]
        inputs = {"dataset": makers.dataset(store, rows), "snapshot": makers.snapshot(store, "demo")}
        out = run_step("automl", params(makers.DIGITS, trials=1, learners=[], max_rows=20), inputs)
        report = json.loads((store.fetch(out["report"].ref) / "report.json").read_text())
        assert report["rows"] == {"train": 20, "validation": 15}
        assert out["recipe"].metadata["learner"] == "crnn"
        recipe = json.loads((store.fetch(out["recipe"].ref) / "recipe.json").read_text())
        assert recipe["params"]["epochs"] == 20
        assert [epoch for epoch, _ in report["trials"][0]["steps"]] == [5, 8]  # searched with half of them, rungs within

    def test_learners_that_do_not_fit(self, run_step: RunStep, store: ArtifactStore) -> None:
        inputs = {"dataset": loans(store), "snapshot": makers.snapshot(store, "demo")}
        with pytest.raises(ConfigError, match="crnn"):
            run_step("automl", params(learners=["crnn"]), inputs)
        with pytest.raises(ConfigError, match="did you mean 'logistic'"):
            run_step("automl", params(learners=["logistics"]), inputs)

    def test_too_little_to_judge_by(self, run_step: RunStep, store: ArtifactStore) -> None:
        rows = [makers.loan_row(row, "train" if i % 3 else "validation") for i, row in enumerate(makers.loans(30, seed=0))]
        one_class = [row for row in rows if row["_split"] == "train" or row["_label"] == "paid"]
        with pytest.raises(DataError, match="auc is undefined") as caught:
            run_step("automl", params(), {"dataset": makers.dataset(store, one_class), "snapshot": makers.snapshot(store, "demo")})
        assert "validation" in caught.value.do


class TestKilled:
    @pytest.mark.slow
    def test_a_killed_search_ends_with_the_same_recipe(self, settings: Settings, store: ArtifactStore, tmp_path: Path) -> None:
        given = params(trials=12, learners=["logistic"], seed=3)
        inputs = {"dataset": loans(store).ref, "snapshot": makers.snapshot(store, "demo").ref}
        for lines in (9, 60):
            _start_and_kill(given, inputs, settings, lines)
        resumed = execute("automl", given, inputs, run_id="killed", settings=settings)
        other = Settings.from_env({"ATLAS_HOME": str(tmp_path / "other")})
        loans(open_store(other))
        makers.snapshot(open_store(other), "demo")
        whole = execute("automl", given, inputs, run_id="whole", settings=other)
        assert resumed["recipe"].ref == whole["recipe"].ref
        assert resumed["report"].ref == whole["report"].ref

    def test_killed_at_any_byte_of_the_journal(self, tmp_path: Path) -> None:
        whole = run_search(tmp_path / "whole.journal", 11)
        content = (tmp_path / "whole.journal").read_bytes()
        for at in range(0, len(content), len(content) // 8 - 1):
            (tmp_path / "cut.journal").write_bytes(content[:at])
            assert _plain(run_search(tmp_path / "cut.journal", 11)) == _plain(whole)


def _start_and_kill(given: dict[str, Any], inputs: dict[str, str], settings: Settings, lines: int) -> None:
    """Run the step as a process and kill -9 it once the journal has so many lines."""
    ports = [part for port, ref in inputs.items() for part in ("--in", f"{port}={ref}")]
    process = subprocess.Popen(
        [sys.executable, "-m", "components", "automl", "--params", json.dumps(given), *ports, "--run-id", "killed"],
        cwd=ROOT,
        env={**os.environ, **settings.env(), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        journals = (settings.home / "studies").glob("*.journal")
        if any(journal.read_bytes().count(b"\n") >= lines for journal in journals):
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def _plain(outcome: Outcome) -> tuple[int, list[Any]]:
    return outcome.best, [(t.configuration, t.state, t.value, t.figures, t.steps) for t in outcome.trials]


class TestSearch:
    def test_stops_after_its_trials_and_goes_on_with_more(self, tmp_path: Path) -> None:
        assert len(run_search(tmp_path / "s", 3).trials) == 3
        assert len(run_search(tmp_path / "s", 3).trials) == 3
        longer = run_search(tmp_path / "s", 11)
        assert _plain(longer) == _plain(run_search(tmp_path / "t", 11))
        assert len(run_search(tmp_path / "s", 5).trials) == 5

    def test_stops_when_its_time_is_spent_but_tries_at_least_one(self, tmp_path: Path) -> None:
        def slow(configuration: Configuration, report: Report) -> tuple[float, dict[str, float | None]]:
            time.sleep(0.05)
            report(1, 0.0)
            return bowl(configuration, report)

        with open_study(tmp_path / "s", maximize=True) as study:
            outcome = search(study, slow, [LEARNER], Space(("logistic",)), budget=Budget(100, 0.22), seed=0)
        assert 1 <= len(outcome.trials) < 8
        with open_study(tmp_path / "t", maximize=True) as study:
            assert len(search(study, slow, [LEARNER], Space(("logistic",)), budget=Budget(100, 1e-9), seed=0).trials) == 1

    def test_the_seed_decides(self, tmp_path: Path) -> None:
        def values(name: str, seed: int) -> list[float | None]:
            with open_study(tmp_path / name, maximize=True) as study:
                outcome = search(study, bowl, [LEARNER], Space(("logistic",)), budget=Budget(10, 60), seed=seed)
            return [trial.value for trial in outcome.trials]

        assert values("a", 1) == values("b", 1) != values("c", 2)

    def test_it_searches(self, tmp_path: Path) -> None:
        values = [trial.value for trial in run_search(tmp_path / "s", 40).trials]
        assert max(v for v in values if v is not None) > -2e-4

    def test_a_known_configuration_is_tried_once_and_equal_values_go_to_the_first(self, tmp_path: Path) -> None:
        twin = Configuration("logistic", {}, {"strength": 0.01}, "champion")
        other = Configuration("logistic", {"log": "auto"}, {"strength": 0.01}, "default")
        outcome = run_search(tmp_path / "s", 2, (LEARNER, twin, other))
        assert [trial.configuration for trial in outcome.trials] == [LEARNER, other]
        assert outcome.best == 0

    def test_a_poor_trial_is_stopped_at_a_rung(self, tmp_path: Path) -> None:
        def climb(configuration: Configuration, report: Report) -> tuple[float, dict[str, float | None]]:
            value, figures = bowl(configuration, report)
            for epoch in range(1, 5):
                report(epoch, value)
            return value, figures

        outcome = run_search(tmp_path / "s", 16, objective=climb, rungs=frozenset({2}))
        stopped = [trial for trial in outcome.trials if trial.state == "stopped"]
        assert stopped
        assert all(trial.value is None and [epoch for epoch, _ in trial.steps] == [2] for trial in stopped)

    def test_a_failing_configuration_costs_a_trial_and_is_told(self, tmp_path: Path) -> None:
        def fragile(configuration: Configuration, report: Report) -> tuple[float, dict[str, float | None]]:
            if configuration.origin == "search" and configuration.params["strength"] > 1e-3:
                raise ArithmeticError("singular")
            return bowl(configuration, report)

        outcome = run_search(tmp_path / "s", 8, objective=fragile)
        assert {"failed", "done"} <= {trial.state for trial in outcome.trials}
        assert len(outcome.trials) == 8

    def test_nothing_better_than_perfect_is_looked_for(self, tmp_path: Path) -> None:
        perfect = Configuration("logistic", {}, {"strength": 1e-3}, "default")
        assert len(run_search(tmp_path / "s", 20, (LEARNER, perfect), perfect=0.0).trials) == 2

    def test_a_first_trial_that_fails_ends_the_search(self, tmp_path: Path) -> None:
        def broken(configuration: Configuration, report: Report) -> tuple[float, dict[str, float | None]]:
            raise IntegrityError("the data are no data")

        with pytest.raises(IntegrityError, match="no data"):
            run_search(tmp_path / "s", 3, objective=broken)

    def test_two_processes_do_not_search_in_one_file(self, tmp_path: Path) -> None:
        with open_study(tmp_path / "s", maximize=True), pytest.raises(TryAgain), open_study(tmp_path / "s", maximize=True):
            pass

    def test_no_trial_ends_with_a_value(self, tmp_path: Path) -> None:
        def stops(configuration: Configuration, report: Report) -> tuple[float, dict[str, float | None]]:
            raise Stopped

        with pytest.raises(IntegrityError, match="no trial"):
            run_search(tmp_path / "s", 2, objective=stops)
        with open_study(tmp_path / "s", maximize=True) as study:
            assert [trial.state for trial in settled_trials(study)] == ["stopped", "stopped"]


def test_every_dimension_is_an_option_of_its_learner() -> None:
    assert set(SPACES) == set(LEARNERS)
    for name, space in SPACES.items():
        found = learner(name)
        assert set(space["features"]) <= set(found.features.model_fields)
        assert set(space["params"]) <= set(found.params.model_fields)
        for part, model in (("features", found.features), ("params", found.params)):
            for end in (0, -1):
                model.model_validate({key: _ends(d)[end] for key, d in space[part].items()})


def _ends(dimension: Real | Whole | Choice | Weakest) -> tuple[Any, ...]:
    if isinstance(dimension, Choice):
        return dimension.options
    return ([], ["a"]) if isinstance(dimension, Weakest) else (dimension.low, dimension.high)


def test_the_weakest_features_may_be_left_out(tmp_path: Path) -> None:
    ranked = tuple("abcdefgh")

    def prefers_few(configuration: Configuration, report: Report) -> tuple[float, dict[str, float | None]]:
        return float(len(configuration.features.get("drop", []))), {}

    known = Configuration("logistic", {"drop": ["h", "g"]}, {}, "champion")
    with open_study(tmp_path / "s", maximize=True) as study:
        space = Space(("logistic",), ranked)
        outcome = search(study, prefers_few, [known], space, budget=Budget(12, 60), seed=0)
        assert study.trials[0].params["logistic.features.drop"] == 0.25
    assert outcome.trials[outcome.best].configuration.features["drop"] == ["e", "f", "g", "h"]


def test_features_are_ranked_by_what_they_tell() -> None:
    draw = np.random.default_rng(0)
    names = [f"f{i}" for i in range(9)]
    task = Tabular.model_validate({"problem": "regression", "features": dict.fromkeys(names, "number")})
    columns = {name: draw.normal(size=200) for name in names}
    rows = Rows(columns, (5 * columns["f6"] + columns["f2"]).tolist())
    assert ranking(Data(task, rows, rows), 0)[:2] == ("f6", "f2")
    assert ranking(Data(makers.LOANS, rows, rows), 0) == ()


@pytest.mark.slow
def test_a_page_of_one_trial() -> None:
    trial = {"number": 0, "origin": "default", "learner": "logistic", "features": {}, "params": {}, "state": "done", "value": 0.5}
    report = {
        "scenario": "demo", "metric": "auc", "higher_is_better": True, "rows": {"train": 2, "validation": 1}, "best": 0, "trials": [trial],
    }  # fmt: skip
    assert "Too few trials" in page(report, [0.1])
