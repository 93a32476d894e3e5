"""One real Airflow: bad cases start loops, people start and approve them, exit codes mean what they should, bytes are the same.

The module's Airflow has its own ledger. Latency comes first, on a machine that does nothing else; then four loops run at once,
as Airflow would run them, and each test looks at its own.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.core.errors import ContractError
from components.core.ledger import Ledger
from components.core.settings import Settings
from pipelines.to_airflow.api import Airflow, LoopRun
from pipelines.to_airflow.latency import measure, write_probes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
EVENTS = 20
TINY = """
name: tiny
task: {{kind: tabular, problem: binary, classes: ["no", "yes"], features: {{x: number, y: number}}}}
ingest: {{source: {{reader: table, options: {{path: "{table}", label: label}}}}, mode: always}}
validate: {{suite: {{name: tiny, expectations: []}}}}
automl: {{trials: 1, budget_s: 300, learners: [logistic]}}
evaluate: {{bootstrap: 100, gate: {{max_latency_ms: 5000}}}}
orchestration: {{pool: tiny_pool, priority: 3, search_tasks: 3, sweep: "0 0 1 1 *"}}
"""
FLAKY = """
name: flaky
task: {kind: tabular, problem: regression, features: {x: number}}
ingest: {source: {reader: sql, options: {url_env: FLAKY_DB, query: select 1, label: y}}}
validate: {suite: {name: flaky, expectations: []}}
orchestration: {retries: 1, retry_delay_s: 1}
"""


@dataclass(frozen=True)
class Running:
    """The module's Airflow and its installation."""

    airflow: Airflow
    settings: Settings
    ledger: Ledger
    process: subprocess.Popen[bytes]
    probes: list[str]

    def run_of(self, scenario: str, state: tuple[str, ...] = ("success", "failed"), within_s: float = 300, after: str = "") -> LoopRun:
        """Wait until the scenario's newest run, other than `after`, is in one of the states."""

        def look() -> LoopRun | None:
            runs = [run for run in self.airflow.loops(scenario) if run.run_id != after]
            return runs[0] if runs and runs[0].state in state else None

        return self.until(look, within_s, f"no run of {scenario} became {state}")

    def task(self, run: LoopRun, name: str, state: str, within_s: float = 300) -> dict[str, Any]:
        """Wait until a task is in a state."""

        def look() -> dict[str, Any] | None:
            found = self.airflow.tasks(run.run_id)[name]
            return found if found["state"] == state else None

        return self.until(look, within_s, f"{name} of {run.scenario} did not become {state}")

    def answer(self, run: LoopRun, option: str) -> None:
        """Answer an approval as a person would, a moment after it is asked: Airflow retries a task that is answered at once."""
        time.sleep(4)
        self.airflow.answer(run.run_id, option)

    def until(self, look: Callable[[], Any], within_s: float, complaint: str) -> Any:
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if (found := look()) is not None:
                return found
            time.sleep(0.3)
        pytest.fail(f"{complaint} within {within_s} s; {self.settings.home / 'airflow.log'} says why")

    def states(self, run: LoopRun) -> dict[str, str]:
        return {name: task["state"] for name, task in self.airflow.tasks(run.run_id).items()}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, small_scenarios: Path) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("airflow")
    scenarios = Path(shutil.copytree(small_scenarios, folder / "scenarios"))
    probes = write_probes(scenarios)
    pq.write_table(_table(400), folder / "tiny.parquet")
    (scenarios / "tiny.yaml").write_text(TINY.format(table=folder / "tiny.parquet"))
    (scenarios / "flaky.yaml").write_text(FLAKY)
    settings = Settings.from_env({"ATLAS_HOME": str(folder / "atlas"), "ATLAS_SCENARIOS": str(scenarios)})
    settings.home.mkdir()
    port = _free_port()
    env = {key: value for key, value in os.environ.items() if not key.startswith(("ATLAS_", "AIRFLOW"))}
    env |= settings.env() | {"AIRFLOW__API__PORT": str(port), "PYTHON": sys.executable, "FLAKY_DB": "sqlite:////proc/nowhere/flaky.db"}
    with Ledger.open(settings.ledger) as ledger, (settings.home / "airflow.log").open("wb") as log:
        process = subprocess.Popen([ROOT / "infra/airflow/standalone.sh"], env=env, stdout=log, stderr=log, start_new_session=True)
        try:
            airflow = _wait_for(process, settings, port)
            yield Running(airflow, settings, ledger, process, probes)
            airflow.close()
        finally:
            _stop(process)


def _wait_for(process: subprocess.Popen[bytes], settings: Settings, port: int) -> Airflow:
    passwords = settings.home / "airflow" / "simple_auth_manager_passwords.json.generated"
    deadline = time.monotonic() + 240
    while not passwords.is_file() or not passwords.read_text():
        assert process.poll() is None, (settings.home / "airflow.log").read_text()[-3000:]
        assert time.monotonic() < deadline, (settings.home / "airflow.log").read_text()[-3000:]
        time.sleep(0.3)
    airflow = Airflow.of(settings, f"http://127.0.0.1:{port}")
    airflow.wait(240)
    return airflow


def _stop(process: subprocess.Popen[bytes]) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
            process.wait(30)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _table(rows: int) -> pa.Table:
    x, y = [n % 17 / 17 for n in range(rows)], [n % 13 / 13 for n in range(rows)]
    return pa.table({"x": x, "y": y, "label": ["yes" if a + b > 1 else "no" for a, b in zip(x, y, strict=True)]})


def test_it_listens_on_loopback_only(running: Running) -> None:
    family = [running.process.pid, *(child.pid for child in psutil.Process(running.process.pid).children(recursive=True))]
    listening = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.pid in family]  # tasks end any time
    hosts = {c.laddr.ip for c in listening}
    assert hosts == {"127.0.0.1"}
    assert running.settings.home.joinpath("airflow").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("scenario", "params"),
    [("nope", {}), ("tiny", {"trials": 0}), ("tiny", {"budget_s": "long"}), ("tiny", {"approval": "maybe"}), ("tiny", {"deploy": "no"})],
)
def test_a_bad_param_is_refused_with_400(running: Running, scenario: str, params: dict[str, Any]) -> None:
    with pytest.raises(ContractError, match="400"):
        running.airflow.start(scenario, **params)


def test_every_bad_case_starts_a_loop(running: Running, record_property: Callable[[str, object], None]) -> None:
    took = measure(running.airflow, running.ledger, running.probes, EVENTS)  # raises when an event starts no run
    record_property("p50_s", took.at(0.5))
    record_property("p95_s", took.at(0.95))  # how fast is `atlas bench loop`'s to judge
    assert len(took.seconds) == EVENTS


def test_a_violated_contract_is_not_retried_and_the_lease_is_given_back(running: Running) -> None:
    name = running.probes[0]
    run = running.run_of(name)
    tasks = running.airflow.tasks(run.run_id)
    assert run.state == "failed"
    assert (tasks["ingest"]["state"], tasks["ingest"]["try_number"]) == ("failed", 1)
    assert tasks["deploy"]["state"] == "upstream_failed"
    assert tasks["finish"]["state"] == "success"
    assert running.ledger.lease(name) is None
    recorded = running.ledger.runs(name)[0]
    assert (recorded.engine, recorded.trigger, recorded.state, recorded.detail) == ("airflow", "event", "failed", "failed: ingest")


@pytest.fixture(scope="module")
def started(running: Running) -> Running:
    """Four loops at once: credit and tiny ask for approval, ocr just runs, flaky's source is not there now."""
    for scenario, params in (("credit", {"approval": "yes"}), ("tiny", {"approval": "yes"}), ("ocr", {}), ("flaky", {})):
        running.airflow.start(scenario, **params)
    return running


def test_what_may_succeed_later_is_retried_as_often_as_the_scenario_says(started: Running) -> None:
    run = started.run_of("flaky")
    ingest = started.airflow.tasks(run.run_id)["ingest"]
    assert (run.state, ingest["state"], ingest["try_number"]) == ("failed", "failed", 2)


def test_a_refused_approval_skips_the_deploy(started: Running) -> None:
    run = started.run_of("tiny", ("running",))
    approve = started.task(run, "approve", "awaiting_input")
    assert (approve["pool"], approve["priority_weight"]) == ("tiny_pool", 3)
    started.answer(run, "Reject")
    run = started.run_of("tiny")
    assert run.state == "success"
    assert started.states(run) | {
        "approve": "success",
        "deploy": "skipped",
        "finish": "success",
        "automl_helpers": "success",
    } == started.states(run)
    assert started.ledger.champion("tiny") is None


def test_without_deploy_the_gate_ends_the_loop(started: Running) -> None:
    before = started.run_of("tiny")
    started.airflow.start("tiny", deploy=False)
    run = started.run_of("tiny", after=before.run_id)
    assert run.state == "success"
    assert started.states(run) | {"gate": "success", "approve": "skipped", "deploy": "skipped"} == started.states(run)
    assert started.ledger.lease("tiny") is None


def test_a_loop_runs_when_a_person_has_approved_it(started: Running, bootstrapped: Callable[[str], Settings]) -> None:
    run = started.run_of("credit", ("running",))
    started.task(run, "approve", "awaiting_input")
    detail = started.airflow.call("GET", f"/dags/atlas_loop/dagRuns/{run.run_id}/taskInstances/approve/-1/hitlDetails")
    assert "Accepted" in detail["body"]
    assert "| rule | passed |" in detail["body"]
    assert started.ledger.champion("credit") is None
    started.answer(run, "Approve")
    run = started.run_of("credit")
    states = started.states(run)
    assert states.pop("automl_helpers") == "skipped"  # the scenario wants none
    assert set(states.values()) == {"success"}, states
    _same_bytes(started, bootstrapped, "credit")


def test_another_scenario_makes_the_same_bytes(started: Running, bootstrapped: Callable[[str], Settings]) -> None:
    run = started.run_of("ocr")
    assert started.states(run).pop("approve") == "skipped"
    assert run.state == "success", started.states(run)
    _same_bytes(started, bootstrapped, "ocr")


def _same_bytes(started: Running, bootstrapped: Callable[[str], Settings], name: str) -> None:
    """Promise 1: the first loop, here and by `pipelines.local`, made the same artifacts."""
    [recorded] = started.ledger.runs(name)
    assert (recorded.state, recorded.trigger) == ("done", "manual")
    with Ledger.open(bootstrapped(name).ledger) as local:
        assert started.ledger.outputs(recorded.run_id) == local.outputs("first")


def test_new_versions_are_asset_events(started: Running) -> None:
    [recorded] = started.ledger.runs("credit")
    made = started.ledger.outputs(recorded.run_id)
    events = started.airflow.call("GET", "/assets/events", params={"limit": 100, "order_by": "-timestamp"})["asset_events"]
    seen = {event["uri"].strip("/"): event["extra"] for event in events if event["partition_key"] == "credit"}
    assert seen["atlas://datasets"]["ref"] == made["label_merge"]["dataset"]
    assert seen["atlas://models"]["ref"] == made["train"]["model"]
    assert seen["atlas://models"]["sha256"] == made["train"]["model"].partition("/")[2]


def test_nothing_to_do_is_skipped(started: Running) -> None:
    before = started.run_of("credit")
    started.airflow.start("credit")
    run = started.run_of("credit", after=before.run_id)
    states = started.states(run)
    assert run.state == "success"
    assert (states.pop("begin"), states.pop("finish")) == ("success", "success")
    assert set(states.values()) == {"skipped"}
    assert started.ledger.runs("credit")[0].state == "nothing"
    assert started.ledger.lease("credit") is None
