"""Raw events as arrays: what training and past instants are computed from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import text

from engine.features.decay import fold
from engine.features.readings import positions
from engine.features.state import Profiles
from engine.localtime import local_hours
from engine.store.database import Snapshot
from engine.store.tables import EVENT_TYPES

NOBODY = -1
"""The user or item of an event without one."""

_RUNGS = {"push_open": 0, "push_click": 0, "app_open": 1, "view": 1, "search": 1, "add_to_cart": 1}
_NO_RUNG = ("push_dismiss", "unsubscribe")
_OTHER_RUNG = 2


@dataclass(frozen=True)
class Events:
    """n events.

    user, item: int64 ids, NOBODY without one · kind: int64 event type ids · at: float64, epoch seconds · value:
    float64, NaN for none · zone: int32 index into zones.
    """

    user: np.ndarray
    item: np.ndarray
    kind: np.ndarray
    at: np.ndarray
    value: np.ndarray
    zone: np.ndarray
    zones: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.at)

    def take(self, rows: np.ndarray) -> Events:
        """The events at `rows` (int positions or a boolean mask)."""
        user, item, kind, at = self.user[rows], self.item[rows], self.kind[rows], self.at[rows]
        return Events(user, item, kind, at, self.value[rows], self.zone[rows], self.zones)


def read_events(snapshot: Snapshot, *, until: datetime, since: datetime | None = None, where: str = "true") -> Events:
    """The events of [since, until) that meet `where` (SQL over `events`, our own text only), in no order."""
    bounds = f"occurred_at < {_instant(until)}" + (f" AND occurred_at >= {_instant(since)}" if since else "")
    rows = snapshot.arrow(
        f"SELECT user_id, item_id, event_type, occurred_at, value FROM events WHERE {bounds} AND {where}"
    )
    user = np.asarray(pc.fill_null(rows["user_id"], NOBODY), np.int64)
    zone, zones = _zones(snapshot, user)
    return Events(
        user=user,
        item=np.asarray(pc.fill_null(rows["item_id"], NOBODY), np.int64),
        kind=np.asarray(rows["event_type"], np.int64),
        at=np.asarray(rows["occurred_at"].cast(pa.timestamp("us", "UTC")).cast(pa.int64()), np.int64) / 1e6,
        value=np.asarray(pc.fill_null(rows["value"], float("nan")), np.float64),
        zone=zone,
        zones=zones,
    )


def default_timezone(snapshot: Snapshot) -> str:
    """The zone of users who have none: the newest policy's."""
    newest = "SELECT definition->>'default_timezone' FROM policies ORDER BY version DESC LIMIT 1"
    return snapshot.connection.execute(text(newest)).scalar() or "UTC"


def user_profiles(events: Events, half_lives: Mapping[str, tuple[float, ...]]) -> Profiles:
    """The user-keyed profiles of events (of users; others are left out): the same fold as ingest's."""
    of_users = np.flatnonzero(events.user != NOBODY)
    known = events.take(of_users)
    with_item = known.take(known.item != NOBODY)
    rung = rungs(known.kind)
    timed = known.take(rung >= 0)
    return Profiles(
        fold((known.user, known.kind), known.at, None, half_lives["user_profiles"], values=known.value),
        fold(
            (with_item.user, with_item.item, with_item.kind),
            with_item.at,
            None,
            half_lives["user_item_profiles"],
            values=with_item.value,
        ),
        fold(
            (timed.user, rung[rung >= 0], local_hours(timed.at, timed.zone, timed.zones).astype(np.int64)),
            timed.at,
            None,
            half_lives["user_hour_profiles"],
        ),
    )


def rungs(kinds: np.ndarray) -> np.ndarray:
    """The rung of the send-window ladder that each event type feeds: int64, −1 for none."""
    rung = np.full(len(kinds), _OTHER_RUNG, np.int64)
    for name, value in _RUNGS.items():
        rung[kinds == EVENT_TYPES[name]] = value
    for name in _NO_RUNG:
        rung[kinds == EVENT_TYPES[name]] = -1
    return rung


def _zones(snapshot: Snapshot, user: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Each event's zone by its user: (index, names)."""
    rows = snapshot.arrow("SELECT id, timezone FROM users ORDER BY id")
    names = pc.drop_null(pc.unique(rows["timezone"])).sort()
    zones = (*names.to_pylist(), default_timezone(snapshot))
    code = np.asarray(
        pc.fill_null(pc.index_in(rows["timezone"], value_set=names, skip_nulls=True), len(names)), np.int32
    )
    at = positions(np.asarray(rows["id"], np.int64), user)
    return np.where(at >= 0, code[at] if len(code) else len(names), len(names)).astype(np.int32), zones


def _instant(instant: datetime) -> str:
    return f"'{instant.isoformat()}'::timestamptz"
