"""Bring a database to the newest schema: one transaction, one process at a time. The only module that imports Alembic."""

from __future__ import annotations

import time
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, exc

from components.core.errors import ConfigError

__all__ = ["upgrade"]

_LOCK = 0x41544C4153  # PostgreSQL's advisory lock that upgrading processes share


def upgrade(engine: Engine) -> None:
    """Apply what is missing; a process that comes second finds nothing left to do.

    Raises:
        ConfigError: The database has a revision that this code does not know.
    """
    if engine.dialect.name == "sqlite":
        _write_ahead(engine)
    with engine.execution_options(atlas_write=True).begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
        try:
            command.upgrade(_config(connection), "head")
        except CommandError as error:
            raise ConfigError(f"the ledger was made by another version of ATLAS: {error}", do="install the newest ATLAS") from error


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _write_ahead(engine: Engine) -> None:
    """Switch the file to WAL, for good: readers and the writer then do not block each other."""
    give_up = time.monotonic() + 10
    while True:
        raw = engine.raw_connection()
        try:
            raw.cursor().execute("PRAGMA journal_mode = WAL")
            return
        except engine.dialect.loaded_dbapi.OperationalError as error:
            # two processes that switch a fresh file at once: SQLite refuses one of them without waiting
            if "locked" not in str(error) or time.monotonic() > give_up:
                raise exc.OperationalError("PRAGMA journal_mode = WAL", None, error) from error
            time.sleep(0.02)
        finally:
            raw.close()
