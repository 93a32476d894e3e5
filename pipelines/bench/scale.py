"""`atlas bench scale`: training at scale, each case a script of its own below tests/benchmarks/scale.

A script runs in a process of its own, since it measures its memory, and prints its rows. They are kept: started again, only scripts that
did not end, or that changed since, are run.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from components.core.artifacts import digest_of
from components.core.errors import ConfigError, TryAgain, nearest
from components.core.settings import Settings
from components.core.step import code_version
from pipelines.bench.row import Row

__all__ = ["CASES", "scale"]

logger = logging.getLogger(__name__)
CASES = ("head", "strategies", "graph", "recompute", "watch")
ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "tests" / "benchmarks" / "scale"


def scale(cases: tuple[str, ...], *, quick: bool, again: bool = False) -> Iterator[Row]:
    """Yield the rows of each case, those that were kept at once, others as they are measured.

    Raises:
        ConfigError: There is no such case, or this is no checkout.
        TryAgain: A script failed; what it said last is the message.
    """
    for name in cases:
        if name not in CASES:
            raise ConfigError(f"there is no case '{name}'", do=nearest(name, CASES))
    if not SCRIPTS.is_dir():
        raise ConfigError(f"there is no {SCRIPTS}", do="run `atlas bench scale` from a checkout of the repository")
    folder = Settings.from_env().home / "bench" / "scale"
    folder.mkdir(parents=True, exist_ok=True)
    for name in cases or CASES:
        script = SCRIPTS / f"{name}.py"
        key = digest_of({"script": script.read_text(), "code": code_version(), "quick": quick})[:12]
        kept = folder / f"{name}.{key}.jsonl"
        if kept.is_file() and not again:
            yield from map(json.loads, kept.read_text().splitlines())
        else:
            yield from _measured(name, script, kept, quick)


def _measured(name: str, script: Path, kept: Path, quick: bool) -> Iterator[Row]:
    logger.info("scale: %s", name)
    part, log = kept.with_suffix(".part"), kept.with_suffix(".log")
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with part.open("w") as rows, log.open("w") as said:
        command = [sys.executable, str(script), *(["--quick"] if quick else [])]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True, env=env) as process:
            for line in process.stdout or ():
                if line.startswith("{"):
                    rows.write(line)
                    yield json.loads(line)
    if process.returncode:
        last = (log.read_text().strip().splitlines() or ["nothing was said"])[-1]
        raise TryAgain(f"{script.name} ended with exit code {process.returncode}: {last}", do=f"see {log}")
    os.replace(part, kept)
