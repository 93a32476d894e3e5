"""The credit loop in the images of infra/images, turned by Kubeflow's DockerRunner and by Airflow's DockerOperator.

Needs a Docker-compatible socket and the images: `make test-containers` builds them.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from components.core.errors import ContractError
from components.core.ledger import Ledger
from components.core.settings import Settings
from pipelines import scenario
from pipelines.loop import build
from pipelines.to_airflow.api import Airflow
from pipelines.to_kfp import run_local

pytestmark = [pytest.mark.container, pytest.mark.slow, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
ENGINE_UP = ROOT.parent / "shared" / "tools" / "containers-up"
IMAGES = ("core", "learn", "serve", "airflow")
SMALL: dict[str, dict[str, Any]] = {
    "automl": {"trials": 2, "budget_s": 300, "learners": ["lightgbm"]},
    "evaluate": {"bootstrap": 100, "gate": {"floor": 0.4, "max_latency_ms": 5000}},
}


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    """A Docker client; its engine is started where the tool for that is at hand."""
    import docker
    from docker.errors import DockerException

    with pytest.MonkeyPatch.context() as patch:
        if "DOCKER_HOST" not in os.environ and not Path("/var/run/docker.sock").exists():
            if not ENGINE_UP.exists():
                pytest.skip("there is no container engine: start Docker, or set DOCKER_HOST")
            told = subprocess.run([str(ENGINE_UP)], check=True, capture_output=True, text=True).stdout
            for name, value in re.findall(r"(DOCKER_HOST|CONTAINERS_CONF)=(\S+)", told):
                patch.setenv(name, value)
        try:
            client = docker.from_env(timeout=120)
            client.ping()
        except DockerException as error:
            pytest.skip(f"no Docker engine answers: {error}")
        known = {tag for image in client.images.list() for tag in image.tags}
        missing = [name for name in IMAGES if f"localhost/atlas-{name}:latest" not in known]
        assert not missing, f"build the images first: infra/images/build.sh {' '.join(missing)}"
        yield client
        client.close()


@pytest.fixture(scope="module")
def scenarios(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the shipped `credit`, its search cut short."""
    folder = tmp_path_factory.mktemp("scenarios")
    shipped = ROOT / "pipelines" / "scenarios"
    given = yaml.safe_load((shipped / "credit.yaml").read_text())
    for section, values in SMALL.items():
        given[section] = {**given.get(section, {}), **values}
    (folder / "credit.yaml").write_text(yaml.safe_dump(given))
    (folder / "credit.suite.json").write_bytes((shipped / "credit.suite.json").read_bytes())
    return folder


@pytest.fixture(scope="module")
def by_kubeflow(engine: Any, scenarios: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """An installation whose first run, `kfp-1`, Kubeflow's DockerRunner has turned."""
    settings = _installation(tmp_path_factory.mktemp("kfp"), scenarios)
    graph = build(scenario.find("credit", settings))
    outputs = run_local(graph, run_id="kfp-1", settings=settings, runner="docker")
    assert set(outputs) == {node.name for node in graph.nodes}
    return settings


def test_kubeflow_turns_the_loop_in_containers(engine: Any, by_kubeflow: Settings) -> None:
    with Ledger.open(by_kubeflow.ledger) as ledger:
        champion = ledger.champion("credit")
        assert champion is not None
        assert champion.model == ledger.outputs("kfp-1")["train"]["model"]
        assert [run.state for run in ledger.runs("credit")] == ["done"]
        assert ledger.lease("credit") is None
    assert not engine.containers.list(all=True, filters={"ancestor": "localhost/atlas-core:latest"}), "a container was left behind"


def test_containers_and_this_environment_make_the_same_bytes(by_kubeflow: Settings, scenarios: Path, tmp_path: Path) -> None:
    settings = _installation(tmp_path, scenarios)
    run_local(build(scenario.find("credit", settings)), run_id="here", settings=settings)
    assert _refs(settings, "here") == _refs(by_kubeflow, "kfp-1")


def test_a_failing_container_is_a_failure_with_the_steps_own_words(engine: Any, scenarios: Path, tmp_path: Path) -> None:
    settings = _installation(tmp_path, scenarios)
    broken = scenario.find("credit", settings, {"ingest": {"source": {"reader": "no_such_reader"}}})
    with pytest.raises(ContractError, match="no_such_reader"):
        run_local(build(broken), run_id="r", settings=settings, runner="docker")
    with Ledger.open(settings.ledger) as ledger:
        assert ledger.lease("credit") is None


def test_airflow_turns_the_loop_in_containers_and_makes_the_same_bytes(by_kubeflow: Settings, scenarios: Path, tmp_path: Path) -> None:
    settings = _installation(tmp_path, scenarios)
    port = _free_port()
    env = settings.env() | {"ATLAS_AIRFLOW_BACKEND": "docker", "ATLAS_CONTAINER_NETWORK": "host", "PYTHON": sys.executable}
    env |= {
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW_HOME": str(settings.home / "airflow"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    with _running([str(ROOT / "infra" / "airflow" / "standalone.sh")], env, tmp_path / "airflow.log"):
        airflow = _airflow(settings, port)
        airflow.start("credit")
        run = _ended(airflow)
        assert run.state == "success", {name: task["state"] for name, task in airflow.tasks(run.run_id).items()}
        airflow.close()
    with Ledger.open(settings.ledger) as ledger:
        [ours] = [known for known in ledger.runs("credit") if known.state == "done"]
    assert _refs(settings, ours.run_id) == _refs(by_kubeflow, "kfp-1")


def test_the_image_serves_the_champion(engine: Any, by_kubeflow: Settings) -> None:
    folder = str(by_kubeflow.home)
    container = engine.containers.create(
        "localhost/atlas-serve:latest",
        environment=by_kubeflow.env() | {"ATLAS_SCENARIO": "credit", "HOME": "/tmp"},
        user=f"{os.getuid()}:{os.getgid()}",
        read_only=True,  # as the manifest in infra/k8s has it
        tmpfs={"/tmp": ""},
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        volumes={folder: {"bind": folder, "mode": "rw"}, str(by_kubeflow.scenarios): {"bind": str(by_kubeflow.scenarios), "mode": "ro"}},
        ports={"3000/tcp": ("127.0.0.1", port := _free_port())},
    )
    try:
        container.start()
        answer = _get(f"http://127.0.0.1:{port}/readyz", 90)
        assert answer.status_code == 200, container.logs().decode()[-2000:]
        columns = scenario.find("credit", by_kubeflow).task
        predicted = httpx.post(f"http://127.0.0.1:{port}/predict", json={"features": dict.fromkeys(columns.features)}, timeout=30)  # type: ignore[union-attr]
        assert predicted.status_code == 200, predicted.text
        told = re.search(r"HEALTHCHECK .*\n +CMD (.*)", (ROOT / "infra" / "images" / "Dockerfile").read_text())
        assert told is not None
        assert container.exec_run(json.loads(told[1])).exit_code == 0
    finally:
        container.remove(force=True)


@pytest.mark.parametrize("name", IMAGES)
def test_no_image_runs_as_root_or_holds_what_is_not_code(engine: Any, name: str) -> None:
    look = "import os, pathlib; print(os.getuid(), sorted(p.name for p in pathlib.Path().iterdir()), os.access('.', os.W_OK))"
    container = engine.containers.create(f"localhost/atlas-{name}:latest", ["python", "-c", look])
    try:
        container.start()
        assert container.wait()["StatusCode"] == 0
        uid, rest = container.logs().decode().strip().split(" ", 1)
    finally:
        container.remove(force=True)
    assert uid == "10001"
    assert rest == "['components', 'constraints.txt', 'dags', 'infra', 'pipelines', 'pyproject.toml', 'serving'] False"


@pytest.mark.parametrize(("backend", "operator"), [("docker", "DockerStep"), ("kubernetes", "PodStep")])
def test_the_airflow_image_holds_both_backends_and_no_kfp(engine: Any, backend: str, operator: str) -> None:
    look = (
        "import importlib.util, os; from pipelines.to_airflow.loop import loop_dag;"
        "print(type(loop_dag(os.environ).get_task('train')).__name__, importlib.util.find_spec('kfp'), importlib.util.find_spec('torch'))"
    )
    environment = {"ATLAS_AIRFLOW_BACKEND": backend, "AIRFLOW_HOME": "/tmp/airflow"}
    container = engine.containers.create("localhost/atlas-airflow:latest", ["python", "-c", look], environment=environment)
    try:
        container.start()
        assert container.wait()["StatusCode"] == 0, container.logs().decode()[-2000:]
        assert container.logs().decode().strip().splitlines()[-1] == f"{operator} None None"
    finally:
        container.remove(force=True)


def test_the_airflow_image_comes_up(engine: Any, tmp_path: Path) -> None:
    home = tmp_path / "atlas"
    home.mkdir()
    container = engine.containers.create(
        "localhost/atlas-airflow:latest",
        environment={"ATLAS_HOME": str(home), "HOME": "/tmp"},
        user=f"{os.getuid()}:{os.getgid()}",
        volumes={str(home): {"bind": str(home), "mode": "rw"}},
        ports={"8080/tcp": ("127.0.0.1", port := _free_port())},
    )
    try:
        container.start()
        airflow = _airflow(Settings.from_env({"ATLAS_HOME": str(home)}), port)
        assert airflow.healthy()
        airflow.close()
    finally:
        container.remove(force=True)


def _installation(folder: Path, scenarios: Path) -> Settings:
    home = folder / "atlas"
    home.mkdir()
    return Settings.from_env({"ATLAS_HOME": str(home), "ATLAS_SCENARIOS": str(scenarios)})


def _refs(settings: Settings, run_id: str) -> Mapping[str, Mapping[str, str]]:
    with Ledger.open(settings.ledger) as ledger:
        return ledger.outputs(run_id)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _get(url: str, timeout_s: float) -> httpx.Response:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            answer = httpx.get(url, timeout=5)
            if answer.status_code == 200 or time.monotonic() > deadline:
                return answer
        except httpx.HTTPError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.5)


def _airflow(settings: Settings, port: int) -> Airflow:
    _get(f"http://127.0.0.1:{port}/api/v2/monitor/health", 240)
    airflow = Airflow.of(settings, f"http://127.0.0.1:{port}")
    airflow.wait(240)
    return airflow


def _ended(airflow: Airflow) -> Any:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        runs = [run for run in airflow.loops("credit") if run.state in ("success", "failed")]
        if runs:
            return runs[0]
        time.sleep(1)
    raise AssertionError("the loop did not end")


class _running:
    """A process group that ends with the block."""

    def __init__(self, command: list[str], env: Mapping[str, str], log: Path) -> None:
        self._log = log.open("w")
        self._process = subprocess.Popen(
            command, env=os.environ | env, stdout=self._log, stderr=self._log, cwd=ROOT, start_new_session=True
        )

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, sign)
                self._process.wait(30)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
        self._log.close()
