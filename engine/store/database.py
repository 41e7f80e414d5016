"""Connections to PostgreSQL: SQLAlchemy for statements, Arrow (ADBC) for bulk reads on the same snapshot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import psycopg
from psycopg.types.json import set_json_loads
from pydantic_core import from_json
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError

from engine.errors import DiskFull, StoreUnavailable

if TYPE_CHECKING:
    import pyarrow as pa

DISK_FULL = "53100"  # SQLSTATE disk_full
GONE = {"57P01", "57P02", "57P03"}  # admin shutdown, crash shutdown, cannot connect now


class Transactions(Protocol):
    """Where transactions come from: a database, or one of its connections that is held."""

    def begin(self) -> AbstractContextManager[Connection]:
        """A transaction that commits at its end and rolls back on any exception."""

    def apart(self) -> AbstractContextManager[Connection]:
        """A connection whose statements are a transaction each, committed when `execute` returns: where nothing more is
        needed, that is one round trip instead of three."""


class Database:
    """One PostgreSQL database.

    `begin()` is a transaction that commits at its end and rolls back on any exception; `snapshot()` is a read-only
    REPEATABLE READ transaction whose Arrow reads see exactly what its statements see.
    """

    def __init__(self, url: str, *, pool_size: int = 5) -> None:
        self.url = make_url(url).set(drivername="postgresql+psycopg")
        self.engine: Engine = create_engine(
            self.url,
            pool_size=pool_size,
            max_overflow=10,
            pool_pre_ping=True,
            connect_args=_NEVER_FOR_EVER,
        )
        event.listen(self.engine, "connect", _set_utc)
        self._shown = self.url.render_as_string(hide_password=True)
        self._readers = _Readers(self.libpq_url)

    @property
    def libpq_url(self) -> str:
        """The URL as libpq (ADBC, psql) reads it."""
        return self.url.set(drivername="postgresql").render_as_string(hide_password=False)

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction. Raises StoreUnavailable or DiskFull where the server is the reason for the failure."""
        with _translated(self._shown), self.engine.begin() as connection:
            yield connection

    def ping(self) -> None:
        """Return if the server answers; raises StoreUnavailable where it does not."""
        with self.begin() as connection:
            connection.execute(text("SELECT 1"))

    @contextmanager
    def apart(self) -> Iterator[Connection]:
        """Statements that are a transaction each; see Transactions.apart."""
        with self.hold() as held, held.apart() as connection:
            yield connection

    @contextmanager
    def hold(self) -> Iterator[Held]:
        """One connection for many transactions of one thread, one after the other: no check-out, no ping for each."""
        held = Held(self)
        try:
            yield held
        finally:
            held.close()

    @contextmanager
    def autocommit(self) -> Iterator[Connection]:
        """A connection outside transactions: VACUUM, CREATE DATABASE, DETACH CONCURRENTLY."""
        with _translated(self._shown), self.engine.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """A read-only REPEATABLE READ transaction with Arrow reads on the same exported snapshot."""
        with _translated(self._shown), self.engine.connect() as connection:
            reader = connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            with reader.begin():
                snapshot = Snapshot(reader, self._readers)
                try:
                    yield snapshot
                finally:
                    snapshot.close()

    def dispose(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()
        self._readers.dispose()


_NEVER_FOR_EVER = {
    "application_name": "horae",
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""Of libpq, in seconds (the last: ms): a driver that waits for a dead or half-open server for ever would hold a lease
for ever."""


_SESSION = "SELECT " + ", ".join(
    f"set_config('{name}', '{value}', false)"
    for name, value in {
        "timezone": "UTC",
        "tcp_keepalives_idle": "10",
        "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "3",
        "client_connection_check_interval": "10s",
    }.items()
)
"""What the server is told of each connection. Its own way to notice that we are gone is two hours of silence by the
usual settings of Linux, and as long it would keep the locks of a machine that lost its power."""


class Held:
    """A connection that is kept between transactions; it is taken anew after an error."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._shown = database.url.render_as_string(hide_password=True)
        self._connection: Connection | None = None

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction, as Database.begin."""
        with _translated(self._shown):
            if self._connection is None:
                self._connection = self._database.engine.connect()
            try:
                with self._connection.begin():
                    yield self._connection
            except BaseException:
                self.close()
                raise

    @contextmanager
    def apart(self) -> Iterator[Connection]:
        """Statements that are a transaction each; see Transactions.apart."""
        with self.begin() as connection:
            driver: Any = connection.connection.driver_connection
            driver.autocommit = True
            try:
                yield connection
            finally:
                if not driver.closed:
                    driver.autocommit = False

    def close(self) -> None:
        """Give the connection back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class Snapshot:
    """A consistent view of the database at one moment; see Database.snapshot."""

    def __init__(self, connection: Connection, readers: _Readers) -> None:
        self.connection = connection
        self._readers = readers
        self._adbc: Any = None
        self._megabytes: int | None = None

    def sort_in_memory(self, megabytes: int) -> None:
        """Let each sort and hash table of the statements that follow have so much memory: one that joins millions of
        rows would else go by way of the disk."""
        self._megabytes = megabytes
        self.connection.execute(text(f"SET LOCAL work_mem = '{megabytes:d}MB'"))

    def arrow(self, query: str) -> pa.Table:
        """The rows of `query` (complete SQL, no parameters) as an Arrow table.

        Values that vary are written into the text with `literal`; numbers and instants only, never foreign text.
        """
        if self._adbc is None:
            snapshot = self.connection.execute(text("SELECT pg_export_snapshot()")).scalar_one()
            self._adbc = self._readers.take()
            with self._adbc.cursor() as cursor:
                cursor.execute(f"SET TRANSACTION SNAPSHOT '{snapshot}'")
                if self._megabytes is not None:
                    cursor.execute(f"SET LOCAL work_mem = '{self._megabytes:d}MB'")
        with self._adbc.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetch_arrow_table()

    def close(self) -> None:
        """End the Arrow connection; the transaction itself belongs to Database.snapshot."""
        if self._adbc is not None:
            self._readers.give_back(self._adbc)


class _Readers:
    """Arrow connections, kept for the next snapshot: making one costs 60 ms of reading PostgreSQL's types."""

    KEPT = 2

    def __init__(self, libpq_url: str) -> None:
        self._libpq_url = libpq_url
        self._idle: list[Any] = []

    def take(self) -> Any:
        """A connection at the beginning of a REPEATABLE READ transaction."""
        import adbc_driver_postgresql.dbapi as adbc  # noqa: PLC0415 - it imports pandas, which few processes need

        while self._idle:
            kept = self._idle.pop()
            try:
                kept.adbc_connection.set_autocommit(False)
                return self._begun(kept)
            except adbc.Error:  # its server has gone meanwhile
                kept.close()
        return self._begun(adbc.connect(self._libpq_url))

    def give_back(self, connection: Any) -> None:
        """End the transaction and keep the connection, or close it where it is broken or there are enough."""
        import adbc_driver_postgresql.dbapi as adbc  # noqa: PLC0415

        try:
            connection.rollback()
            connection.adbc_connection.set_autocommit(True)  # else it would wait inside the next transaction
        except adbc.Error:
            connection.close()
            return
        if len(self._idle) < self.KEPT:
            self._idle.append(connection)
        else:
            connection.close()

    def dispose(self) -> None:
        """Close what is kept."""
        while self._idle:
            self._idle.pop().close()

    @staticmethod
    def _begun(connection: Any) -> Any:
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        return connection


def _set_utc(dbapi_connection: Any, _record: Any) -> None:
    set_json_loads(from_json, context=dbapi_connection)  # half of json's time, which is much where rows hold JSON
    with dbapi_connection.cursor() as cursor:
        cursor.execute(_SESSION)
    dbapi_connection.commit()


@contextmanager
def _translated(shown_url: str) -> Iterator[None]:
    """Turn the driver's connection and disk errors into ours; everything else passes through."""
    try:
        yield
    except (DBAPIError, psycopg.Error) as error:  # COPY speaks to the driver itself
        cause = error.orig if isinstance(error, DBAPIError) else error
        state = getattr(cause, "sqlstate", None)
        if state == DISK_FULL:
            raise DiskFull(
                "PostgreSQL has no disk space left", hint="free some and run the command again; nothing was half done"
            ) from error
        gone = state in GONE or (state is None and isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError))
        if gone or getattr(error, "connection_invalidated", False):
            raise StoreUnavailable(
                f"PostgreSQL at {shown_url} does not answer: {next(iter(str(cause).strip().splitlines()), 'gone')}",
                hint="is it running, and is HORAE_DATABASE_URL right?",
            ) from error
        raise
