"""One database, SQLite or PostgreSQL: connections, transactions, and errors in our own words."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, exc, func, make_url, select

from components.core.errors import AtlasError, ConfigError, DataError, IntegrityError, TryAgain
from components.core.ledger.migrations import HEAD

__all__ = ["Database", "check_json", "check_text", "chunks", "insert_missing"]

_BUSY_S = 30  # how long a SQLite writer waits for the others
_CHUNK = 500  # values in one IN (…) or INSERT; well below SQLite's limit of variables
_T = TypeVar("_T")


class Database:
    """Transactions on one database. Every write is a single transaction.

    Args:
        engine: See `Database.open`.
        clock: What time it is; None asks the database's own clock where there is one, so that hosts need not agree.
    """

    def __init__(self, engine: Engine, clock: Callable[[], datetime] | None = None) -> None:
        self._reader = engine
        self._writer = engine.execution_options(atlas_write=True)
        self._clock = clock
        self._name = engine.url.render_as_string(hide_password=True)

    @classmethod
    def open(cls, url: str, clock: Callable[[], datetime] | None = None) -> Database:
        """Connect, and bring the schema up to date.

        Raises:
            ConfigError: The URL is wrong, or a newer ATLAS made the database.
            TryAgain: The database can't be reached.
        """
        engine = _engine(_parse(url))
        db = cls(engine, clock)
        try:
            with db._errors():
                _migrate(engine)
        except BaseException:
            engine.dispose()
            raise
        return db

    def close(self) -> None:
        """Close all connections."""
        self._reader.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a transaction that sees one consistent state and changes nothing."""
        with self._errors(), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a transaction that is kept when the block ends, and undone when it raises."""
        with self._errors(), self._writer.begin() as connection:
            yield connection

    def now(self, connection: Connection) -> datetime:
        """Return the time. Ask after taking locks: waiting for one takes time too."""
        if self._clock is not None:
            return self._clock()
        if connection.dialect.name == "postgresql":
            now: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
            return now.astimezone(UTC)
        return datetime.now(UTC)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (exc.SQLAlchemyError, UnicodeEncodeError) as error:
            translated = _translate(error, self._name)
            if translated is None:
                raise
            raise translated from error


def _translate(error: Exception, name: str) -> AtlasError | None:
    why = _first_line(error)
    if isinstance(error, exc.IntegrityError) and "unique" in why.lower():
        return TryAgain(f"the ledger {name} was changed at the same moment: {why}", do="run it again")
    if isinstance(error, exc.IntegrityError | exc.DataError | UnicodeEncodeError):
        return DataError(f"the ledger {name} can't hold a value: {why}", do="correct the value")
    if isinstance(error, exc.OperationalError | exc.InterfaceError | exc.InternalError | exc.TimeoutError):
        do = "bring the database back, free disk space, or wait for the process that locks it; then run it again"
        return TryAgain(f"the ledger {name} can't be used now: {why}", do=do)
    if isinstance(error, exc.DBAPIError) and error.connection_invalidated:
        return TryAgain(f"the ledger {name} closed the connection: {why}", do="bring the database back, then run it again")
    if type(error) is exc.DatabaseError:  # SQLite's words for a file that is damaged, or something else
        return IntegrityError(f"{name} is not a ledger: {why}", do="restore the file from a backup, or move it away")
    if type(error) is exc.StatementError:  # a value that could not be sent
        return DataError(f"the ledger can't hold a value: {why}", do="correct the value")
    return None


def insert_missing(connection: Connection, table: Table) -> Any:
    """Return `INSERT … ON CONFLICT DO NOTHING` in the connection's dialect."""
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql  # 0.1 s that SQLite's users need not wait

        return postgresql.insert(table).on_conflict_do_nothing()
    from sqlalchemy.dialects import sqlite

    return sqlite.insert(table).on_conflict_do_nothing()


def chunks(values: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """Cut a long list into pieces that fit one statement."""
    for start in range(0, len(values), _CHUNK):
        yield values[start : start + _CHUNK]


def check_text(name: str, value: str, longest: int = 200) -> str:
    """Return a short text that both databases can hold and index.

    Raises:
        DataError: It is no text, empty, too long, or holds NUL or half a character.
    """
    if not isinstance(value, str) or not 0 < len(value) <= longest:
        raise DataError(f"{name} is {str(value)[:40]!r}, a text of 1 to {longest} characters is expected", do=f"correct {name}")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise DataError(f"{name} {value[:40]!r} has a NUL or half a character", do=f"correct {name}")
    return value


def check_json(name: str, value: Any) -> Any:
    """Return plain JSON data.

    Raises:
        DataError: It holds something that JSON does not know, NaN for one.
    """
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} is no JSON: {error}", do=f"correct {name}") from None
    return value


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except exc.ArgumentError:
        raise ConfigError(
            f"ATLAS_LEDGER is '{url}', which is no database URL", do="use sqlite:///FILE or postgresql+psycopg://HOST/NAME"
        ) from None
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite", "postgresql+psycopg"):
        raise ConfigError(
            f"ATLAS_LEDGER's driver '{parsed.drivername}' is unknown", do="use sqlite:///FILE or postgresql+psycopg://HOST/NAME"
        )
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise ConfigError("ATLAS_LEDGER names no file, but steps are processes and share it", do="use sqlite:///FILE")
    return parsed


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "postgresql":
        wait = {} if "connect_timeout" in url.query else {"connect_timeout": 10}
        return create_engine(url, pool_pre_ping=True, connect_args=wait)
    folder = Path(url.database or "").absolute().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TryAgain(f"the ledger's folder {folder} can't be made: {error.strerror}", do="make it, or set ATLAS_LEDGER") from error
    engine = create_engine(url, connect_args={} if "timeout" in url.query else {"timeout": _BUSY_S})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # the driver opens no transactions: `_begin_sqlite` does
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")  # what is acknowledged survives a power cut


def _begin_sqlite(connection: Connection) -> None:
    # A reader that turns writer can fail at once, whatever the timeout; a writer therefore says so from the start.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("atlas_write") else "BEGIN")


def _migrate(engine: Engine) -> None:
    """Upgrade the schema if it is behind. Alembic is imported only then: it costs more than opening a ledger."""
    with engine.connect() as connection:
        if _version(connection) == HEAD:
            return
    from components.core.ledger.migrations.upgrade import upgrade

    upgrade(engine)


def _version(connection: Connection) -> str | None:
    if not connection.dialect.has_table(connection, "alembic_version"):
        return None
    version: str | None = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return version


def _first_line(error: Exception) -> str:
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
