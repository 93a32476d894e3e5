"""Train GraphSAGE on a partitioned graph, one process a partition.

    python -m components.train.graph FOLDER --to RESULT [--options JSON]
    torchrun --nproc-per-node P -m components.train.graph FOLDER --to RESULT

RESULT, which must not exist, gets `result.json` (curves, bytes, rows of every process) and `weights.npz`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import distributed as dist

from components.core.errors import AtlasError, ConfigError
from components.train.graph.exchange import Alone, Exchange, Processes
from components.train.graph.files import read_partition
from components.train.graph.training import Options, Trained, train
from components.train.graph.writing import written
from components.train.parallel.ending import disband, leave

__all__ = ["main"]

KIND = "trained GraphSAGE"


def main(given: list[str] | None = None) -> int:
    """Train; return the exit code of the error, or 0."""
    parser = argparse.ArgumentParser(prog="python -m components.train.graph", description="Train GraphSAGE on a partitioned graph.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--options", default="{}")
    arguments = parser.parse_args(given)
    try:
        _run(arguments.folder, arguments.to, _options(arguments.options))
    except AtlasError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def _options(text: str) -> Options:
    try:
        return Options.model_validate_json(text)
    except ValidationError as error:
        raise ConfigError(f"--options: {error}", do="see components.train.graph.training.Options") from error


def _run(folder: Path, to: Path, options: Options) -> None:
    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if launched:
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    try:
        exchange: Exchange = Processes() if launched else Alone()
        trained = train(read_partition(folder, exchange.rank), options, exchange, device)
        facts = _facts(trained)
        everyone: list[dict[str, Any]] = [facts]
        if launched:
            text = np.frombuffer(json.dumps(facts).encode(), np.uint8)
            parts = exchange.swap([text if rank == 0 else text[:0] for rank in range(exchange.world)], "facts")
            everyone = [json.loads(part.tobytes()) for part in parts] if exchange.rank == 0 else []
        if exchange.rank == 0:
            _write(to, trained, everyone)
    finally:
        if launched:
            disband()


def _facts(trained: Trained) -> dict[str, Any]:
    return {"sent": trained.sent, "rows": asdict(trained.rows)}


def _write(to: Path, trained: Trained, everyone: list[dict[str, Any]]) -> None:
    with written(to, KIND) as (aside, facts):
        facts.update(steps=trained.steps)
        result = {
            "epochs": [asdict(epoch) for epoch in trained.epochs],
            "accuracy": trained.accuracy,
            "steps": trained.steps,
            "processes": everyone,
        }
        (aside / "result.json").write_text(json.dumps(result, indent=1))
        np.savez(aside / "weights.npz", **{name: value.cpu().numpy() for name, value in trained.model.state_dict().items()})


if __name__ == "__main__":
    leave(main())
