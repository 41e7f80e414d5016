"""One user as of this moment: what the profiles hold, and on top of it the events that no profile holds yet.

For requests about single users, which small reads on one connection answer sooner than Arrow would. An event counts
from the commit that accepted it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
from sqlalchemy import Connection

from engine.features import decay
from engine.features.catalogue import Catalogue
from engine.features.state import Profiles, State, build_state
from engine.ingest.profiles import FoldRows, fold_events, read_profiles
from engine.learning.history import without_slot
from engine.store.bulk import fetch_few
from engine.store.tables import HALF_LIVES_DAYS

TABLES = ("user_profiles", "user_item_profiles", "user_hour_profiles")

_WAITING = """
    SELECT coalesce(item_id, -1), event_type, extract(epoch FROM occurred_at)::float8, coalesce(value, 'NaN')
    FROM unfolded_events WHERE user_id = {user}
"""
_WAITING_TYPES = {"item": "bigint", "type": "smallint", "at": "float8", "value": "float8"}


@dataclass(frozen=True)
class Present:
    """A user's state, of that user alone, and how many events in it no profile held yet."""

    state: State
    unfolded: int


def read_present(
    connection: Connection, user: int, slot: int, zone: str, catalogue: Catalogue, now: datetime
) -> Present:
    """The state of `user` (id) at business time `now`, read after the connection's snapshot began.

    A clock of another host that is ahead of ours does no harm: then it is the state right after the user's last event.
    """
    condition = f"slot = {slot:d} AND user_id = {user:d}"
    held = {table: read_profiles(connection, table, condition, fetch_few) for table in TABLES}
    fresh = _waiting(connection, user, slot, zone)
    if len(fresh):
        folded = fold_events(fresh, TABLES)
        held = {table: decay.merge(held[table], folded[table], HALF_LIVES_DAYS[table]) for table in TABLES}
    latest = max((float(each.last_at.max()) for each in held.values() if len(each)), default=-np.inf)
    as_of = max(now.timestamp(), float(np.nextafter(latest, np.inf)))
    profiles = Profiles(*(without_slot(held[table]) for table in TABLES))
    return Present(build_state(np.array([user], np.int64), profiles, catalogue, as_of), len(fresh))


def _waiting(connection: Connection, user: int, slot: int, zone: str) -> FoldRows:
    rows = fetch_few(connection, _WAITING.format(user=int(user)), _WAITING_TYPES)
    count = len(rows["at"])
    return FoldRows(
        slot=np.full(count, slot, np.int64),
        user=np.full(count, user, np.int64),
        item=rows["item"],
        event_type=rows["type"].astype(np.int64),
        at=rows["at"],
        value=rows["value"],
        zone=np.zeros(count, np.int64),
        zones=(zone,),
    )
