"""Writes the base annotations a scenario would ingest: `python -m components.ingest.preview --params JSON --out FILE`.

For `atlas profile`: no ledger, no lease, no artifact.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.core import log
from components.core.errors import AtlasError, ConfigError
from components.core.settings import Settings
from components.core.step import load_spec, parse_params
from components.ingest.run import base

__all__ = ["main", "preview"]

logger = logging.getLogger(__name__)


def preview(given: Mapping[str, Any], settings: Settings) -> pa.Table:
    """Return the base annotations.

    Args:
        given: Plain JSON data for ingest's params.
        settings: Where data and features lie.

    Raises:
        AtlasError: As ingest would.
    """
    params = parse_params(load_spec("ingest"), given)
    with tempfile.TemporaryDirectory() as work:
        return base(params, settings, Path(work))


def main(argv: list[str] | None = None) -> int:
    """Write the base annotations; returns the exit code."""
    log.setup()
    parser = argparse.ArgumentParser(prog="python -m components.ingest.preview", description=__doc__)
    parser.add_argument("--params", required=True, metavar="JSON|@FILE", help="ingest's params")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="Parquet file to write")
    args = parser.parse_args(argv)
    try:
        table = preview(_json(args.params), Settings.from_env())
    except AtlasError as error:
        logger.error("%s", error)
        return error.exit_code
    pq.write_table(table, args.out)
    return 0


def _json(text: str) -> Any:
    try:
        return json.loads(Path(text[1:]).read_text() if text.startswith("@") else text)
    except (OSError, json.JSONDecodeError) as error:
        raise ConfigError(f"--params can't be read: {error}", do="give a JSON object, or @FILE with one") from error


if __name__ == "__main__":
    sys.exit(main())
