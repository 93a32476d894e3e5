"""The automl step: a recipe that train takes, a report, no leak, and the same result however often it is killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest

from components.automl.genesis.dimensions import SPACES, Choice, Real, Whole
from components.core.artifacts import Artifact
from components.core.errors import ConfigError, DataError
from components.core.ledger import Ledger
from components.core.settings import Settings
from components.core.step import execute
from components.core.store import ArtifactStore, open_store
from components.train.learners import LEARNERS, learner
from components.train.recipe import Recipe

_loader = SourceFileLoader("makers", str(Path(__file__).parents[1] / "makers.py"))
makers = module_from_spec(spec_from_loader("makers", _loader))  # type: ignore[arg-type]
_loader.exec_module(makers)

RunStep = Callable[..., dict[str, Artifact]]
ROOT = Path(__file__).parents[2]
LOANS = makers.LOANS
TASK = {"scenario": "demo", "task": LOANS.model_dump(mode="json")}


def loans(store: ArtifactStore, *, other_seed: int = 1, count: int = 240) -> Artifact:
    rows = [makers.loan_row(row, "train" if i % 3 else "validation") for i, row in enumerate(makers.loans(count, seed=0))]
    rows += [makers.loan_row(row, split) for split in ("test", "holdout") for row in makers.loans(30, seed=other_seed)]
    return makers.dataset(store, rows)  # type: ignore[no-any-return]


def params(task: Any = LOANS, **given: Any) -> dict[str, Any]:
    return {"scenario": "demo", "task": task.model_dump(mode="json"), "trials": 3, "budget_s": 600, "learners": ["logistic"], **given}


def read(store: ArtifactStore, out: dict[str, Artifact]) -> tuple[Recipe, dict[str, Any]]:
    recipe = Recipe.model_validate_json((store.fetch(out["recipe"].ref) / "recipe.json").read_bytes())
    return recipe, json.loads((store.fetch(out["report"].ref) / "report.json").read_text())


class TestStep:
    def test_train_assembles_the_ensemble_that_the_search_fitted(self, run_step: RunStep, store: ArtifactStore) -> None:
        dataset, snapshot = loans(store), makers.snapshot(store, "demo")
        out = run_step("automl", params(trials=4, learners=["lightgbm", "logistic"]), {"dataset": dataset, "snapshot": snapshot})
        recipe, report = read(store, out)
        assert [trial["origin"] for trial in report["trials"] if trial["rung"] == 0] == ["portfolio", "portfolio", "tpe", "tpe"]
        assert recipe.score is not None
        assert recipe.score >= max(trial["value"] for trial in report["trials"]) - 1e-6
        assert sum(member.weight for member in recipe.members) == pytest.approx(1)
        assert recipe.fitted_on == dataset.ref
        assembled = run_step("train", TASK, {"dataset": dataset, "recipe": out["recipe"]})["model"]
        again = run_step("train", {**TASK, "refit": True}, {"dataset": dataset, "recipe": out["recipe"]})["model"]
        same = [name for name in assembled.files if name.startswith("member-")]
        assert len(same) == len(recipe.members)
        assert [assembled.files[name] for name in same] == [again.files[name] for name in same]  # a fit is a function of the recipe

    def test_one_member_is_the_best_pipeline_alone(self, run_step: RunStep, store: ArtifactStore) -> None:
        out = run_step("automl", params(members=1), {"dataset": loans(store), "snapshot": makers.snapshot(store, "demo")})
        recipe, report = read(store, out)
        best = max((trial for trial in report["trials"] if trial["rung"] == len(report["rungs"]) - 1), key=lambda trial: trial["value"])
        assert [member.params for member in recipe.members] == [best["params"]]

    def test_an_experts_pipeline_comes_first_and_wins_if_it_is_better(self, run_step: RunStep, store: ArtifactStore) -> None:
        own = {"learner": "logistic", "params": {"strength": 0.02}}
        inputs = {"dataset": loans(store), "snapshot": makers.snapshot(store, "demo")}
        _, report = read(store, run_step("automl", params(expert=[own], trials=2), inputs))
        assert report["trials"][0]["origin"] == "expert"
        assert report["trials"][0]["params"]["strength"] == 0.02

    def test_nothing_that_varies_is_in_the_digest(self, run_step: RunStep, store: ArtifactStore) -> None:
        out = run_step("automl", params(), {"dataset": loans(store), "snapshot": makers.snapshot(store, "demo")})
        assert not [name for name in out["report"].files if name.startswith("observed")]
        assert not re.search("second|/tmp|20[2-9][0-9]-", (store.fetch(out["report"].ref) / "report.json").read_text())

    @pytest.mark.slow
    def test_test_and_holdout_rows_do_not_steer_it(self, run_step: RunStep, store: ArtifactStore) -> None:
        found = []
        for seed in (1, 2):
            inputs = {"dataset": loans(store, other_seed=seed), "snapshot": makers.snapshot(store, "demo")}
            found.append((store.fetch(run_step("automl", params(trials=5), inputs)["report"].ref) / "report.json").read_bytes())
        assert found[0] == found[1]

    @pytest.mark.slow
    def test_yesterdays_members_are_candidates_and_today_is_not_worse(self, run_step: RunStep, store: ArtifactStore) -> None:
        snapshot = makers.snapshot(store, "demo")
        some, more = loans(store, count=180), loans(store, count=240)
        old = run_step("automl", params(trials=8), {"dataset": some, "snapshot": snapshot})
        model = run_step("train", TASK, {"dataset": some, "recipe": old["recipe"]})["model"]
        now = makers.snapshot(store, "demo", champion={"seq": 1, "model": model.ref, "dataset": some.ref})
        recipe, report = read(store, run_step("automl", params(trials=2), {"dataset": more, "snapshot": now}))
        assert "champion" in [trial["origin"] for trial in report["trials"]]
        without, _ = read(store, run_step("automl", params(trials=2, transfer=False), {"dataset": more, "snapshot": now}))
        assert recipe.score is not None
        assert without.score is not None
        assert recipe.score >= without.score - 1e-6
        inherited = [member for member in recipe.members if member.inherited]
        assert all(member.inherited == model.ref for member in inherited)
        run_step(
            "train", TASK, {"dataset": more, "recipe": run_step("automl", params(trials=2), {"dataset": more, "snapshot": now})["recipe"]}
        )

    @pytest.mark.slow
    def test_lines_of_text(self, run_step: RunStep, store: ArtifactStore) -> None:
        rows = [makers.text_row(f"{i % 10}", "train" if i % 3 else "validation", shade=i) for i in range(45)]
        inputs = {"dataset": makers.dataset(store, rows), "snapshot": makers.snapshot(store, "demo")}
        out = run_step("automl", params(makers.DIGITS, trials=1, learners=[], max_rows=20), inputs)
        recipe, report = read(store, out)
        assert report["rows"] == {"train": 20, "validation": 15}
        assert [member.learner for member in recipe.members] == ["crnn"]
        assert recipe.members[0].params["epochs"] == 20
        assert [trial["rung"] for trial in report["trials"]] == [0, 1]  # judged after a quarter and a half of its epochs

    def test_learners_that_do_not_fit(self, run_step: RunStep, store: ArtifactStore) -> None:
        inputs = {"dataset": loans(store), "snapshot": makers.snapshot(store, "demo")}
        with pytest.raises(ConfigError, match="crnn"):
            run_step("automl", params(learners=["crnn"]), inputs)
        with pytest.raises(ConfigError, match="did you mean 'logistic'"):
            run_step("automl", params(learners=["logistics"]), inputs)

    def test_a_scenario_may_order_the_rows_by_time(self, run_step: RunStep, store: ArtifactStore) -> None:
        inputs = {"dataset": loans(store), "snapshot": makers.snapshot(store, "demo")}
        by_time = {"kind": "time", "folds": 2, "time": "income"}
        out = run_step("automl", params(validation=by_time), inputs)
        recipe, _ = read(store, out)
        assert recipe.validation.kind == "none"  # judged on later rows, then fitted on all of them
        run_step("train", TASK, {"dataset": inputs["dataset"], "recipe": out["recipe"]})
        with pytest.raises(ConfigError, match="did you mean 'income'"):
            run_step("automl", params(validation={**by_time, "time": "incomes"}), inputs)


class TestBadInput:
    """What a table may hold and a search must survive, or say clearly."""

    def searched(
        self, run_step: RunStep, store: ArtifactStore, rows: list[dict[str, Any]], task: Any = LOANS, **given: Any
    ) -> dict[str, Any]:
        inputs = {"dataset": makers.dataset(store, rows), "snapshot": makers.snapshot(store, "demo")}
        return read(store, run_step("automl", params(task, **{"learners": ["lightgbm", "logistic"], **given}), inputs))[1]

    def rows(self, count: int = 200, **changed: Any) -> list[dict[str, Any]]:
        made = [makers.loan_row(row, "train" if i % 3 else "validation") for i, row in enumerate(makers.loans(count, seed=0))]
        return [{**row, **{name: change(i, row) for name, change in changed.items()}} for i, row in enumerate(made)]

    def test_a_constant_target(self, run_step: RunStep, store: ArtifactStore) -> None:
        with pytest.raises(DataError, match="are of class 'paid'"):
            self.searched(run_step, store, self.rows(_label=lambda i, row: "paid"))
        with pytest.raises(DataError, match=r"labels are 3\.5"):
            self.searched(run_step, store, self.rows(_label=lambda i, row: 3.5), makers.PRICES)

    def test_a_class_that_some_folds_lack(self, run_step: RunStep, store: ArtifactStore) -> None:
        report = self.searched(run_step, store, self.rows(_label=lambda i, row: "default" if i < 3 else "paid"))
        assert any(value is None for trial in report["trials"] for value in trial["figures"]["folds"])
        assert report["score"] is not None

    def test_five_rows(self, run_step: RunStep, store: ArtifactStore) -> None:
        with pytest.raises(DataError, match="5"):
            self.searched(run_step, store, self.rows(5))

    @pytest.mark.parametrize("value", [None, float("inf"), float("nan")])
    def test_a_column_without_a_usable_value(self, run_step: RunStep, store: ArtifactStore, value: float | None) -> None:
        assert self.searched(run_step, store, self.rows(income=lambda i, row: value))["score"] > 0.4

    def test_some_infinite_values(self, run_step: RunStep, store: ArtifactStore) -> None:
        rows = self.rows(income=lambda i, row: (float("inf"), float("-inf"))[i % 2] if i % 20 < 2 else row["income"])
        report = self.searched(run_step, store, rows)
        assert report["score"] > 0.6
        assert any("income" in text and "infinite" in text for text in report["warnings"])

    def test_repeated_columns(self, run_step: RunStep, store: ArtifactStore) -> None:
        rows = self.rows(pay=lambda i, row: row["income"], mark=lambda i, row: row["grade"])
        task = LOANS.model_copy(update={"features": {**LOANS.features, "pay": "number", "mark": "category"}})
        report = self.searched(run_step, store, rows, task)
        assert report["score"] == pytest.approx(self.searched(run_step, store, rows)["score"], abs=0.05)
        assert any("pay = income" in text and "mark = grade" in text for text in report["warnings"])

    @pytest.mark.slow
    def test_ten_thousand_categories(self, run_step: RunStep, store: ArtifactStore) -> None:
        rows = self.rows(20_000, grade=lambda i, row: f"{row['grade']} {i % 10_000}")
        assert self.searched(run_step, store, rows)["score"] > 0.6

    @pytest.mark.slow
    def test_a_category_with_a_value_a_row(self, run_step: RunStep, store: ArtifactStore) -> None:
        rows = self.rows(3_000, grade=lambda i, row: f"id {i}")
        assert self.searched(run_step, store, rows)["score"] > 0.4

    def test_a_column_that_is_the_target_is_told(self, run_step: RunStep, store: ArtifactStore) -> None:
        report = self.searched(run_step, store, self.rows(income=lambda i, row: float(row["_label"] == "paid")))
        assert any("income" in text and "target" in text for text in report["warnings"])


class TestKilled:
    @pytest.mark.slow
    def test_a_killed_search_ends_with_the_same_recipe(self, settings: Settings, store: ArtifactStore, tmp_path: Path) -> None:
        given = params(trials=12, learners=["logistic"], seed=3)
        inputs = {"dataset": loans(store).ref, "snapshot": makers.snapshot(store, "demo").ref}
        for lines in (8, 30):
            _start_and_kill(given, inputs, settings, lines)
        resumed = execute("automl", given, inputs, run_id="killed", settings=settings)
        other = Settings.from_env({"ATLAS_HOME": str(tmp_path / "other")})
        loans(open_store(other))
        makers.snapshot(open_store(other), "demo")
        whole = execute("automl", given, inputs, run_id="whole", settings=other)
        assert resumed["recipe"].ref == whole["recipe"].ref
        assert resumed["report"].ref == whole["report"].ref

    @pytest.mark.slow
    def test_processes_of_the_same_step_share_one_search(self, settings: Settings, store: ArtifactStore) -> None:
        given = params(trials=10, learners=["lightgbm", "logistic"])
        inputs = {"dataset": loans(store).ref, "snapshot": makers.snapshot(store, "demo").ref}
        both = [_start(given, inputs, settings, "run", *more) for more in ((), ("--join",))]
        assert [process.wait(timeout=120) for process in both] == [0, 0]
        (journal,) = (settings.home / "studies").glob("*/study.journal")
        workers = Counter(re.findall(r'"worker": ?"([^"]+)"', journal.read_text()))
        assert len(workers) == 2
        with Ledger.open(settings.ledger) as ledger:
            assert list(ledger.outputs("run")) == ["automl"]
        _, report = read(store, execute("automl", given, inputs, run_id="run", settings=settings))
        assert sum(trial["rung"] == 0 for trial in report["trials"]) == 10

    def test_a_step_that_one_process_does_can_t_be_joined(self, settings: Settings) -> None:
        with pytest.raises(ConfigError, match="done by one process"):
            execute(
                "ingest",
                {"scenario": "demo", "task": TASK["task"], "source": {"reader": "table", "options": {}}},
                {},
                run_id="r",
                settings=settings,
                join=True,
            )


def _start(given: dict[str, Any], inputs: dict[str, str], settings: Settings, run_id: str, *more: str) -> subprocess.Popen[bytes]:
    ports = [part for port, ref in inputs.items() for part in ("--in", f"{port}={ref}")]
    return subprocess.Popen(
        [sys.executable, "-m", "components", "automl", "--params", json.dumps(given), *ports, "--run-id", run_id, *more],
        cwd=ROOT,
        env={**os.environ, **settings.env(), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _start_and_kill(given: dict[str, Any], inputs: dict[str, str], settings: Settings, lines: int) -> None:
    """Run the step as a process and kill -9 it once the journal has so many lines."""
    process = _start(given, inputs, settings, "killed")
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        journals = (settings.home / "studies").glob("*/study.journal")
        if any(journal.read_bytes().count(b"\n") >= lines for journal in journals):
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_every_dimension_is_an_option_of_its_learner() -> None:
    assert set(SPACES) == set(LEARNERS)
    for name, space in SPACES.items():
        found = learner(name)
        assert set(space["features"]) <= set(found.features.model_fields)
        assert set(space["params"]) <= set(found.params.model_fields)
        for part, model in (("features", found.features), ("params", found.params)):
            for end in (0, -1):
                model.model_validate({key: _ends(d)[end] for key, d in space[part].items()})


def _ends(dimension: Real | Whole | Choice) -> tuple[Any, ...]:
    return dimension.options if isinstance(dimension, Choice) else (dimension.low, dimension.high)
