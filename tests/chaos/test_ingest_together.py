"""Everything that writes users, items, events and profiles at once: no deadlock, nothing lost, nothing twice."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
from sqlalchemy import text

from engine.ingest.event_rows import EventRows
from engine.ingest.fold import fold, fold_all
from engine.ingest.replay import replay
from engine.ingest.run import ingest_events, ingest_items, ingest_users
from engine.ingest.write import Recording, ensure_months, months_of, record_events
from engine.store.database import Database

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
ROUNDS, EVENTS = 6, 400
ZONES = ("Asia/Tokyo", "America/New_York", "Europe/Berlin", "")


def a_file(folder: Path, name: str, lines: list[str]) -> Path:
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return path


def events(seed: int) -> EventRows:
    rng = np.random.default_rng(seed)
    start = np.datetime64((NOW - timedelta(days=30)).replace(tzinfo=None), "us")
    return EventRows(
        pa.array([f"u{number}" for number in rng.integers(0, 40, EVENTS)]),
        pa.array([f"i{number}" for number in rng.zipf(1.5, EVENTS) % 30]),
        pa.array(rng.choice(["view", "purchase", "whistle"], EVENTS).tolist()),
        start + rng.integers(0, 29 * 86_400_000_000, EVENTS).astype("timedelta64[us]"),
        rng.random(EVENTS),
        np.full(EVENTS, np.nan),
    )


def test_writers_of_every_kind_at_once_end_in_the_profiles_of_the_events(database: Database, tmp_path) -> None:
    ensure_months(database, months_of(events(0)) | months_of(events(1)))

    def http(worker: int) -> int:
        accepted = 0
        for number in range(ROUNDS):
            with database.begin() as connection:
                recording = Recording(fold=False)
                accepted += record_events(connection, events(100 * worker + number), NOW, recording).accepted
            fold(database, limit=170)
        return accepted

    def file_events(worker: int) -> int:
        lines = ["user_id,item_id,event_type,occurred_at"]
        rows = events(1_000 + worker)
        stamps = np.datetime_as_string(rows.occurred_at, timezone="UTC").tolist()
        lines += [
            ",".join(row)
            for row in zip(
                rows.user.to_pylist(), rows.item.to_pylist(), rows.event_type.to_pylist(), stamps, strict=True
            )
        ]
        return ingest_events(database, [a_file(tmp_path, f"e{worker}.csv", lines)], NOW).accepted

    def entities(worker: int) -> int:
        for number in range(ROUNDS):
            users = [f"u{user},{ZONES[(user + number + worker) % len(ZONES)]}" for user in range(0, 60, 1 + worker)]
            items = [f"i{item},{number}" for item in range(40)]
            ingest_users(database, [a_file(tmp_path, f"u{worker}.csv", ["user_id,timezone", *users])], NOW)
            ingest_items(database, [a_file(tmp_path, f"i{worker}.csv", ["item_id,price", *items])], NOW)
        return 0

    with ThreadPoolExecutor(6) as pool:
        jobs = [pool.submit(work, worker) for worker in (0, 1) for work in (http, file_events, entities)]
        accepted = sum(job.result() for job in jobs)
    fold_all(database)

    with database.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM events")).scalar_one() == accepted
        assert connection.execute(text("SELECT count(*) FROM unfolded_events")).scalar_one() == 0
    assert accepted > 10 * EVENTS
    assert replay(database, rebuild=False).differing == 0
