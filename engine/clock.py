"""The two clocks.

*Business time* decides what is due, open, expired, counted: it is an argument everywhere and is read once, at the
edge, from the workspace row. It may be virtual: then a driver (demo, tests) steps it, by at most 15 minutes, after all
due work is closed. *Machine time* rules leases, timeouts, backoff and metrics and is never virtual.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, text

from engine.errors import BadInput

LONGEST_STEP = timedelta(minutes=15)


def machine_now() -> datetime:
    """The machine's time, aware UTC."""
    return datetime.now(UTC)


def monotonic() -> float:
    """Seconds of a clock that never goes back, for durations."""
    return time.monotonic()


def business_now(connection: Connection) -> datetime:
    """Business time, aware UTC: the workspace's virtual instant, or the machine's time where none is set."""
    return at_virtual(connection.execute(text("SELECT business_now FROM workspace")).scalar_one_or_none())


def at_virtual(instant: datetime | None) -> datetime:
    """Business time where the workspace's virtual instant, read with something else, is `instant`."""
    return instant.astimezone(UTC) if instant is not None else machine_now()


def is_virtual(connection: Connection) -> bool:
    """Whether business time is virtual: then its driver decides what happens when."""
    return bool(connection.execute(text("SELECT business_now IS NOT NULL FROM workspace")).scalar_one_or_none())


def start_virtual(connection: Connection, instant: datetime) -> None:
    """Make business time virtual, beginning at `instant` (aware)."""
    require_aware(instant)
    connection.execute(text("UPDATE workspace SET business_now = :at"), {"at": instant})


def step_virtual(connection: Connection, instant: datetime) -> None:
    """Advance the virtual clock to `instant`: forward, by at most 15 minutes, in one conditional update.

    Raises BadInput where the clock is not virtual or the step is not allowed.
    """
    require_aware(instant)
    moved = connection.execute(
        text(
            "UPDATE workspace SET business_now = :at"
            " WHERE business_now <= :at AND business_now >= CAST(:at AS timestamptz) - :longest"
        ),
        {"at": instant, "longest": LONGEST_STEP},
    )
    if moved.rowcount != 1:
        raise BadInput(f"the virtual clock cannot step to {instant.isoformat()}: forward, by 15 minutes at most")


def require_aware(instant: datetime) -> datetime:
    """`instant` itself, or ValueError where it has no zone: naive datetimes are bugs."""
    if instant.tzinfo is None:
        raise ValueError(f"naive datetime {instant!r}: instants are aware UTC")
    return instant
