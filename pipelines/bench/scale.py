"""`atlas bench scale`: training at scale, each case a script of its own below tests/benchmarks/scale.

The rows are kept: started again, only scripts that did not end, or that changed since, are run.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from components.core.artifacts import digest_of
from components.core.settings import Settings
from components.core.step import code_version
from pipelines.bench.row import Row
from pipelines.bench.script import check_cases, printed, script

__all__ = ["CASES", "scale"]

logger = logging.getLogger(__name__)
CASES = ("head", "strategies", "graph", "recompute", "watch")


def scale(cases: tuple[str, ...], *, quick: bool, again: bool = False) -> Iterator[Row]:
    """Yield the rows of each case, those that were kept at once, others as they are measured.

    Raises:
        ConfigError: There is no such case, or this is no checkout.
        TryAgain: A script failed; what it said last is the message.
    """
    check_cases(cases, CASES)
    scripts = {name: script("scale", name) for name in cases or CASES}
    folder = Settings.from_env().home / "bench" / "scale"
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in scripts.items():
        key = digest_of({"script": path.read_text(), "code": code_version(), "quick": quick})[:12]
        kept = folder / f"{name}.{key}.jsonl"
        if kept.is_file() and not again:
            yield from map(json.loads, kept.read_text().splitlines())
        else:
            yield from _measured(name, path, kept, quick)


def _measured(name: str, path: Path, kept: Path, quick: bool) -> Iterator[Row]:
    logger.info("scale: %s", name)
    part = kept.with_suffix(".part")
    with part.open("w") as rows:
        for found in printed(path, ["--quick"] if quick else [], kept.with_suffix(".log")):
            rows.write(json.dumps(found) + "\n")
            yield found
    os.replace(part, kept)
