"""Raw events from the store, and the profiles they fold to: what training and past instants are computed from."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.features.decay import Folded
from engine.features.readings import positions
from engine.features.state import Profiles
from engine.ingest.identities import default_zone
from engine.ingest.profiles import FoldRows, fold_events
from engine.store.database import Snapshot
from engine.store.tables import HAPPENED

NOBODY = -1
"""The user or item of an event without one."""

_FEW = 2_000
"""Users whose ids are written into a query; beyond that all users' zones are read."""


def read_events(snapshot: Snapshot, *, until: datetime, where: str = "true") -> FoldRows:
    """What happened before `until` (aware) and meets `where` (SQL over `events`, our own text only), in no order.

    Pushes that were sent are events of type push_sent.
    """
    before = f"occurred_at < '{until.isoformat()}'::timestamptz"
    rows = snapshot.arrow(
        f"SELECT user_id, item_id, event_type, occurred_at, value FROM {HAPPENED} AS events WHERE {before} AND {where}"
    )
    user = np.asarray(pc.fill_null(rows["user_id"], NOBODY), np.int64)
    zone, zones = _zones(snapshot, user)
    return FoldRows(
        slot=np.zeros(len(user), np.int64),
        user=user,
        item=np.asarray(pc.fill_null(rows["item_id"], NOBODY), np.int64),
        event_type=np.asarray(rows["event_type"], np.int64),
        at=np.asarray(rows["occurred_at"].cast(pa.timestamp("us", "UTC")).cast(pa.int64()), np.int64) / 1e6,
        value=np.asarray(pc.fill_null(rows["value"], float("nan")), np.float64),
        zone=zone,
        zones=zones,
    )


def user_profiles(events: FoldRows) -> Profiles:
    """The user-keyed profiles of events, through the same fold as ingest's."""
    flat = replace(events, slot=np.zeros(len(events), np.int64))
    folded = fold_events(flat, ("user_profiles", "user_item_profiles", "user_hour_profiles"))
    return Profiles(*(without_slot(folded[name]) for name in folded))


def item_profiles(events: FoldRows) -> Folded:
    """The item profiles of events. Keys: (item id, event type)."""
    return fold_events(events, ("item_profiles",))["item_profiles"]


def without_slot(folded: Folded) -> Folded:
    """Profiles keyed by (slot, …) without their slot: what features are made from."""
    return replace(folded, keys=folded.keys[1:])


def _zones(snapshot: Snapshot, user: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Each event's effective zone by its user: (index int64, IANA names)."""
    asked = np.unique(user)
    of = "" if len(asked) > _FEW else f" WHERE id = ANY('{{{','.join(map(str, asked.tolist()))}}}'::bigint[])"
    rows = snapshot.arrow(f"SELECT id, timezone FROM users{of} ORDER BY id")
    names = pc.drop_null(pc.unique(rows["timezone"])).sort()
    zones = (*names.to_pylist(), default_zone(snapshot.connection))
    default = len(names)
    found = np.asarray(pc.fill_null(pc.index_in(rows["timezone"], value_set=names, skip_nulls=True), default), np.int64)
    at = positions(np.asarray(rows["id"], np.int64), user)
    return np.append(found, default)[at], zones
