"""The real BentoML server, as a child process on a free loopback port, for as long as a `with` block lasts."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from tenacity import retry, retry_if_exception_type, stop_after_attempt

from components.core.errors import Refused, TryAgain

__all__ = ["Server", "running"]

_STOP_S = 10
_LOG_LINES = 15
_TAKEN, _TRIES = "Address already in use", 3
# PR_SET_PDEATHSIG: a killed deploy step takes its server along. It survives exec, and must be set in the child itself.
_UNTIL_PARENT_DIES = (
    "import ctypes, os, signal, sys\n"
    "if sys.platform == 'linux':\n"
    "    ctypes.CDLL(None).prctl(1, signal.SIGKILL)\n"
    "    if os.getppid() != int(sys.argv[1]): sys.exit(1)\n"
    "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])\n"
)


class _PortTaken(TryAgain):
    """Another process has bound a port that was free a moment before."""


@dataclass(frozen=True)
class Server:
    """A server that is ready."""

    url: str
    client: httpx.Client

    def predict(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """Ask for one prediction.

        Raises:
            Refused: The server does not answer it with 200.
            TryAgain: The server can't be reached.
        """
        try:
            response = self.client.post(f"{self.url}/predict", json=item)
        except httpx.HTTPError as error:
            raise TryAgain(
                f"the trial server stopped answering: {error!r}", do="run again; if it happens again, see its log above"
            ) from error
        if response.status_code == 503:
            raise TryAgain(f"the trial server is overloaded: {response.text[:200]}", do="run again when the machine is less busy")
        if response.status_code != 200:
            raise Refused(
                f"the trial server answered a row of the test split with {response.status_code}: {response.text[:300]}",
                do="the packed model can't serve what it was evaluated on; train it again",
            )
        found: dict[str, Any] = response.json()
        return found


@contextmanager
def running(tag: str, *, model: str, env: Mapping[str, str], cwd: Path, log: Path, timeout_s: float) -> Iterator[Server]:
    """Start the server of a Bento, wait until it serves `model`, and stop it in the end, whatever happens.

    Args:
        tag: The Bento.
        model: What `/readyz` must name.
        env: The server's whole environment.
        cwd: Its working directory.
        log: File for its output.
        timeout_s: It must be ready by then.

    Raises:
        TryAgain: It ended, or was not ready in time.
        Refused: It says that it can't load the model.
    """
    # The loopback needs no proxy, whatever the environment says.
    with httpx.Client(timeout=30, trust_env=False) as client:
        process, server = _started(client, tag, model=model, env=env, cwd=cwd, log=log, timeout_s=timeout_s)
        try:
            yield server
        finally:
            _stop(process)


# BentoML draws ports of its own, too: what was free when it looked may be another process's when it binds.
@retry(retry=retry_if_exception_type(_PortTaken), stop=stop_after_attempt(_TRIES), reraise=True)
def _started(
    client: httpx.Client, tag: str, *, model: str, env: Mapping[str, str], cwd: Path, log: Path, timeout_s: float
) -> tuple[subprocess.Popen[bytes], Server]:
    port = _free_port()
    serve = ["-m", "bentoml", "serve", tag, "--host", "127.0.0.1", "--port", str(port), "--quiet"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", _UNTIL_PARENT_DIES, str(os.getpid()), *serve],
            cwd=cwd, env=dict(env), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    server = Server(f"http://127.0.0.1:{port}", client)
    try:
        _wait(server, process, model, log, timeout_s)
    except BaseException:
        _stop(process)
        raise
    return process, server


def _wait(server: Server, process: subprocess.Popen[bytes], model: str, log: Path, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    said = "nothing"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            kind = _PortTaken if _TAKEN in _tail(log) else TryAgain
            raise kind(f"the trial server ended with {process.returncode}; its last lines:\n{_tail(log)}", do="mend that, then run again")
        with suppress(httpx.HTTPError):
            response = server.client.get(f"{server.url}/readyz", timeout=2)
            said = response.text[:300]
            status = response.json() if response.headers.get("content-type", "").startswith("application/json") else {}
            if status.get("failed"):
                raise Refused(f"the trial server can't load {model}: {status['failed']['error']}", do="train the model again")
            if response.status_code == 200 and status.get("model") == model:
                return
        time.sleep(0.1)
    raise TryAgain(
        f"the trial server was not ready after {timeout_s:g} s (it said: {said}); its last lines:\n{_tail(log)}",
        do="run again when the machine is less busy, or raise deploy.start_timeout_s",
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the whole process group: politely, then not."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    return "\n".join(lines[-_LOG_LINES:]) or "(no output)"
