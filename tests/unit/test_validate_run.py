"""validate and label_merge one after the other, on a small table: quarantine, stops, drift, and the fate of each case."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from components.core.artifacts import Artifact, Kind, canonical, describe
from components.core.errors import ConfigError, DataError
from components.core.items import item_from_bytes
from components.core.ledger import Ledger, NewCase
from components.core.params import Tabular, TextLine
from components.core.store import ArtifactStore
from components.core.tables import annotation_schema, read_dataset, write_dataset
from components.ingest.readers.digits import compose

pytestmark = pytest.mark.slow  # Great Expectations takes seconds to import

RunStep = Callable[..., dict[str, Artifact]]
TASK = Tabular(problem="binary", classes=("good", "bad"), features={"amount": "number", "grade": "category"})


def rule(kind: str, name: str, level: str, **kwargs: Any) -> dict[str, Any]:
    return {"type": f"expect_{kind}", "kwargs": kwargs, "meta": {"rule": name, "level": level}}


SUITE = {
    "name": "loans",
    "expectations": [
        rule("column_values_to_be_between", "amount_in_range", "row", column="amount", min_value=0, max_value=100),
        rule("table_row_count_to_be_between", "enough_rows", "table", min_value=3),
        rule("column_mean_to_be_between", "amount_mean", "table", column="amount", max_value=60),
    ],
}


def params(suite: dict[str, Any] = SUITE, **more: Any) -> dict[str, Any]:
    return {"scenario": "loans", "task": TASK.model_dump(mode="json"), "suite": suite, **more}


def row(number: int, amount: float | None, label: str = "good", **more: Any) -> dict[str, Any]:
    made = {
        "_id": f"{number:064d}",
        "_group": f"g{number}",
        "_label": label,
        "_source": "base",
        "_case": None,
        "amount": amount,
        "grade": "A",
    }
    return {**made, "_reviewed": False, "_order": 0, "_author": "base", "_pinned": None, "_problem": None, **more}


def put(store: ArtifactStore, kind: Kind, write: Callable[[Path], Any]) -> Artifact:
    with tempfile.TemporaryDirectory() as name:
        write(Path(name))
        artifact = describe(Path(name), kind, {}, ())
        store.put(Path(name), artifact)
    return artifact


def dataset(store: ArtifactStore, rows: list[dict[str, Any]], task: Any = TASK, **splits: Any) -> Artifact:
    table = pa.Table.from_pylist(rows, schema=annotation_schema(task))
    for name, values in splits.items():
        table = table.append_column(name, pa.array(values))
    return put(store, "Dataset", lambda folder: write_dataset(table, folder))


def snapshot(store: ArtifactStore, claimed: list[str] | None = None, champion: Any = None) -> Artifact:
    content = {"scenario": "loans", "champion": champion, "parent": None, "claimed": claimed or [], "states": {}}
    return put(store, "Snapshot", lambda folder: (folder / "snapshot.json").write_bytes(canonical(content)))


def report_of(store: ArtifactStore, outputs: dict[str, Artifact]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((store.fetch(outputs["report"].ref) / "report.json").read_bytes())
    return found


def test_broken_rows_go_to_quarantine_with_the_rule(store: ArtifactStore, run_step: RunStep) -> None:
    rows = [
        row(1, 5),
        row(2, 50),
        row(3, 500),
        row(4, 5, "evil", _source="case", _case="c4"),
        row(5, 9, _problem="feature x"),
        row(6, None),
    ]
    outputs = run_step("validate", params(), {"dataset": dataset(store, rows), "snapshot": snapshot(store)})
    passed = read_dataset(store.fetch(outputs["dataset"].ref))
    assert passed["_group"].to_pylist() == ["g1", "g2", "g6"]
    quarantine = read_dataset(store.fetch(outputs["quarantine"].ref))
    assert dict(zip(quarantine["_group"].to_pylist(), quarantine["_rule"].to_pylist(), strict=True)) == {
        "g3": "amount_in_range",
        "g4": "label_in_vocabulary",
        "g5": "payload_readable",
    }
    assert report_of(store, outputs)["rows"] == {"in": 6, "passed": 3, "quarantined": 3}
    folder = store.fetch(outputs["report"].ref)
    assert "3</b> are in quarantine" in (folder / "observed" / "report.html").read_text()
    assert (folder / "observed" / "data_docs" / "index.html").is_file()


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([row(1, 5), row(2, 500)], r"table rule 'enough_rows' is broken: found 1, allowed is at least 3"),
        ([row(n, 90) for n in range(4)], r"table rule 'amount_mean' is broken: found 90.0, allowed is at most 60"),
        ([row(1, 500), row(2, 500)], r"none of the 2 rows passed; most broke 'amount_in_range'"),
        ([], r"none of the 0 rows passed"),
    ],
)
def test_a_broken_table_stops(rows: list[dict[str, Any]], says: str, store: ArtifactStore, run_step: RunStep) -> None:
    with pytest.raises(DataError, match=says) as caught:
        run_step("validate", params(), {"dataset": dataset(store, rows), "snapshot": snapshot(store)})
    assert caught.value.exit_code == 64


def test_a_broken_suite_is_not_bad_data(store: ArtifactStore, run_step: RunStep) -> None:
    suite = {"expectations": [rule("column_values_to_be_between", "r", "row", column="amuont", min_value=0)]}
    with pytest.raises(ConfigError, match="did you mean 'amount'"):
        run_step("validate", params(suite), {"dataset": dataset(store, [row(1, 5)]), "snapshot": snapshot(store)})


class TestDrift:
    def inputs(self, store: ArtifactStore, shift: float) -> dict[str, Artifact]:
        before = [row(n, float(n % 50)) for n in range(300)]
        trained = dataset(store, before, _split=["train"] * 300)
        new = [row(1000 + n, float(n % 50) + shift) for n in range(100)]
        champion = {"seq": 1, "model": "Model/" + "0" * 64, "dataset": trained.ref}
        return {"dataset": dataset(store, before + new), "snapshot": snapshot(store, champion=champion)}

    def test_new_rows_are_compared_with_the_training_rows(self, store: ArtifactStore, run_step: RunStep) -> None:
        outputs = run_step("validate", params(), self.inputs(store, 40))
        drift = report_of(store, outputs)["drift"]
        assert (drift["new"], drift["trained"]) == (100, 300)
        assert [column["column"] for column in drift["columns"] if column["drifted"]] == ["amount"]
        assert outputs["report"].metadata["drifted"] == ["amount"]

    def test_nothing_moved(self, store: ArtifactStore, run_step: RunStep) -> None:
        assert run_step("validate", params(), self.inputs(store, 0))["report"].metadata["drifted"] == []

    def test_it_stops_where_the_scenario_says_so(self, store: ArtifactStore, run_step: RunStep) -> None:
        with pytest.raises(DataError, match="drifted beyond the limits: amount"):
            run_step("validate", params(drift={"psi": 0.25, "ks": 0.2, "stop": True}), self.inputs(store, 40))


def test_a_corrupt_picture_is_quarantined_and_its_case_with_it(store: ArtifactStore, ledger: Ledger, run_step: RunStep) -> None:
    task = TextLine()
    base = compose(strings=40, block=10).to_pylist()
    broken = item_from_bytes(base[0]["image"][:-30], "image/png", "digits-00099")
    good = item_from_bytes(compose(300, 350, 1)["image"][0].as_py(), "image/png", "digits-00030")
    cases = ledger.add_cases(
        "ocr", [NewCase(broken, "feedback", label="12"), NewCase(good, "feedback", label="34"), NewCase(good, "anna", label="35")]
    )
    ids = [receipt.case_id for receipt in cases]
    shared = {"scenario": "ocr", "task": task.model_dump(mode="json")}
    source = {"reader": "digits", "options": {"strings": 60, "block": 10}}
    ingested = run_step("ingest", {**shared, "source": source})
    suite = {"expectations": [rule("column_values_to_be_between", "has_ink", "row", column="_ink", min_value=0.01)]}
    checked = run_step("validate", {**shared, "suite": suite}, {"dataset": ingested["dataset"], "snapshot": ingested["snapshot"]})
    merged = run_step(
        "label_merge",
        {**shared, "splits": {"salt": "2"}},
        {"dataset": checked["dataset"], "quarantine": checked["quarantine"], "snapshot": ingested["snapshot"]},
    )
    fate = json.loads((store.fetch(merged["dataset"].ref) / "cases.json").read_bytes())
    assert fate == {
        "merged": [],
        "held": {ids[1]: "annotations disagree: '34' (1), '35' (1)"},
        "quarantined": {ids[0]: "payload_readable"},
    }
    assert ledger.case(ids[0]).state == "quarantined"
    assert ledger.case(ids[1]).state == "held"
    assert ledger.case(ids[1]).reason == "annotations disagree: '34' (1), '35' (1)"
    assert merged["review"].metadata["rows"] == 2
