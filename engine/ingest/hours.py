"""Hour profiles of users whose effective zone changes: the only profiles that no arithmetic can move."""

from __future__ import annotations

import numpy as np
from sqlalchemy import Connection, text

from engine.ingest.identities import default_zone
from engine.ingest.profiles import FoldRows, add_profiles, fold_events, take_fold_lock, with_kept
from engine.store.bulk import copy_out
from engine.store.tables import HAPPENED

_AT_ONCE = 20_000
"""Users whose events are held in memory together."""


def refold_hours(connection: Connection, users: np.ndarray) -> None:
    """Fold the hour profiles of these users (int64 ids) again from their folded events, in their zones of now.

    The caller holds the fold lock exclusively.
    """
    for start in range(0, len(users), _AT_ONCE):
        _refold(connection, users[start : start + _AT_ONCE])


def refold_default_zone(connection: Connection) -> int:
    """The same for every user without a zone of their own: call it where the workspace's default changes. How many."""
    take_fold_lock(connection)
    found = copy_out(connection, "SELECT id FROM users WHERE timezone IS NULL ORDER BY id", {"id": "bigint"})["id"]
    refold_hours(connection, found)
    return len(found)


def _refold(connection: Connection, users: np.ndarray) -> None:
    chosen = "'{" + ",".join(map(str, users.tolist())) + "}'::bigint[]"
    connection.execute(text(f"DELETE FROM user_hour_profiles WHERE user_id = ANY({chosen}) AND {_slots(chosen)}"))
    rows = folded_events(connection, f"users.id = ANY({chosen})")
    folded = fold_events(rows, ("user_hour_profiles",))
    add_profiles(connection, with_kept(connection, folded, f"user_id = ANY({chosen}) AND {_slots(chosen)}"))


def _slots(chosen: str) -> str:
    # The profiles' key begins with the slot.
    return f"slot IN (SELECT slot FROM users WHERE id = ANY({chosen}))"


def folded_events(connection: Connection, condition: str, source: str = HAPPENED) -> FoldRows:
    """The events of the users that `condition` (SQL over `users`) selects, without those that wait to be folded; of all
    events, or of `source` (a query in brackets, of its columns).

    The caller holds the fold lock: zones stand still.
    """
    found = copy_out(
        connection,
        "SELECT users.slot, users.id, coalesce(item_id, -1), event_type, occurred_at, coalesce(value, 'NaN')"
        f" FROM users JOIN {source} AS events ON events.user_id = users.id"
        f" WHERE {condition} AND NOT EXISTS (SELECT FROM unfolded_events WHERE unfolded_events.key = events.key)",
        {
            "slot": "smallint",
            "user": "bigint",
            "item": "bigint",
            "type": "smallint",
            "at": "timestamptz",
            "value": "float8",
        },
    )
    known = connection.execute(text(f"SELECT id, timezone FROM users WHERE {condition} ORDER BY id")).all()
    default = default_zone(connection)
    zones = sorted({zone or default for _id, zone in known} | {default})
    code = {name: number for number, name in enumerate(zones)}
    codes = np.array([code[zone or default] for _id, zone in known], np.int64)
    ids = np.array([user for user, _zone in known], np.int64)
    return FoldRows(
        found["slot"].astype(np.int64),
        found["user"],
        found["item"],
        found["type"].astype(np.int64),
        found["at"].astype(np.int64) / 1e6,
        found["value"],
        codes[np.searchsorted(ids, found["user"])],
        zones,
    )
