"""When a user acts and when they are sent pushes, by weekday and hour of their own clock: plain counts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from sqlalchemy import Connection, text

from engine.localtime import local_days, local_seconds
from engine.store.tables import EVENT_TYPES

LOOKED_BACK = timedelta(days=120)
"""As far as the slowest of the counters that send windows are learned from remembers by half."""

MOST = 5_000
"""Visits, and pushes, that are counted: the latest."""

_VISITS = text("""
    SELECT extract(epoch FROM occurred_at)::float8 AS at FROM events
    WHERE user_id = :user AND occurred_at >= :since AND occurred_at <= :now AND event_type <> ALL(:without)
    GROUP BY occurred_at ORDER BY occurred_at DESC LIMIT :most
""")

_PUSHES = text("""
    SELECT extract(epoch FROM at)::float8 AS at FROM deliveries
    WHERE user_id = :user AND day >= CAST(:since AS date) AND at >= :since AND at <= :now AND state = 'accepted'
      AND NOT test ORDER BY at DESC LIMIT :most
""")


@dataclass(frozen=True)
class Week:
    """Counts int64[7, 24], Monday first, by the user's clock. visits: instants at which the user did something, so that
    a basket of ten lines is one; pushes: those that a provider accepted."""

    since: datetime
    visits: np.ndarray
    pushes: np.ndarray


def read_week(connection: Connection, user_id: int, zone: str, now: datetime) -> Week:
    """The week of a user in `zone` (IANA) over LOOKED_BACK before `now` (business time)."""
    since = now.astimezone(UTC) - LOOKED_BACK
    without = [EVENT_TYPES["push_sent"], EVENT_TYPES["push_received"]]
    given = {"user": user_id, "since": since, "now": now, "without": without, "most": MOST}
    visits, pushes = (
        np.array(connection.execute(query, given).scalars().all(), np.float64) for query in (_VISITS, _PUSHES)
    )
    return Week(since, by_week(visits, zone), by_week(pushes, zone))


def by_week(instants: np.ndarray, zone: str) -> np.ndarray:
    """int64[7, 24]: how many instants (epoch seconds) fall into each weekday and hour of the clock of `zone`."""
    codes = np.zeros(len(instants), np.int64)
    weekday = (local_days(instants, codes, (zone,)).astype(np.int64) + 3) % 7  # 1970 began on a Thursday
    hour = (local_seconds(instants, codes, (zone,)) // 3600).astype(np.int64) % 24
    return np.bincount(weekday * 24 + hour, minlength=7 * 24).reshape(7, 24)
