"""A task runs its step for real; exit codes become Airflow's exceptions, and the scenario decides about retries."""

from __future__ import annotations

import os
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.core.errors import ConfigError, NothingToDo, TryAgain
from components.core.ledger import Ledger
from components.core.settings import Settings
from pipelines.loop import WIRES
from pipelines.to_airflow import backends
from pipelines.to_airflow.request import Plan, Request, make_plan

os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-"))
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # airflow's own
    from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

    from pipelines.to_airflow.operators import MODELS, ScenarioRetry, StepOperator, check_exit, said_to_airflow, step_operator

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:airflow.*")
SCENARIO = """
name: tiny
task: {{kind: tabular, problem: binary, classes: ["no", "yes"], features: {{x: number}}}}
ingest: {{source: {{reader: table, options: {{path: "{table}", label: label}}}}}}
validate: {{suite: {{name: tiny, expectations: []}}}}
orchestration: {{retries: 2, retry_delay_s: 10}}
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    pq.write_table(pa.table({"x": [0.1, 0.9], "label": ["no", "yes"]}), tmp_path / "tiny.parquet")
    (tmp_path / "tiny.yaml").write_text(SCENARIO.format(table=tmp_path / "tiny.parquet"))
    made = Settings.from_env({"ATLAS_HOME": str(tmp_path / "atlas"), "ATLAS_SCENARIOS": str(tmp_path)})
    for key, value in made.env().items():
        monkeypatch.setenv(key, value)
    return made


@pytest.fixture
def plan(settings: Settings) -> Plan:
    return make_plan("tiny", "manual__1", Request(), settings)


def context(plan: Plan, task_id: str = "ingest", **results: Any) -> Any:
    """What a task sees of Airflow, as far as ours look: earlier tasks' results and the outlets."""
    pulled = {"begin": plan.to_xcom(), **results}
    ti = SimpleNamespace(task_id=task_id, xcom_pull=lambda task_ids: pulled[task_ids])
    return {"ti": ti, "outlet_events": {MODELS: SimpleNamespace(extra={})}}


@pytest.mark.parametrize(
    ("code", "error"), [(99, AirflowSkipException), (64, AirflowFailException), (75, AirflowException), (-9, AirflowException)]
)
def test_an_exit_code_becomes_airflow_s(code: int, error: type[Exception]) -> None:
    with pytest.raises(error, match="why") as raised:
        check_exit("train", code, "why")
    assert type(raised.value) is error
    check_exit("train", 0, "")


@pytest.mark.parametrize(
    ("given", "error"),
    [(NothingToDo("n"), AirflowSkipException), (ConfigError("c"), AirflowFailException), (TryAgain("t"), AirflowException)],
)
def test_our_errors_become_airflow_s(given: Exception, error: type[Exception]) -> None:
    with pytest.raises(error) as raised, said_to_airflow():
        raise given
    assert type(raised.value) is error


def test_the_scenario_decides_how_often_and_when(plan: Plan) -> None:
    policy = ScenarioRetry()
    decided = [policy.evaluate(AirflowException(), number, 10, context(plan)) for number in (1, 2, 3)]
    assert [decision.action.value for decision in decided] == ["retry", "retry", "fail"]
    assert [decision.retry_delay.total_seconds() for decision in decided[:2] if decision.retry_delay] == [10, 20]
    patient = policy.evaluate(AirflowException(), 9, 10, context(replace(plan, retries=10, retry_delay_s=60)))
    assert patient.retry_delay is not None
    assert patient.retry_delay.total_seconds() == 600


def test_before_there_is_a_plan_airflow_s_own_numbers_hold(plan: Plan) -> None:
    assert ScenarioRetry().evaluate(AirflowException(), 1, 10, None).action.value == "default"
    assert ScenarioRetry().evaluate(AirflowException(), 1, 10, context(plan, "begin")).action.value == "default"


@pytest.mark.slow
def test_a_task_runs_its_step_and_returns_references_only(plan: Plan, settings: Settings) -> None:
    operator = StepOperator(task_id="ingest", step="ingest", wires=WIRES["ingest"])
    made = operator.execute(context(plan))
    assert sorted(made) == ["dataset", "snapshot"]
    assert made["dataset"].startswith("Dataset/")
    with Ledger.open(settings.ledger) as ledger:
        assert ledger.outputs(plan.run_id) == {"ingest": made}
    again = StepOperator(task_id="ingest", step="ingest", wires=WIRES["ingest"])
    assert again.execute(context(plan)) == made
    assert again._child is None  # the earlier result was taken: no process


def test_inputs_come_from_the_earlier_tasks(plan: Plan) -> None:
    operator = StepOperator(task_id="train", step="train", wires=WIRES["train"])
    call = operator.call(context(plan, "train", label_merge={"dataset": "Dataset/d", "review": "Dataset/r"}, automl={"recipe": "Recipe/c"}))
    assert call.inputs == {"dataset": "Dataset/d", "recipe": "Recipe/c"}
    assert call.params["scenario"] == "tiny"


def test_a_helper_joins_the_search_and_is_not_missed_when_it_fails(plan: Plan, settings: Settings) -> None:
    made = {"label_merge": {"dataset": "Dataset/d"}, "ingest": {"snapshot": "Snapshot/s"}}
    helper = StepOperator(task_id="automl_helpers", step="automl", wires=WIRES["automl"], helper=2)
    call = helper.call(context(plan, "automl_helpers", **made))
    assert call.arguments()[-1] == "--join"
    assert backends.out_file(call, settings).name == "automl-2.json"
    with pytest.raises(AirflowSkipException, match="goes on without helper 2: no memory"):
        helper.check(75, "no memory")
    helper.check(0, "")


def test_a_violated_contract_fails_at_once(plan: Plan, settings: Settings) -> None:
    (settings.home.parent / "tiny.parquet").unlink()
    with pytest.raises(AirflowFailException, match="there is no file"):
        StepOperator(task_id="ingest", step="ingest", wires={}).execute(context(plan))


def test_another_run_holds_the_scenario(plan: Plan, settings: Settings) -> None:
    with Ledger.open(settings.ledger) as ledger:
        ledger.acquire("tiny", "other")
    with pytest.raises(AirflowSkipException, match="other"):
        StepOperator(task_id="ingest", step="ingest", wires={}).execute(context(plan))


def test_a_new_model_version_is_told_to_airflow(plan: Plan) -> None:
    seen = context(plan, "train")
    StepOperator(task_id="train", step="train", wires={}, outlets=[MODELS]).made(seen, {"model": f"Model/{'a' * 64}"})
    assert seen["outlet_events"][MODELS].extra == {
        "scenario": "tiny",
        "run": plan.run_id,
        "ref": f"Model/{'a' * 64}",
        "kind": "Model",
        "sha256": "a" * 64,
    }


def test_the_backend_chooses_the_operator() -> None:
    from airflow.providers.docker.operators.docker import DockerOperator

    assert step_operator({}) is StepOperator
    docker = step_operator({"ATLAS_AIRFLOW_BACKEND": "docker"})
    assert issubclass(docker, DockerOperator)
    made = docker(task_id="train", step="train", wires=WIRES["train"])
    assert made.wires == WIRES["train"]
