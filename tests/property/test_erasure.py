"""Erasing a user: whatever was taken in, by file or queue, nothing of them is left and everything else agrees."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from engine import clock
from engine.config import Settings
from engine.ingest.event_rows import EventRows
from engine.ingest.fold import fold_all
from engine.ingest.replay import replay
from engine.ingest.write import Recording, ensure_months, months_of, record_events
from engine.privacy.erase import erase_user
from engine.privacy.held import tables_of_users
from engine.runtime import Runtime

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
KINDS = ("view", "purchase", "app_open", "unsubscribe", "push_sent")

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["ann", "bob", None]),
        st.sampled_from(["i1", "i2", None]),
        st.sampled_from(KINDS),
        st.integers(0, 60 * 24 * 20),
    ).filter(lambda event: event[0] is not None or event[1] is not None),
    min_size=1,
    max_size=12,
)


@pytest.fixture(scope="module")
def runtime_shared(shared_database, servers, tmp_path_factory):
    with shared_database.begin() as connection:
        clock.start_virtual(connection, NOW)
    url = servers.redis_url.rsplit("/", 1)[0] + "/8"
    configured = Settings(home=tmp_path_factory.mktemp("home"), database_url=shared_database.libpq_url, redis_url=url)
    return Runtime(configured, shared_database, url, url, url)


def record(runtime: Runtime, events: list, fold: bool) -> None:
    users, items, kinds, ago = zip(*events, strict=True)
    at = [(NOW - timedelta(minutes=minutes)).replace(tzinfo=None) for minutes in ago]
    nothing = np.full(len(events), np.nan)
    rows = EventRows(
        pa.array(users, pa.string()),
        pa.array(items, pa.string()),
        pa.array(kinds, pa.string()),
        np.array(at, "datetime64[us]"),
        nothing,
        nothing,
    )
    ensure_months(runtime.database, months_of(rows))
    with runtime.database.begin() as connection:
        record_events(connection, rows, NOW, Recording(fold=fold))


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(by_file=EVENTS, queued=EVENTS, late=EVENTS)
def test_nothing_of_an_erased_user_is_left_and_profiles_agree_with_what_is(runtime_shared, by_file, queued, late):
    database = runtime_shared.database
    tables = ", ".join(name for name, _ in tables_of_users())
    with database.begin() as connection:
        connection.execute(text(f"TRUNCATE users, item_profiles, event_keys, erased_users, {tables} CASCADE"))
    record(runtime_shared, by_file, fold=True)
    record(runtime_shared, queued, fold=False)
    with database.begin() as connection:
        connection.execute(text("INSERT INTO users (external_id, slot) VALUES ('ann', 9) ON CONFLICT DO NOTHING"))
        user = connection.execute(text("SELECT id FROM users WHERE external_id = 'ann'")).scalar_one()
        about_items = connection.execute(text("SELECT count(*) FROM events WHERE item_id IS NOT NULL")).scalar_one()

    erase_user(runtime_shared, "ann", NOW)

    def left() -> list[str]:
        with database.begin() as connection:
            found = [
                name
                for name, columns in tables_of_users()
                for column in columns
                if connection.execute(text(f"SELECT 1 FROM {name} WHERE {column} = {user} LIMIT 1")).first()
            ]
            named = connection.execute(text("SELECT 1 FROM users WHERE external_id = 'ann'")).first()
        return [*found, *(["users"] if named else [])]

    assert left() == []
    record(runtime_shared, late, fold=True)
    record(runtime_shared, late, fold=False)
    fold_all(database)
    assert left() == []
    with database.begin() as connection:
        still = connection.execute(text("SELECT count(*) FROM events WHERE item_id IS NOT NULL")).scalar_one()
    assert still >= about_items
    assert replay(database, rebuild=False).differing == 0
