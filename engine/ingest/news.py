"""What triggers of running campaigns may ask about, noted in the transaction that takes it in: nothing is searched for.

Only news: what is received more than a day after it happened (a history loaded from files) makes nothing due.
"""

from __future__ import annotations

import numpy as np
from sqlalchemy import Connection

from engine.ingest.profiles import FoldRows
from engine.store.bulk import copy_rows, fetch

_WANTED = """
    SELECT DISTINCT asked.name, t.id FROM campaigns c
    JOIN campaign_versions v ON v.campaign_id = c.id AND v.version = c.version
    CROSS JOIN LATERAL (
        SELECT v.definition -> 'trigger' ->> 'event' AS name
        UNION ALL SELECT jsonb_array_elements_text(coalesce(v.definition -> 'trigger' -> 'cancel_if', '[]'))
        UNION ALL SELECT '*' WHERE v.definition -> 'trigger' ->> 'first_event' = 'true'
                                OR v.definition -> 'trigger' ->> 'inactive_for' IS NOT NULL
    ) asked
    LEFT JOIN event_types t ON t.name = asked.name
    WHERE c.state = 'running' AND v.definition ? 'trigger' AND asked.name IS NOT NULL
"""


def note_triggers(connection: Connection, keys: np.ndarray, events: FoldRows, since: float) -> None:
    """Queue those of these new events that are of users, not older than `since` (epoch seconds) and asked about.

    keys uint8[n, 16], of the events' rows.
    """
    news = (events.user >= 0) & (events.at >= since)
    if not news.any():
        return
    wanted = fetch(connection, _WANTED)
    if not any(name == "*" for name, _ in wanted):
        news &= np.isin(events.event_type, [number for _, number in wanted if number is not None])
    some = np.flatnonzero(news)
    if not len(some):
        return
    copy_rows(
        connection,
        "trigger_events",
        {
            "key": keys[some],
            "user_id": events.user[some],
            "item_id": (events.item[some], events.item[some] >= 0),
            "event_type": events.event_type[some].astype(np.int16),
            "occurred_at": np.round(events.at[some] * 1e6).astype(np.int64).astype("datetime64[us]"),
        },
    )
