"""Readers of base annotations: one module a source, each with `read(options, data) -> pyarrow.Table`.

A reader's table has the payload columns (`image`, or the features), `_label`, and may have `_group` (items that must never be
on both sides of a split) and any other column: an entity and a time for Feast, or something `ingest.selection.where` asks for.
Rows come oldest first.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from components.core.errors import ConfigError, nearest

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["checked", "names", "need_data", "reader"]

Read = Callable[[Mapping[str, Any], Path | None], "pa.Table"]
Options = TypeVar("Options", bound=BaseModel)


def names() -> list[str]:
    """Return the name of every reader: the modules of this folder."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))


def reader(name: str) -> Read:
    """Return a reader by name.

    Raises:
        ConfigError: There is none.
    """
    if name not in names():
        raise ConfigError(f"there is no reader '{name}'", do=nearest(name, names()))
    read: Read = importlib.import_module(f"{__name__}.{name}").read
    return read


def checked(model: type[Options], options: Mapping[str, Any], name: str) -> Options:
    """Read a reader's options into its own model.

    Raises:
        ConfigError: An option is unknown (the message names the nearest known one), missing or wrong.
    """
    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        where = [str(part) for part in first["loc"]]
        do = nearest(where[-1], model.model_fields) if first["type"] == "extra_forbidden" else "correct the value"
        raise ConfigError(f"ingest.source.options of reader '{name}': {'.'.join(where)}: {first['msg']}", do=do) from error


def need_data(data: Path | None, file: str) -> Path:
    """Return the path of a file in the data folder.

    Raises:
        ConfigError: No data folder is set, or it lacks the file.
    """
    if data is None:
        raise ConfigError(f"this reader needs {file}, but no data folder is set", do="set ATLAS_DATA to the folder that holds it")
    if not (path := data / file).is_file():
        raise ConfigError(f"the data folder has no file {file}", do="set ATLAS_DATA to the folder that holds it")
    return path
