"""Runs the ranks of a job on this machine under torchrun's agent, and says in one line of JSON how they ended.

    python -m components.train.parallel.agent RANKS LOGS MODULE ARGUMENTS...

It is `torch.distributed.run --standalone`, called as a function: its `ChildFailedError` names the rank and how it ended, which the
command only prints as a table. Rank 0 speaks on standard output; everything else goes to files below LOGS.
"""

from __future__ import annotations

import json
import signal
import sys
import uuid
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from components.train.parallel.ending import end_with_parent

__all__ = ["FAILURES", "main"]

FAILURES = "failures.json"


def main(ranks: int, logs: Path, command: list[str]) -> int:
    """Run `python -m COMMAND` as `ranks` processes; return 0, or 1 after writing LOGS/failures.json."""
    end_with_parent(signal.SIGTERM)  # the agent then ends its ranks
    streams = {rank: Std.ALL if rank else Std.ERR for rank in range(ranks)}
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",  # a free port, on loopback
        local_addr="127.0.0.1",
        max_restarts=0,  # the engine's retry resumes the job, and sees that it failed
        logs_specs=DefaultLogsSpecs(log_dir=str(logs), redirects=streams),
    )
    try:
        elastic_launch(config, sys.executable)("-u", "-m", *command)
    except ChildFailedError as error:
        found = [_failure(logs, rank, failure) for rank, failure in error.failures.items()]
        (logs / FAILURES).write_text(json.dumps(found))
        return 1
    return 0


def _failure(logs: Path, rank: int, failure: Any) -> dict[str, Any]:
    place = next(logs.glob(f"*/attempt_0/{failure.local_rank}"))  # where DefaultLogsSpecs puts a rank's files
    return {"rank": rank, "code": failure.exitcode, "pid": failure.pid, "at": failure.timestamp, "logs": str(place)}


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
