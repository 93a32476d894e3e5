"""The three ways an Airflow task runs a step: here, in a Docker container, in a Kubernetes pod. No airflow here.

Each renders the same command line, `python -m components STEP …`; only the wrapping differs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from components.core.contract import Resources
from components.core.errors import ConfigError, nearest
from components.core.settings import Settings

__all__ = ["BACKENDS", "Backend", "Call", "Child", "backend", "docker_arguments", "image", "out_file", "pod", "refs"]

Backend = Literal["subprocess", "docker", "kubernetes"]
BACKENDS: tuple[Backend, ...] = ("subprocess", "docker", "kubernetes")
FORWARDED = ("ATLAS_LOG", "ATLAS_VERBOSE", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_REGION")
SECRET = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
GRACE_S = 10.0
USER = 10001
"""Who the images run as."""


@dataclass(frozen=True)
class Call:
    """One execution of one step.

    Attributes:
        inputs: Input port -> artifact reference.
        resources: From the step's spec.
        helper: 0 for the task that makes the step's outputs; others work with it (`--join`).
    """

    step: str
    scenario: str
    run_id: str
    params: Mapping[str, Any]
    inputs: Mapping[str, str]
    resources: Resources
    helper: int = 0

    def arguments(self, out: str | None = None) -> list[str]:
        """Return what follows `python`."""
        line = ["-m", "components", self.step, "--params", json.dumps(self.params), "--run-id", self.run_id]
        for port, ref in sorted(self.inputs.items()):
            line += ["--in", f"{port}={ref}"]
        if self.helper:
            line.append("--join")
        return [*line, "--out", out] if out else line


def backend(env: Mapping[str, str] | None = None) -> Backend:
    """Return the backend that `ATLAS_AIRFLOW_BACKEND` names; `subprocess` when it is not set.

    Raises:
        ConfigError: It names none.
    """
    name = (os.environ if env is None else env).get("ATLAS_AIRFLOW_BACKEND") or "subprocess"
    for known in BACKENDS:
        if name == known:
            return known
    raise ConfigError(f"ATLAS_AIRFLOW_BACKEND is '{name}'", do=nearest(name, BACKENDS))


def image(resources: Resources, env: Mapping[str, str]) -> str:
    """Return the container image of a weight class."""
    return f"{env.get('ATLAS_IMAGE_PREFIX') or 'localhost/atlas'}-{resources.image}:{env.get('ATLAS_IMAGE_TAG') or 'latest'}"


def out_file(call: Call, settings: Settings) -> Path:
    """Return where a step that shares this machine's disk writes its outputs' references; the same for every attempt."""
    folder = settings.home / "runs" / call.run_id
    folder.mkdir(parents=True, exist_ok=True)
    return folder / (f"{call.step}-{call.helper}.json" if call.helper else f"{call.step}.json")


def refs(out: Path) -> dict[str, str]:
    """Read what a step wrote with `--out`: port -> reference."""
    return {port: str(facts["ref"]) for port, facts in json.loads(out.read_text()).items()}


class Child:
    """A step running as a subprocess of the task.

    Args:
        call: What to run.
        settings: Handed down through the environment.
        out: Where the step writes its outputs' references.
    """

    def __init__(self, call: Call, settings: Settings, out: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *call.arguments(str(out))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=os.environ | settings.env(),
            start_new_session=True,  # so that `stop` reaches what the step itself started
        )

    def wait(self, log: Callable[[str], None]) -> tuple[int, str]:
        """Hand each line to `log` while the step runs; return its exit code and its last line."""
        last = ""
        threading.Thread(target=self._sweep, name="step-end", daemon=True).start()
        try:
            for line in self._process.stdout or ():
                if line.strip():
                    last = line.rstrip()
                    log(last)
            return self._process.wait(), last
        finally:
            self.stop()
            if self._process.stdout is not None:
                self._process.stdout.close()

    def stop(self) -> None:
        """End the step and everything it started; a step that is gone already is fine."""
        if self._process.poll() is None:
            self._signal(signal.SIGTERM)
            try:
                self._process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                self._signal(signal.SIGKILL)
                self._process.wait()

    def _sweep(self) -> None:
        """When the step has ended, end what it left behind: a server of a killed step would hold the pipe, and so the task, open."""
        self._process.wait()
        self._signal(signal.SIGKILL)

    def _signal(self, sign: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, sign)


def _folders(settings: Settings) -> dict[str, bool]:
    """Return the folders of this machine that a step needs -> whether it only reads them; none lies below another."""
    wanted = {str(settings.home): False}
    if "://" not in settings.store:
        wanted[settings.store] = False
    parts = urlsplit(settings.ledger)
    if parts.scheme.startswith("sqlite"):
        wanted[os.path.dirname(settings.ledger.split("///", 1)[1])] = False
    for folder in (settings.data, settings.scenarios):
        if folder is not None:
            wanted.setdefault(str(folder), True)
    return {
        folder: ro for folder, ro in wanted.items() if not any(folder.startswith(other + os.sep) for other in wanted if not wanted[other])
    }


def docker_arguments(call: Call, settings: Settings, env: Mapping[str, str], out: str) -> dict[str, Any]:
    """Return what Airflow's DockerOperator gets for a call, but for the types of the docker package.

    Folders are mounted where they lie here, so that the settings are true inside too. What may hold a password is `private`:
    Airflow shows the rest.

    Args:
        call: What to run.
        settings: This installation's; its local folders are mounted.
        env: Where `ATLAS_IMAGE_PREFIX`, `ATLAS_CONTAINER_NETWORK` and `ATLAS_CONTAINER_USER` are looked up.
        out: The file that will hold the outputs' references; in a mounted folder.
    """
    private = {"ATLAS_LEDGER", "ATLAS_STORE", *SECRET}
    inside = settings.env() | {key: env[key] for key in (*FORWARDED, *SECRET) if env.get(key)} | {"HOME": "/tmp"}
    return {
        "image": image(call.resources, env),
        "entrypoint": ["python"],
        "command": call.arguments(out),
        "environment": {key: value for key, value in sorted(inside.items()) if key not in private},
        "private_environment": {key: value for key, value in sorted(inside.items()) if key in private},
        "mounts": [{"target": f, "source": f, "type": "bind", "read_only": ro} for f, ro in sorted(_folders(settings).items())],
        "network_mode": env.get("ATLAS_CONTAINER_NETWORK") or None,
        "user": env.get("ATLAS_CONTAINER_USER") or f"{os.getuid()}:{os.getgid()}",
        "cpus": float(call.resources.cpu),
        "mem_limit": f"{call.resources.memory_mb}m",
        "gpus": call.resources.gpu,
        "labels": {"atlas.scenario": call.scenario, "atlas.step": call.step, "atlas.run": call.run_id},
    }


def pod(call: Call, settings: Settings, env: Mapping[str, str]) -> dict[str, Any]:
    """Return the manifest of the pod that runs a call, as plain data.

    The ledger's URL and the store's keys come from the cluster's secret; the pod keeps nothing: its home is an emptyDir. The
    outputs' references go where Airflow's sidecar reads a task's result.

    Args:
        call: What to run.
        settings: The store must be one that every node reaches.
        env: Where `ATLAS_IMAGE_PREFIX`, `ATLAS_K8S_SECRET`, `ATLAS_K8S_NAMESPACE` and `ATLAS_K8S_SERVICE_ACCOUNT` are looked up.

    Raises:
        ConfigError: Store or ledger lie on this machine's disk.
    """
    if "://" not in settings.store:
        raise ConfigError(f"pods can't reach the store {settings.store}", do="set ATLAS_STORE to a bucket, such as s3://bucket/prefix")
    if settings.ledger.startswith("sqlite"):
        raise ConfigError("pods can't share a SQLite ledger", do="set ATLAS_LEDGER to a PostgreSQL URL, here and in the secret")
    labels = {"app.kubernetes.io/name": "atlas", "atlas/scenario": call.scenario, "atlas/step": call.step, "atlas/run": _label(call.run_id)}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": f"atlas-{call.scenario}-{call.step}-".replace("_", "-"),
            "namespace": env.get("ATLAS_K8S_NAMESPACE") or "default",
            "labels": labels,
            "annotations": {"atlas/run": call.run_id},
        },
        "spec": {
            "restartPolicy": "Never",  # Airflow retries: it knows what an exit code means
            "activeDeadlineSeconds": call.resources.timeout_s,
            "automountServiceAccountToken": False,
            **({"serviceAccountName": env["ATLAS_K8S_SERVICE_ACCOUNT"]} if env.get("ATLAS_K8S_SERVICE_ACCOUNT") else {}),
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER,
                "runAsGroup": USER,
                "fsGroup": USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [_container(call, settings, env)],
            "volumes": [{"name": "home", "emptyDir": {}}],
        },
    }


def _container(call: Call, settings: Settings, env: Mapping[str, str]) -> dict[str, Any]:
    resources = call.resources
    secret = env.get("ATLAS_K8S_SECRET") or "atlas"
    plain = {"ATLAS_HOME": "/atlas", "HOME": "/atlas", "ATLAS_STORE": settings.store} | {key: env[key] for key in FORWARDED if env.get(key)}
    hidden = [("ATLAS_LEDGER", False), *((key, True) for key in SECRET)]
    amounts = {"cpu": str(resources.cpu), "memory": f"{resources.memory_mb}Mi"} | (
        {"nvidia.com/gpu": str(resources.gpu)} if resources.gpu else {}
    )
    return {
        "name": "base",  # the name that Airflow's operator looks for
        "image": image(resources, env),
        "command": ["python"],
        "args": call.arguments("/airflow/xcom/return.json"),
        "env": [
            *({"name": key, "value": value} for key, value in sorted(plain.items())),
            *({"name": key, "valueFrom": {"secretKeyRef": {"name": secret, "key": key, "optional": may_lack}}} for key, may_lack in hidden),
        ],
        "resources": {"requests": amounts, "limits": amounts},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "home", "mountPath": "/atlas"}],
    }


def _label(text: str) -> str:
    """Return a Kubernetes label value: at most 63 characters, a letter or digit at both ends."""
    return text[-63:].strip("-_.")
