"""What a run was asked for, what follows from it, and where Airflow places its tasks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.core.errors import ConfigError
from components.core.items import item_from_json
from components.core.ledger import Ledger, NewCase
from components.core.params import Tabular
from components.core.settings import Settings
from pipelines.to_airflow.policy import place
from pipelines.to_airflow.request import Plan, Request, has_work, load, make_plan, safe_run_id, summary

SCENARIO = """
name: probe
task: {kind: tabular, problem: binary, classes: ["no", "yes"], features: {x: number, a: number}}
ingest: {source: {reader: table, options: {path: /nowhere.parquet, label: y}}, at_least: 3}
validate: {suite: {name: probe, expectations: []}}
automl: {trials: 7, budget_s: 30}
orchestration: {pool: slow, priority: 4, retries: 1, retry_delay_s: 2}
"""
TASK = Tabular(problem="binary", classes=("no", "yes"), features={"x": "number", "a": "number"})


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "probe.yaml").write_text(SCENARIO)
    return Settings.from_env({"ATLAS_HOME": str(tmp_path / "atlas"), "ATLAS_SCENARIOS": str(tmp_path)})


def case(number: int) -> NewCase:
    return NewCase(item_from_json(TASK, {"features": {"x": number, "a": 0}}), "feedback", label="yes")


def test_a_request_survives_the_asset_event() -> None:
    asked = Request("manual", trials=5, budget_s=1.5, approval=True, deploy=False)
    assert Request.merged([asked.to_extra()]) == asked


def test_events_that_fell_together_are_merged_and_a_person_wins() -> None:
    asked = Request("manual", deploy=False)
    assert Request.merged([asked.to_extra(), Request("event").to_extra()]) == asked
    assert Request.merged([Request("schedule").to_extra(), Request("event").to_extra()]) == Request("event")
    assert Request.merged([]) == Request()
    assert Request.merged([{"from": "another producer"}]) == Request()


def test_a_plan_holds_every_step_s_params_with_the_overrides(settings: Settings) -> None:
    plan = make_plan("probe", "asset_triggered__2026-01-01T00:00:00+00:00_aB3", Request("manual", trials=2, approval=True), settings)
    automl = json.loads(plan.params["automl"])
    assert (automl["trials"], automl["budget_s"]) == (2, 30)
    assert list(json.loads(plan.params["ingest"])["task"]["features"]) == ["x", "a"]  # in the scenario's order: it is the columns'
    assert plan.approval
    assert (plan.retries, plan.retry_delay_s, plan.deploy) == (1, 2, True)
    assert plan.run_id == "airflow-asset_triggered__2026-01-01T00-00-00-00-00_aB3"
    assert Plan.from_xcom(plan.to_xcom()) == plan


def test_overrides_do_not_stay(settings: Settings) -> None:
    load("probe", settings, Request(trials=2))
    assert load("probe", settings).automl.trials == 7


def test_a_run_without_a_scenario_says_what_to_do(settings: Settings) -> None:
    with pytest.raises(ConfigError, match="atlas_dispatch"):
        make_plan(None, "manual__1", Request(), settings)
    with pytest.raises(ConfigError, match="did you mean 'probe'"):
        make_plan("prob", "manual__1", Request(), settings)


@pytest.mark.parametrize(
    ("run_id", "safe"),
    [
        ("manual__2026-01-01T00:00:00+00:00", "airflow-manual__2026-01-01T00-00-00-00-00"),
        ("a/../b c", "airflow-a-..-b-c"),
        ("x", "airflow-x"),
    ],
)
def test_run_ids_are_safe_and_stable(run_id: str, safe: str) -> None:
    assert safe_run_id(run_id) == safe == safe_run_id(run_id)


def test_work_starts_a_run_when_it_is_enough_and_nobody_holds_it(ledger: Ledger) -> None:
    assert not has_work(ledger, "probe", 3)
    ledger.add_cases("probe", [case(n) for n in range(2)])
    assert has_work(ledger, "probe", 3)  # nothing serves yet: any number will do
    assert has_work(ledger, "probe", 2)
    ledger.acquire("probe", "r1")
    assert not has_work(ledger, "probe", 2)
    ledger.release("probe", "r1")
    assert has_work(ledger, "probe", 2)


def test_too_few_cases_wait_once_a_model_serves(ledger: Ledger) -> None:
    ledger.add_cases("probe", [case(n) for n in range(2)])
    work = ledger.work("probe")
    serving = SimpleNamespace(work=ledger.work, champion=lambda name: object())
    assert not has_work(serving, "probe", 3, work)  # type: ignore[arg-type]
    assert has_work(serving, "probe", 2, work)  # type: ignore[arg-type]
    assert has_work(serving, "probe", 3, replace(work, unfinished=True))  # type: ignore[arg-type]


def test_pool_and_priority_are_the_scenario_s(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in settings.env().items():
        monkeypatch.setenv(key, value)
    task = SimpleNamespace(dag_id="atlas_loop", pool="default_pool", priority_weight=1)
    place(task, SimpleNamespace(partition_key="probe"))
    assert (task.pool, task.priority_weight) == ("slow", 4)


@pytest.mark.parametrize("dag_run", [None, SimpleNamespace(partition_key=None), SimpleNamespace(partition_key="gone")])
def test_a_task_that_can_t_be_placed_stays_where_it_is(dag_run: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATLAS_SCENARIOS", str(settings.scenarios))
    task = SimpleNamespace(dag_id="atlas_loop", pool="default_pool", priority_weight=1)
    place(task, dag_run)
    other = SimpleNamespace(dag_id="theirs", pool="default_pool", priority_weight=1)
    place(other, SimpleNamespace(partition_key="probe"))
    assert {task.pool, other.pool} == {"default_pool"}


def test_the_summary_shows_each_rule() -> None:
    rule = {"name": "cases_fixed", "passed": False, "value": 0.25, "limit": 0.5, "low": 0.1, "high": 0.4, "detail": ""}
    quiet = {"name": "latency", "passed": True, "value": None, "limit": 100.0, "low": None, "high": None, "detail": ""}
    text = summary(
        {
            "accepted": False,
            "model": "Model/ab",
            "baseline": "Model/cd",
            "rules": [rule, quiet],
            "cases": {"fixed": ["a"], "lost": ["b", "c"]},
        }
    )
    assert "**Refused**" in text
    assert "`Model/cd`" in text
    assert "1 fixed, 2 lost" in text
    assert "| cases_fixed | **no** | 0.25 | 0.5 | 0.1 … 0.4 |" in text
    assert "| latency | yes |  | 100 |  |" in text
