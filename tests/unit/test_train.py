"""The train step: what it reads, what it writes, and that it writes the same bytes again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.core.artifacts import Artifact
from components.core.errors import ConfigError, DataError, IntegrityError
from components.core.store import ArtifactStore
from components.ingest.readers.digits import compose
from components.model import load
from components.train.data import Data, Rows, read_data
from components.train.fitting import fit, predictor_of, read_fits, write_fits
from components.train.folds import hashed_folds
from components.train.recipe import Pipeline, Recipe, write_recipe
from components.train.validation import Validation

_loader = SourceFileLoader("makers", str(Path(__file__).parents[1] / "makers.py"))
makers = module_from_spec(spec_from_loader("makers", _loader))  # type: ignore[arg-type]
_loader.exec_module(makers)

RunStep = Callable[..., dict[str, Artifact]]
LOANS = makers.LOANS
DIGITS = makers.DIGITS
TINY = {"epochs": 2, "channels": 4, "hidden": 16, "batch": 16}


HASH = Validation(kind="hash", folds=3)
HOLDOUT = Validation(kind="holdout", folds=1)
BOTH: tuple[tuple[str, dict[str, Any], float], ...] = (("lightgbm", {"rounds": 15}, 0.75), ("logistic", {}, 0.25))


def of(*members: tuple[str, dict[str, Any], float], task: Any = LOANS, validation: Validation = HASH, **more: Any) -> Recipe:
    pipelines = tuple(Pipeline(learner=name, features={}, params=given, weight=weight) for name, given, weight in members)
    facts = {"score": None, "metric": task.metric, "seed": 0, **more}
    return Recipe(task=task.kind, members=pipelines, validation=validation, **facts)


def put(store: ArtifactStore, given: Recipe) -> Artifact:
    return makers.publish(store, "Recipe", lambda folder: write_recipe(given, folder))  # type: ignore[no-any-return]


def recipe(store: ArtifactStore, learner: str = "lightgbm", params: dict[str, Any] | None = None, task: Any = LOANS) -> Artifact:
    return put(store, of((learner, params or {}, 1.0), task=task, validation=HOLDOUT))


def loans(store: ArtifactStore, *, other_seed: int = 1, problem: str = "binary", count: int = 300) -> Artifact:
    """Put a dataset version; `other_seed` changes the rows of test and holdout only."""
    rows = [makers.loan_row(row, "train" if i % 3 else "validation", problem=problem) for i, row in enumerate(makers.loans(count, seed=0))]
    for split in ("test", "holdout"):
        rows += [makers.loan_row(row, split, problem=problem, case=split == "holdout") for row in makers.loans(40, seed=other_seed)]
    return makers.dataset(store, rows)  # type: ignore[no-any-return]


def lines(store: ArtifactStore) -> Artifact:
    table = compose(0, 50, 60, length=(1, 2))
    rows = [
        {**makers.text_row("1", "train" if i % 4 else "validation"), "_id": f"{i:064d}", "image": image, "_label": label}
        for i, (image, label) in enumerate(zip(table["image"].to_pylist(), table["_label"].to_pylist(), strict=True))
    ]
    return makers.dataset(store, rows)  # type: ignore[no-any-return]


def params(task: Any = LOANS, **given: Any) -> dict[str, Any]:
    return {"scenario": "demo", "task": task.model_dump(mode="json"), **given}


def model_files(store: ArtifactStore, artifact: Artifact) -> dict[str, bytes]:
    folder = store.fetch(artifact.ref)
    return {name: (folder / name).read_bytes() for name in artifact.files}


def test_writes_a_model_that_answers(run_step: RunStep, store: ArtifactStore) -> None:
    model = run_step("train", params(), {"dataset": loans(store), "recipe": recipe(store)})["model"]
    assert set(model.files) == {"model.json", "member-0.txt", "card.md"}
    assert set(model.observed) == {"observed/training.json"}
    assert (model.metadata["learner"], model.metadata["members"]) == ("lightgbm", 1)
    answer = load(store.fetch(model.ref)).predict([{"income": 20.0, "grade": "C"}])[0]
    assert answer.label == "default"
    assert answer.scores is not None
    assert sum(answer.scores.values()) == pytest.approx(1)


def test_test_and_holdout_rows_do_not_change_a_byte(run_step: RunStep, store: ArtifactStore) -> None:
    for learner in ("lightgbm", "logistic"):
        found = []
        for seed in (1, 2):
            artifact = run_step("train", params(), {"dataset": loans(store, other_seed=seed), "recipe": recipe(store, learner)})["model"]
            found.append(model_files(store, artifact))
        assert found[0] == found[1]


def test_the_rows_left_out_are_not_even_read(store: ArtifactStore) -> None:
    data = read_data(store.fetch(loans(store).ref), LOANS)
    assert (len(data.train), len(data.validation)) == (200, 100)


def test_the_same_call_gives_the_same_digest(run_step: RunStep, store: ArtifactStore, tmp_path: Path) -> None:
    inputs = {"dataset": lines(store), "recipe": recipe(store, "crnn", TINY, DIGITS)}
    first = run_step("train", params(DIGITS), inputs)["model"]
    for record in (tmp_path / "atlas/store/steps").rglob("*.json"):
        record.unlink()  # else the step would only be remembered
    assert run_step("train", params(DIGITS), inputs, run_id="r1")["model"].ref == first.ref
    other = run_step("train", params(DIGITS, seed=1), inputs, run_id="r1")["model"]
    assert other.ref != first.ref


def test_the_model_keeps_the_recipe_and_epochs_override_it(run_step: RunStep, store: ArtifactStore) -> None:
    inputs = {"dataset": lines(store), "recipe": recipe(store, "crnn", TINY, DIGITS)}
    model = run_step("train", params(DIGITS, epochs=1), inputs)["model"]
    folder = store.fetch(model.ref)
    assert load(folder).spec.recipe["members"][0]["params"] == {**TINY, "epochs": 1}
    (fold,) = json.loads((folder / "observed/training.json").read_text())["log"]
    assert (fold["rounds"], len(fold["log"])) == (1, 1)


def test_epochs_do_not_disturb_a_learner_without_any(run_step: RunStep, store: ArtifactStore) -> None:
    assert run_step("train", params(epochs=3), {"dataset": loans(store), "recipe": recipe(store)})["model"]


def test_the_card_says_what_it_learned_from(run_step: RunStep, store: ArtifactStore) -> None:
    model = run_step("train", params(), {"dataset": loans(store), "recipe": recipe(store, "logistic")})["model"]
    text = (store.fetch(model.ref) / "card.md").read_text()
    wanted = ("# Model card: demo", "| train | 200 | 200 base |", "| validation | 100 |", "| auc | 0.9", '"learner": "logistic"', "limits")
    for part in wanted:
        assert part in text


def test_regression(run_step: RunStep, store: ArtifactStore) -> None:
    inputs = {"dataset": loans(store, problem="regression"), "recipe": recipe(store, "mlp", {"epochs": 10}, makers.PRICES)}
    model = load(store.fetch(run_step("train", params(makers.PRICES), inputs)["model"].ref))
    low, high = model.predict([{"income": 80.0, "grade": "A"}, {"income": 20.0, "grade": "C"}])
    assert isinstance(low.label, float)
    assert isinstance(high.label, float)
    assert low.label < high.label
    assert (low.confidence, low.scores) == (1.0, None)


class TestEnsemble:
    def model(self, run_step: RunStep, store: ArtifactStore, given: Recipe, task: Any = LOANS, **more: Any) -> Path:
        inputs = {"dataset": loans(store, problem=task.problem), "recipe": put(store, given)}
        return store.fetch(run_step("train", params(task, **more), inputs)["model"].ref)

    def test_members_answer_by_their_weights_and_their_folds_alone(self, run_step: RunStep, store: ArtifactStore) -> None:
        folder = self.model(run_step, store, of(*BOTH))
        model, rows = load(folder), makers.loans(50, seed=7)
        columns = {name: [row[name] for row in rows] for name in LOANS.features}
        by_fold, found = model.by_fold(columns), model.probabilities(columns)
        assert by_fold.shape == (2, 3, 50, 2)
        assert [member.learner for member in model.spec.members] == ["lightgbm", "logistic"]
        assert model.spec.learner == "lightgbm"
        assert len(model.spec.members[0].folds) == 3
        # Networks average probabilities, trees average the raw sums.
        odds = np.log(by_fold[0, ..., 1] / by_fold[0, ..., 0]).mean(axis=0)
        expected = 0.75 / (1 + np.exp(-odds)) + 0.25 * by_fold[1, ..., 1].mean(axis=0)
        assert found[:, 1] == pytest.approx(expected, rel=1e-6)
        assert found.sum(axis=1) == pytest.approx(np.ones(50))
        assert [answer.scores for answer in model.predict(rows)] == [dict(zip(LOANS.classes, row, strict=True)) for row in found.tolist()]

    def test_a_fold_sees_nothing_of_the_rows_that_judge_it(self, store: ArtifactStore) -> None:
        """Turn round the labels of one fold's rows: its model must not notice, unless they say when to stop or how to regularise."""
        data, given = read_data(store.fetch(loans(store).ref), LOANS), of(("logistic", {"strength": 0.01}, 1.0))
        before = fit(data, given, seed=0)
        number = hashed_folds(data.pooled().keys, 3).number
        at = iter(number == 1)

        def turned(rows: Rows) -> Rows:
            swap = dict(zip(LOANS.classes, reversed(LOANS.classes), strict=True))
            return replace(rows, labels=[swap[label] if next(at) else label for label in rows.labels])

        after = fit(Data(LOANS, turned(data.train), turned(data.validation)), given, seed=0)
        said = [predictor_of(LOANS, fitted).by_fold(data.train.columns) for fitted in (before, after)]
        assert np.array_equal(said[0][:, 1], said[1][:, 1])
        assert not np.allclose(said[0][:, 0], said[1][:, 0])

    def test_large_tables_are_answered_in_parts_by_any_number_of_threads(self, run_step: RunStep, store: ArtifactStore) -> None:
        model, draw = load(self.model(run_step, store, of(*BOTH))), np.random.default_rng(0)
        columns = {"income": draw.normal(50, 15, 20_000), "grade": draw.choice(list("ABC"), 20_000).tolist()}
        found = model.probabilities(columns)
        assert np.array_equal(found, model.probabilities(columns, threads=2))
        some = {name: values[8190:8194] for name, values in columns.items()}
        assert model.probabilities(some) == pytest.approx(found[8190:8194], rel=1e-6)

    def test_the_card_tells_figures_of_unseen_rows(self, run_step: RunStep, store: ArtifactStore) -> None:
        text = (self.model(run_step, store, of(*BOTH, score=0.93)) / "card.md").read_text()
        wanted = (
            *("## Figures out of fold", "Each of the 300 judged rows", "no judgement", "The search reported auc 0.930000 (out of fold"),
            *("| 0.750 | lightgbm | 3 |", "rounds 15", "| 0.250 | logistic | 3 |", "3 folds, by the hash"),
        )
        for part in wanted:
            assert part in text
        assert "## Figures on validation" not in text

    def test_time_ordered_numbers(self, run_step: RunStep, store: ArtifactStore) -> None:
        task = makers.PRICES
        given = of(*BOTH, task=task, validation=Validation(kind="time", folds=2, time="income"))
        folder = self.model(run_step, store, given, task)
        assert "cut by `income` into 3 blocks" in (folder / "card.md").read_text()
        assert load(folder).by_fold({"income": [20.0, 80.0], "grade": ["C", "A"]}).shape == (2, 2, 2, 1)


class TestFits:
    def artifact(self, store: ArtifactStore, dataset: Artifact, *, fitted_on: str | None, given: Recipe | None = None) -> Artifact:
        given = (given or of(*BOTH)).model_copy(update={"fitted_on": fitted_on})
        data = read_data(store.fetch(dataset.ref), LOANS)
        fitted = fit(data, of(*BOTH), seed=5)

        def write(folder: Path) -> None:
            write_recipe(given, folder)
            write_fits(folder, fitted)

        return makers.publish(store, "Recipe", write)  # type: ignore[no-any-return]

    def seen(self, run_step: RunStep, store: ArtifactStore, given: Artifact, dataset: Artifact, **more: Any) -> tuple[bool, bytes]:
        folder = store.fetch(run_step("train", params(**more), {"dataset": dataset, "recipe": given})["model"].ref)
        return json.loads((folder / "observed/training.json").read_text())["assembled"], (folder / "member-0.txt").read_bytes()

    def test_fits_of_this_dataset_are_assembled_and_others_are_not(self, run_step: RunStep, store: ArtifactStore) -> None:
        dataset = loans(store)
        kept = self.artifact(store, dataset, fitted_on=dataset.ref)
        weights = (store.fetch(kept.ref) / "fits/member-0.txt").read_bytes()
        assert self.seen(run_step, store, kept, dataset) == (True, weights)
        refitted, other = self.seen(run_step, store, kept, dataset, refit=True)
        assert not refitted
        assert other != weights  # another seed
        assert not self.seen(run_step, store, self.artifact(store, dataset, fitted_on="Dataset/" + "0" * 64), dataset)[0]
        assert not self.seen(run_step, store, self.artifact(store, dataset, fitted_on=None), dataset)[0]

    def test_a_search_without_kept_fits_is_fitted(self, run_step: RunStep, store: ArtifactStore) -> None:
        dataset = loans(store)
        assert not self.seen(run_step, store, put(store, of(*BOTH, fitted_on=dataset.ref)), dataset)[0]

    def test_fits_of_other_members_are_refused(self, run_step: RunStep, store: ArtifactStore) -> None:
        dataset = loans(store)
        others: list[tuple[str, dict[str, Any], float]] = [("logistic", {}, 0.2), ("mlp", {}, 0.05)]
        for members in (BOTH[::-1], (BOTH[0], *others)):
            wrong = self.artifact(store, dataset, fitted_on=dataset.ref, given=of(*members))
            with pytest.raises(IntegrityError, match="the fitted member"):
                self.seen(run_step, store, wrong, dataset)

    def test_damaged_fits_are_refused(self, store: ArtifactStore, tmp_path: Path) -> None:
        dataset = loans(store)
        folder = tmp_path / "kept"
        folder.mkdir()
        write_fits(folder, fit(read_data(store.fetch(dataset.ref), LOANS), of(*BOTH), seed=0))
        assert [entry.member.learner for entry in read_fits(folder, of(*BOTH))] == ["lightgbm", "logistic"]
        told = json.loads((folder / "fits/1.json").read_text())
        changes: list[dict[str, Any]] = [{"file": "../../model.onnx"}, {"runtime": "pickle"}, {"folds": []}, {"file": "member-7.onnx"}]
        for change in changes:
            (folder / "fits/1.json").write_text(json.dumps({**told, **change}))
            with pytest.raises(IntegrityError, match="member 1 can't be read"):
                read_fits(folder, of(*BOTH))


class TestRefusals:
    def rows(self, label: str | None = None, splits: tuple[str, ...] = ("train", "validation")) -> list[dict[str, Any]]:
        rows = [makers.loan_row(row, splits[i % len(splits)]) for i, row in enumerate(makers.loans(40, seed=0))]
        return [{**row, "_label": label or row["_label"]} for row in rows]

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"label": "paid"}, "all 20 training rows are of class 'paid'"),
            ({"splits": ("validation",)}, "has 0 train rows, at least 10"),
            ({"splits": ("train",)}, "0 validation rows"),
            ({"splits": ("test", "holdout")}, "0 train rows"),
            ({"label": "stolen"}, "of class 'stolen'"),
        ],
    )
    def test_rows_that_teach_nothing(self, run_step: RunStep, store: ArtifactStore, change: dict[str, Any], said: str) -> None:
        dataset = makers.dataset(store, self.rows(**change))
        with pytest.raises(DataError, match=said) as caught:
            run_step("train", params(), {"dataset": dataset, "recipe": recipe(store)})
        assert caught.value.do

    def test_a_column_that_is_missing(self, run_step: RunStep, store: ArtifactStore) -> None:
        dataset = makers.dataset(store, [{k: v for k, v in row.items() if k != "grade"} for row in self.rows()])
        with pytest.raises(DataError, match="grade"):
            run_step("train", params(), {"dataset": dataset, "recipe": recipe(store)})

    def test_a_recipe_for_another_task(self, run_step: RunStep, store: ArtifactStore) -> None:
        with pytest.raises(DataError, match="text_line"):
            run_step("train", params(), {"dataset": loans(store), "recipe": recipe(store, "crnn", {}, DIGITS)})

    def test_lines_in_folds(self, run_step: RunStep, store: ArtifactStore) -> None:
        with pytest.raises(ConfigError, match="kind holdout"):
            run_step("train", params(DIGITS), {"dataset": lines(store), "recipe": put(store, of(("crnn", TINY, 1.0), task=DIGITS))})

    def test_an_unknown_learner_and_a_misspelt_option(self, run_step: RunStep, store: ArtifactStore) -> None:
        with pytest.raises(ConfigError, match="did you mean 'lightgbm'"):
            run_step("train", params(), {"dataset": loans(store), "recipe": recipe(store, "lightgmb")})
        with pytest.raises(ConfigError, match="did you mean 'num_leaves'"):
            run_step("train", params(), {"dataset": loans(store), "recipe": recipe(store, "lightgbm", {"num_leafs": 3})})

    def test_no_text_to_learn(self, run_step: RunStep, store: ArtifactStore) -> None:
        rows = [{**makers.text_row("1", split, shade=i), "_label": ""} for i, split in enumerate(["train"] * 10 + ["validation"] * 2)]
        with pytest.raises(DataError, match="no training line has any text"):
            run_step("train", params(DIGITS), {"dataset": makers.dataset(store, rows), "recipe": recipe(store, "crnn", TINY, DIGITS)})


def test_adamw_steps_as_torchs_own_does() -> None:
    import torch

    from components.train.adamw import AdamW

    draw = torch.Generator().manual_seed(0)
    start = [torch.randn(7, 5, generator=draw), torch.randn(5, generator=draw)]
    ours, theirs = ([torch.nn.Parameter(value.clone()) for value in start] for _ in range(2))
    ourselves, torchs = AdamW(ours, weight_decay=0.03), torch.optim.AdamW(theirs, lr=1.0, weight_decay=0.03, fused=True)
    for step in range(1, 6):
        x = torch.randn(11, 7, generator=draw)
        for weight, bias in (ours, theirs):
            torch.autograd.backward((x @ weight + bias).square().mean())
        torchs.param_groups[0]["lr"] = 0.01 / step
        ourselves.step(0.01 / step)
        torchs.step()
        torchs.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_lazy_adamw_is_adamw_for_what_has_a_gradient_and_leaves_the_rest() -> None:
    import torch

    from components.train.adamw import AdamW, LazyAdamW

    draw = torch.Generator().manual_seed(0)
    start = torch.randn(4, 3, generator=draw)
    lazy, usual, half = (torch.nn.Parameter(value.clone()) for value in (start, start, start[:2]))
    unused = torch.nn.Parameter(torch.ones(2))
    ourselves, whole, alone = (
        LazyAdamW([lazy, unused], weight_decay=0.03),
        AdamW([usual], weight_decay=0.03),
        AdamW([half], weight_decay=0.03),
    )
    for step in range(6):
        lazy.grad = torch.randn(4, 3, generator=draw)
        if step % 2:
            lazy.grad[:2] = 0
        else:
            half.grad = lazy.grad[:2].clone()
            alone.step(0.01)
        usual.grad = lazy.grad.clone()
        ourselves.step(0.01)
        whole.step(0.01)
    torch.testing.assert_close(lazy[2:], usual[2:])
    torch.testing.assert_close(lazy[:2], half)  # as if the steps without a gradient had not been
    assert torch.equal(unused, torch.ones(2))


@pytest.mark.slow
def test_a_network_is_trained_without_torchs_compiler() -> None:
    code = """
import sys
import numpy as np
from components.train.features import Matrices
from components.train.learners import learner
mlp = learner("mlp")
x, y = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32), np.arange(64.0)
params = mlp.params.model_validate({"epochs": 2})
mlp.fit(Matrices(x, y, x[:9], y[:9], 0), params, seed=0, progress=lambda *_: False)
sys.exit(",".join(name for name in ("torch._dynamo", "torch._inductor", "sympy") if name in sys.modules) or 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
