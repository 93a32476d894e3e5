"""Runs a graph on this machine: each step is a subprocess, finished steps are reused without starting one."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from components.core.artifacts import Artifact
from components.core.errors import AtlasError, ContractError, NothingToDo, TryAgain
from components.core.ledger import Ledger
from components.core.settings import Settings
from components.core.step import parse_params, reuse
from components.core.store import ArtifactStore, open_store
from pipelines.graph import Graph, Node

__all__ = ["Outputs", "StepReport", "run_local"]

Outputs = dict[str, dict[str, Artifact]]
"""Step -> output port -> artifact."""


@dataclass(frozen=True)
class StepReport:
    """How one step of a run went.

    Attributes:
        step: Its name.
        state: `started`, `done`, `reused` (an earlier result was taken), `nothing` (no work) or `skipped` (the gate refused).
        seconds: Wall-clock seconds.
        log: What the step says while it runs; None: it was not started.
    """

    step: str
    state: Literal["started", "done", "reused", "nothing", "skipped"]
    seconds: float = 0.0
    outputs: Mapping[str, Artifact] = field(default_factory=dict)
    log: Path | None = None


def run_local(
    graph: Graph,
    *,
    run_id: str,
    settings: Settings,
    trigger: str = "cli",
    on_step: Callable[[StepReport], None] = lambda report: None,
) -> Outputs:
    """Run all steps of `graph` in order.

    The same `run_id` again resumes: finished steps are reused.

    Args:
        graph: From `pipelines.loop.build`.
        run_id: Names the run in the ledger.
        settings: Handed to the steps through their environment.
        trigger: Who asked for the run; kept in the ledger.
        on_step: Called when a step starts and ends.

    Returns:
        Every step's outputs; deploy is missing if the gate refused.

    Raises:
        NothingToDo: There was no work, or another run holds the scenario.
        ContractError: A step refused its input; its last line says why.
        TryAgain: A step could not reach something, or was killed.
    """
    store = open_store(settings)
    outputs: Outputs = {}
    with Ledger.open(settings.ledger) as ledger, closing(_Steps(settings)) as steps:
        ledger.acquire(graph.scenario, run_id)
        ledger.start_run(graph.scenario, run_id, engine="local", trigger=trigger)
        state, detail = "failed", "stopped"
        try:
            for node in graph.nodes:
                if _refused(node, outputs):
                    on_step(StepReport(node.name, "skipped"))
                    continue
                outputs[node.name] = _run_node(node, outputs, run_id, settings, store, ledger, steps, on_step)
            state, detail = "done", ""
        except NothingToDo as error:
            state, detail = "nothing", error.message
            raise
        except AtlasError as error:
            detail = str(error)
            raise
        finally:
            ledger.finish_run(run_id, state, detail)
            ledger.release(graph.scenario, run_id)
    return outputs


def _refused(node: Node, outputs: Outputs) -> bool:
    """Whether a blessing that `node` takes was refused: a view of the gate, which deploy itself asks again."""
    blessings = [edge for port, edge in node.inputs.items() if node.spec.inputs[port].kind == "Blessing"]
    return any(not outputs[edge.node][edge.port].metadata["accepted"] for edge in blessings)


def _run_node(
    node: Node,
    outputs: Outputs,
    run_id: str,
    settings: Settings,
    store: ArtifactStore,
    ledger: Ledger,
    steps: _Steps,
    on_step: Callable[[StepReport], None],
) -> dict[str, Artifact]:
    began = time.monotonic()
    inputs = {port: outputs[edge.node][edge.port].ref for port, edge in node.inputs.items()}
    params = parse_params(node.spec, node.params)
    found = reuse(node.spec, params, inputs, run_id=run_id, store=store, ledger=ledger)
    if found is not None:
        on_step(StepReport(node.name, "reused", time.monotonic() - began, found))
        return found
    folder = settings.home / "runs" / run_id
    on_step(StepReport(node.name, "started", log=folder / f"{node.name}.log"))
    try:
        refs = _spawn(node, inputs, run_id, folder, steps)
    except NothingToDo:
        on_step(StepReport(node.name, "nothing", time.monotonic() - began))
        raise
    made = {port: store.get(ref) for port, ref in refs.items()}
    on_step(StepReport(node.name, "done", time.monotonic() - began, made))
    return made


def _spawn(node: Node, inputs: Mapping[str, str], run_id: str, folder: Path, steps: _Steps) -> dict[str, str]:
    folder.mkdir(parents=True, exist_ok=True)
    params, result, log = (folder / f"{node.name}.{suffix}" for suffix in ("params.json", "json", "log"))
    params.write_text(json.dumps(node.params))
    argv = [node.name, "--params", f"@{params}", "--out", str(result), "--run-id", run_id]
    for port, ref in inputs.items():
        argv += ["--in", f"{port}={ref}"]
    code = steps.run(argv, log, node.spec.resources.timeout_s)
    if code != 0:
        raise _failure(node.name, code, log)
    return {port: made["ref"] for port, made in json.loads(result.read_text()).items()}


class _Steps:
    """Step processes, one after the other, by `python -m components -`; it is started with the first."""

    def __init__(self, settings: Settings) -> None:
        self._env = os.environ | settings.env()
        self._server: subprocess.Popen[str] | None = None

    def run(self, argv: list[str], log: Path, timeout_s: float) -> int:
        """Run one step and return its exit code; negative when a signal ended it.

        Raises:
            TryAgain: It ran longer than `timeout_s`, or its parent was killed.
        """
        if self._server is None:
            command = [sys.executable, "-m", "components", "-"]
            self._server = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self._env, process_group=0
            )
        stdin, stdout = self._server.stdin, self._server.stdout
        if stdin is None or stdout is None:
            raise TryAgain("the step server has no pipes", do="run again")
        with suppress(BrokenPipeError):  # it was killed; the empty answer below says so
            stdin.write(json.dumps({"argv": argv, "log": str(log)}) + "\n")
            stdin.flush()
        if not select.select([stdout], [], [], timeout_s)[0]:
            raise TryAgain(f"step {argv[0]} ran longer than {timeout_s} s", do=f"see {log}")
        answer = stdout.readline()
        if not answer:
            raise TryAgain(f"the process that runs step {argv[0]} was killed", do=f"run again with the same run id; see {log}")
        return int(answer)

    def close(self) -> None:
        """End the server, and the step it may still be running."""
        if self._server is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._server.pid, signal.SIGKILL)
        self._server.communicate()


def _failure(step: str, code: int, log: Path) -> AtlasError:
    """Turn an exit code and the log's last line into the error that the step raised."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    last = lines[-1].partition(": ")[2] or lines[-1] if lines else "no output"
    message, _, do = last.partition(" -> ")
    if code == NothingToDo.exit_code:
        return NothingToDo(message, do=do)
    if code == ContractError.exit_code:
        return ContractError(f"{step}: {message}", do=do or f"see {log}")
    if code == TryAgain.exit_code:
        return TryAgain(f"{step}: {message}", do=do or f"see {log}")
    if code < 0:
        return TryAgain(f"step {step} was killed by {signal.Signals(-code).name}", do=f"run again with the same run id; see {log}")
    return AtlasError(f"step {step} failed with exit code {code}: {last}", do=f"this is a bug in the step; see {log}")
