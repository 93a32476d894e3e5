"""What runs inside a Kubeflow task: one step, its result handed to KFP. Imported by the generated shims; never imports kfp.

KFP's own artifact objects arrive as arguments and are filled in by duck typing, so that the images need kfp's executor and
nothing else of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.core.errors import AtlasError, ConfigError, NothingToDo
from components.core.ledger import Ledger
from components.core.settings import Settings
from components.core.store import open_store

__all__ = ["FAILURE", "begin", "end", "fill", "help_step", "run_step", "show_evaluation"]

FAILURE = "failure.json"
"""Beside a failed task's outputs: {"step", "code", "message"}."""

_UPLOADED = ("s3://", "gs://", "minio://", "oci://")


def run_id() -> str:
    """Return the loop run this task belongs to: KFP's run id, from the pod's label.

    Raises:
        ConfigError: The task was started without it.
    """
    found = os.environ.get("ATLAS_RUN_ID", "")
    if not found:
        raise ConfigError("ATLAS_RUN_ID is not set", do="compile the pipeline with `atlas compile`, which takes it from the pod's label")
    return found


def begin(scenario: str) -> None:
    """Take the scenario's lease for this run and note the run's start.

    Raises:
        NothingToDo: Another run holds the scenario.
    """
    with Ledger.open(Settings.from_env().ledger) as ledger:
        ledger.acquire(scenario, run_id())
        ledger.start_run(scenario, run_id(), engine="kfp", trigger=os.environ.get("ATLAS_TRIGGER", "kfp"))


def end(scenario: str, status: str) -> None:
    """Release the lease and note how the run ended; the exit handler's work.

    Args:
        scenario: The scenario's name.
        status: KFP's word for the pipeline's end: `SUCCEEDED`, `FAILED`, `CANCELLED`.
    """
    with Ledger.open(Settings.from_env().ledger) as ledger:
        ours = next((run for run in ledger.runs(scenario) if run.run_id == run_id()), None)
        if ours is not None and ours.state != "nothing":
            if status == "SUCCEEDED":
                ledger.finish_run(run_id(), "done")
            elif ours.state != "failed":  # else the failing step has said why
                ledger.finish_run(run_id(), "failed", f"Kubeflow: {status}")
        ledger.release(scenario, run_id())


def run_step(step: str, params: str, inputs: Mapping[str, str], outputs: Mapping[str, tuple[Any, str]]) -> dict[str, str]:
    """Run one step and fill KFP's outputs.

    Args:
        step: The step's name.
        params: Its params, as JSON text (KFP's own structs would turn integers into floats).
        inputs: Port -> artifact reference.
        outputs: Port -> (KFP artifact, path of the file that takes the reference).

    Returns:
        Port -> reference; nothing when ingest found no work.

    Raises:
        SystemExit: The step failed, with its exit code.
    """
    folder = Path(next(iter(outputs.values()))[1]).parent
    folder.mkdir(parents=True, exist_ok=True)
    if step == "ingest":
        try:
            begin(json.loads(params)["scenario"])
        except NothingToDo as error:
            return _nothing(folder, outputs, step, error.message)
    code, last = _spawn(step, params, inputs, folder / "result.json")
    if code == NothingToDo.exit_code and step == "ingest":
        _note("nothing", last)
        return _nothing(folder, outputs, step, last)
    if code:
        _note("failed", f"{step}: {last}")
        (folder / FAILURE).write_text(json.dumps({"step": step, "code": code, "message": last}))
        raise SystemExit(code if 0 < code < 256 else 75)
    made = json.loads((folder / "result.json").read_text())
    for port, (artifact, ref_file) in outputs.items():
        Path(ref_file).write_text(made[port]["ref"])
        fill(artifact, made[port])
    return {port: made[port]["ref"] for port in outputs}


def help_step(step: str, params: str, inputs: Mapping[str, str], helper: int) -> None:
    """Work on a step that another task runs; a helper that fails is not missed.

    Args:
        step: The step's name.
        params: Its params, as JSON text.
        inputs: Port -> artifact reference.
        helper: The number of this task.
    """
    folder = Settings.from_env().home / "runs" / run_id() / f"{step}-{helper}"
    folder.mkdir(parents=True, exist_ok=True)
    code, last = _spawn(step, params, inputs, folder / "result.json", "--join")
    if code:
        sys.stdout.write(f"helper {helper} gave up, {step} goes on without it: {last}\n")


def show_evaluation(made: Mapping[str, str], metrics: Any, confusion: Any, page: Any) -> bool:
    """Fill KFP's views of an evaluation and return whether the gate accepted.

    Args:
        made: What evaluate made, port -> reference.
        metrics: `Metrics`: figures of challenger and champion.
        confusion: `ClassificationMetrics`: the challenger's confusion matrix, if the task has classes.
        page: `HTML`: the report's page.
    """
    store = open_store(Settings.from_env())
    blessing = json.loads((store.fetch(made["blessing"]) / "blessing.json").read_text())
    folder = store.fetch(made["report"])
    report = json.loads((folder / "report.json").read_text())
    for who, figures in blessing["metrics"].items():
        for name, value in (figures or {}).items():
            if isinstance(value, int | float):
                metrics.log_metric(f"{who}_{name}", float(value))
    metrics.log_metric("accepted", float(blessing["accepted"]))
    found = report["figures"]["challenger"].get("confusion")
    if found and found["matrix"]:  # none for regression, and for too many classes
        confusion.log_confusion_matrix(found["labels"], found["matrix"])
    html = folder / "observed" / "report.html"
    Path(page.path).parent.mkdir(parents=True, exist_ok=True)
    Path(page.path).write_text(html.read_text() if html.is_file() else f"<pre>{json.dumps(report, indent=1)}</pre>")
    return bool(blessing["accepted"])


def _spawn(step: str, params: str, inputs: Mapping[str, str], result: Path, *more: str) -> tuple[int, str]:
    """Run `python -m components`: a process of its own, so that thread counts are set before any library loads."""
    given = result.with_name("params.json")
    given.write_text(params)
    command = [sys.executable, "-m", "components", step, "--params", f"@{given}", "--out", str(result), "--run-id", run_id(), *more]
    for port, ref in inputs.items():
        command += ["--in", f"{port}={ref}"]
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace") as process:
        for line in process.stdout or ():
            sys.stdout.write(line)
            last = line.strip() or last
        code = process.wait()
    return code, last.partition(": ")[2] or last


def _note(state: str, detail: str) -> None:
    try:
        with Ledger.open(Settings.from_env().ledger) as ledger:
            ledger.finish_run(run_id(), state, detail)
    except AtlasError as error:  # perhaps the ledger is what failed; the step's own error matters more
        sys.stdout.write(f"the run's end could not be noted: {error}\n")


def _nothing(folder: Path, outputs: Mapping[str, tuple[Any, str]], step: str, message: str) -> dict[str, str]:
    (folder / FAILURE).write_text(json.dumps({"step": step, "code": NothingToDo.exit_code, "message": message}))
    for _, ref_file in outputs.values():
        Path(ref_file).write_text("")  # a declared parameter that is not written fails the task on a cluster
    return {}


def fill(artifact: Any, made: Mapping[str, Any]) -> None:
    """Make KFP's artifact say what the store holds.

    Args:
        artifact: KFP's object.
        made: `ref`, `uri`, `kind`, `sha256` and `metadata`, as a step prints them.
    """
    facts = {key: value for key, value in made["metadata"].items() if value is not None}
    artifact.metadata.update(facts | {"kind": made["kind"], "ref": made["ref"], "sha256": made["sha256"], "store_uri": made["uri"]})
    if made["uri"].startswith(_UPLOADED):
        # KFP's launcher would try to upload to such a URI; its own URI stays and holds a pointer.
        Path(artifact.path).parent.mkdir(parents=True, exist_ok=True)
        Path(artifact.path).write_text(json.dumps(made, indent=1, sort_keys=True))
    else:
        artifact.uri = made["uri"]
