"""What every learner promises. A new learner is one more class at the end."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.core.errors import AtlasError, ConfigError, DataError
from components.core.params import Tabular, Task, TextLine
from components.evaluate.metrics import score
from components.ingest.readers.digits import compose
from components.model import Predictor, load, save
from components.train.data import Data, Rows
from components.train.learners import LEARNERS, learner
from components.train.recipe import Recipe, fit

FEATURES = {"amount": "number", "age": "number", "same": "number", "empty": "number", "city": "category", "one": "category"}
CLASSES = {"binary": ("no", "yes"), "multiclass": ("low", "middle", "high"), "regression": ()}


def table_task(problem: str) -> Tabular:
    return Tabular.model_validate({"problem": problem, "classes": CLASSES[problem], "features": FEATURES})


def table_rows(task: Tabular, count: int, seed: int) -> Rows:
    """Mixed types, 15 % missing, a constant and an empty column; the label follows from amount and city."""
    draw = np.random.default_rng(seed)
    amount, age = draw.lognormal(2, 1, count), draw.normal(40, 12, count)
    city = draw.choice(["Bern", "Oslo", "Rome", "Lima"], count)
    signal = np.log(amount) + 1.5 * np.isin(city, ["Oslo", "Lima"]) + 0.3 * draw.normal(size=count)
    missing = draw.random((count, 2)) < 0.15
    columns: dict[str, Any] = {
        "amount": np.where(missing[:, 0], np.nan, amount),
        "age": age,
        "same": np.full(count, 7.0),
        "empty": [None] * count,
        "city": [None if gone else str(name) for name, gone in zip(city, missing[:, 1], strict=True)],
        "one": ["x"] * count,
    }
    cuts = {"binary": [2.5], "multiclass": [1.8, 3.2]}.get(task.problem)
    labels = signal.tolist() if cuts is None else [task.classes[i] for i in np.digitize(signal, cuts)]
    return Rows(columns, labels)


def text_rows(first: int, last: int, count: int) -> Rows:
    table = compose(first, last, count, length=(1, 2), seed=0)
    return Rows({"image": table["image"].to_pylist()}, table["_label"].to_pylist())


class LearnerContract:
    """Subclass it, override the three attributes, inherit the tests."""

    name: str
    params: dict[str, Any]
    tasks: tuple[Task, ...] = tuple(map(table_task, CLASSES))

    def data(self, task: Task) -> Data:
        if isinstance(task, TextLine):
            return Data(task, text_rows(0, 150, 240), text_rows(0, 50, 30))
        return Data(task, table_rows(task, 400, 1), table_rows(task, 150, 2))

    def recipe(self, task: Task, **params: Any) -> Recipe:
        return Recipe(
            task=task.kind, learner=self.name, features={}, params={**self.params, **params}, score=None, metric=task.metric, seed=0
        )

    def quick(self, task: Task) -> Recipe:
        """Return a recipe that learns little, fast."""
        return self.recipe(task)

    def trained(self, task: Task, folder: Path, data: Data | None = None) -> tuple[Predictor, Predictor]:
        """Return the model in memory and the one that was saved and loaded."""
        recipe = self.recipe(task)
        trained, memory = fit(data or self.data(task), recipe, seed=3)
        folder.mkdir()
        save(
            folder,
            task=task,
            learner=self.name,
            runtime=trained.runtime,
            weights=trained.weights,
            preprocessing=trained.preprocessing,
            recipe=recipe.model_dump(mode="json"),
            card="# card",
        )
        return memory, load(folder)

    def test_learns_and_survives_the_round_trip(self, tmp_path: Path) -> None:
        for number, task in enumerate(self.tasks):
            data = self.data(task)
            memory, loaded = self.trained(task, tmp_path / str(number), data)
            rows = data.validation.mappings()
            ours, theirs = memory.predict(rows), loaded.predict(rows)
            assert [a.label for a in theirs] == [pytest.approx(a.label, rel=1e-4) if isinstance(a.label, float) else a.label for a in ours]
            assert [a.confidence for a in theirs] == pytest.approx([a.confidence for a in ours], abs=1e-4)
            assert all(0 <= a.confidence <= 1 for a in theirs)
            self.assert_learned(task, data, score(task, data.validation.labels, theirs)[task.metric])

    def assert_learned(self, task: Task, data: Data, value: float) -> None:
        labels = data.validation.labels
        if task.metric == "rmse":
            assert value < 0.8 * float(np.std(labels))
        else:
            assert value > {"auc": 0.85, "accuracy": 0.6}[task.metric]

    def test_one_row_answers_like_many(self, tmp_path: Path) -> None:
        task = self.tasks[0]
        data = self.data(task)
        _, loaded = self.trained(task, tmp_path / "m", data)
        rows = data.validation.mappings()[:20]
        together = [answer.confidence for answer in loaded.predict(rows)]
        assert [loaded.predict([row])[0].confidence for row in rows] == pytest.approx(together, abs=1e-5)
        assert loaded.predict([]) == []

    def test_is_deterministic(self) -> None:
        for task in self.tasks:
            data, recipe = self.data(task), self.quick(task)
            first, second, other = (fit(data, recipe, seed=seed)[0] for seed in (5, 5, 6))
            assert first.weights == second.weights
            assert first.preprocessing == second.preprocessing
            assert first.log == second.log
            assert other.weights != first.weights or self.name == "logistic"

    def test_is_deterministic_across_processes(self) -> None:
        code = (
            "import sys, hashlib; sys.path.insert(0, sys.argv[1]); import test_learners as t\n"
            f"c = t.{type(self).__name__}(); task = c.tasks[0]\n"
            "print(hashlib.sha256(t.fit(c.data(task), c.quick(task), seed=5)[0].weights).hexdigest())"
        )
        root = Path(__file__).parents[2]
        other = subprocess.run(
            [sys.executable, "-c", code, str(Path(__file__).parent)],
            cwd=root,
            env={"PYTHONPATH": str(root), "PYTHONHASHSEED": "17"},
            capture_output=True,
            text=True,
            check=True,
        )
        task = self.tasks[0]
        assert other.stdout.strip() == hashlib.sha256(fit(self.data(task), self.quick(task), seed=5)[0].weights).hexdigest()

    def test_the_weights_name_no_place_and_no_time(self) -> None:
        weights = fit(self.data(self.tasks[0]), self.quick(self.tasks[0]), seed=5)[0].weights
        for word in (b"/home", b"/tmp", b"/usr", b"site-packages", b"torch", b"sklearn"):
            assert word not in weights
        assert not weights.startswith(b"\x80")  # a pickle

    def test_unknown_options_are_refused_with_the_nearest(self) -> None:
        task = self.tasks[0]
        name = next(iter(self.params))
        with pytest.raises(ConfigError, match=name):
            fit(self.data(task), self.recipe(task, **{name + "x": 1}), seed=0)

    def test_its_options_are_plain_json(self) -> None:
        found = learner(self.name)
        assert json.dumps([found.features().model_dump(mode="json"), found.params().model_dump(mode="json")])

    def test_too_little_to_learn_from_is_told(self) -> None:
        task = self.tasks[0]
        data = self.data(task)
        none, few = (Rows({name: values[:n] for name, values in data.train.columns.items()}, data.train.labels[:n]) for n in (0, 9))
        for bad in (Data(task, few, data.validation), Data(task, none, data.validation), Data(task, data.train, none)):
            with pytest.raises(DataError, match="rows, at least") as caught:
                fit(bad, self.recipe(task), seed=0)
            assert "label_merge" in caught.value.do

    def test_fits_its_tasks_only(self) -> None:
        assert all(learner(self.name).fits(task) for task in self.tasks)
        other: Task = table_task("binary") if isinstance(self.tasks[0], TextLine) else TextLine()
        assert not learner(self.name).fits(other)
        with pytest.raises(DataError, match=other.kind):
            fit(self.data(other), self.recipe(other), seed=0)


class TabularContract(LearnerContract):
    def test_missing_and_unseen_values_have_an_answer(self, tmp_path: Path) -> None:
        for number, task in enumerate(self.tasks):
            _, loaded = self.trained(task, tmp_path / str(number))
            empty: dict[str, Any] = dict.fromkeys(FEATURES)
            unseen = {**empty, "city": "Atlantis", "one": "y", "amount": 1e300, "age": -1e9}
            for answer in loaded.predict([empty, unseen]):
                assert np.isfinite(answer.confidence)
                assert not isinstance(answer.label, float) or np.isfinite(answer.label)
                assert answer.scores is None or sum(answer.scores.values()) == pytest.approx(1)

    def test_a_wrong_type_or_a_missing_feature_is_a_data_error(self, tmp_path: Path) -> None:
        _, loaded = self.trained(self.tasks[0], tmp_path / "m")
        row: dict[str, Any] = dict.fromkeys(FEATURES)
        for wrong in ({**row, "age": "old"}, {**row, "age": True}, {**row, "city": 3}, {"age": 3.0}):
            with pytest.raises(DataError):
                loaded.check(wrong)
            with pytest.raises(DataError):
                loaded.predict([wrong])

    def test_tiny_data(self, tmp_path: Path) -> None:
        for number, task in enumerate(self.tasks):
            assert isinstance(task, Tabular)
            rows = table_rows(task, 12, 4)
            _, loaded = self.trained(task, tmp_path / str(number), Data(task, rows, table_rows(task, 3, 5)))
            assert len(loaded.predict(rows.mappings())) == 12

    def test_a_class_without_training_rows_is_never_chosen(self, tmp_path: Path) -> None:
        task = table_task("multiclass")
        rows = table_rows(task, 300, 1)
        seen = [index for index, label in enumerate(rows.labels) if label != "middle"]
        part = Rows({name: [values[i] for i in seen] for name, values in rows.columns.items()}, [rows.labels[i] for i in seen])
        _, loaded = self.trained(task, tmp_path / "m", Data(task, part, table_rows(task, 60, 2)))
        assert {answer.label for answer in loaded.predict(rows.mappings())} <= {"low", "high"}

    def test_every_encoding(self) -> None:
        task = table_task("binary")
        data = self.data(task)
        for category in ("code", "onehot", "frequency"):
            recipe = self.recipe(task).model_copy(update={"features": {"category": category, "log": "auto", "drop": ["empty"]}})
            _, predictor = fit(data, recipe, seed=0)
            assert score(task, data.validation.labels, predictor.predict(data.validation.mappings()))["auc"] > 0.6


class TestLightGbm(TabularContract):
    name = "lightgbm"
    params = {"rounds": 60}  # noqa: RUF012


class TestLogistic(TabularContract):
    name = "logistic"
    params = {"iterations": 200}  # noqa: RUF012


class TestMlp(TabularContract):
    name = "mlp"
    params = {"epochs": 25, "lr": 0.01}  # noqa: RUF012


class TestCrnn(LearnerContract):
    name = "crnn"
    params = {"epochs": 12, "channels": 8, "hidden": 32, "lr": 0.01, "batch": 16}  # noqa: RUF012
    tasks = (TextLine(max_length=8),)

    def quick(self, task: Task) -> Recipe:
        return self.recipe(task, epochs=2)

    def assert_learned(self, task: Task, data: Data, value: float) -> None:
        assert value > 0.5

    def test_images_too_short_for_their_text(self) -> None:
        task = self.tasks[0]
        rows = text_rows(0, 50, 12)
        with pytest.raises(AtlasError, match="long enough"):
            fit(Data(task, Rows(rows.columns, ["11111111"] * 12), rows), self.recipe(task), seed=0)

    def test_the_convolutional_head(self) -> None:
        task = self.tasks[0]
        _, predictor = fit(self.data(task), self.recipe(task, head="conv", epochs=2), seed=0)
        assert len(predictor.predict(self.data(task).validation.mappings())) == 30


def test_every_learner_has_a_contract() -> None:
    assert {contract.name for contract in (TestLightGbm, TestLogistic, TestMlp, TestCrnn)} == set(LEARNERS)
