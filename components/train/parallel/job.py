"""What each rank of a training job does: a loop of steps over a strategy, with checkpoints, gone on with after an end before time.

    python -m components.train.parallel.job FOLDER

runs one rank, its place in the environment as torchrun sets it. FOLDER has `job.json`, and gets:

    checkpoints/    see components.train.parallel.checkpoint
    weights.npz     the whole model's weights by parameter name (NumPy, no pickle), when all steps are done
    watch/          the page of the device watch: where rank 0's time went
    curve.json      {"losses": [the mean loss of each step], "resumed_at": the step it went on from}
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field, ValidationError
from torch import distributed as dist

from components.core import log
from components.core.errors import AtlasError, ConfigError, TryAgain
from components.core.params import Frozen
from components.train.parallel import checkpoint, strategies
from components.train.parallel.ending import disband, end_with_parent, leave
from components.train.parallel.loading import batches, flown
from components.train.parallel.recomputing import with_recomputation
from components.train.parallel.section import Parallel
from components.train.parallel.works import Training, training
from components.train.watch import Monitor, write_report

__all__ = ["CURVE", "JOB", "WATCH", "WEIGHTS", "Job", "main", "train"]

logger = logging.getLogger("components.train.parallel.job")  # a rank runs this module as __main__

JOB, CURVE, WEIGHTS, WATCH = "job.json", "curve.json", "weights.npz", "watch"


class Job(Frozen):
    """A training job: `job.json`.

    Attributes:
        work: A name of `components.train.parallel.works`.
        options: Of the work.
        parallel: How it is shared among processes.
        steps: Of the optimizer.
        silence_s: A rank that hears nothing from the others for so long gives up.
    """

    work: str
    options: dict[str, Any] = Field(default_factory=dict)
    parallel: Parallel = Parallel()
    steps: int = Field(gt=0)
    silence_s: int = Field(600, gt=0)


def train(job: Job, what: Training, folder: Path, device: torch.device, say: Callable[[Mapping[str, Any]], None]) -> list[float]:
    """Train from the newest checkpoint on, and return the loss of every step.

    Args:
        job: What to do.
        what: The job's work.
        folder: On a disk that all ranks share.
        device: This rank's.
        say: Called after each step with what happened.
    """
    what, parallel = with_recomputation(what, job.parallel)
    strategy = strategies.make(parallel, what.work, device)
    kept = folder / "checkpoints"
    losses: list[float] = []
    if found := checkpoint.newest(kept):
        state = strategy.state()
        checkpoint.load(found[0], state)
        strategy.load(state)
        losses = [float(loss) for loss in found[1]["losses"]]
        say({"resumed_at": len(losses), "checkpoint": found[0].name})
    resumed_at, every = len(losses), parallel.checkpoint_every
    steps = range(resumed_at, job.steps)
    before = flown(what, parallel, steps, device)
    with Monitor() as monitor:
        for step, batch in zip(steps, monitor.watch(batches(what, parallel, steps, before)), strict=True):
            losses.append(strategy.step(batch, what.rate(step)))
            say({"step": step, "loss": losses[-1]})
            if len(losses) == job.steps or (every and len(losses) % every == 0):
                with monitor.during("checkpoint"):
                    checkpoint.save(kept, len(losses), strategy.state(), {"losses": losses})
                logger.info("%d steps of %d are kept, loss %.6g", len(losses), job.steps, losses[-1])
    weights = strategy.full_state()
    if not dist.is_initialized() or dist.get_rank() == 0:
        write_report(folder / WATCH, monitor.result(), before, title=job.work)
        _write(folder, weights, {"losses": losses, "resumed_at": resumed_at})
    return losses


def _write(folder: Path, weights: Mapping[str, torch.Tensor], curve: Mapping[str, Any]) -> None:
    """Write the curve last: where it is, the job is done."""
    part = folder / f"{WEIGHTS}.part"
    with part.open("wb") as file:
        np.savez(file, **{name: _plain(value) for name, value in weights.items()})
    os.replace(part, folder / WEIGHTS)
    part = folder / f"{CURVE}.part"
    part.write_text(json.dumps(curve))
    os.replace(part, folder / CURVE)


def _plain(value: torch.Tensor) -> Any:
    return (value.float() if value.dtype is torch.bfloat16 else value).numpy()  # NumPy has no bfloat16


@contextmanager
def _world(job: Job) -> Iterator[torch.device]:
    """Join the other ranks; yield this rank's device."""
    gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=timedelta(seconds=job.silence_s))
    try:
        yield device
    finally:
        disband()


def main(folder: Path) -> int:
    """Run one rank; return its exit code: 0, that of an `AtlasError`, or 1."""
    log.setup()
    end_with_parent(signal.SIGKILL)

    def say(event: Mapping[str, Any]) -> None:
        if os.environ["RANK"] == "0":
            sys.stdout.write(json.dumps(event) + "\n")
            sys.stdout.flush()

    try:
        job = Job.model_validate_json((folder / JOB).read_text())
        with _world(job) as device:
            pids: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(pids, os.getpid())
            say({"ranks": pids})
            logger.info("rank %s of %d on %s: %s", os.environ["RANK"], len(pids), device, job.parallel.strategy)
            train(job, training(job.work, job.options), folder, device, say)
    except (OSError, ValidationError) as error:
        return _failed(ConfigError(f"{folder / JOB} can't be used: {error}", do="write it with `launch`"))
    except dist.DistError as error:
        return _failed(TryAgain(f"another rank can't be reached: {error}", do="run the job again"))
    except AtlasError as error:
        return _failed(error)
    except Exception:
        logger.exception("a bug in the job, or a rank that is no longer there")
        return 1
    return 0


def _failed(error: AtlasError) -> int:
    sys.stderr.write(" ".join(f"{type(error).__name__}: {error}".split()) + "\n")
    return error.exit_code


if __name__ == "__main__":
    leave(main(Path(sys.argv[1])))
