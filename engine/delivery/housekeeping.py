"""What upkeep does once a day: old partitions dropped as the workspace says, old idempotency keys forgotten, and a look
for pushes that were lost."""

from __future__ import annotations

import logging
from collections import Counter
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import text

from engine.campaigns.policy_store import current_policy
from engine.ingest.retention import HISTORY, drop_history
from engine.planning import trigger
from engine.store import counters
from engine.store.database import Database
from engine.store.partitions import drop_partition, partitions_before
from engine.store.tables import DECISION_REASONS

logger = logging.getLogger(__name__)

LOOKED_AT = (1, 2, 3)
"""Days back whose decisions are looked through: what is lost stays lost, so once more does no harm."""

# One statement sees one moment: a push ends in the transaction that deletes its row.
_LOST = text("""
    SELECT count(*) FROM decisions d
    WHERE d.date = CAST(:day AS date) AND d.reason = :planned AND d.push_id IS NOT NULL
      AND NOT EXISTS (SELECT FROM decisions n WHERE n.date = d.date AND n.occurrence_id = d.occurrence_id
                      AND n.user_id = d.user_id AND n.revision > d.revision)
      AND NOT EXISTS (SELECT FROM pushes p WHERE p.id = d.push_id)
      AND NOT EXISTS (SELECT FROM deliveries x WHERE x.push_id = d.push_id AND x.day >= CAST(:day AS date) - 1)
""")


def keep_house(database: Database, now: datetime) -> dict[str, int]:
    """Do it at business time `now`: counts `dropped.TABLE` partitions, `undropped.TABLE` that were too busy or whose
    events wait to be folded, `forgotten_keys` of triggers, `lost` pushes. Safe to repeat."""
    counts = drop_old(database, now)
    with database.begin() as connection:
        counts["forgotten_keys"] = trigger.forget(connection)
    counts["lost"] = look_for_lost(database, now)
    return {name: number for name, number in sorted(counts.items()) if number}


def drop_old(database: Database, now: datetime) -> Counter[str]:
    """Drop the partitions that are older than the workspace keeps them."""
    with database.begin() as connection:
        policy = current_policy(connection)[1]
        kept = {
            "events": policy.keep_events_days,
            "deliveries": policy.keep_deliveries_days,
            "decisions": policy.keep_decisions_days,
        }
        today = now.astimezone(UTC).date()
        old = [
            partition
            for table, days in kept.items()
            if days is not None
            for partition in partitions_before(connection, table, today - timedelta(days=days))
        ]
    counts = Counter[str]()
    for partition in old:
        drop = drop_history if partition.table in HISTORY else drop_partition
        gone = drop(database, partition)
        counts[f"{'dropped' if gone else 'undropped'}.{partition.table}"] += 1
    return counts


def look_for_lost(database: Database, now: datetime) -> int:
    """How many pushes of the last days' occurrences were planned and have neither ended nor wait: there must be none.

    They are counted by date, where `horae status` raises an alarm of them.
    """
    today, lost = now.astimezone(UTC).date(), 0
    for days in LOOKED_AT:
        lost += _lost_of(database, today - timedelta(days=days))
    return lost


def _lost_of(database: Database, day: date) -> int:
    with database.begin() as connection:
        given = {"day": day, "planned": DECISION_REASONS.index("planned")}
        found = int(connection.execute(_LOST, given).scalar_one())
        if found:
            counters.put(connection, "lost", day.isoformat(), found)
            logger.error("%d planned pushes of %s have neither ended nor wait", found, day, extra={"action": "lost"})
    return found
