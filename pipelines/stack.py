"""The processes that `atlas up` and the demo leave running: one server a scenario, and Airflow. A pid file each, below `ATLAS_HOME/run`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import httpx
import psutil

from components.core.errors import ConfigError, TryAgain
from components.core.ledger import Ledger
from components.core.settings import Settings
from pipelines import scenario
from pipelines.to_airflow.api import PASSWORDS, Airflow
from serving import launch

__all__ = ["LOGS", "down", "start_airflow", "start_serving", "up", "wait_for_airflow"]

LOGS = "ATLAS_HOME/run/*.log"
SERVING_TIMEOUT_S = 90.0
AIRFLOW_TIMEOUT_S = 240.0
STOP_TIMEOUT_S = 15.0
AIRFLOW_PORT = 8080


def up(settings: Settings) -> dict[str, str]:
    """Start a server for each scenario that has a champion, and Airflow; what runs already is left alone.

    Returns:
        What runs -> where it is, or a word on why it does not.
    """
    start_airflow(settings)
    found: dict[str, str] = {}
    with Ledger.open(settings.ledger) as ledger:
        for name in scenario.names(settings):
            if ledger.champion(name) is None:
                found[f"serving {name}"] = f"no model yet: atlas run {name}, then make up again"
            else:
                found[f"serving {name}"] = start_serving(scenario.find(name, settings), settings)
    found["Airflow"] = wait_for_airflow(settings)
    found["Airflow's password"] = str(settings.home / PASSWORDS)
    unset = "ATLAS_TOKEN is not set, so /feedback refuses: set it, then make down up"
    found["feedback's token"] = "as in ATLAS_TOKEN" if os.environ.get("ATLAS_TOKEN") else unset
    found["logs"] = str(settings.home / "run")
    return found


def down(settings: Settings) -> list[str]:
    """Stop everything that was started, with its children; return the names."""
    stopped = []
    for pid_file in sorted((settings.home / "run").glob("*.pid")):
        process = _running(pid_file)
        if process is not None:
            _stop(process)
            stopped.append(pid_file.stem)
        pid_file.unlink(missing_ok=True)
    return stopped


def start_serving(chosen: scenario.Scenario, settings: Settings) -> str:
    """Start the scenario's server and wait until it is ready; return its URL."""
    url = f"http://127.0.0.1:{chosen.serving.port}"
    name = f"serving-{chosen.name}"
    _check_port(name, chosen.serving.port, "change serving.port in the scenario, or stop what listens there", settings)
    _start(name, launch.command(chosen.serving.port), launch.environment(chosen.serving_json(), settings), settings)
    _wait(name, f"{url}/readyz", SERVING_TIMEOUT_S, settings)
    return url


def start_airflow(settings: Settings) -> None:
    """Start Airflow (standalone, loopback) without waiting for it."""
    script = Path(__file__).parents[1] / "infra" / "airflow" / "standalone.sh"
    if not script.is_file():
        raise ConfigError(f"{script} is missing", do="run from a checkout of ATLAS: Airflow needs dags/ and infra/ beside it")
    _check_port("airflow", AIRFLOW_PORT, "stop what listens there: another Airflow, perhaps", settings)
    _start("airflow", [str(script)], {"AIRFLOW__API__PORT": str(AIRFLOW_PORT)}, settings)


def wait_for_airflow(settings: Settings) -> str:
    """Wait until all parts of Airflow are healthy and have read our DAGs; return its URL."""
    url = f"http://127.0.0.1:{AIRFLOW_PORT}"
    _wait("airflow", f"{url}/api/v2/monitor/health", AIRFLOW_TIMEOUT_S, settings)
    with closing(Airflow.of(settings, url)) as airflow:
        airflow.wait(AIRFLOW_TIMEOUT_S)
    return url


def _start(name: str, command: Sequence[str], env: Mapping[str, str], settings: Settings) -> None:
    folder = settings.home / "run"
    folder.mkdir(parents=True, exist_ok=True)
    pid_file = folder / f"{name}.pid"
    if _running(pid_file) is not None:
        return
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    with (folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ | {"PATH": path} | settings.env() | dict(env),
            start_new_session=True,
        )
    pid_file.write_text(f"{process.pid} {psutil.Process(process.pid).create_time()}")


def _check_port(name: str, port: int, do: str, settings: Settings) -> None:
    """Refuse a port that somebody else listens on: their answers would be taken for ours.

    Raises:
        ConfigError: The port is taken, and not by what we started under this name.
    """
    if _running(settings.home / "run" / f"{name}.pid") is not None:
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(f"port {port}, which {name} needs, is taken", do=do) from error


def _running(pid_file: Path) -> psutil.Process | None:
    """Return the process of a pid file, if it is still the same one: pids are used again."""
    try:
        pid, created = pid_file.read_text().split()
        process = psutil.Process(int(pid))
        alive = process.is_running() and process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - float(created)) < 1
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
        return None
    return process if alive else None


def _stop(process: psutil.Process) -> None:
    family = [process, *process.children(recursive=True)]
    for member in family:
        _signal(member, kill=False)
    _, alive = psutil.wait_procs(family, timeout=STOP_TIMEOUT_S)
    for member in alive:
        _signal(member, kill=True)
    psutil.wait_procs(alive, timeout=STOP_TIMEOUT_S)


def _signal(process: psutil.Process, *, kill: bool) -> None:
    try:
        process.kill() if kill else process.terminate()
    except psutil.NoSuchProcess:
        return


def _wait(name: str, url: str, timeout_s: float, settings: Settings) -> None:
    log = settings.home / "run" / f"{name}.log"
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if _running(settings.home / "run" / f"{name}.pid") is None:
            raise TryAgain(f"{name} stopped while starting: {_tail(log)}", do=f"see {log}")
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.3)
    raise TryAgain(f"{name} was not ready after {timeout_s:.0f} s", do=f"see {log}")


def _tail(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "no output"
