"""The folder: takes queued events into the profiles.

Events that came by HTTP lie in `unfolded_events` from the transaction that accepted them; folding them and taking them
off the queue is one transaction again, so each is folded once, whatever crashes or runs beside it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sqlalchemy import Connection, text

from engine.ingest.identities import default_zone
from engine.ingest.profiles import FoldRows, add_profiles, claim_visits, fold_events, share_fold_lock
from engine.store.bulk import copy_out
from engine.store.database import Database
from engine.store.tables import SLOTS

AT_ONCE = 20_000
"""Events folded in one transaction: a fraction of a second, since its profile rows stay locked so long."""

PASSES = 100
"""Of one call: what came meanwhile has woken the next."""

_TAKE = """
WITH taken AS (
    SELECT key FROM unfolded_events WHERE slot >= {low} AND slot < {high} LIMIT {limit} FOR UPDATE SKIP LOCKED
)
DELETE FROM unfolded_events AS waiting USING taken WHERE waiting.key = taken.key
RETURNING slot, coalesce(user_id, -1), coalesce(item_id, -1), event_type, occurred_at, coalesce(value, 'NaN')
"""


def fold(database: Database, slot_from: int = -1, slot_until: int = SLOTS, limit: int = AT_ONCE) -> int:
    """Fold up to `limit` queued events of users in slots [slot_from, slot_until) (−1: events without a user); how many.

    Any number of folders may run at once, over the same slots too: each takes what no other has taken.
    """
    with database.begin() as connection:
        share_fold_lock(connection)
        rows = _take(connection, _TAKE.format(low=int(slot_from), high=int(slot_until), limit=int(limit)))
        if len(rows):
            add_profiles(connection, fold_events(rows, visits=claim_visits(connection, rows)))
        return len(rows)


def fold_all(database: Database, folded: Callable[[], None] = lambda: None) -> int:
    """Fold what waits, and what comes meanwhile, until the queue is empty or PASSES are done; how many events.

    `folded()` is called after each pass: while events come all the time, nobody waits for the last of them.
    """
    total = 0
    for _ in range(PASSES):
        events = fold(database)
        if not events:
            break
        total += events
        folded()
    return total


def _take(connection: Connection, statement: str) -> FoldRows:
    found = copy_out(
        connection,
        statement,
        {
            "slot": "smallint",
            "user": "bigint",
            "item": "bigint",
            "type": "smallint",
            "at": "timestamptz",
            "value": "float8",
        },
    )
    users, at = np.unique(found["user"], return_inverse=True)
    default = default_zone(connection)
    known: dict[int, str | None] = dict(
        connection.execute(
            text("SELECT id, timezone FROM users WHERE id = ANY(CAST(:ids AS bigint[]))"), {"ids": users.tolist()}
        ).all()
    )
    zones = sorted({zone or default for zone in known.values()} | {default})
    codes = np.array([zones.index(known.get(user) or default) for user in users.tolist()], np.int64)
    return FoldRows(
        found["slot"].astype(np.int64),
        found["user"],
        found["item"],
        found["type"].astype(np.int64),
        found["at"].astype(np.int64) / 1e6,
        found["value"],
        codes[at],
        zones,
    )
