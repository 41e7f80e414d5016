"""The schema's version: upgrade, downgrade and the check that code and database agree."""

from __future__ import annotations

import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from engine.errors import SchemaMismatch
from engine.store.database import Database

_alembic = threading.Lock()
"""Alembic keeps the migration under way in module globals: one at a time in a process."""

MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"


def alembic_config(database: Database) -> Config:
    """Alembic's configuration for `database`, independent of the working directory."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["database"] = database
    return config


def upgrade(database: Database, revision: str = "head") -> None:
    """Bring the schema to `revision`. Idempotent; an advisory lock lets one process do it, a lock one thread.

    Raises SchemaMismatch where the database is newer than this code.
    """
    if version_state(database) != "current" or revision != "head":
        with _alembic:
            command.upgrade(alembic_config(database), revision)


def version_state(database: Database) -> str:
    """`empty`, `behind` or `current`.

    Raises SchemaMismatch where the database carries a revision that this code does not know: a newer Horae wrote it.
    """
    script = ScriptDirectory.from_config(alembic_config(database))
    with database.begin() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    if current is None:
        return "empty"
    known = {revision.revision for revision in script.walk_revisions()}
    if current not in known:
        raise SchemaMismatch(
            f"the database has schema {current}, which this version of Horae does not know",
            hint="it was written by a newer version: upgrade this installation (pip install -U horae)",
        )
    return "current" if current == script.get_current_head() else "behind"


def require_current(database: Database) -> None:
    """Raise SchemaMismatch unless the schema is this code's."""
    state = version_state(database)
    if state != "current":
        raise SchemaMismatch(f"the database's schema is {state}", hint="run: horae migrate")
