"""`horae bench ingest`: events a second into events and profiles, beside COPY of the same rows into a bare table.

Measured is `ingest_events` of a CSV file as a shop would have it: reading, checking, keys, ids, the events with their
indexes, all profiles, committed chunk by chunk. Its bound is what the database's own driver can do with the finished
rows of `events`: psycopg's `write_row` COPY of ready tuples into a table without indexes. The two alternate; medians
count. Users and items are there before; a first small ingest (imports, tables of time zones) is not measured.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

from sqlalchemy import text

from engine.bench.loads import END, RetailLoad, retail_load, write_csv
from engine.bench.report import Options, Report, Tell
from engine.bench.scratch import checkpoint, scratch_database
from engine.clock import monotonic
from engine.config import read_settings
from engine.ingest.replay import replay
from engine.ingest.run import ingest_events, ingest_items, ingest_users
from engine.store.database import Database

USERS, REPEATS = 8_000, 5
WARM_USERS = 300

EVENT_TABLES = "events, event_keys, user_visits, user_profiles, item_profiles, user_item_profiles, user_hour_profiles"
COLUMNS = "key, user_id, item_id, event_type, occurred_at, received_at, value, quantity, push_id"


def run(options: Options, tell: Tell) -> Report:
    """Run the bench."""
    tell("making the load")
    load = retail_load(options.users or USERS, options.seed)
    with (
        tempfile.TemporaryDirectory(prefix="horae-bench-") as folder,
        scratch_database(read_settings(), "ingest") as database,
    ):
        files = write_csv(load, Path(folder))
        tell("ingesting users and items; warming up")
        ingest_users(database, [files.users], END)
        ingest_items(database, [files.items], END)
        _warm_up(database, Path(folder))
        ingested, copied = _alternate(database, files.events, load, options.repeats or REPEATS, tell)
        tell("replaying the profiles")
        began = monotonic()
        differing = replay(database, rebuild=False).differing
        replay_seconds = monotonic() - began
    events = len(load.user)
    return Report(
        "ingest",
        {**load.description(), "repeats": len(ingested), "format": "csv"},
        {
            "ingest_per_copy_ratio": statistics.median(copied) / statistics.median(ingested),
            "ingest_events_per_s": events / statistics.median(ingested),
            "copy_rows_per_s": events / statistics.median(copied),
            "replay_events_per_s": events / replay_seconds,
            "profiles_differing": differing,
        },
        {"ingest_per_copy_ratio": ">= 0.25", "profiles_differing": "= 0"},
    )


def _warm_up(database: Database, folder: Path) -> None:
    small = folder / "small"
    small.mkdir()
    ingest_events(database, [write_csv(retail_load(WARM_USERS), small).events], END)


def _alternate(
    database: Database, file: Path, load: RetailLoad, repeats: int, tell: Tell
) -> tuple[list[float], list[float]]:
    """Seconds of each ingest and of each COPY."""
    ingested, copied = [], []
    rows: list[tuple[Any, ...]] = []
    for number in range(1, repeats + 1):
        with database.begin() as connection:
            connection.execute(text(f"TRUNCATE {EVENT_TABLES}"))
        checkpoint(database)
        tell(f"ingest {number} of {repeats}")
        began = monotonic()
        summary = ingest_events(database, [file], END)
        ingested.append(monotonic() - began)
        if (summary.accepted, summary.duplicates) != (len(load.user), 0):
            raise RuntimeError(f"the load was not ingested whole: {summary}")
        rows = rows or stored_rows(database)
        tell(f"COPY {number} of {repeats}")
        copied.append(copy_seconds(database, rows))
    return ingested, copied


def stored_rows(database: Database) -> list[tuple[Any, ...]]:
    """The finished rows of `events`, in order of time, as psycopg's COPY takes them."""
    with database.begin() as connection:
        return [tuple(row) for row in connection.execute(text(f"SELECT {COLUMNS} FROM events ORDER BY occurred_at"))]


def copy_seconds(database: Database, rows: list[tuple[Any, ...]]) -> float:
    """Seconds that psycopg takes to COPY `rows` into a table without indexes."""
    with database.begin() as connection:
        connection.execute(text("DROP TABLE IF EXISTS bare"))
        connection.execute(text("CREATE TABLE bare (LIKE events)"))
    checkpoint(database)
    began = monotonic()
    with database.begin() as connection:
        driver: Any = connection.connection.driver_connection
        with driver.cursor() as cursor, cursor.copy(f"COPY bare ({COLUMNS}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
    return monotonic() - began
