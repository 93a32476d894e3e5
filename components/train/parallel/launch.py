"""Starts a training job as processes of this machine, and says clearly how it failed when it did.

What happened to a rank becomes one of two errors:

    killed by a signal, exit code 75 (a peer or a disk is not there)     TryAgain: run it again; it goes on from the newest checkpoint
    any other exit code                                                  ContractError: the same job would fail again
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from components.core.errors import AtlasError, ContractError, TryAgain
from components.train.parallel.agent import FAILURES
from components.train.parallel.job import CURVE, JOB, Job

__all__ = ["launch", "run_ranks"]

logger = logging.getLogger(__name__)
_AGAIN = TryAgain.exit_code
_ROOT = Path(__file__).parents[3]


def launch(job: Job, folder: Path, *, say: Callable[[str], None] = logger.info, timeout_s: float | None = None) -> list[float]:
    """Run a job to its end, from its newest checkpoint on, and return the loss of every step.

    Args:
        job: What to do; as many processes are started as its degrees ask for.
        folder: The job's own; see `components.train.parallel.job`. Call again with the same one to resume.
        say: Gets each line of rank 0, JSON objects, as they come.
        timeout_s: After so long the job is ended.

    Raises:
        TryAgain: A rank was killed, could not reach another or the disk, or the time is over.
        ContractError: A rank failed for another reason.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CURVE).unlink(missing_ok=True)
    (folder / JOB).write_text(job.model_dump_json(indent=1, exclude_unset=True))
    run_ranks(job.parallel.world, ["components.train.parallel.job", str(folder.resolve())], folder, say=say, timeout_s=timeout_s)
    losses: list[float] = json.loads((folder / CURVE).read_text())["losses"]
    return losses


def run_ranks(
    world: int, module: Sequence[str], folder: Path, *, say: Callable[[str], None] = logger.info, timeout_s: float | None = None
) -> None:
    """Run `python -m MODULE ARGUMENTS` as several ranks of torchrun; logs go to FOLDER/logs. The rest, and errors, as of `launch`."""
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    logs = Path(tempfile.mkdtemp(prefix="run-", dir=folder / "logs"))
    command = [sys.executable, "-m", "components.train.parallel.agent", str(world), str(logs), *module]
    last, late = "", threading.Event()
    with (
        (logs / "agent.log").open("w") as file,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True, env=_environment()) as process,
    ):
        timer = threading.Timer(timeout_s or threading.TIMEOUT_MAX, _end, (process, late))
        timer.daemon = True
        timer.start()
        try:
            for line in process.stdout or ():
                last = line.strip() or last
                say(line.rstrip("\n"))
            code = process.wait()
        finally:
            timer.cancel()
            process.terminate()  # when `say` failed or this was interrupted; the agent ends its ranks
    if late.is_set():
        raise TryAgain(f"the job was not done after {timeout_s:g} s; rank 0 said last: {last or 'nothing'}", do="give it more time")
    if code:
        raise _error(logs, code, last)


def _end(process: subprocess.Popen[str], late: threading.Event) -> None:
    late.set()
    process.terminate()


def _environment() -> dict[str, str]:
    """One thread a process unless it is said otherwise; this checkout's code; gloo on loopback where it can be named."""
    found = dict(os.environ)
    found.setdefault("OMP_NUM_THREADS", "1")
    found["PYTHONPATH"] = os.pathsep.join([str(_ROOT), *filter(None, [found.get("PYTHONPATH")])])
    found["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), found.get("PATH", "")])  # ninja, for DeepSpeed
    if "lo" in [name for _, name in socket.if_nameindex()]:
        found.setdefault("GLOO_SOCKET_IFNAME", "lo")
    return found


def _error(logs: Path, code: int, last: str) -> AtlasError:
    if not (logs / FAILURES).is_file():
        said = _last_line(logs / "agent.log")
        return TryAgain(f"the job's agent ended with {_how(code)}; it said last: {said}", do=f"see {logs / 'agent.log'}, then run it again")
    first = min(json.loads((logs / FAILURES).read_text()), key=_order)
    spoken = Path(first["logs"])
    said = _last_line(spoken / "stderr.log", spoken / "stdout.log") or ("" if first["rank"] else last) or "nothing"
    message = f"rank {first['rank']} ended with {_how(first['code'])}; it said last: {said}"
    if first["code"] < 0 or first["code"] == _AGAIN:
        return TryAgain(message, do="run the job again: it goes on from its newest checkpoint")
    return ContractError(message, do=f"see {first['logs']}")


def _order(failure: dict[str, Any]) -> tuple[bool, float]:
    """The cause comes first: a rank that was killed from outside, before those that missed it; then the earliest."""
    return failure["code"] >= 0 or failure["code"] == -signal.SIGTERM, failure["at"]


def _how(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _last_line(*files: Path) -> str:
    for file in files:
        lines = [line.strip() for line in file.read_text(errors="replace").splitlines() if line.strip()] if file.is_file() else []
        if lines:
            return lines[-1][-500:]
    return ""
