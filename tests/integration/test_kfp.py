"""The credit loop by Kubeflow's local runner: turned, refused by the gate, without work, broken, and held by another run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.core.errors import ContractError, NothingToDo
from components.core.ledger import Ledger
from components.core.settings import Settings
from pipelines import scenario
from pipelines.graph import Graph
from pipelines.loop import build
from pipelines.to_kfp import run_local

pytestmark = pytest.mark.slow

SMALL: dict[str, dict[str, Any]] = {
    "automl": {"trials": 2, "budget_s": 300, "learners": ["lightgbm"]},
    "evaluate": {"bootstrap": 100, "gate": {"floor": 0.4, "max_latency_ms": 5000}},
}


def credit(settings: Settings, **changes: dict[str, Any]) -> Graph:
    """The shipped scenario on a small search, without Feast's join."""
    sections = {name: {**SMALL.get(name, {}), **changes.get(name, {})} for name in {*SMALL, *changes}}
    return build(scenario.find("credit", settings, sections))


def shown(settings: Settings, run_id: str) -> dict[str, Any]:
    """What Kubeflow's UI would show of evaluate: artifact -> metadata."""
    [path] = (settings.home / "kfp" / run_id).glob("*/evaluate/executor_output.json")
    made = json.loads(path.read_text())["artifacts"]
    return {name: each["artifacts"][0] for name, each in made.items()}


def test_the_loop_turns_and_a_second_run_finds_nothing_to_do(settings: Settings, ledger: Ledger) -> None:
    graph = credit(settings)
    outputs = run_local(graph, run_id="first", settings=settings, helpers=1)

    assert set(outputs) == {node.name for node in graph.nodes}
    champion = ledger.champion("credit")
    assert champion is not None
    assert champion.model == outputs["train"]["model"].ref
    assert ledger.lease("credit") is None
    assert [(run.run_id, run.engine, run.state) for run in ledger.runs("credit")] == [("first", "kfp", "done")]

    views = shown(settings, "first")
    blessing = outputs["evaluate"]["blessing"]
    assert views["blessing"]["metadata"]["sha256"] == blessing.sha256
    assert views["blessing"]["uri"].endswith(f"artifacts/Blessing/{blessing.sha256}")
    assert views["metrics"]["metadata"]["challenger_auc"] > 0.4
    assert views["metrics"]["metadata"]["accepted"] == 1.0
    assert [c["displayName"] for c in views["confusion"]["metadata"]["confusionMatrix"]["annotationSpecs"]] == ["good", "bad"]
    assert "<html" in Path(views["page"]["uri"]).read_text().lower()

    with pytest.raises(NothingToDo):
        run_local(graph, run_id="second", settings=settings)
    assert {run.run_id: run.state for run in ledger.runs("credit")} == {"first": "done", "second": "nothing"}
    assert ledger.lease("credit") is None


def test_the_gate_refuses_so_deploy_is_skipped(settings: Settings, ledger: Ledger) -> None:
    outputs = run_local(credit(settings, evaluate={"gate": {"floor": 0.999}}), run_id="r", settings=settings)
    assert "deploy" not in outputs
    assert outputs["evaluate"]["blessing"].metadata["accepted"] is False
    assert ledger.champion("credit") is None
    assert [run.state for run in ledger.runs("credit")] == ["done"]
    assert ledger.lease("credit") is None


def test_a_failing_step_ends_the_run_with_its_own_words_and_releases_the_lease(settings: Settings, ledger: Ledger) -> None:
    graph = credit(settings, train={"epochs": 1}, automl={"learners": ["no_such_learner"]})
    with pytest.raises(ContractError, match="no_such_learner"):
        run_local(graph, run_id="r", settings=settings)
    assert ledger.lease("credit") is None
    [run] = ledger.runs("credit")
    assert run.state == "failed"
    assert "no_such_learner" in str(run.detail)
    assert set(ledger.outputs("r")) == {"ingest", "validate", "label_merge"}


def test_another_run_holds_the_scenario(settings: Settings, ledger: Ledger) -> None:
    ledger.acquire("credit", "other")
    with pytest.raises(NothingToDo, match="other"):
        run_local(credit(settings), run_id="late", settings=settings)
    lease = ledger.lease("credit")
    assert lease is not None
    assert lease.run_id == "other"
