"""A database of a bench's own, on the server that the settings name or on the embedded one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import text

from engine.config import Settings
from engine.ingest.replay import require_current_profiles
from engine.runtime import database_url
from engine.store import schema
from engine.store.database import Database


@contextmanager
def scratch_database(settings: Settings, bench: str) -> Iterator[Database]:
    """A migrated, empty database that is dropped at the end."""
    server = Database(database_url(settings))
    name = f"horae_bench_{bench}_{os.getpid()}"
    try:
        with server.autocommit() as connection:
            connection.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
            connection.execute(text(f"CREATE DATABASE {name} TEMPLATE template0"))
        database = Database(server.url.set(database=name).render_as_string(hide_password=False))
        try:
            schema.upgrade(database)
            require_current_profiles(database)  # notes the recipe: loads write profiles without ingesting
            yield database
        finally:
            database.dispose()
            with server.autocommit() as connection:
                connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    finally:
        server.dispose()


def checkpoint(database: Database) -> None:
    """Write out what earlier work left, so that the next measurement does not pay for it."""
    with database.autocommit() as connection:
        connection.execute(text("CHECKPOINT"))
