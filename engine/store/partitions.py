"""Partitions, made ahead: `LIKE … INCLUDING ALL`, then ATTACH, each in a transaction of its own.

A plain `CREATE TABLE … PARTITION OF` takes an exclusive lock on the parent for the whole statement; ATTACH of a table
that already carries the matching CHECK constraint locks it only for an instant.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError, ProgrammingError

from engine.store.database import Database

MONTHLY = {"events": "occurred_at"}
DAILY = {"decisions": "date", "deliveries": "day"}
DAYS_AHEAD = 7


def ensure_partitions(database: Database, table: str, first: date, last: date) -> list[str]:
    """Make the missing partitions of `table` that cover `first` … `last` (inclusive); returns the names made.

    Safe to call by many processes at once and to repeat.
    """
    wanted = _wanted(table, first, last)
    with database.begin() as connection:
        existing = set(
            connection.execute(
                text("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = CAST(:t AS regclass)"),
                {"t": table},
            ).scalars()
        )
    made = []
    for name, (lower, upper) in wanted.items():
        if name not in existing and _make(database, table, name, lower, upper):
            made.append(name)
    return made


def ensure_ahead(database: Database, now: datetime) -> list[str]:
    """Make the partitions that the coming days need, around business time `now`."""
    today = now.astimezone(UTC).date()
    made = []
    for table in (*MONTHLY, *DAILY):
        made += ensure_partitions(database, table, today - timedelta(days=1), today + timedelta(days=DAYS_AHEAD))
    return made


@dataclass(frozen=True)
class Partition:
    """A partition by time: rows of [lower, upper)."""

    table: str
    name: str
    lower: date
    upper: date


def partitions_before(connection: Connection, table: str, day: date) -> list[Partition]:
    """The partitions of `table` whose whole time lies before the UTC day `day`, oldest first."""
    names = connection.execute(
        text("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = CAST(:t AS regclass) ORDER BY 1"),
        {"t": table},
    ).scalars()
    found = []
    for name in names:
        numbers = [int(part) for part in name.removeprefix(f"{table}_").split("_")]
        lower = date(numbers[0], numbers[1], numbers[2] if table in DAILY else 1)
        upper = lower + timedelta(days=1) if table in DAILY else (lower + timedelta(days=32)).replace(day=1)
        if upper <= day:
            found.append(Partition(table, name, lower, upper))
    return found


def drop_partition(database: Database, partition: Partition, lock_seconds: int = 10) -> bool:
    """Drop a partition; False where the table is too busy for so many seconds: ask again later."""
    try:
        with database.begin() as connection:
            connection.execute(text(f"SET LOCAL lock_timeout = '{lock_seconds}s'"))
            connection.execute(text(f'DROP TABLE IF EXISTS "{partition.name}"'))
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", None) == "55P03":  # lock_not_available
            return False
        raise
    return True


def _wanted(table: str, first: date, last: date) -> dict[str, tuple[date, date]]:
    wanted = {}
    if table in MONTHLY:
        month = first.replace(day=1)
        while month <= last:
            following = (month + timedelta(days=32)).replace(day=1)
            wanted[f"{table}_{month:%Y_%m}"] = (month, following)
            month = following
    else:
        for n in range((last - first).days + 1):
            day = first + timedelta(days=n)
            wanted[f"{table}_{day:%Y_%m_%d}"] = (day, day + timedelta(days=1))
    return wanted


def _make(database: Database, table: str, name: str, lower: date, upper: date) -> bool:
    key = {**MONTHLY, **DAILY}[table]
    cast = "timestamptz" if table in MONTHLY else "date"
    low, high = (
        f"'{bound.isoformat()}+00'::{cast}" if cast == "timestamptz" else f"'{bound}'" for bound in (lower, upper)
    )
    try:
        with database.begin() as connection:
            # One maker at a time: two concurrent ATTACHes of the same range would deadlock on the parent.
            connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('horae.partitions'))"))
            if connection.execute(text("SELECT to_regclass(:n)"), {"n": name}).scalar() is not None:
                return False
            connection.execute(text(f'CREATE TABLE "{name}" (LIKE {table} INCLUDING ALL)'))
            connection.execute(
                text(f'ALTER TABLE "{name}" ADD CONSTRAINT bounds CHECK ("{key}" >= {low} AND "{key}" < {high})')
            )
            connection.execute(
                text(f'ALTER TABLE {table} ATTACH PARTITION "{name}" FOR VALUES FROM ({low}) TO ({high})')
            )
            connection.execute(text(f'ALTER TABLE "{name}" DROP CONSTRAINT bounds'))
    except ProgrammingError as error:
        if getattr(error.orig, "sqlstate", None) == "42P07":  # duplicate_table: another process made it first
            return False
        raise
    return True
