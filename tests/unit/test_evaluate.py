"""evaluate on real models: the same digests each time, a clear verdict on awkward data, a page that stands alone."""

from __future__ import annotations

import json
import random
import re
import tempfile
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest

from components.core.artifacts import Artifact
from components.core.errors import AtlasError, ConfigError, DataError
from components.core.settings import Settings
from components.core.store import ArtifactStore
from components.evaluate.page import render
from components.evaluate.rows import evaluation_set, read_table

_loader = SourceFileLoader("makers", str(Path(__file__).parents[1] / "makers.py"))
makers = module_from_spec(spec_from_loader("makers", _loader))  # type: ignore[arg-type]
_loader.exec_module(makers)

LINES = makers.DIGITS.model_dump(mode="json")
LOANS = makers.LOANS.model_dump(mode="json")
PRICES = makers.PRICES.model_dump(mode="json")
RunStep = Callable[..., dict[str, Artifact]]


def lines(store: ArtifactStore, *, cases: int = 30, base: int = 90) -> tuple[Artifact, list[str]]:
    """Put a dataset version of text lines; returns it and its case ids."""
    draw = random.Random(4)
    rows = {}
    for i in range(base + cases):
        text = "".join(draw.choice("0123456789") for _ in range(draw.choice([2, 3, 4])))
        split = ("holdout", "train", "test")[i % 3] if i >= base else ("train", "test")[i % 2]
        row = makers.text_row(text, split, case=i >= base, shade=i)
        rows[row["_id"]] = row
    return makers.dataset(store, list(rows.values())), sorted(row["_case"] for row in rows.values() if row["_case"])


def judged(store: ArtifactStore, outputs: dict[str, Artifact]) -> dict[str, Any]:
    said: dict[str, Any] = json.loads((store.fetch(outputs["blessing"].ref) / "blessing.json").read_text())
    return said


def failed(said: dict[str, Any]) -> list[str]:
    return [rule["name"] for rule in said["rules"] if not rule["passed"]]


@pytest.fixture
def readers(store: ArtifactStore) -> tuple[Artifact, Artifact]:
    """A champion that takes 7 for 1, and a challenger that does not."""
    champion = makers.publish(store, "Model", lambda folder: makers.reader(folder, {"7": "1"}))
    return champion, makers.publish(store, "Model", lambda folder: makers.reader(folder))


def test_the_better_reader_is_blessed_with_all_it_takes(store: ArtifactStore, run_step: RunStep, readers: Any) -> None:
    champion, challenger = readers
    dataset, ids = lines(store)
    states = {case: "closed" if i % 3 == 0 else "merged" for i, case in enumerate(ids[:20])}
    snapshot = makers.snapshot(store, "s", champion={"seq": 3, "model": champion.ref, "dataset": None}, claimed=ids[20:], states=states)
    gate = {"floor": 0.9, "max_loss": 0.0, "guards": {"cer": 0.0}, "min_cases_fixed": 1.0}
    given = {"dataset": dataset, "model": challenger, "snapshot": snapshot}
    out = run_step("evaluate", {"scenario": "s", "task": LINES, "gate": gate, "bootstrap": 200}, given)
    said = judged(store, out)
    assert said["accepted"], failed(said)
    assert (said["model"], said["baseline"]) == (challenger.ref, champion.ref)
    assert said["evaluation_set"] == evaluation_set(read_table(store.fetch(dataset.ref)))
    assert said["cases"]["right"] == ids
    assert said["cases"]["wrong"] == said["cases"]["lost"] == []
    sevens = {r["_case"] for r in read_table(store.fetch(dataset.ref)).to_pylist() if r["_case"] and "7" in r["_label"]}
    assert set(said["cases"]["fixed"]) == sevens
    assert said["metrics"]["challenger"]["exact_match"] == 1.0 > said["metrics"]["champion"]["exact_match"]
    assert out["blessing"].metadata == {name: said[name] for name in ("accepted", "model", "baseline", "evaluation_set")}
    assert set(out["blessing"].parents) == {artifact.ref for artifact in given.values()}


def test_the_same_inputs_give_the_same_digests_in_any_installation(tmp_path: Path) -> None:
    from components.core.step import execute
    from components.core.store import open_store

    refs = []
    for home in ("one", "two"):
        settings = Settings.from_env({"ATLAS_HOME": str(tmp_path / home)})
        settings.home.mkdir()
        store = open_store(settings)
        dataset, ids = lines(store)
        models = [makers.publish(store, "Model", lambda f, m=m: makers.reader(f, m)) for m in ({"7": "1"}, {"3": "8"})]
        snapshot = makers.snapshot(store, "s", champion={"seq": 1, "model": models[0].ref, "dataset": None}, claimed=ids)
        given = {"dataset": dataset.ref, "model": models[1].ref, "snapshot": snapshot.ref}
        params = {"scenario": "s", "task": LINES, "bootstrap": 200}
        found = execute("evaluate", params, given, run_id=home, settings=settings)
        refs.append({port: artifact.ref for port, artifact in found.items()})
        assert "observed/latency.json" in found["blessing"].observed
        assert set(found["report"].observed) == {"observed/latency.json", "observed/report.html"}
    assert refs[0] == refs[1]


def test_a_worse_reader_is_refused_with_its_reasons(store: ArtifactStore, run_step: RunStep, readers: Any) -> None:
    better, worse = readers[1], readers[0]
    dataset, ids = lines(store)
    closed = dict.fromkeys(ids, "closed")
    snapshot = makers.snapshot(store, "s", champion={"seq": 1, "model": better.ref, "dataset": None}, states=closed)
    given = {"dataset": dataset, "model": worse, "snapshot": snapshot}
    out = run_step("evaluate", {"scenario": "s", "task": LINES, "bootstrap": 200}, given)
    said = judged(store, out)
    assert {"loss", "closed_lost"} <= set(failed(said))
    assert said["cases"]["lost"] == said["cases"]["wrong"] != []
    page = (store.fetch(out["report"].ref) / "observed" / "report.html").read_text()
    assert "Refused by: " in page
    assert "What to do:" in page


@pytest.mark.parametrize("champion", [False, True])
@pytest.mark.parametrize(
    ("classes", "count", "why"),
    [
        (("paid", "default"), 3, "only 3 rows"),
        (("paid",), 60, "auc can't be measured"),
        ((), 0, "only 0 rows"),
    ],
)
def test_awkward_test_splits_get_a_verdict_not_a_crash(
    store: ArtifactStore, run_step: RunStep, classes: tuple[str, ...], count: int, why: str, champion: bool
) -> None:
    train = [makers.loan_row(row, "train") for row in makers.loans(20, seed=1)]
    drawn = [makers.loan_row(row, "test") for row in makers.loans(200, seed=2)]
    test = [row for row in drawn if row["_label"] in classes][:count]
    model = makers.publish(store, "Model", lambda folder: makers.scorer(folder))
    serving = {"seq": 1, "model": model.ref, "dataset": None} if champion else None
    snapshot = makers.snapshot(store, "s", champion=serving)
    given = {"dataset": makers.dataset(store, [*train, *test]), "model": model, "snapshot": snapshot}
    out = run_step("evaluate", {"scenario": "s", "task": LOANS, "bootstrap": 100}, given)
    said = judged(store, out)
    assert failed(said) == ["measurable"]
    assert why in said["rules"][0]["detail"]
    json.loads((store.fetch(out["report"].ref) / "report.json").read_text())


def test_a_regression_with_slices(store: ArtifactStore, run_step: RunStep) -> None:
    rows = [makers.loan_row(row, ("train", "test")[i % 2], problem="regression") for i, row in enumerate(makers.loans(300, seed=5))]
    before = makers.publish(store, "Model", lambda folder: makers.scorer(folder, makers.PRICES, trees=2))
    after = makers.publish(store, "Model", lambda folder: makers.scorer(folder, makers.PRICES, trees=40))
    snapshot = makers.snapshot(store, "s", champion={"seq": 1, "model": before.ref, "dataset": None})
    params = {"scenario": "s", "task": PRICES, "slices": ["grade", "income"], "gate": {"floor": 0.7}, "bootstrap": 200}
    out = run_step("evaluate", params, {"dataset": makers.dataset(store, rows), "model": after, "snapshot": snapshot})
    report = json.loads((store.fetch(out["report"].ref) / "report.json").read_text())
    assert report["accepted"]
    gain = report["metrics"]["judged"]["rmse"]["gain"]
    assert gain[0] > 0
    assert gain[1] > 0
    assert {s["column"] for s in report["slices"]} == {"grade", "income", "_source"}
    assert len(report["figures"]["challenger"]["scatter"]) == 150


def test_an_unknown_slice_and_a_champion_of_other_features_are_clear_errors(store: ArtifactStore, run_step: RunStep, readers: Any) -> None:
    rows = [makers.loan_row(row, "test") for row in makers.loans(40, seed=1)]
    dataset = makers.dataset(store, rows)
    model = makers.publish(store, "Model", lambda folder: makers.scorer(folder))
    given = {"dataset": dataset, "model": model, "snapshot": makers.snapshot(store, "s")}
    with pytest.raises(ConfigError, match=r"'grades'.*did you mean 'grade'"):
        run_step("evaluate", {"scenario": "s", "task": LOANS, "slices": ["grades"]}, given)
    with pytest.raises(ConfigError, match=r"'log_loss'.*did you mean 'logloss'"):
        run_step("evaluate", {"scenario": "s", "task": LOANS, "gate": {"guards": {"log_loss": 0.1}}}, given)
    given["snapshot"] = makers.snapshot(store, "s", champion={"seq": 1, "model": readers[0].ref, "dataset": None})
    with pytest.raises(DataError, match=r"the champion .* can't read these rows"):
        run_step("evaluate", {"scenario": "s", "task": LOANS}, given)


def test_a_dataset_without_rows_or_splits(store: ArtifactStore, run_step: RunStep, readers: Any) -> None:
    given = {"model": readers[0], "snapshot": makers.snapshot(store, "s")}
    with pytest.raises(DataError, match="no row"):
        run_step("evaluate", {"scenario": "s", "task": LINES}, {**given, "dataset": makers.dataset(store, [])})
    unsplit = [{name: value for name, value in makers.text_row("12", "test").items() if name != "_split"}]
    with pytest.raises(AtlasError, match="lacks the columns _split"):
        run_step("evaluate", {"scenario": "s", "task": LINES}, {**given, "dataset": makers.dataset(store, unsplit)})


def test_the_page_stands_alone_and_escapes_what_it_shows(store: ArtifactStore, run_step: RunStep, readers: Any) -> None:
    champion, challenger = readers
    dataset, ids = lines(store)
    snapshot = makers.snapshot(store, "s", champion={"seq": 1, "model": champion.ref, "dataset": None}, claimed=ids)
    out = run_step(
        "evaluate", {"scenario": "s", "task": LINES, "bootstrap": 100}, {"dataset": dataset, "model": challenger, "snapshot": snapshot}
    )
    folder = store.fetch(out["report"].ref)
    page = (folder / "observed" / "report.html").read_text()
    assert not re.search(r"(src|href)\s*=\s*['\"](?!data:)|url\(|@import|<script|<link", page)
    assert 0 < page.count("<img") <= 24
    assert len(page) < 1_000_000

    report = json.loads((folder / "report.json").read_text())
    report["examples"][0]["truth"] = "<b>&"
    report["slices"][0]["value"] = "<script>"
    timed = json.loads((folder / "observed" / "latency.json").read_text())
    again = render(report, timed, [{"grade": "<i>", "income": 1.5, "age": None} for _ in report["examples"]])
    assert "&lt;b&gt;&amp;" in again
    assert "grade &lt;i&gt;<br>income 1.5<br>age —" in again
    assert "<script>" not in again


def test_the_evaluation_set_is_about_rows_labels_and_splits_only(store: ArtifactStore) -> None:
    rows = [makers.text_row(text, "test") for text in ("12", "34", "56")]
    train = makers.text_row("78", "train")
    digest = evaluation_set(_table(store, rows))
    assert evaluation_set(_table(store, [*reversed(rows), train])) == digest
    assert evaluation_set(_table(store, rows[:2])) != digest
    assert evaluation_set(_table(store, [*rows[:2], {**rows[2], "_label": "57"}])) != digest
    assert evaluation_set(_table(store, [*rows[:2], {**rows[2], "_split": "holdout"}])) != digest
    assert evaluation_set(_table(store, [*rows, {**train, "_case": "a" * 32}])) != digest


def _table(store: ArtifactStore, rows: list[dict[str, Any]]) -> Any:
    return read_table(store.fetch(makers.dataset(store, rows).ref))


def test_makers_draw_what_the_reader_reads() -> None:
    from components.model import load

    with tempfile.TemporaryDirectory() as name:
        model = load(makers.reader(Path(name), {"7": "1"}))
    assert [a.label for a in model.predict([{"image": makers.line(text)} for text in ("0123456789", "77", "11")])] == [
        "0123456189",
        "11",
        "11",
    ]
