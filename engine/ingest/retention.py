"""Retention of history, without forgetting what it says: partitions are dropped, profiles are not.

Before a partition of events (or of deliveries, whose accepted pushes profiles count too) goes, its part of every
profile is added to `kept_…`, in the transaction that drops it: decayed counters are sums, so a replay is what is kept
plus what the remaining rows say. What arrives late about a dropped month makes the month's partition anew, and is
added to what is kept when that is dropped in its turn: nothing counts twice.

What is kept cannot be told apart again: hours that were local to a user's former zone stay as they were, and another
recipe of profiles computes anew only what is still there.
"""

from __future__ import annotations

from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from engine.ingest.hours import folded_events
from engine.ingest.items import folded_items
from engine.ingest.profiles import PROFILES, add_profiles, fold_events, share_fold_lock
from engine.store.database import Database
from engine.store.partitions import Partition
from engine.store.slots import shard_ranges
from engine.store.tables import PROFILE_PARTITION_SLOTS

HISTORY = {
    "events": "SELECT key, user_id, item_id, event_type, occurred_at, value FROM {name}",
    "deliveries": "SELECT id AS key, user_id, item_id, 11::smallint AS event_type, at AS occurred_at,"
    " NULL::float8 AS value FROM {name} WHERE state = 'accepted' AND NOT test",
}
"""Of each table that profiles are folded from, its rows as events (engine.store.tables.HAPPENED)."""

LOCK_SECONDS = 10
"""Machine time for which readers and writers are waited for; then the partition stays until the next day."""

_LOCK_NOT_AVAILABLE = "55P03"


def drop_history(database: Database, partition: Partition) -> bool:
    """Add a partition's part of all profiles to what is kept and drop it, in one transaction; whether it is gone.

    False where some of its events wait to be folded, or where the tables are too busy: ask again later. Until it
    commits, late events of its time wait; all others do not.
    """
    try:
        with database.begin() as connection:
            connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"))
            share_fold_lock(connection)
            connection.execute(text(f'LOCK TABLE "{partition.name}" IN SHARE MODE'))
            if _unfolded(connection, partition):
                return False
            _keep(connection, HISTORY[partition.table].format(name=f'"{partition.name}"'))
            if partition.table == "events":
                bounds = {"lower": partition.lower, "upper": partition.upper}
                connection.execute(text("DELETE FROM user_visits WHERE at >= :lower AND at < :upper"), bounds)
            connection.execute(text(f'DROP TABLE "{partition.name}"'))
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", None) == _LOCK_NOT_AVAILABLE:
            return False
        raise
    return True


def _unfolded(connection: Connection, partition: Partition) -> bool:
    query = text("SELECT EXISTS (SELECT FROM unfolded_events WHERE occurred_at >= :lower AND occurred_at < :upper)")
    return bool(connection.execute(query, {"lower": partition.lower, "upper": partition.upper}).scalar_one())


def _keep(connection: Connection, rows: str) -> None:
    users = tuple(table for table in PROFILES if table != "item_profiles")
    for low, high in shard_ranges(PROFILE_PARTITION_SLOTS):
        found = folded_events(connection, f"users.slot BETWEEN {low} AND {high - 1}", f"({rows})")
        if len(found):
            add_profiles(connection, fold_events(found, users), kept=True)
    items = folded_items(connection, f"({rows})")
    if len(items):
        add_profiles(connection, {"item_profiles": items}, kept=True)
