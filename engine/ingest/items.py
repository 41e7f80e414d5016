"""Items' profiles of stored events: they have no zone, and need no users."""

from __future__ import annotations

import numpy as np
from sqlalchemy import Connection

from engine.features.decay import Folded, fold
from engine.store.bulk import copy_out
from engine.store.tables import HALF_LIVES_DAYS


def folded_items(connection: Connection, source: str) -> Folded:
    """The item profiles of the rows of `source` (a table, or a query in brackets, with the columns of events), without
    those that wait to be folded. The caller holds the fold lock."""
    found = copy_out(
        connection,
        f"SELECT item_id, event_type, occurred_at, coalesce(value, 'NaN') FROM {source} AS events"
        " WHERE item_id IS NOT NULL"
        " AND NOT EXISTS (SELECT FROM unfolded_events WHERE unfolded_events.key = events.key)",
        {"item": "bigint", "type": "smallint", "at": "timestamptz", "value": "float8"},
    )
    keys = (found["item"], found["type"].astype(np.int64))
    at = found["at"].astype(np.int64) / 1e6
    return fold(keys, at, None, HALF_LIVES_DAYS["item_profiles"], values=found["value"])
