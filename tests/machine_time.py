"""Machine time of one database that a test moves: whatever its statements ask of the clock, they are told this."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import text

from engine.store.database import Database


class MachineTime:
    """`clock_timestamp()` of `database`, standing still until it is moved.

    Statements find a function of that name in a schema before PostgreSQL's own; defaults of columns keep to the true
    clock, which they were made with.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        with database.begin() as connection:
            name = connection.execute(text("SELECT current_database()")).scalar_one()
            for statement in (
                "CREATE SCHEMA machine",
                "CREATE TABLE machine.clock AS SELECT clock_timestamp() AS now",
                "CREATE FUNCTION machine.clock_timestamp() RETURNS timestamptz LANGUAGE sql STABLE"
                " AS 'SELECT now FROM machine.clock'",
                f"ALTER DATABASE {name} SET search_path = machine, public, pg_catalog",
            ):
                connection.execute(text(statement))
        database.dispose()  # connections of now have the search path of before

    def passes(self, by: timedelta) -> None:
        """It is later."""
        with self._database.begin() as connection:
            connection.execute(text("UPDATE machine.clock SET now = now + :by"), {"by": by})
