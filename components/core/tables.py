"""Tables of a dataset artifact: the columns every step agrees on, and Parquet whose bytes depend on the rows alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from components.core.errors import DataError, nearest
from components.core.params import Tabular, TextLine

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ANNOTATION", "DATA_FILE", "annotation_schema", "payload_columns", "read_dataset", "write_dataset"]

DATA_FILE = "data.parquet"
ANNOTATION = ("_reviewed", "_order", "_author", "_pinned", "_problem")
"""What a table with one row an annotation has beside the columns of a merged one."""
_ROW_GROUP = 8192


def payload_columns(task: TextLine | Tabular) -> list[str]:
    """Return the columns that hold the item itself: `image`, or the task's features in the scenario's order."""
    return ["image"] if isinstance(task, TextLine) else list(task.features)


def annotation_schema(task: TextLine | Tabular) -> pa.Schema:
    """Return the schema of ingest's and validate's datasets: one row an annotation."""
    import pyarrow as pa

    is_number = isinstance(task, Tabular) and task.problem == "regression"
    fields = [
        ("_id", pa.string()),
        ("_group", pa.string()),
        ("_label", pa.float64() if is_number else pa.string()),
        ("_source", pa.string()),
        ("_case", pa.string()),
    ]
    if isinstance(task, TextLine):
        fields.append(("image", pa.binary()))
    else:
        fields += [(name, pa.float64() if kind == "number" else pa.string()) for name, kind in task.features.items()]
    fields += [
        ("_reviewed", pa.bool_()),
        ("_order", pa.int64()),
        ("_author", pa.string()),
        ("_pinned", pa.string()),
        ("_problem", pa.string()),
    ]
    return pa.schema(fields)


def write_dataset(table: pa.Table, folder: Path) -> Path:
    """Write `data.parquet`, sorted by `_id` and, where there is one, `_order`.

    Equal rows give equal bytes: chunks are joined, schema metadata (pandas' index, say) is dropped, one row-group size, one codec.
    """
    import pyarrow.parquet as pq

    keys = [(name, "ascending") for name in ("_id", "_order") if name in table.column_names]
    table = table.sort_by(keys).combine_chunks().replace_schema_metadata(None)
    path = folder / DATA_FILE
    pq.write_table(table, path, compression="zstd", compression_level=3, row_group_size=_ROW_GROUP, version="2.6", store_schema=False)
    return path


def read_dataset(folder: Path, columns: list[str] | None = None) -> pa.Table:
    """Read `data.parquet` of a fetched dataset artifact.

    Raises:
        DataError: The artifact holds no table, or lacks one of `columns`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(folder / DATA_FILE)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"the dataset has no readable {DATA_FILE}: {error}", do="run the step that makes it again") from error
    with file:
        for name in columns or []:
            if name not in file.schema_arrow.names:
                raise DataError(f"the dataset has no column '{name}'", do=nearest(name, file.schema_arrow.names))
        return file.read(columns=columns)
