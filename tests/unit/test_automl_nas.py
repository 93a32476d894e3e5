"""A search among networks as part of the automl step: what it finds competes, inherits, is trained, and is gone on from next time."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from components.automl.nas.offer import search
from components.automl.nas.texts import Texts
from components.automl.spec import Nas
from components.core.artifacts import Artifact
from components.core.errors import ConfigError, DataError, IntegrityError
from components.core.store import ArtifactStore
from components.ingest.readers.digits import compose
from components.model import load
from components.train.data import Data, Rows
from components.train.recipe import Recipe

_loader = SourceFileLoader("makers", str(Path(__file__).parents[1] / "makers.py"))
makers = module_from_spec(spec_from_loader("makers", _loader))  # type: ignore[arg-type]
_loader.exec_module(makers)

RunStep = Callable[..., dict[str, Artifact]]
DIGITS = makers.DIGITS
NAS = {"epochs": 1, "judged": 4, "batch": 16, "max_params": 100_000}


def lines(store: ArtifactStore, first: int = 0) -> Artifact:
    table = compose(first, first + 50, 60, length=(1, 2))
    rows = [
        {**makers.text_row("1", "train" if i % 4 else "validation"), "_id": f"{i:064d}", "image": image, "_label": label}
        for i, (image, label) in enumerate(zip(table["image"].to_pylist(), table["_label"].to_pylist(), strict=True))
    ]
    return makers.dataset(store, rows)  # type: ignore[no-any-return]


def snapshot(store: ArtifactStore, *studies: str) -> Artifact:
    content = {"scenario": "demo", "champion": None, "parent": None, "claimed": [], "states": {}, "studies": list(studies)}
    return makers.publish(store, "Snapshot", lambda folder: (folder / "snapshot.json").write_text(json.dumps(content)))  # type: ignore[no-any-return]


def params(task: Any = DIGITS, **given: Any) -> dict[str, Any]:
    """Of a search in which nothing competes with the network that is found."""
    base = {"trials": 1, "learners": ["recognizer"], "nas": NAS}
    return {"scenario": "demo", "task": task.model_dump(mode="json"), **base, **given}


def read(store: ArtifactStore, out: dict[str, Artifact]) -> tuple[Recipe, dict[str, Any]]:
    recipe = Recipe.model_validate_json((store.fetch(out["recipe"].ref) / "recipe.json").read_bytes())
    return recipe, json.loads((store.fetch(out["report"].ref) / "architecture.json").read_text())


@pytest.mark.slow
def test_the_network_found_is_trained_from_its_inherited_weights_and_the_next_search_goes_on(
    run_step: RunStep, store: ArtifactStore
) -> None:
    dataset = lines(store)
    out = run_step("automl", params(), {"dataset": dataset, "snapshot": snapshot(store)})
    recipe, found = read(store, out)
    (member,) = recipe.members
    assert (member.learner, member.params["width"], member.params["options"]) == (
        "recognizer",
        found["found"]["width"],
        found["found"]["options"],
    )
    assert found["start"] is None
    report = store.fetch(out["report"].ref)
    assert [trial["origin"] for trial in json.loads((report / "report.json").read_text())["trials"]] == ["nas", "nas"]
    assert "<svg" in (report / "observed/architecture.html").read_text()
    assert json.loads((report / "observed/architecture_costs.json").read_text())["supernet_s"] > 0

    trained = run_step("train", params_of_train(epochs=1), {"dataset": dataset, "recipe": out["recipe"]})["model"]
    folder = store.fetch(trained.ref)
    graph = onnx.load(folder / "member-0.onnx").graph
    weights = sum(int(np.prod(values.dims)) for values in graph.initializer)
    assert weights <= found["found"]["cost"]["params"] + 200 <= NAS["max_params"] + 200  # shapes and folded statistics aside
    assert load(folder).predict([{"image": makers.text_row("1", "train")["image"]}])

    again, after = read(store, run_step("automl", params(), {"dataset": dataset, "snapshot": snapshot(store, out["report"].ref)}))
    assert after["start"] == out["report"].ref
    assert again.members[0].start == "start-0.npz"
    alone = run_step("automl", params(transfer=False), {"dataset": dataset, "snapshot": snapshot(store, out["report"].ref)})
    assert read(store, alone)[1]["start"] is None


@pytest.mark.slow
def test_equal_searches_give_equal_bytes_and_the_default_network_competes(run_step: RunStep, store: ArtifactStore, settings: Any) -> None:
    inputs = {"dataset": lines(store), "snapshot": snapshot(store)}
    given = params(learners=[], trials=2, nas={**NAS, "strategy": "sandwich"})
    first = run_step("automl", given, inputs)
    for record in (settings.home / "store/steps").rglob("*.json"):
        record.unlink()
    for folder in (settings.home / "studies").iterdir():
        folder.rename(settings.home / f"aside-{folder.name}")
    second = run_step("automl", given, inputs)
    assert (first["recipe"].ref, first["report"].ref) == (second["recipe"].ref, second["report"].ref)
    trials = json.loads((store.fetch(first["report"].ref) / "report.json").read_text())["trials"]
    assert {trial["learner"] for trial in trials} == {"recognizer", "crnn"}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["superposition", "random"])
def test_other_strategies_keep_the_limits_too(run_step: RunStep, store: ArtifactStore, strategy: str) -> None:
    nas = {**NAS, "strategy": strategy, "judged": 2, "max_params": 90_000, "sample": 3}
    recipe, found = read(store, run_step("automl", params(nas=nas), {"dataset": lines(store), "snapshot": snapshot(store)}))
    assert found["found"]["cost"]["params"] <= nas["max_params"]
    assert (recipe.members[0].start is None) == (strategy == "random")


@pytest.mark.slow
def test_a_supernet_learns_no_width_that_the_limits_rule_out() -> None:
    table = compose(0, 60, 60, length=(1, 2))
    rows = Rows({"image": table["image"].to_pylist()}, table["_label"].to_pylist())
    data = Data(DIGITS, rows, rows)
    few = search(data, Nas(epochs=1, judged=2, batch=16, max_params=NAS["max_params"]), seed=0)
    assert few.supernet is not None
    every = search(data, Nas(epochs=1, judged=2, batch=16), seed=0, past=("Report/few", few.supernet))
    assert every.supernet is not None
    assert few.searched.space.widths == every.searched.space.widths[: len(few.searched.space.widths)] != every.searched.space.widths
    assert few.searched.found.cost.params <= NAS["max_params"]
    assert sum(weight.size for weight in few.supernet.values()) < sum(weight.size for weight in every.supernet.values())
    assert every.searched.start is None
    assert "Report/few is of another space, height, alphabet or limit" in " ".join(every.searched.notes)


def params_of_train(**given: Any) -> dict[str, Any]:
    return {"scenario": "demo", "task": DIGITS.model_dump(mode="json"), **given}


def test_what_can_not_be_searched_is_refused(run_step: RunStep, store: ArtifactStore) -> None:
    inputs = {"dataset": lines(store), "snapshot": snapshot(store)}
    with pytest.raises(DataError, match="the least there is"):
        run_step("automl", params(nas={**NAS, "max_params": 10}), inputs)
    with pytest.raises(ConfigError, match="do not read lines"):
        run_step("automl", params(nas={**NAS, "space": "resnet"}), inputs)
    with pytest.raises(ConfigError, match="no space 'recogniser'"):
        run_step("automl", params(nas={**NAS, "space": "recogniser"}), inputs)
    with pytest.raises(DataError, match="at least 64"):
        run_step("automl", params(nas={**NAS, "batch": 64}), inputs)
    rows = [makers.loan_row(row, "train" if i % 3 else "validation") for i, row in enumerate(makers.loans(60, seed=0))]
    table = {"dataset": makers.dataset(store, rows), "snapshot": snapshot(store)}
    with pytest.raises(ConfigError, match="for lines of text"):
        run_step("automl", params(makers.LOANS, learners=[]), table)


def test_weights_that_are_not_the_networks_are_refused(run_step: RunStep, store: ArtifactStore) -> None:
    member = {"learner": "recognizer", "features": {}, "params": {}, "start": "start-0.npz"}
    recipe = {
        "task": "text_line", "members": [member], "validation": {"kind": "holdout", "folds": 1},
        "score": None, "metric": "exact_match", "seed": 0,
    }  # fmt: skip

    def written(content: bytes | None) -> Artifact:
        def write(folder: Path) -> None:
            (folder / "recipe.json").write_text(json.dumps(recipe))
            if content is None:
                with (folder / "start-0.npz").open("wb") as file:
                    np.savez(file, other=np.zeros(3))
            else:
                (folder / "start-0.npz").write_bytes(content)

        return makers.publish(store, "Recipe", write)  # type: ignore[no-any-return]

    dataset = lines(store)
    with pytest.raises(IntegrityError, match="not this network's"):
        run_step("train", params_of_train(epochs=1), {"dataset": dataset, "recipe": written(None)})
    with pytest.raises(IntegrityError, match="can't be read"):
        run_step("train", params_of_train(epochs=1), {"dataset": dataset, "recipe": written(b"no archive")})


def test_characters_are_what_is_right() -> None:
    image = np.zeros((16, 24), np.float32)
    problem = Texts([(image, [1, 2])] * 4, [(image, [1, 2]), (image, [3])], batch=4)
    assert problem.steps() == 1
    ((x, codes),) = problem.batches("validation")
    assert x.shape == (2, 1, 16, 24)
    said = torch.full((2, 6, 4), -9.0)
    for row, symbols in enumerate(([1, 1, 0, 0, 0, 0], [3, 0, 3, 3, 0, 2])):  # "1" for "12"; "332" for "3"
        for step, symbol in enumerate(symbols):
            said[row, step, symbol] = 0.0
    assert problem.right(said, codes) == (1, 3)  # a text never counts less than nothing
