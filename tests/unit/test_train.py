"""The train step: what it reads, what it writes, and that it writes the same bytes again."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest

from components.core.artifacts import Artifact
from components.core.errors import ConfigError, DataError
from components.core.store import ArtifactStore
from components.ingest.readers.digits import compose
from components.model import load
from components.train.data import read_data
from components.train.recipe import Recipe, write_recipe

_loader = SourceFileLoader("makers", str(Path(__file__).parents[1] / "makers.py"))
makers = module_from_spec(spec_from_loader("makers", _loader))  # type: ignore[arg-type]
_loader.exec_module(makers)

RunStep = Callable[..., dict[str, Artifact]]
LOANS = makers.LOANS
DIGITS = makers.DIGITS
TINY = {"epochs": 2, "channels": 4, "hidden": 16, "batch": 16}


def recipe(store: ArtifactStore, learner: str = "lightgbm", params: dict[str, Any] | None = None, task: Any = LOANS) -> Artifact:
    given = Recipe(task=task.kind, learner=learner, features={}, params=params or {}, score=None, metric=task.metric, seed=0)
    return makers.publish(store, "Recipe", lambda folder: write_recipe(given, folder))  # type: ignore[no-any-return]


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
    assert set(model.files) == {"model.json", "model.txt", "card.md"}
    assert set(model.observed) == {"observed/training.json"}
    assert model.metadata["learner"] == "lightgbm"
    assert model.metadata["format"] == "lightgbm"
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
    assert load(folder).spec.recipe["params"] == {**TINY, "epochs": 1}
    assert len(json.loads((folder / "observed/training.json").read_text())["log"]) == 1
    assert load(folder).spec.runtime == "onnx"


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

    def test_an_unknown_learner_and_a_misspelt_option(self, run_step: RunStep, store: ArtifactStore) -> None:
        with pytest.raises(ConfigError, match="did you mean 'lightgbm'"):
            run_step("train", params(), {"dataset": loans(store), "recipe": recipe(store, "lightgmb")})
        with pytest.raises(ConfigError, match="did you mean 'num_leaves'"):
            run_step("train", params(), {"dataset": loans(store), "recipe": recipe(store, "lightgbm", {"num_leafs": 3})})

    def test_no_text_to_learn(self, run_step: RunStep, store: ArtifactStore) -> None:
        rows = [{**makers.text_row("1", split, shade=i), "_label": ""} for i, split in enumerate(["train"] * 10 + ["validation"] * 2)]
        with pytest.raises(DataError, match="no training line has any text"):
            run_step("train", params(DIGITS), {"dataset": makers.dataset(store, rows), "recipe": recipe(store, "crnn", TINY, DIGITS)})
