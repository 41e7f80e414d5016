"""Things done once a day, or in some hours, whoever asks and however often: ticks may double, be missed, be killed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from sqlalchemy import text

from engine.store.database import Database

Done = TypeVar("Done")

_LOCK = text("SELECT pg_try_advisory_lock(hashtext('horae.tick.' || :name))")
_UNLOCK = text("SELECT pg_advisory_unlock(hashtext('horae.tick.' || :name))")


_MARK = text("""
    INSERT INTO tick_marks (task, done_at) VALUES (:task, clock_timestamp())
    ON CONFLICT (task) DO UPDATE SET done_at = excluded.done_at
""")


def mark(database: Database, task: str) -> None:
    """Note that one of beat's tasks has just ended well."""
    with database.begin() as connection:
        connection.execute(_MARK, {"task": task})


def once_a_day(database: Database, name: str, at: datetime, work: Callable[[], Done | None]) -> Done | None:
    """Do `work` unless it was done on the UTC day of `at` (machine time), or another process is at it; its result.

    None means as for `once_in`.
    """
    return once_in(database, name, at, work, hours=24)


def once_in(database: Database, name: str, at: datetime, work: Callable[[], Done | None], *, hours: int) -> Done | None:
    """Do `work` unless it was done in the same `hours` hours (a divisor of 24) of the UTC day, or somebody is at it.

    None, from here or from `work`, means not done: the next to ask tries again, as after an exception. The lock of a
    process at work is its connection's: where it dies, the next to ask takes over.
    """
    hour = at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    key = {"name": name, "slot": hour - timedelta(hours=hour.hour % hours)}
    with database.autocommit() as connection:
        if not connection.execute(_LOCK, key).scalar_one():
            return None
        try:
            if connection.execute(text("SELECT 1 FROM ticks WHERE name = :name AND at = :slot"), key).first():
                return None
            done = work()
            if done is not None:
                mark = text("INSERT INTO ticks (name, at) VALUES (:name, :slot) ON CONFLICT DO NOTHING")
                connection.execute(mark, key)
            return done
        finally:
            connection.execute(_UNLOCK, key)
