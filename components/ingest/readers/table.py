"""Any Parquet file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.core.errors import ConfigError, DataError, TryAgain
from components.ingest.readers import checked
from components.ingest.readers._tabular import Common, shape

__all__ = ["read"]


class _Options(Common):
    path: str


def read(options: Mapping[str, Any], data: Path | None) -> pa.Table:
    """Read a Parquet file.

    Args:
        options: `path` (absolute, or below the data folder) and those of `_tabular.Common`.
        data: The data folder.

    Raises:
        ConfigError: There is no such file, or a relative path without a data folder.
        DataError: It is not Parquet, or lacks a column.
        TryAgain: It can't be read now.
    """
    given = checked(_Options, options, "table")
    path = Path(given.path)
    if not path.is_absolute():
        if data is None:
            raise ConfigError(
                f"the path '{given.path}' is below the data folder, but none is set", do="set ATLAS_DATA, or give an absolute path"
            )
        path = data / path
    if not path.is_file():
        raise ConfigError(f"there is no file '{given.path}'", do="correct ingest.source.options.path")
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise DataError(f"'{given.path}' is not a Parquet file: {error}", do="give a Parquet file") from error
    except OSError as error:
        raise TryAgain(f"'{given.path}' can't be read: {error}", do="bring the file back, then run again") from error
    return shape(table, given)
