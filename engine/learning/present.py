"""One user as of this moment: what the profiles hold, and on top of it the events that no profile holds yet.

For requests about single users, which small reads on one connection answer sooner than Arrow would. An event counts
from the commit that accepted it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import Connection

from engine.features import decay
from engine.features.catalogue import Catalogue
from engine.features.decay import Folded
from engine.features.state import Profiles, State, build_state
from engine.ingest.profiles import VALUED, FoldRows, fold_events
from engine.learning.history import without_slot
from engine.store.bulk import fetch
from engine.store.tables import HALF_LIVES_DAYS

TABLES = ("user_profiles", "user_item_profiles", "user_hour_profiles")
_KEYS = {"user_profiles": ("event_type",), "user_item_profiles": ("item_id", "event_type"),
         "user_hour_profiles": ("rung", "hour")}  # fmt: skip
_MOST = max(len(HALF_LIVES_DAYS[table]) for table in TABLES)


def _select(number: int, table: str) -> str:
    """The rows of a table as those of all are returned together: number, two keys, n, first_at, last_at, value, s0 …"""
    first, second = (*_KEYS[table], "0")[:2]
    value = "value" if table in VALUED else "0::float8"
    known = len(HALF_LIVES_DAYS[table])
    counters = ", ".join(f"s{at}" if at < known else "0::float8" for at in range(_MOST))
    return (
        f"SELECT {number} AS part, {first}::bigint AS first, {second}::bigint AS second, n, first_at, last_at, {value},"
        f" {counters} FROM {table} WHERE slot = CAST(%s AS smallint) AND user_id = CAST(%s AS bigint)"
    )


_WAITING = f"""
    SELECT {len(TABLES)}, coalesce(item_id, -1), event_type::bigint, 0::bigint, extract(epoch FROM occurred_at)::float8,
           0::float8, coalesce(value, 'NaN'), {", ".join(["0::float8"] * _MOST)}
    FROM unfolded_events WHERE slot = CAST(%s AS smallint) AND user_id = CAST(%s AS bigint)
"""
_READ = " UNION ALL ".join([*(_select(*each) for each in enumerate(TABLES)), _WAITING]) + " ORDER BY 1, 2, 3"
"""One statement: one exchange with the server, one snapshot, so that no event is in both or neither."""


@dataclass(frozen=True)
class Present:
    """A user's state, of that user alone, and how many events in it no profile held yet."""

    state: State
    unfolded: int


def read_present(
    connection: Connection, user: int, slot: int, zone: str, catalogue: Catalogue, now: datetime
) -> Present:
    """The state of `user` (id) at business time `now`, or right after the user's last event where that is later: what
    is read may have happened since `now` was."""
    rows = fetch(connection, _READ, (slot, user) * (len(TABLES) + 1))
    parts: list[list[tuple[Any, ...]]] = [[] for _ in range(len(TABLES) + 1)]
    for row in rows:
        parts[row[0]].append(row)
    held = {table: _profiles(parts[number], user, table) for number, table in enumerate(TABLES)}
    fresh = _waiting(parts[-1], user, slot, zone)
    if len(fresh):
        folded = {table: without_slot(each) for table, each in fold_events(fresh, TABLES).items()}
        held = {table: decay.merge(held[table], folded[table], HALF_LIVES_DAYS[table]) for table in TABLES}
    latest = max((float(each.last_at.max()) for each in held.values() if len(each)), default=-np.inf)
    as_of = max(now.timestamp(), float(np.nextafter(latest, np.inf)))
    profiles = Profiles(*(held[table] for table in TABLES))
    return Present(build_state(np.array([user], np.int64), profiles, catalogue, as_of), len(fresh))


def _profiles(rows: Sequence[tuple[Any, ...]], user: int, table: str) -> Folded:
    _, first, second, n, first_at, last_at, value, *counters = _columns(rows)
    keys = [np.full(len(rows), user, np.int64), np.array(first, np.int64), np.array(second, np.int64)]
    known = len(HALF_LIVES_DAYS[table])
    return Folded(
        tuple(keys[: 1 + len(_KEYS[table])]),
        np.array(n, np.int64),
        np.array(first_at, np.float64),
        np.array(last_at, np.float64),
        np.array(counters[:known], np.float64).T.reshape(len(rows), known),
        np.array(value, np.float64),
    )


def _waiting(rows: Sequence[tuple[Any, ...]], user: int, slot: int, zone: str) -> FoldRows:
    _, item, event_type, _, at, _, value, *_ = _columns(rows)
    count = len(rows)
    return FoldRows(
        slot=np.full(count, slot, np.int64),
        user=np.full(count, user, np.int64),
        item=np.array(item, np.int64),
        event_type=np.array(event_type, np.int64),
        at=np.array(at, np.float64),
        value=np.array(value, np.float64),
        zone=np.zeros(count, np.int64),
        zones=(zone,),
    )


def _columns(rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return list(zip(*rows, strict=True)) if rows else [()] * (7 + _MOST)
