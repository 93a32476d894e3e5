"""Any SQL database that SQLAlchemy reaches."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import sqlalchemy
from pydantic import Field
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError

from components.core.errors import ConfigError, DataError, TryAgain
from components.ingest.readers import checked
from components.ingest.readers._tabular import Common, shape

__all__ = ["read"]


class _Options(Common):
    url_env: str = Field(pattern=r"^[A-Z][A-Z0-9_]*$")
    query: str


def read(options: Mapping[str, Any], data: Path | None) -> pa.Table:
    """Read the result of a query. Give it an ORDER BY: the order of rows is the age of annotations.

    Args:
        options: `url_env`, the *name* of the environment variable that holds the SQLAlchemy URL (a scenario file never holds
            a secret), `query`, and those of `_tabular.Common`.
        data: Not used.

    Raises:
        ConfigError: The variable is not set, the URL or the query is wrong.
        DataError: The result lacks a column, or mixes types in one.
        TryAgain: The database can't be reached.
    """
    given = checked(_Options, options, "sql")
    url = os.environ.get(given.url_env)
    if not url:
        raise ConfigError(f"the environment variable {given.url_env} is not set", do="set it to the SQLAlchemy URL of the database")
    try:
        engine = sqlalchemy.create_engine(url)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        # the URL itself stays out of the message: it may hold a password
        raise ConfigError(f"{given.url_env} is not a usable SQLAlchemy URL ({type(error).__name__})", do="use dialect+driver://…") from None
    try:
        with engine.connect() as connection:
            result = connection.execute(sqlalchemy.text(given.query))
            names = list(result.keys())
            rows = result.fetchall()
    except OperationalError as error:
        if "no such" in str(error.orig) or "syntax" in str(error.orig):  # SQLite reports these as operational
            raise ConfigError(f"the query failed: {error.orig}", do="correct ingest.source.options.query") from None
        raise TryAgain(f"the database of {given.url_env} can't be used: {error.orig}", do="bring it back, then run again") from None
    except DBAPIError as error:
        raise ConfigError(f"the query failed: {error.orig}", do="correct ingest.source.options.query") from None
    finally:
        engine.dispose()
    columns = {}
    for index, name in enumerate(names):
        try:
            columns[name] = pa.array([row[index] for row in rows])
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise DataError(f"column '{name}' of the query mixes types: {error}", do="cast it in the query") from error
    return shape(pa.table(columns), given)
