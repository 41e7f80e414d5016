"""Alembic's environment: one transaction per migration, lock and statement timeouts, one migrator at a time."""

from __future__ import annotations

import re

from alembic import context
from sqlalchemy import Connection, text

from engine.config import read_settings
from engine.store.database import Database
from engine.store.tables import metadata

PARTITION = re.compile(r"_(s\d{4}|\d{4}_\d{2}(_\d{2})?)$")


def _include_name(name: str | None, kind: str, _parents: object) -> bool:
    # Autogenerate would propose to drop the partitions (alembic#539).
    return not (kind == "table" and name is not None and PARTITION.search(name))


def _run(connection: Connection) -> None:
    connection.execute(text("SET lock_timeout = '10s'"))
    connection.execute(text("SELECT pg_advisory_lock(hashtext('horae.migrate'))"))
    connection.commit()
    try:
        context.configure(
            connection=connection,
            target_metadata=metadata,
            include_name=_include_name,
            transaction_per_migration=True,
            compare_server_default=True,
        )
        with context.begin_transaction():
            context.run_migrations()
    finally:
        connection.rollback()
        connection.execute(text("SELECT pg_advisory_unlock(hashtext('horae.migrate'))"))
        connection.commit()


def _database() -> Database:
    given = context.config.attributes.get("database")
    if isinstance(given, Database):
        return given
    from engine.runtime import database_url  # noqa: PLC0415 - only the bare `alembic` command needs the servers

    return Database(database_url(read_settings()))


with _database().engine.connect() as connection:
    _run(connection)
