"""Who plans a user holds the advisory lock of the user's slot until commit: run, trigger, event and refresh alike."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from sqlalchemy import Connection, text

_SLOTS, _TICK, _PRICES, _SETTLEMENT, _TRIGGERS = 7_401, 7_402, 7_403, 7_404, 7_405
"""First keys of PostgreSQL's two-key advisory locks, this project's own."""

SILENCE = timedelta(seconds=10)
"""Machine time after which work that shows no sign of life and holds no lock is over: its process is gone. A lock goes
with the connection of whoever held it, so a killed worker is known by it long before its lease ends."""


def _held(key: int, number: str) -> str:
    return (
        f"EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted AND l.classid = {key}"
        f" AND l.objid = CAST(CAST({number} AS int) AS oid) AND l.objsubid = 2"
        " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()))"
    )


SHARD_HELD = _held(_SLOTS, "s.slot_from")
"""SQL: whether somebody holds the first slot of the shard `s`."""

SETTLEMENT_HELD = _held(_SETTLEMENT, "0")
"""SQL: whether some run is being settled."""


def abandoned(lease_until: str, lease: timedelta, held: str) -> str:
    """SQL: whether nobody is at the work any more that somebody claimed for `lease`, until `lease_until`: the lease is
    over, or nothing has renewed it for SILENCE and nobody holds its lock (`held`)."""
    silent = f"{lease_until} < clock_timestamp() + interval '{(lease - SILENCE).total_seconds()} s'"
    return f"({lease_until} < clock_timestamp() OR {silent} AND NOT {held})"


def speak_or_end(connection: Connection, lease: timedelta) -> None:
    """Let PostgreSQL end this transaction once it has heard nothing for as long as a lease: its worker may be behind a
    connection that carries nothing any more, and would keep everybody from these users."""
    most = int(lease.total_seconds() * 1000)
    connection.execute(text(f"SET LOCAL idle_in_transaction_session_timeout = {most}"))


def lock_slots(connection: Connection, slots: tuple[int, int]) -> None:
    """Wait for the locks of slots [from, until), in order: whoever takes several never waits in a circle."""
    connection.execute(
        text(
            "SELECT count(pg_advisory_xact_lock(CAST(:key AS int), slot))"
            " FROM generate_series(CAST(:first AS int), CAST(:last AS int)) slot"
        ),
        {"key": _SLOTS, "first": slots[0], "last": slots[1] - 1},
    )


def lock_some(connection: Connection, slots: Iterable[int]) -> None:
    """Wait for the locks of these slots, in order."""
    connection.execute(
        text(
            "SELECT count(pg_advisory_xact_lock(CAST(:key AS int), slot))"
            " FROM (SELECT slot FROM unnest(CAST(:slots AS int[])) slot ORDER BY slot) ordered"
        ),
        {"key": _SLOTS, "slots": sorted(set(slots))},
    )


def try_some(connection: Connection, slots: Iterable[int]) -> list[int]:
    """Those of these slots whose locks were free and are now held."""
    query = text(
        "SELECT slot, pg_try_advisory_xact_lock(CAST(:key AS int), slot) AS held"
        " FROM unnest(CAST(:slots AS int[])) slot"
    )
    found = connection.execute(query, {"key": _SLOTS, "slots": sorted(set(slots))})
    return [row.slot for row in found if row.held]


def lock_tick(connection: Connection) -> None:
    """One opener of runs at a time."""
    connection.execute(text("SELECT pg_advisory_xact_lock(CAST(:key AS int), 0)"), {"key": _TICK})


def lock_triggers(connection: Connection) -> None:
    """One follower of the news at a time."""
    connection.execute(text("SELECT pg_advisory_xact_lock(CAST(:key AS int), 0)"), {"key": _TRIGGERS})


def lock_prices(connection: Connection, run_id: int) -> None:
    """One solver of a run's prices at a time."""
    connection.execute(
        text("SELECT pg_advisory_xact_lock(CAST(:key AS int), CAST(:run AS int))"),
        {"key": _PRICES, "run": run_id % 2**31},
    )


def lock_settlement(connection: Connection) -> None:
    """One settlement at a time: two of them would give the same capacity twice."""
    connection.execute(text("SELECT pg_advisory_xact_lock(CAST(:key AS int), 0)"), {"key": _SETTLEMENT})
