"""`atlas bench loop`: what the loop costs around its steps, and how fast a bad case starts one."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from components.core.contract import STEPS
from components.core.errors import ConfigError, TryAgain
from components.core.ledger import Ledger
from components.core.settings import Settings
from pipelines import scenario, stack
from pipelines.bench.row import Row, row
from pipelines.graph import Graph
from pipelines.local import run_local
from pipelines.loop import build

if TYPE_CHECKING:
    from pipelines.to_airflow.api import Airflow

__all__ = ["loop"]

SMALL: dict[str, dict[str, Any]] = {
    "automl": {"trials": 2, "learners": ["lightgbm"]},
    "evaluate": {"bootstrap": 200, "gate": {"floor": 0.4, "max_latency_ms": 5000}},
}
LOOP_S = 300.0
FACTS = {"airflow_task_s": 1.1, "kfp_step_s": 0.16, "airflow_event_s": 1.9}
"""Measured before ATLAS existed, on such a machine: Airflow's task in a chain, kfp.local's step, a file drop until its task is done."""


def loop(quick: bool) -> Iterator[Row]:
    """Turn the credit loop once (small search), then measure everything around the steps."""
    with tempfile.TemporaryDirectory() as folder:
        settings = _fresh(Path(folder))
        graph = build(scenario.find("credit", settings, SMALL))
        run_local(graph, run_id="bench", settings=settings)
        yield _rerun(graph, settings)
        ours = _processes(graph, settings)
        yield row("a reused step's process, local engine", ours, "s", "limit", 0.1, "<=")
        yield row("a reused step's process, local engine", ours, "s", "facts: kfp.local, a step", FACTS["kfp_step_s"], "<=")
        kubeflow = _kubeflow(graph, settings)
        yield row("a reused step, Kubeflow's local runner", kubeflow, "s", "facts: kfp.local, a no-op step", FACTS["kfp_step_s"], "<=")
        yield from _rollback(graph, settings)
        yield from _airflow(settings, 6 if quick else 20)


def _fresh(folder: Path) -> Settings:
    home = folder / "atlas"
    (home / "scenarios").mkdir(parents=True)
    return replace(Settings.from_env(), home=home, ledger=f"sqlite:///{home / 'ledger.db'}", store=str(home / "store"), scenarios=None)


def _rerun(graph: Graph, settings: Settings) -> Row:
    took = [_timed(lambda: run_local(graph, run_id="bench", settings=settings)) for _ in range(5)]
    return row("an unchanged re-run of the whole loop", statistics.median(took), "s", "limit", 1.0, "<=")


def _processes(graph: Graph, settings: Settings) -> float:
    """Seconds a step costs when its result is reused in its own process: fork, kernel, lease, key, store."""
    outputs = run_local(graph, run_id="bench", settings=settings)
    lines = []
    for node in graph.nodes:
        argv = [node.name, "--params", f"@{settings.home / 'runs' / 'bench' / f'{node.name}.params.json'}", "--run-id", "bench"]
        for port, edge in node.inputs.items():
            argv += ["--in", f"{port}={outputs[edge.node][edge.port].ref}"]
        lines.append(argv)
    env = os.environ | settings.env()
    command = [sys.executable, "-m", "components", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as server:
        took = []
        for argv in [lines[0], *lines]:
            began = time.monotonic()
            code = _ask(server, json.dumps({"argv": argv, "log": os.devnull}))
            if code != "0":
                raise ConfigError(f"step {argv[0]} ended with {code} in the benchmark", do="run the loop once by hand")
            took.append(time.monotonic() - began)
    return statistics.median(took[1:])


def _ask(server: subprocess.Popen[str], line: str) -> str:
    if server.stdin is None or server.stdout is None:
        return "no pipes"
    server.stdin.write(line + "\n")
    server.stdin.flush()
    return server.stdout.readline().strip()


def _kubeflow(graph: Graph, settings: Settings) -> float:
    from pipelines.to_kfp import run_local as run_kfp

    return _timed(lambda: run_kfp(graph, run_id="bench", settings=settings)) / len(graph.nodes)


def _rollback(graph: Graph, settings: Settings) -> Iterator[Row]:
    """A second deployment of another model, then the pointer back; as a user does it, process and all, and the call alone."""
    run_local(_other_model(graph, settings), run_id="bench-2", settings=settings)
    with Ledger.open(settings.ledger) as ledger:
        if len(ledger.deployments("credit")) < 2:
            raise ConfigError("the benchmark's second model was not deployed", do="see its report: atlas report credit")
        yield row("rollback, the ledger's call", _timed(lambda: ledger.rollback("credit")), "s", "limit", 1.0, "<=")
    command = [sys.executable, "-m", "pipelines.cli", "rollback", "credit", "--to", "2"]
    whole = _timed(lambda: subprocess.run(command, check=True, capture_output=True, env=os.environ | settings.env()))
    yield row("rollback, `atlas rollback` as a process", whole, "s", "none: an interpreter's start is in it", None, "")


def _other_model(graph: Graph, settings: Settings) -> Graph:
    changes = {**SMALL, "ingest": {"mode": "always"}, "train": {"seed": 1}}
    changes["evaluate"] = {**SMALL["evaluate"], "gate": {"floor": 0.4, "max_loss": 1.0, "max_slice_loss": 1.0, "max_latency_ms": 5000}}
    return build(scenario.find("credit", settings, changes))


def _airflow(settings: Settings, events: int) -> Iterator[Row]:
    """On a real Airflow of its own: a bad case until its run has started, and what lies between two steps of a loop."""
    from pipelines.to_airflow.api import Airflow
    from pipelines.to_airflow.latency import measure, write_probes

    probes = write_probes(settings.home / "scenarios")
    _write_small_credit(settings)
    stack.start_airflow(settings)
    try:
        url = stack.wait_for_airflow(settings)
        with Ledger.open(settings.ledger) as ledger, closing(Airflow.of(settings, url)) as airflow:
            measure(airflow, ledger, probes, 2)  # the first runs also wait for the DAGs to be read
            latency = measure(airflow, ledger, probes, events)
            gaps = _gaps(airflow)
    finally:
        stack.down(settings)
    rival = "facts: Airflow, file drop -> task done"
    yield row("bad case -> loop run started, p50", latency.at(0.5), "s", rival, FACTS["airflow_event_s"], "<=")
    yield row("bad case -> loop run started, p95", latency.at(0.95), "s", "limit", 5.0, "<=")
    rival = "facts: Airflow, a task in a chain"
    yield row("from a step's end to the next one's start, Airflow", statistics.median(gaps), "s", rival, FACTS["airflow_task_s"], "<=")


def _write_small_credit(settings: Settings) -> None:
    """Let Airflow find the credit scenario with a small search, and with work even without cases."""
    path, *_ = scenario.copy("credit", "credit", settings.home / "scenarios", settings)
    given = yaml.safe_load(path.read_text())
    for section, values in {**SMALL, "ingest": {"mode": "always"}}.items():
        given[section] = {**given[section], **values}
    path.write_text(yaml.safe_dump(given))


def _gaps(airflow: Airflow) -> list[float]:
    """Run the loop of credit up to the blessing; return the seconds between each step's end and the next one's start."""
    airflow.start("credit", deploy=False)
    deadline = time.monotonic() + LOOP_S
    while time.monotonic() < deadline:
        if ended := [run for run in airflow.loops("credit") if run.state in ("success", "failed")]:
            tasks = [airflow.tasks(ended[0].run_id)[step] for step in STEPS if step != "deploy"]
            moments = [tuple(datetime.fromisoformat(task[at]) for at in ("start_date", "end_date")) for task in tasks]
            return [(after[0] - before[1]).total_seconds() for before, after in pairwise(moments)]
        time.sleep(0.5)
    raise TryAgain(f"the loop of credit did not end within {LOOP_S:.0f} s", do="see Airflow's log")


def _timed(call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began
