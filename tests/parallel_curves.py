"""Trains the probe with every strategy, several processes, one after the other: the loss curves that tests and benchmarks compare.

    python tests/parallel_curves.py WORLD FOLDER      starts WORLD processes; FOLDER/CASE/curve.json for every case of that world
    python tests/parallel_curves.py --golden          rewrites tests/golden/parallel_curve.json from a single process

A case whose folder has a checkpoint goes on from it. FOLDER/CASE-resumed is a case, too, where it exists.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden" / "parallel_curve.json"
STEPS = 20
EXACT = 1e-10
SINGLE_PRECISION = 1e-6
"""Largest relative deviation of a loss: float64 in another order of summation; DeepSpeed, which computes in float32."""


class Case(NamedTuple):
    """A strategy at a world size."""

    parallel: dict[str, Any]
    tolerance: float = EXACT
    options: Mapping[str, Any] = MappingProxyType({})


def _zero(stage: int, data: int, **more: Any) -> Case:
    return Case({"strategy": f"zero{stage}", "data": data, **more}, SINGLE_PRECISION, {"dtype": "float32"})


def _pipeline(schedule: str, pipeline: int, data: int = 1) -> Case:
    return Case({"strategy": "pipeline", "pipeline": pipeline, "data": data, "micro_batches": 2 * pipeline, "schedule": schedule})


SCHEDULES = ("gpipe", "1f1b", "interleaved", "zero_bubble", "zbv")
CASES: dict[int, dict[str, Case]] = {
    2: {
        "ddp": Case({"strategy": "ddp", "data": 2}),
        "ddp-accumulating": Case({"strategy": "ddp", "data": 2, "micro_batches": 3}),
        "fsdp2": Case({"strategy": "fsdp2", "data": 2}),
        "fsdp2-accumulating": Case({"strategy": "fsdp2", "data": 2, "micro_batches": 3}),
        "fsdp2-tensor": Case({"strategy": "fsdp2", "tensor": 2}),
        **{f"pipeline-{schedule}": _pipeline(schedule, 2) for schedule in SCHEDULES},
        **{f"zero{stage}": _zero(stage, 2) for stage in (1, 2, 3)},
        "zero2-accumulating": _zero(2, 2, micro_batches=2),
    },
    4: {
        "ddp": Case({"strategy": "ddp", "data": 4}),
        "fsdp2": Case({"strategy": "fsdp2", "data": 4}),
        "fsdp2-tensor": Case({"strategy": "fsdp2", "data": 2, "tensor": 2}),
        **{f"pipeline-{schedule}": _pipeline(schedule, 4) for schedule in SCHEDULES},
        "pipeline-data": _pipeline("1f1b", 2, 2),
        **{f"zero{stage}": _zero(stage, 4) for stage in (1, 2, 3)},
    },
}


def deviation(losses: list[float], golden: list[float]) -> float:
    """Return the largest relative difference of two curves of one length."""
    return max(abs(ours - theirs) / abs(theirs) for ours, theirs in zip(losses, golden, strict=True))


def run(world: int, folder: Path, timeout_s: float = 900) -> dict[str, list[float]]:
    """Train every case of a world size and return the curves by the folders' names."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", str(world)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run([*command, __file__, str(world), str(folder)], env=env, capture_output=True, text=True, timeout=timeout_s)
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr[-12000:]}")
    return {path.parent.name: json.loads(path.read_text())["losses"] for path in folder.glob("*/curve.json")}


def _rank(world: int, folder: Path) -> None:
    import torch
    from torch import distributed as dist

    from components.train.parallel.ending import disband, leave
    from components.train.parallel.job import Job, train
    from components.train.parallel.works import training

    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(minutes=10))
    for name, case in CASES[world].items():
        job = Job(work="probe", options=dict(case.options), parallel={"checkpoint_every": 0, **case.parallel}, steps=STEPS)
        for place in (folder / name, folder / f"{name}-resumed"):
            if place == folder / name or place.is_dir():
                train(job, training(job.work, job.options), place, torch.device("cpu"), lambda event: None)
    disband()
    leave(0)


def _golden() -> None:
    import torch

    from components.train.parallel.job import Job, train
    from components.train.parallel.works import training

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        losses = train(Job(work="probe", steps=STEPS), training("probe", {}), Path(folder), torch.device("cpu"), lambda event: None)
    GOLDEN.write_text(json.dumps({"rewrite": "python tests/parallel_curves.py --golden", "losses": losses}, indent=1) + "\n")


def main(argv: list[str]) -> None:
    """See the module."""
    if argv == ["--golden"]:
        _golden()
    elif "RANK" in os.environ:
        _rank(int(argv[0]), Path(argv[1]))
    else:
        sys.stdout.write(json.dumps(run(int(argv[0]), Path(argv[1]))) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
