"""ingest against a real ledger: what it claims, freezes and lays together."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.core.artifacts import Artifact, Kind, canonical, describe
from components.core.errors import ConfigError, NothingToDo
from components.core.items import item_from_json
from components.core.ledger import Ledger, NewCase
from components.core.params import Tabular
from components.core.settings import Settings
from components.core.store import ArtifactStore
from components.core.tables import read_dataset

RunStep = Callable[..., dict[str, Artifact]]
TASK = Tabular(problem="binary", classes=("good", "bad"), features={"amount": "number", "grade": "category"})


def params(path: Path, **section: Any) -> dict[str, Any]:
    source = {"reader": "table", "options": {"path": str(path), "label": "outcome", "group": "customer"}}
    return {"scenario": "loans", "task": TASK.model_dump(mode="json"), "source": source, **section}


def new_case(amount: float, label: str | None = "bad", **more: Any) -> NewCase:
    return NewCase(
        item_from_json(TASK, {"features": {"amount": amount, "grade": "A"}, "group": "walk-in"}), "feedback", label=label, **more
    )


def publish(store: ArtifactStore, work: Path, kind: Kind, metadata: dict[str, Any], **files: bytes) -> Artifact:
    folder = work / f"{kind}-{random.random()}"
    folder.mkdir()
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_bytes(content)
    artifact = describe(folder, kind, metadata, ())
    store.put(folder, artifact)
    return artifact


def version(store: ArtifactStore, ledger: Ledger, work: Path, merged: Sequence[str], rows: pa.Table | None = None) -> Artifact:
    """Commit a dataset version as run r1 would."""
    folder = work / f"version-{random.random()}"
    folder.mkdir()
    empty = pa.table({name: pa.array([], pa.string()) for name in ("_id", "_group", "_split")})
    pq.write_table(empty if rows is None else rows, folder / "data.parquet")
    artifact = describe(folder, "Dataset", {}, ())
    store.put(folder, artifact)
    ledger.commit_dataset("loans", "r1", artifact, merged=sorted(merged), held={}, quarantined={})
    return artifact


def champion(store: ArtifactStore, ledger: Ledger, work: Path, dataset: Artifact) -> str:
    model = describe_model(store, work, dataset)
    ledger.record_model("loans", "r1", model)
    facts = {"accepted": True, "model": model.ref, "baseline": None, "evaluation_set": "e" * 64}
    blessing = publish(store, work, "Blessing", facts, blessing__json=canonical(facts))
    ledger.record_blessing("loans", "r1", blessing)
    ledger.deploy("loans", "r1", model=model.ref, blessing=blessing.ref, expected_seq=None, right=[], wrong=[])
    return model.ref


def describe_model(store: ArtifactStore, work: Path, dataset: Artifact) -> Artifact:
    folder = work / f"model-{random.random()}"
    folder.mkdir()
    (folder / "model.json").write_bytes(b"{}")
    artifact = describe(folder, "Model", {}, (dataset.ref,))
    store.put(folder, artifact)
    return artifact


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "loans.parquet"
    columns = {"amount": [1, 2, 3], "grade": ["A", "B", "C"], "outcome": ["good", "bad", "good"], "customer": ["x", "x", "y"]}
    pq.write_table(pa.table(columns), path)
    return path


def snapshot_of(store: ArtifactStore, outputs: dict[str, Artifact]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((store.fetch(outputs["snapshot"].ref) / "snapshot.json").read_bytes())
    return found


def test_the_first_run_starts_from_the_base_alone(base: Path, store: ArtifactStore, run_step: RunStep) -> None:
    outputs = run_step("ingest", params(base))
    assert snapshot_of(store, outputs) == {
        "scenario": "loans",
        "champion": None,
        "parent": None,
        "claimed": [],
        "states": {},
        "studies": [],
    }
    rows = read_dataset(store.fetch(outputs["dataset"].ref))
    assert rows.num_rows == 3
    assert set(rows["_author"].to_pylist()) == {"base"}


def test_labelled_cases_join_the_base(base: Path, store: ArtifactStore, ledger: Ledger, run_step: RunStep) -> None:
    old, new = new_case(1.0, "bad"), new_case(9.0, "bad")
    receipts = ledger.add_cases("loans", [old, new, new_case(10.0, None)])
    outputs = run_step("ingest", params(base))
    assert snapshot_of(store, outputs)["claimed"] == sorted(receipt.case_id for receipt in receipts[:2])
    rows = read_dataset(store.fetch(outputs["dataset"].ref)).to_pylist()
    assert len(rows) == 5
    on_base = [row for row in rows if row["_id"] == old.item.content]
    assert [(row["_source"], row["_label"], row["_order"], row["_group"]) for row in on_base] == [
        ("base", "good", 0, "x"),
        ("case", "bad", 1, "x"),
    ]


def test_delivery_order_does_not_change_the_digest(base: Path, tmp_path: Path, run_step: RunStep) -> None:
    digests = set()
    for number in range(2):
        settings = Settings.from_env({"ATLAS_HOME": str(tmp_path / f"home{number}")})
        given = [new_case(float(amount), key=f"k{amount}") for amount in range(20)]
        random.Random(number).shuffle(given)
        with Ledger.open(settings.ledger) as ledger:
            for start in range(0, 20, 5):
                ledger.add_cases("loans", given[start : start + 7])
        from components.core.step import execute

        outputs = execute("ingest", params(base), {}, run_id=f"r{number}", settings=settings)
        digests.add((outputs["snapshot"].sha256, outputs["dataset"].sha256))
    assert len(digests) == 1


class TestWithChampion:
    @pytest.fixture
    def serving(self, tmp_path: Path, store: ArtifactStore, ledger: Ledger) -> str:
        ledger.acquire("loans", "r1")
        (receipt,) = ledger.add_cases("loans", [new_case(5.0, "bad")])
        ledger.claim("loans", "r1")
        content = new_case(5.0).item.content
        rows = pa.table({"_id": [content], "_group": ["walk-in"], "_split": ["holdout"]})
        dataset = version(store, ledger, tmp_path, [receipt.case_id], rows)
        model = champion(store, ledger, tmp_path, dataset)
        ledger.release("loans", "r1")
        return model

    def test_too_few_cases_are_nothing_to_do(self, base: Path, serving: str, ledger: Ledger, run_step: RunStep) -> None:
        ledger.add_case("loans", new_case(7.0))
        with pytest.raises(NothingToDo, match="1 labelled cases wait, 2 are needed"):
            run_step("ingest", params(base, at_least=2), run_id="r2")
        ledger.release("loans", "r2")
        assert ledger.work("loans").claimable == 1

    def test_always_runs_all_the_same(self, base: Path, serving: str, run_step: RunStep) -> None:
        assert run_step("ingest", params(base, mode="always"), run_id="r2")["dataset"].metadata["rows"] == 4

    def test_what_was_merged_before_stays_and_is_pinned(
        self, base: Path, serving: str, store: ArtifactStore, ledger: Ledger, run_step: RunStep
    ) -> None:
        ledger.add_case("loans", new_case(7.0))
        outputs = run_step("ingest", params(base), run_id="r2")
        snapshot = snapshot_of(store, outputs)
        assert snapshot["champion"]["model"] == serving
        assert snapshot["parent"] == snapshot["champion"]["dataset"]
        assert list(snapshot["states"].values()) == ["merged"]
        rows = read_dataset(store.fetch(outputs["dataset"].ref)).to_pylist()
        cases = {row["amount"]: row for row in rows if row["_case"]}
        assert set(cases) == {5.0, 7.0}
        assert {row["_pinned"] for row in cases.values()} == {"holdout"}, "both are of the group that the parent holds out"

    def test_a_split_outlasts_a_version_that_lacks_the_item(
        self, base: Path, serving: str, tmp_path: Path, store: ArtifactStore, ledger: Ledger, run_step: RunStep
    ) -> None:
        ledger.acquire("loans", "r1")
        version(store, ledger, tmp_path, [])  # the item was held for review, say
        ledger.release("loans", "r1")
        rows = read_dataset(store.fetch(run_step("ingest", params(base, mode="always"), run_id="r2")["dataset"].ref)).to_pylist()
        assert [row["_pinned"] for row in rows if row["_case"]] == ["holdout"]

    def test_a_relabelled_case_keeps_its_settled_state(
        self, base: Path, serving: str, store: ArtifactStore, ledger: Ledger, run_step: RunStep
    ) -> None:
        (case,) = ledger.merged_cases("loans")
        ledger.label_case(case.id, "good", source="anna", reviewed=True)
        outputs = run_step("ingest", params(base), run_id="r2")
        snapshot = snapshot_of(store, outputs)
        assert snapshot["claimed"] == [case.id]
        assert snapshot["states"] == {case.id: "merged"}
        rows = [row for row in read_dataset(store.fetch(outputs["dataset"].ref)).to_pylist() if row["_case"]]
        assert [(row["_label"], row["_reviewed"]) for row in rows] == [("bad", False), ("good", True)]


def test_a_run_that_starts_again_gets_the_same(
    base: Path, store: ArtifactStore, ledger: Ledger, settings: Settings, run_step: RunStep
) -> None:
    ledger.add_case("loans", new_case(7.0))
    first = run_step("ingest", params(base))
    ledger.add_case("loans", new_case(8.0))
    for record in (Path(settings.store) / "steps").rglob("*.json"):
        record.unlink()  # as if the step had been killed before it was recorded
    again = run_step("ingest", params(base))
    assert {port: artifact.ref for port, artifact in first.items()} == {port: artifact.ref for port, artifact in again.items()}


@pytest.mark.slow  # Feast takes seconds to import
class TestFeatures:
    def test_features_are_those_known_at_the_time(
        self, tmp_path: Path, store: ArtifactStore, settings: Settings, run_step: RunStep
    ) -> None:
        folder = settings.home / "features" / "loans"
        folder.mkdir(parents=True)
        at = pa.array([10, 20, 30, 40], pa.timestamp("s", "UTC"))
        columns = {"loan_id": [1, 1, 1, 2], "event_timestamp": at, "funded_amnt": [100, 200, 300, 400], "term": ["a", "b", "c", "d"]}
        others = ["int_rate", "annual_inc"]
        texts = ["sub_grade", "addr_state", "verification_status", "emp_length"]
        columns |= {name: [1.0] * 4 for name in others} | {name: ["x"] * 4 for name in texts}
        pq.write_table(pa.table(columns), folder / "application.parquet")
        loans = {"loan_id": [1, 1, 2, 3], "event_timestamp": pa.array([25, 30, 35, 50], pa.timestamp("s", "UTC")), "y": ["good", "bad"] * 2}
        pq.write_table(pa.table(loans), tmp_path / "loans.parquet")
        task = {
            "kind": "tabular",
            "problem": "binary",
            "classes": ["good", "bad"],
            "features": {"funded_amnt": "number", "term": "category"},
        }
        section = {
            "scenario": "loans",
            "task": task,
            "source": {"reader": "table", "options": {"path": str(tmp_path / "loans.parquet"), "label": "y", "group": "loan_id"}},
            "features": {"entity": "loan_id", "time": "event_timestamp", "views": {"application": ["funded_amnt", "term"]}},
        }
        rows = read_dataset(store.fetch(run_step("ingest", section)["dataset"].ref)).to_pylist()
        assert sorted((row["funded_amnt"] or 0, row["term"] or "") for row in rows) == [
            (0, ""),  # loan 2: its features are later than the loan …
            (0, ""),  # … and loan 3 has none: neither is lost
            (200, "b"),
            (300, "c"),
        ]

    @pytest.mark.parametrize(
        ("views", "says"),
        [({"aplication": ["term"]}, "did you mean 'application'"), ({"application": ["trem"]}, "did you mean 'term'")],
    )
    def test_unknown_views_and_features(self, base: Path, views: Any, says: str, run_step: RunStep) -> None:
        features = {"entity": "customer", "time": "amount", "views": views}
        with pytest.raises(ConfigError, match=says):
            run_step("ingest", params(base, features=features))
