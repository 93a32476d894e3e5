"""Text lines of 501 scanned receipts (ICDAR 2019 SROIE), from `ocr/receipt_lines.parquet` in the data folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from components.core.errors import ConfigError
from components.core.params import Frozen
from components.ingest.readers import checked, need_data

__all__ = ["read"]


class _Options(Frozen):
    first: int = Field(0, ge=0)
    last: int = Field(100, gt=0)
    max_length: int = Field(32, gt=0)
    max_width: int = Field(400, gt=0)
    alphabet: str | None = None
    upper: bool = True


def read(options: Mapping[str, Any], data: Path | None) -> pa.Table:
    """Read the lines of a range of receipts; a receipt is a group.

    Args:
        options: `first`, `last`: receipts, in the file's order; `max_length` (characters), `max_width` (pixels) and `alphabet`: lines
            beyond them are left out; `upper`: read letters as capitals.
        data: The data folder.

    Returns:
        Columns `image` (JPEG, 32 pixels high), `_label`, `_group`, `line` (its place on the receipt).

    Raises:
        ConfigError: The data folder or its file is missing, or no line is left.
    """
    given = checked(_Options, options, "receipts")
    table = pq.read_table(need_data(data, "ocr/receipt_lines.parquet"))
    receipts = sorted(pc.unique(table["receipt"]).to_pylist())[given.first : given.last]
    wanted = pc.is_in(table["receipt"], pa.array(receipts, pa.string()))
    table = table.filter(pc.and_(wanted, pc.less_equal(table["width"], given.max_width)))
    text = pc.utf8_trim_whitespace(pc.utf8_upper(table["text"]) if given.upper else table["text"])
    fits = [0 < len(t) <= given.max_length and (given.alphabet is None or not set(t) - set(given.alphabet)) for t in text.to_pylist()]
    if not any(fits):
        raise ConfigError("no receipt line is left", do="widen first, last, max_length, max_width or alphabet")
    group = pc.binary_join_element_wise(pa.scalar("receipt"), table["receipt"], "-")
    found = pa.table({"image": table["jpeg"], "_label": text, "_group": group, "line": table["line"]})
    return found.filter(pa.array(fits))
