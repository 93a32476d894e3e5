"""What happens inside a Kubeflow task, without Kubeflow: KFP's artifacts are plain objects here."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.core.errors import ConfigError, NothingToDo
from components.core.ledger import Ledger
from components.core.settings import Settings
from pipelines import kfp_task

REF = f"Recipe/{'a' * 64}"


@pytest.fixture(autouse=True)
def inside(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task of run `r`."""
    for name, value in settings.env().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ATLAS_RUN_ID", "r")


def artifact(folder: Path) -> Any:
    return SimpleNamespace(uri="minio://kfp/its/own", path=str(folder / "artifact"), metadata={})


def made(uri: str) -> dict[str, Any]:
    return {"ref": REF, "uri": uri, "kind": "Recipe", "sha256": "a" * 64, "metadata": {"score": 0.5, "baseline": None}}


def test_an_artifact_points_to_the_store(tmp_path: Path) -> None:
    ours = artifact(tmp_path)
    kfp_task.fill(ours, made("/atlas/store/artifacts/Recipe/aaa"))
    assert ours.uri == "/atlas/store/artifacts/Recipe/aaa"
    assert (ours.metadata["ref"], ours.metadata["kind"], ours.metadata["sha256"]) == (REF, "Recipe", "a" * 64)
    assert ours.metadata["score"] == 0.5
    assert "baseline" not in ours.metadata


def test_a_bucket_keeps_kubeflows_own_uri_because_its_launcher_would_upload_to_ours(tmp_path: Path) -> None:
    ours = artifact(tmp_path)
    kfp_task.fill(ours, made("s3://bucket/artifacts/Recipe/aaa"))
    assert ours.uri == "minio://kfp/its/own"
    assert ours.metadata["store_uri"] == "s3://bucket/artifacts/Recipe/aaa"
    assert json.loads(Path(ours.path).read_text())["ref"] == REF


@pytest.mark.parametrize(
    ("noted", "status", "state", "detail"),
    [
        (None, "SUCCEEDED", "done", None),
        (None, "FAILED", "failed", "Kubeflow: FAILED"),
        (("failed", "train: no rows"), "FAILED", "failed", "train: no rows"),
        (("failed", "train: no rows"), "SUCCEEDED", "done", None),  # a retry helped
        (("nothing", "no cases"), "SUCCEEDED", "nothing", "no cases"),
    ],
)
def test_the_exit_handler_notes_how_the_run_ended(ledger: Ledger, noted: Any, status: str, state: str, detail: str | None) -> None:
    kfp_task.begin("credit")
    if noted:
        ledger.finish_run("r", *noted)
    kfp_task.end("credit", status)
    [run] = ledger.runs("credit")
    assert (run.engine, run.state, run.detail) == ("kfp", state, detail)
    assert ledger.lease("credit") is None


def test_the_exit_handler_leaves_another_runs_lease_alone(ledger: Ledger) -> None:
    ledger.acquire("credit", "other")
    with pytest.raises(NothingToDo):
        kfp_task.begin("credit")
    kfp_task.end("credit", "SUCCEEDED")
    lease = ledger.lease("credit")
    assert lease is not None
    assert lease.run_id == "other"
    assert ledger.runs("credit") == []


def test_a_held_scenario_is_no_failure_and_every_declared_parameter_is_written(ledger: Ledger, tmp_path: Path) -> None:
    ledger.acquire("credit", "other")
    outputs = {port: (artifact(tmp_path), str(tmp_path / f"{port}_ref")) for port in ("snapshot", "dataset")}
    assert kfp_task.run_step("ingest", json.dumps({"scenario": "credit"}), {}, outputs) == {}
    assert {Path(ref_file).read_text() for _, ref_file in outputs.values()} == {""}


def test_a_failing_step_keeps_its_exit_code_and_says_why(ledger: Ledger, tmp_path: Path) -> None:
    kfp_task.begin("credit")
    with pytest.raises(SystemExit) as stopped:
        kfp_task.run_step("train", json.dumps({"epochs": "many"}), {}, {"model": (artifact(tmp_path), str(tmp_path / "model_ref"))})
    assert stopped.value.code == 64
    told = json.loads((tmp_path / kfp_task.FAILURE).read_text())
    assert (told["step"], told["code"]) == ("train", 64)
    assert "params of train" in told["message"]
    assert [run.state for run in ledger.runs("credit")] == ["failed"]


def test_a_task_without_a_run_id_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ATLAS_RUN_ID")
    with pytest.raises(ConfigError, match="ATLAS_RUN_ID"):
        kfp_task.begin("credit")
