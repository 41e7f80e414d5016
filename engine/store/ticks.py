"""Things done once a day, whoever asks and however often: ticks may be doubled, missed and killed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from sqlalchemy import text

from engine.store.database import Database


@contextmanager
def once_a_day(database: Database, name: str, at: datetime) -> Iterator[bool]:
    """Whether the caller is to do `name` for the UTC day of `at` (machine time); the day counts as done when the block
    ends without an exception.

    False where it is done already or another process is at it. That process' lock is its connection's: where it dies,
    the next to ask takes over.
    """
    day = at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    key = {"name": name, "day": day}
    with database.autocommit() as connection:
        lock = text("SELECT pg_try_advisory_lock(hashtext('horae.tick.' || :name))")
        if not connection.execute(lock, key).scalar_one():
            yield False
            return
        try:
            if connection.execute(text("SELECT 1 FROM ticks WHERE name = :name AND at = :day"), key).first():
                yield False
                return
            yield True
            connection.execute(text("INSERT INTO ticks (name, at) VALUES (:name, :day) ON CONFLICT DO NOTHING"), key)
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(hashtext('horae.tick.' || :name))"), key)
