"""The three ways a task runs a step render the same command; exit codes become what Airflow understands."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from components.core.contract import STEPS, Resources
from components.core.errors import ConfigError
from components.core.settings import Settings
from components.core.step import load_spec
from pipelines.to_airflow.backends import BACKENDS, Call, Child, backend, docker_arguments, image, out_file, pod

REMOTE = {"ATLAS_HOME": "/srv/atlas", "ATLAS_LEDGER": "postgresql+psycopg://u:secret@db/atlas", "ATLAS_STORE": "s3://bucket/atlas"}


@pytest.fixture
def call() -> Call:
    inputs = {"model": f"Model/{'a' * 64}", "blessing": f"Blessing/{'b' * 64}"}
    return Call(
        "deploy",
        "credit",
        "airflow-manual__1",
        {"z": 1, "scenario": "credit", "quote": 'it\'s "so" $HOME'},
        inputs,
        load_spec("deploy").resources,
    )


def ingest(tmp_path: Path) -> Call:
    """A real call that breaks a contract: the source is not there."""
    params = {
        "scenario": "probe",
        "task": {"kind": "tabular", "problem": "regression", "features": {"x": "number"}},
        "source": {"reader": "table", "options": {"path": str(tmp_path / "nothing.parquet"), "label": "y"}},
    }
    return Call("ingest", "probe", "airflow-r1", params, {}, load_spec("ingest").resources)


def test_the_backend_is_chosen_by_the_environment() -> None:
    assert backend({}) == "subprocess"
    assert [backend({"ATLAS_AIRFLOW_BACKEND": name}) for name in BACKENDS] == list(BACKENDS)
    with pytest.raises(ConfigError, match="did you mean 'docker'"):
        backend({"ATLAS_AIRFLOW_BACKEND": "doker"})


def test_arguments_are_a_list_so_nothing_is_quoted(call: Call) -> None:
    line = call.arguments("/out.json")
    assert line[:3] == ["-m", "components", "deploy"]
    assert list(json.loads(line[line.index("--params") + 1]).items()) == list(call.params.items())  # in the same order
    assert [line[i + 1] for i, word in enumerate(line) if word == "--in"] == [f"blessing=Blessing/{'b' * 64}", f"model=Model/{'a' * 64}"]
    assert line[-2:] == ["--out", "/out.json"]


@pytest.mark.parametrize("step", STEPS)
def test_the_image_follows_the_step_s_weight_class(step: str) -> None:
    resources = load_spec(step).resources
    assert image(resources, {}) == f"localhost/atlas-{resources.image}:latest"
    assert (
        image(resources, {"ATLAS_IMAGE_PREFIX": "registry.example/x", "ATLAS_IMAGE_TAG": "v3"})
        == f"registry.example/x-{resources.image}:v3"
    )


def test_docker_mounts_what_is_local_where_it_lies(call: Call, tmp_path: Path) -> None:
    env = {"ATLAS_HOME": str(tmp_path / "home"), "ATLAS_DATA": str(tmp_path / "data"), "ATLAS_STORE": str(tmp_path / "home" / "store")}
    given = docker_arguments(call, Settings.from_env(env), {"ATLAS_CONTAINER_NETWORK": "host", "AWS_SECRET_ACCESS_KEY": "k"}, "/out.json")
    assert given["image"] == "localhost/atlas-serve:latest"
    assert [given["entrypoint"][0], *given["command"]] == ["python", *call.arguments("/out.json")]
    assert {mount["source"]: mount["read_only"] for mount in given["mounts"]} == {
        str(tmp_path / "data"): True,
        str(tmp_path / "home"): False,
    }
    assert all(mount["source"] == mount["target"] for mount in given["mounts"])
    assert given["network_mode"] == "host"
    assert given["user"] == f"{os.getuid()}:{os.getgid()}"
    assert given["mem_limit"] == "2048m"
    assert given["labels"]["atlas.step"] == "deploy"


def test_docker_mounts_a_store_and_a_ledger_that_lie_elsewhere(call: Call, tmp_path: Path) -> None:
    env = {
        "ATLAS_HOME": str(tmp_path / "home"),
        "ATLAS_STORE": str(tmp_path / "store"),
        "ATLAS_LEDGER": f"sqlite:///{tmp_path / 'db' / 'ledger.db'}",
        "ATLAS_SCENARIOS": str(tmp_path / "home" / "scenarios"),
    }
    mounts = docker_arguments(call, Settings.from_env(env | {"ATLAS_DATA": str(tmp_path / "store" / "data")}), {}, "/out.json")["mounts"]
    assert [mount["source"] for mount in mounts] == [str(tmp_path / name) for name in ("db", "home", "store")]


def test_docker_mounts_no_folder_for_what_is_remote(call: Call) -> None:
    settings = dataclasses.replace(Settings.from_env(REMOTE), data=None)
    given = docker_arguments(call, settings, {}, "/out.json")
    assert [mount["source"] for mount in given["mounts"]] == ["/srv/atlas"]


def test_docker_hides_what_may_hold_a_password(call: Call) -> None:
    given = docker_arguments(call, Settings.from_env(REMOTE), {"AWS_SECRET_ACCESS_KEY": "k", "AWS_REGION": "eu"}, "/out.json")
    assert "secret" not in json.dumps(given["environment"])
    assert set(given["private_environment"]) == {"ATLAS_LEDGER", "ATLAS_STORE", "AWS_SECRET_ACCESS_KEY"}
    assert given["environment"]["AWS_REGION"] == "eu"


def deserialized(manifest: dict[str, Any]) -> Any:
    """Read a manifest with the cluster client's own models: unknown kinds of values fail."""
    from kubernetes.client import ApiClient

    class Answer:
        data = json.dumps(manifest)

    return ApiClient().deserialize(Answer(), "V1Pod")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("step", STEPS)
def test_a_pod_is_what_the_cluster_s_models_say(step: str, call: Call) -> None:
    from kubernetes.client import ApiClient

    resources = load_spec(step).resources
    manifest = pod(dataclasses.replace(call, step=step, resources=resources), Settings.from_env(REMOTE), {"ATLAS_K8S_NAMESPACE": "ml"})
    read = deserialized(manifest)
    assert ApiClient().sanitize_for_serialization(read) == manifest  # nothing is unknown to the models, nothing gets lost
    assert read.metadata.namespace == "ml"
    container = read.spec.containers[0]
    assert container.image == f"localhost/atlas-{resources.image}:latest"
    assert [*container.command, *container.args][:4] == ["python", "-m", "components", step]
    assert container.args[-2:] == ["--out", "/airflow/xcom/return.json"]
    assert container.resources.limits == {"cpu": str(resources.cpu), "memory": f"{resources.memory_mb}Mi"}
    assert read.spec.active_deadline_seconds == resources.timeout_s
    assert read.spec.restart_policy == "Never"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_pod_is_unprivileged_and_takes_secrets_by_reference(call: Call) -> None:
    manifest = pod(call, Settings.from_env(REMOTE), {"ATLAS_K8S_SECRET": "prod", "AWS_SECRET_ACCESS_KEY": "k3y"})
    read = deserialized(manifest)
    assert "secret@db" not in json.dumps(manifest)
    assert "k3y" not in json.dumps(manifest)
    assert read.spec.security_context.run_as_non_root
    assert read.spec.security_context.seccomp_profile.type == "RuntimeDefault"
    assert read.spec.automount_service_account_token is False
    security = read.spec.containers[0].security_context
    assert security.allow_privilege_escalation is False
    assert security.capabilities.drop == ["ALL"]
    references = {variable.name: variable.value_from.secret_key_ref for variable in read.spec.containers[0].env if variable.value_from}
    assert {name: ref.name for name, ref in references.items()}["ATLAS_LEDGER"] == "prod"
    assert references["ATLAS_LEDGER"].optional is False
    assert references["AWS_SECRET_ACCESS_KEY"].optional is True


def test_a_pod_asks_for_devices_and_keeps_labels_short(call: Call) -> None:
    long = dataclasses.replace(call, run_id="airflow-" + "x" * 80 + "-", resources=Resources(gpu=2))
    manifest = pod(long, Settings.from_env(REMOTE), {})
    assert manifest["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert len(manifest["metadata"]["labels"]["atlas/run"]) <= 63
    assert manifest["metadata"]["annotations"]["atlas/run"] == long.run_id


@pytest.mark.parametrize(
    ("change", "do"), [({"ATLAS_STORE": "/disk/store"}, "ATLAS_STORE"), ({"ATLAS_LEDGER": "sqlite:////l.db"}, "ATLAS_LEDGER")]
)
def test_a_pod_refuses_what_lies_on_this_machine(change: dict[str, str], do: str, call: Call) -> None:
    with pytest.raises(ConfigError, match=do):
        pod(call, Settings.from_env(REMOTE | change), {})


@pytest.mark.slow
def test_a_step_runs_as_a_subprocess_and_its_last_line_says_why_it_failed(tmp_path: Path, settings: Settings) -> None:
    call, lines = ingest(tmp_path), list[str]()
    code, last = Child(call, settings, out_file(call, settings)).wait(lines.append)
    assert code == 64
    assert "there is no file" in last
    assert lines[-1] == last


def test_a_step_that_is_stopped_ends_with_everything_it_started(tmp_path: Path, settings: Settings) -> None:
    call = ingest(tmp_path)
    child = Child(call, settings, out_file(call, settings))
    began = time.monotonic()
    child.stop()
    code, _ = child.wait(lambda line: None)
    assert code < 0 or code == 64
    assert time.monotonic() - began < 15
    child.stop()  # once more does no harm


def test_what_a_killed_step_left_behind_does_not_hold_the_task(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "components"
    package.mkdir()
    (package / "__init__.py").touch()
    server = "import subprocess, sys, os, signal; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    (package / "__main__.py").write_text(f"{server}; print('up', flush=True); os.kill(os.getpid(), signal.SIGKILL)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    call = ingest(tmp_path)
    began = time.monotonic()
    assert Child(call, settings, out_file(call, settings)).wait(lambda line: None) == (-9, "up")
    assert time.monotonic() - began < 30
