"""Benchmarks that are scripts below tests/benchmarks.

A script runs in a process of its own, since it measures its memory and its CPU time, and prints its rows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from components.core.errors import ConfigError, TryAgain, nearest
from pipelines.bench.row import Row

__all__ = ["check_cases", "printed", "script"]

ROOT = Path(__file__).resolve().parents[2]


def script(benchmark: str, name: str) -> Path:
    """Return the path of a benchmark's script.

    Raises:
        ConfigError: This is no checkout.
    """
    folder = ROOT / "tests" / "benchmarks" / benchmark
    if not folder.is_dir():
        raise ConfigError(f"there is no {folder}", do=f"run `atlas bench {benchmark}` from a checkout of the repository")
    return folder / f"{name}.py"


def check_cases(given: Sequence[str], known: Sequence[str]) -> None:
    """Refuse a case that is not known.

    Raises:
        ConfigError: There is no such case.
    """
    for name in given:
        if name not in known:
            raise ConfigError(f"there is no case '{name}'", do=nearest(name, known))


def printed(script: Path, options: Sequence[str], log: Path) -> Iterator[Row]:
    """Run a script, and yield its rows as it prints them.

    Args:
        script: Prints a row as a line of JSON; other lines are left out.
        options: Of the script.
        log: Gets what the script says beside its rows.

    Raises:
        TryAgain: The script failed; what it said last is the message.
    """
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with log.open("w") as said:
        command = [sys.executable, str(script), *options]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True, env=env) as process:
            for line in process.stdout or ():
                if line.startswith("{"):
                    yield json.loads(line)
    if process.returncode:
        last = (log.read_text().strip().splitlines() or ["nothing was said"])[-1]
        raise TryAgain(f"{script.name} ended with exit code {process.returncode}: {last}", do=f"see {log}")
