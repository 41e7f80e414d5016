"""What counts toward the caps of some users, by PostgreSQL: the authority from which Redis' logs are rebuilt."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, text

from engine.campaigns.rules import scopes_of
from engine.delivery.limits import Attempt, Entry
from engine.delivery.terms import Book

# One statement, one snapshot: a push that is being recorded is seen either under way or in the ledger, never in
# neither.
_COUNTED = text("""
    SELECT d.user_id, d.push_id, 0 AS fence, d.at, COALESCE(d.local_day, d.day) AS day, d.scopes,
           NULL::bigint AS campaign_id, NULL::int AS version, NULL AS category
    FROM deliveries d
    WHERE d.user_id = ANY(:users) AND d.day >= :since_day AND d.at >= :since
      AND d.state IN ('accepted', 'unknown') AND d.counts AND NOT d.test
    UNION ALL
    SELECT p.user_id, p.id, p.fence, NULL, NULL, NULL, p.campaign_id, o.version, i.category
    FROM pushes p JOIN occurrences o ON o.id = p.occurrence_id LEFT JOIN items i ON i.id = p.item_id
    WHERE p.user_id = ANY(:users) AND (p.state = 'sending' OR p.in_doubt)
""")


def ledger_entries(
    connection: Connection, book: Book, attempts: Mapping[int, Attempt], since: datetime
) -> dict[int, list[Entry]]:
    """What counts for each user of `attempts` since `since`: pushes accepted or unknown, and those under way.

    Pushes under way count as of the attempt now asked for: when they were sent is not on the row, and later is
    stricter.
    """
    found: dict[int, list[Entry]] = {user: [] for user in attempts}
    parameters = {"users": list(attempts), "since": since, "since_day": (since - timedelta(days=1)).date()}
    for row in connection.execute(_COUNTED, parameters).all():
        if row.campaign_id is None:
            found[row.user_id].append(Entry(row.push_id, 0, row.at, row.day, tuple(row.scopes)))
        elif (entry := _under_way(connection, book, row, attempts[row.user_id])) is not None:
            found[row.user_id].append(entry)
    return found


def _under_way(connection: Connection, book: Book, row: Row[Any], attempt: Attempt) -> Entry | None:
    campaign = book.terms(connection, row.campaign_id, row.version).campaign
    if not campaign.counts_toward_caps:
        return None
    return Entry(row.push_id, row.fence, attempt.at, attempt.day, tuple(sorted(scopes_of(campaign, row.category))))
