"""What every learner promises. A new learner is one more class at the end, or in a file of its own."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from components.core.errors import ConfigError, DataError
from components.core.params import GraphSource, Node, Tabular, Task, TextLine
from components.evaluate.metrics import score
from components.ingest.readers import identities, nodes
from components.ingest.readers.digits import compose
from components.model import Predictor
from components.model.runtime import load_weights
from components.train.data import Data, Rows
from components.train.features import Matrices
from components.train.fitting import merge, predictor_of
from components.train.graph.source import load
from components.train.learners import LEARNERS, Learner, Prepared, Trained, learner, learners_for, never
from components.train.learners.base import Inheriting, Together, options
from components.train.learners.recognizer import space_of
from components.train.merging import iterations_of, merge_lightgbm
from components.train.parallel.section import Parallel
from components.train.recipe import Pipeline
from components.train.reproducible import reproducible
from components.train.spaces.network import network
from components.train.spaces.space import Architecture
from components.train.validation import Validation

FEATURES = {"amount": "number", "age": "number", "same": "number", "empty": "number", "city": "category", "one": "category"}
CLASSES = {"binary": ("no", "yes"), "multiclass": ("low", "middle", "high"), "regression": ()}
HOLDOUT = Validation(kind="holdout", folds=1)


class DeadlineError(Exception):
    """What a search raises in `progress` to abandon a fit."""


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
    """Subclass it, override the attributes, inherit the tests.

    Attributes:
        name: The learner's.
        params: That learn enough of `data`, fast.
        counted: The one of the params that says how many rounds are trained; None: it does not learn in rounds.
        seeded: Whether the seed changes the model; None: it may.
        deadline: At which call of `progress` a fit is abandoned, with the params of `quick`.
    """

    name: str
    params: dict[str, Any]
    counted: str | None = None
    seeded: bool | None = True
    deadline = 3
    tasks: tuple[Task, ...] = tuple(map(table_task, CLASSES))

    def learner(self) -> Learner:
        """Return it; one that is not in `LEARNERS` overrides this."""
        return learner(self.name)

    def data(self, task: Task) -> Data:
        if isinstance(task, TextLine):
            return Data(task, text_rows(0, 150, 240), text_rows(0, 50, 30))
        return Data(task, table_rows(task, 400, 1), table_rows(task, 150, 2))

    def quick(self) -> dict[str, Any]:
        """Return params that learn little, fast."""
        return self.params

    def prepared(self, task: Task, data: Data | None = None, validation: Validation = HOLDOUT, **features: Any) -> Prepared:
        found = self.learner()
        return found.prepare(data or self.data(task), options(found.features, features, "features"), validation)

    def fit(self, part: Any, params: dict[str, Any] | None = None, *, seed: int = 3, progress: Any = never) -> Trained:
        found = self.learner()
        given = options(found.params, self.params if params is None else params, "params")
        with reproducible():
            return found.fit(part, given, seed=seed, progress=progress)

    def predictor(self, task: Task, prepared: Prepared, folds: int = 1) -> tuple[Predictor, list[Trained]]:
        """Fit every fold and return what would be served, and the folds' models."""
        trained = [self.fit(prepared.part(fold)) for fold in range(folds)]
        member = merge(Pipeline(learner=self.name, features={}, params={}), prepared.preprocessing, trained, number=0)
        return predictor_of(task, [member]), trained

    def test_learns_and_survives_the_round_trip(self) -> None:
        for task in self.tasks:
            data = self.data(task)
            prepared = self.prepared(task, data)
            served, (trained,) = self.predictor(task, prepared)
            answers = served.predict(data.validation.mappings())
            assert all(0 <= answer.confidence <= 1 for answer in answers)
            self.assert_learned(task, data, score(task, data.validation.labels, answers)[task.metric])
            if isinstance(task, Tabular):
                x = prepared.part(0).x_validation
                folds = (iterations_of(trained.weights) if trained.runtime == "lightgbm" else 1,)
                loaded = load_weights(trained.runtime, trained.weights, folds).scores(x)
                assert loaded.ravel() == pytest.approx(trained.scores(x).ravel(), rel=1e-5, abs=1e-5)

    def assert_learned(self, task: Task, data: Data, value: float) -> None:
        labels = data.validation.labels
        if task.metric == "rmse":
            assert value < 0.8 * float(np.std(labels))
        else:
            assert value > {"auc": 0.85, "accuracy": 0.6}[task.metric]

    def test_one_row_answers_like_many(self) -> None:
        task = self.tasks[0]
        data = self.data(task)
        served, _ = self.predictor(task, self.prepared(task, data))
        rows = data.validation.mappings()[:20]
        together = [answer.confidence for answer in served.predict(rows)]
        assert [served.predict([row])[0].confidence for row in rows] == pytest.approx(together, abs=1e-5)
        assert served.predict([]) == []

    def test_is_deterministic(self) -> None:
        for task in self.tasks:
            part = self.prepared(task).part(0)
            first, second, other = (self.fit(part, self.quick(), seed=seed) for seed in (5, 5, 6))
            assert first.weights == second.weights
            assert first.log == second.log
            assert self.seeded is None or (other.weights != first.weights) == self.seeded

    def test_is_deterministic_across_processes(self) -> None:
        file = Path(inspect.getfile(type(self)))
        code = (
            f"import sys, hashlib; sys.path[:0] = sys.argv[1:]; import {file.stem} as t\n"
            f"c = t.{type(self).__name__}(); part = c.prepared(c.tasks[0]).part(0)\n"
            "print(hashlib.sha256(c.fit(part, c.quick(), seed=5).weights).hexdigest())"
        )
        root = Path(__file__).parents[2]
        other = subprocess.run(
            [sys.executable, "-c", code, str(file.parent), str(Path(__file__).parent)],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root), "PYTHONHASHSEED": "17"},
            capture_output=True,
            text=True,
            check=True,
        )
        ours = self.fit(self.prepared(self.tasks[0]).part(0), self.quick(), seed=5)
        assert other.stdout.strip() == hashlib.sha256(ours.weights).hexdigest()

    def test_the_weights_name_no_place_and_no_time(self) -> None:
        weights = self.fit(self.prepared(self.tasks[0]).part(0), self.quick()).weights
        for word in (b"/home", b"/tmp", b"/usr", b"site-packages", b"torch", b"sklearn"):
            assert word not in weights
        assert not weights.startswith(b"\x80")  # a pickle

    def test_a_deadline_ends_a_fit(self) -> None:
        for task in self.tasks:
            calls = 0

            def late(done: int, value: float) -> bool:
                nonlocal calls
                calls += 1
                if calls == self.deadline:
                    raise DeadlineError
                return False

            with pytest.raises(DeadlineError):
                self.fit(self.prepared(task).part(0), self.quick(), progress=late)
            assert calls == self.deadline

    def test_progress_can_end_a_training_and_keep_it(self) -> None:
        task = self.tasks[0]
        prepared = self.prepared(task)
        trained = self.fit(prepared.part(0), progress=lambda done, value: done >= 1)
        assert trained.weights
        assert trained.rounds is None or trained.rounds <= 5

    def test_wrong_options_are_refused_with_the_nearest(self) -> None:
        name, value = next(iter(self.params.items()))
        with pytest.raises(ConfigError, match=f"{name}x") as caught:
            self.fit(None, {f"{name}x": value})
        assert name in caught.value.do
        with pytest.raises(ConfigError, match=name):
            self.fit(None, {name: -1})

    def test_its_options_are_plain_json(self) -> None:
        found = self.learner()
        assert json.dumps([found.features().model_dump(mode="json"), found.params().model_dump(mode="json")])

    def test_fits_its_tasks_only(self) -> None:
        assert all(self.learner().fits(task) for task in self.tasks)
        other: Task = table_task("binary") if isinstance(self.tasks[0], TextLine) else TextLine()
        assert not self.learner().fits(other)
        with pytest.raises(DataError, match="lines of text"):
            self.prepared(other)


class TabularContract(LearnerContract):
    """What learners of tables promise besides."""

    def matrices(self, problem: str, x: Any, rows: int = 10) -> Matrices:
        """Return a fold of `rows` training rows, and 4 to judge by."""
        y = {"binary": np.arange(rows) % 2, "multiclass": np.arange(rows) % 3, "regression": np.arange(rows) * 10.0}[problem]
        return Matrices(x, y.astype(np.float64), x[:4], y[:4].astype(np.float64), len(CLASSES[problem]))

    def assert_sound(self, trained: Trained, m: Matrices) -> None:
        """Check that every kind of row has an answer."""
        for x in (m.x, np.full_like(m.x[:1], np.nan), np.full_like(m.x[:1], 1e30), np.full_like(m.x[:1], -1e30)):
            scores = trained.scores(x)
            assert np.isfinite(scores).all()
            if m.classes:
                assert (scores >= 0).all()
                assert (scores <= 1 + 1e-6).all()
            if scores.ndim == 2 and m.classes:
                assert scores.sum(axis=1) == pytest.approx(np.ones(len(x)), abs=1e-5)

    def test_without_rows_to_judge_by_it_trains_what_it_is_told(self) -> None:
        for task in self.tasks:
            m = self.prepared(task).part(0)
            params = {**self.params, **({self.counted: 7} if self.counted else {})}
            trained = self.fit(Matrices(m.x, m.y, m.x[:0], m.y[:0], m.classes, m.coded), params)
            assert trained.rounds == (7 if self.counted else None)
            self.assert_sound(trained, m)

    def test_it_stops_where_the_validation_loss_is_least(self) -> None:
        if self.counted is None or self.counted == "trees":
            return
        for task in self.tasks:
            trained = self.fit(self.prepared(task).part(0))
            losses = [entry["loss"] for entry in trained.log]
            assert trained.rounds is not None
            assert losses[trained.rounds - 1] == pytest.approx(min(losses), rel=1e-3)

    def test_the_models_of_folds_become_one(self) -> None:
        for task in self.tasks:
            data = self.data(task)
            served, trained = self.predictor(task, self.prepared(task, data, Validation(folds=3)), folds=3)
            assert len({entry.weights for entry in trained}) == 3
            self.assert_learned(task, data, score(task, data.validation.labels, served.predict(data.validation.mappings()))[task.metric])

    def test_a_sample_of_the_rows_is_enough(self) -> None:
        for task in self.tasks:
            part = self.prepared(task, validation=Validation(folds=3)).part(0, limit=60)
            assert len(part.x) == 60
            self.assert_sound(self.fit(part), part)

    def test_missing_and_unseen_values_have_an_answer(self) -> None:
        for task in self.tasks:
            served, _ = self.predictor(task, self.prepared(task))
            empty: dict[str, Any] = dict.fromkeys(FEATURES)
            unseen = {**empty, "city": "Atlantis", "one": "y", "amount": 1e300, "age": -1e9}
            for answer in served.predict([empty, unseen]):
                assert np.isfinite(answer.confidence)
                assert not isinstance(answer.label, float) or np.isfinite(answer.label)
                assert answer.scores is None or sum(answer.scores.values()) == pytest.approx(1)

    def test_tables_that_hardly_say_anything(self) -> None:
        draw = np.random.default_rng(0)
        plain = draw.normal(size=(10, 3)).astype(np.float32)
        empty, constant = np.full((10, 1), np.nan, dtype=np.float32), np.ones((10, 2), dtype=np.float32)
        tables = (plain, plain[:, :1], constant, empty, np.concatenate([plain, empty, constant], axis=1))
        for problem in CLASSES:
            for x in tables:
                m = self.matrices(problem, x)
                self.assert_sound(self.fit(m), m)

    def test_training_rows_with_one_target(self) -> None:
        x = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
        for problem, value in (("binary", 1.0), ("multiclass", 2.0), ("regression", 5.0)):
            y = np.full(30, value)
            trained = self.fit(Matrices(x, y, x[:4], np.array([0.0, 1.0, 0.0, 1.0]), len(CLASSES[problem])))
            scores = trained.scores(x)
            if problem == "regression":
                assert scores.ravel() == pytest.approx(y, abs=0.5)
            elif scores.ndim == 1:
                assert (scores > 0.5).all()
            else:
                assert (scores.argmax(axis=1) == int(value)).all()

    def test_a_class_without_training_rows_is_never_chosen(self) -> None:
        draw = np.random.default_rng(0)
        x = draw.normal(size=(300, 3)).astype(np.float32)
        y = np.where(x[:, 0] > 0, 2.0, 0.0)
        judged = np.where(draw.random(60) < 0.3, 1.0, y[:60])
        trained = self.fit(Matrices(x, y, x[:60], judged, 3))
        chosen = trained.scores(x).argmax(axis=1)
        assert set(chosen.tolist()) == {0, 2}
        assert (chosen == y).mean() > 0.8

    def test_every_encoding(self) -> None:
        task = table_task("binary")
        data = self.data(task)
        for category in ("code", "onehot", "frequency", "target"):
            served, _ = self.predictor(task, self.prepared(task, data, category=category, log="auto", drop=["empty"]))
            assert score(task, data.validation.labels, served.predict(data.validation.mappings()))["auc"] > 0.6

    def test_rare_classes_can_weigh_as_much(self) -> None:
        if "balanced" not in self.learner().params.model_fields:
            return
        x = np.random.default_rng(0).normal(size=(600, 2)).astype(np.float32)
        y = (x[:, 0] + np.random.default_rng(1).normal(size=600) > 2.2).astype(np.float64)
        m = Matrices(x, y, x[:100], y[:100], 2)
        plain, weighed = (self.fit(m, {**self.params, "balanced": balanced}).scores(x) for balanced in (False, True))
        assert weighed.reshape(600, -1)[:, -1].mean() > 1.5 * plain.reshape(600, -1)[:, -1].mean()

    def test_every_loss_of_a_regression(self) -> None:
        """On values with a long tail the mean absolute error is least under the loss that asks for it."""
        field = self.learner().params.model_fields.get("loss")
        if field is None or field.annotation is None:
            return
        m = self.prepared(table_task("regression")).part(0)
        y, y_validation = np.exp(m.y), np.exp(m.y_validation)
        error = {}
        for loss in field.annotation.__args__:
            trained = self.fit(Matrices(m.x, y, m.x_validation, y_validation, 0, m.coded), {**self.params, "loss": loss})
            error[loss] = float(np.abs(trained.scores(m.x_validation).ravel() - y_validation).mean())
        assert max(error.values()) < 0.95 * float(np.abs(y_validation - np.median(y)).mean())
        assert error["l1"] < error["l2"]
        assert error["huber"] < error["l2"]

    def test_a_loss_that_learns_logarithms(self) -> None:
        """Its answers are above 0 and right in the mean; it needs labels that are not negative, and one that never varies is answered."""
        field = self.learner().params.model_fields.get("loss")
        if field is None or "poisson" not in getattr(field.annotation, "__args__", ()):
            return
        m = self.prepared(table_task("regression")).part(0)
        given = {**self.params, "loss": "poisson"}
        with pytest.raises(DataError, match="negative"):
            self.fit(Matrices(m.x, m.y - m.y.max(), m.x_validation, m.y_validation, 0, m.coded), given)
        trained = self.fit(Matrices(m.x, np.exp(m.y), m.x_validation, np.exp(m.y_validation) - 1, 0, m.coded), given)
        answers = trained.scores(m.x)
        assert answers.min() > 0
        assert answers.mean() == pytest.approx(np.exp(m.y).mean(), rel=0.05)
        for value in (0.0, 7.0):
            constant = self.fit(Matrices(m.x, np.full(len(m.y), value), m.x_validation, m.y_validation, 0, m.coded), given)
            assert constant.scores(m.x) == pytest.approx(value, abs=1e-6)
            merge_lightgbm([trained.weights, constant.weights], [range(m.x.shape[1])] * 2, m.x.shape[1])


class TestCatBoost(TabularContract):
    name = "catboost"
    params = {"rounds": 60, "learning_rate": 0.2}  # noqa: RUF012
    counted = "rounds"


class TestExtraTrees(TabularContract):
    name = "extra_trees"
    params = {"trees": 15, "bootstrap": False}  # noqa: RUF012
    counted = "trees"

    def test_a_random_forest(self) -> None:
        for task in self.tasks:
            data = self.data(task)
            part = self.prepared(task, data).part(0)
            trained = self.fit(part, {**self.params, "bootstrap": True})
            assert trained.weights != self.fit(part).weights
            self.assert_sound(trained, part)


class TestLightGbm(TabularContract):
    name = "lightgbm"
    params = {"rounds": 60}  # noqa: RUF012
    counted = "rounds"


class TestLogistic(TabularContract):
    name = "logistic"
    params = {"iterations": 200}  # noqa: RUF012
    seeded = False
    deadline = 1


class TestMlp(TabularContract):
    name = "mlp"
    params = {"epochs": 25, "lr": 0.01}  # noqa: RUF012
    counted = "epochs"


class TestResNet(TabularContract):
    name = "resnet"
    params = {"epochs": 15, "lr": 0.01, "width": 32}  # noqa: RUF012
    counted = "epochs"


class TestXgBoost(TabularContract):
    name = "xgboost"
    params = {"rounds": 60, "learning_rate": 0.2}  # noqa: RUF012
    counted = "rounds"

    def test_trees_that_grow_where_it_helps_most(self) -> None:
        part = self.prepared(self.tasks[0]).part(0)
        trained = self.fit(part, {**self.params, "max_leaves": 4})
        assert {line for line in trained.weights.split(b"\n") if line.startswith(b"num_leaves=")} <= {
            b"num_leaves=%d" % n for n in range(1, 5)
        }


class TestCrnn(LearnerContract):
    name = "crnn"
    params = {"epochs": 12, "channels": 8, "hidden": 32, "lr": 0.01, "batch": 16}  # noqa: RUF012
    deadline = 1
    tasks = (TextLine(max_length=8),)

    def quick(self) -> dict[str, Any]:
        return {**self.params, "epochs": 2}

    def assert_learned(self, task: Task, data: Data, value: float) -> None:
        assert value > 0.5

    def test_images_too_short_for_their_text(self) -> None:
        task = self.tasks[0]
        rows = text_rows(0, 50, 12)
        with pytest.raises(DataError, match="long enough"):
            self.fit(self.prepared(task, Data(task, Rows(rows.columns, ["11111111"] * 12), rows)).part(0), self.quick())

    def test_the_convolutional_head(self) -> None:
        trained = self.fit(self.prepared(self.tasks[0]).part(0), {**self.quick(), "head": "conv"})
        assert trained.weights


class TestRecognizer(LearnerContract):
    name = "recognizer"
    params = {"epochs": 12, "width": 0.5, "options": [0] * 2, "lr": 0.01, "batch": 16}  # noqa: RUF012
    deadline = 1
    tasks = (TextLine(max_length=8),)

    def quick(self) -> dict[str, Any]:
        return {**self.params, "epochs": 2}

    def assert_learned(self, task: Task, data: Data, value: float) -> None:
        assert value > 0.5

    def test_an_architecture_of_another_space_is_refused_where_the_recipe_is_read(self) -> None:
        for given in ({"width": 0.5, "options": [0, 0, 1, 2, 1, 2]}, {"width": 0.3}, {"space": "mobilenet"}):
            with pytest.raises(ValidationError, match=r"is not in space|has no width|do not read lines"):
                learner(self.name).params.model_validate(given)

    def test_a_training_may_begin_with_inherited_weights(self) -> None:
        found, part = self.learner(), self.prepared(self.tasks[0]).part(0)
        assert isinstance(found, Inheriting)
        params = options(found.params, self.quick(), "params")
        whole = space_of("recognizer", part.rule.height, len(part.task.alphabet) + 1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            net = network(whole, Architecture(whole.widths.index(0.5), (0, 0)))
        start = {name: value.numpy() for name, value in net.state_dict().items()}
        with reproducible():
            first, again, other = (
                found.fit_from(part, params, start={**start, "head.out.bias": start["head.out.bias"] + shift}, seed=3, progress=never)
                for shift in (0.0, 0.0, 0.5)
            )
            drawn = found.fit(part, params, seed=3, progress=never)
        assert first.weights == again.weights != other.weights
        assert first.weights == drawn.weights  # what is inherited is mixed with what the seed draws, here with itself
        with pytest.raises(ConfigError, match=r"no width 0\.7"):
            self.fit(part, {**self.quick(), "width": 0.7})


class TestArcFace(LearnerContract):
    name = "arcface"
    params = {"epochs": 12, "hidden": 64, "dim": 32, "batch": 32}  # noqa: RUF012
    tasks = (
        Tabular.model_validate(
            {
                "problem": "multiclass",
                "classes": [f"p{number:02d}" for number in range(60)],
                "features": {f"f{number:02d}": "number" for number in range(32)},
            }
        ),
    )

    def data(self, task: Task) -> Data:
        return Data(task, self._rows(0, 3), self._rows(3, 4))

    def _rows(self, first: int, last: int) -> Rows:
        table = identities.compose(first=first, last=last, shots=4)
        columns = {name: table[name].to_numpy() for name in table.column_names if name.startswith("f")}
        return Rows(columns, table["_label"].to_pylist())

    def test_few_classes_are_left_to_others(self) -> None:
        assert not self.learner().fits(table_task("multiclass"))

    def test_the_models_of_folds_become_one(self) -> None:
        task = self.tasks[0]
        data = self.data(task)
        served, trained = self.predictor(task, self.prepared(task, data, Validation(folds=3)), folds=3)
        assert len({entry.weights for entry in trained}) == 3
        assert score(task, data.validation.labels, served.predict(data.validation.mappings()))["accuracy"] > 0.6

    def test_missing_and_huge_values_and_classes_without_rows_have_an_answer(self) -> None:
        m = self.prepared(self.tasks[0]).part(0)
        kept = m.y > 0
        trained = self.fit(Matrices(m.x[kept], m.y[kept], m.x_validation[:0], m.y_validation[:0], m.classes))
        for x in (m.x, np.full_like(m.x[:1], np.nan), np.full_like(m.x[:1], 1e30)):
            scores = trained.scores(x)
            assert np.isfinite(scores).all()
            assert scores.sum(axis=1) == pytest.approx(np.ones(len(x)), abs=1e-5)
        assert (trained.scores(m.x).argmax(axis=1) > 0).all()

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "parallel", [{"strategy": "sharded_head", "tensor": 2}, {"strategy": "ddp", "data": 2}], ids=["sharded", "ddp"]
    )
    def test_several_processes_learn_what_one_does(self, parallel: dict[str, Any], tmp_path: Path) -> None:
        found = self.learner()
        assert isinstance(found, Together)
        part, params = self.prepared(self.tasks[0]).part(0), options(found.params, {**self.params, "epochs": 3}, "params")
        alone = self.fit(part, {**self.params, "epochs": 3})
        together = found.fit_together(part, params, seed=3, parallel=Parallel.model_validate(parallel), folder=tmp_path)
        assert [entry["loss"] for entry in together.log] == pytest.approx([entry["loss"] for entry in alone.log], rel=1e-4)
        assert together.scores(part.x) == pytest.approx(alone.scores(part.x), abs=1e-3)


class TestSage(LearnerContract):
    name = "sage"
    params = {"epochs": 4, "hidden": 16, "batch": 64}  # noqa: RUF012
    deadline = 2
    graph = GraphSource(nodes=600, communities=3, signal=0.4)
    tasks = (Node(classes=("red", "green", "blue"), graph=graph),)

    def data(self, task: Task) -> Data:
        return Data(task, self._rows(0, 300), self._rows(300, 400))

    def _rows(self, first: int, last: int) -> Rows:
        options = {"graph": self.graph.model_dump(), "classes": ["red", "green", "blue"], "first": first, "last": last}
        table = nodes.read(options, None)
        return Rows({"node": table["node"].to_numpy()}, table["_label"].to_pylist())

    def test_the_models_of_folds_become_one(self) -> None:
        task = self.tasks[0]
        data = self.data(task)
        served, trained = self.predictor(task, self.prepared(task, data, Validation(folds=3)), folds=3)
        assert len({entry.weights for entry in trained}) == 3
        assert score(task, data.validation.labels, served.predict(data.validation.mappings()))["accuracy"] > 0.8

    def test_every_number_has_an_answer(self) -> None:
        served, _ = self.predictor(self.tasks[0], self.prepared(self.tasks[0]))
        strange = [{"node": value} for value in (None, -1.0, 600.0, 1e300, float("nan"))]
        found = served.predict([{"node": 599.0}, *strange])
        assert all(answer.scores is not None and sum(answer.scores.values()) == pytest.approx(1) for answer in found)
        assert len({answer.confidence for answer in found[1:]}) == 1

    def test_nodes_that_are_not_in_the_graph_are_refused(self) -> None:
        task = self.tasks[0]
        rows = Rows({"node": np.arange(590.0, 610.0)}, ["red", "green"] * 10)
        with pytest.raises(DataError, match="outside the graph of 600 nodes"):
            self.fit(self.prepared(task, Data(task, rows, rows)).part(0))

    def test_its_neighbours_say_more_than_its_features(self) -> None:
        task = self.tasks[0]
        data = self.data(task)
        served, _ = self.predictor(task, self.prepared(task, data))
        rest = self._rows(400, 600)
        unseen = score(task, rest.labels, served.predict(rest.mappings()))["accuracy"]
        _, features = load(self.graph)
        of = {
            name: [int(n) for n, label in zip(data.train.columns["node"], data.train.labels, strict=True) if label == name]
            for name in task.classes
        }
        means = np.stack([features[of[name]].mean(axis=0) for name in task.classes])
        nearest = [task.classes[int(((features[int(n)] - means) ** 2).sum(axis=1).argmin())] for n in rest.columns["node"]]
        assert unseen > float(np.mean([a == b for a, b in zip(nearest, rest.labels, strict=True)])) + 0.05

    @pytest.mark.slow
    def test_several_processes_learn_what_one_does(self, tmp_path: Path) -> None:
        found = self.learner()
        assert isinstance(found, Together)
        part, params = self.prepared(self.tasks[0]).part(0), options(found.params, self.params, "params")
        alone = self.fit(part)
        parallel = Parallel(strategy="graph", data=2)
        together = found.fit_together(part, params, seed=3, parallel=parallel, folder=tmp_path)
        assert [entry["loss"] for entry in together.log] == pytest.approx([entry["loss"] for entry in alone.log], rel=1e-3)
        assert (together.scores(part.x).argmax(axis=1) == alone.scores(part.x).argmax(axis=1)).mean() > 0.98
        with pytest.raises(ConfigError, match="'ddp'"):
            found.fit_together(part, params, seed=3, parallel=Parallel(strategy="ddp", data=2), folder=tmp_path)


def test_every_learner_has_a_contract() -> None:
    known = {contract.name for contract in _contracts(LearnerContract) if contract.__module__ == __name__}
    assert known == set(LEARNERS)


def _contracts(base: type[LearnerContract]) -> list[type[LearnerContract]]:
    found = [contract for child in base.__subclasses__() for contract in _contracts(child)]
    return [*found, base] if hasattr(base, "name") else found


def test_learners_for_a_task() -> None:
    assert [found.name for found in learners_for(TextLine())] == ["crnn", "recognizer"]
    assert [found.name for found in learners_for(Node(classes=("a", "b", "c")))] == ["sage"]
    assert [found.name for found in learners_for(table_task("binary"), ("xgboost", "catboost"))] == ["catboost", "xgboost"]
    with pytest.raises(ConfigError, match="lightgbmm"):
        learner("lightgbmm")
    with pytest.raises(ConfigError, match="text_line"):
        learners_for(TextLine(), ("mlp",))
