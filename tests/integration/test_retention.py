"""What is too old is dropped; profiles keep what it said, and replay starts there. Lost pushes are looked for."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sqlalchemy import text

from engine.campaigns.policy import Policy
from engine.campaigns.policy_store import save_policy
from engine.delivery.housekeeping import drop_old, keep_house
from engine.delivery.upkeep import upkeep
from engine.ingest.event_rows import EventRows
from engine.ingest.fold import fold_all
from engine.ingest.hours import refold_default_zone
from engine.ingest.profiles import PROFILES
from engine.ingest.replay import replay
from engine.ingest.write import Recording, ensure_months, months_of, record_events
from engine.runtime import Runtime
from engine.store import counters, partitions
from engine.store.database import Database
from engine.store.tables import DECISION_REASONS
from tests.delivery_store import NOON, DeliveryShop

KINDS = ("view", "purchase", "app_open", "push_open")


def happened(database: Database, *when: datetime, fold: bool = True) -> None:
    """Events of a few users, of all kinds, around each of these instants."""
    n = 24 * len(when)
    at = [moment + timedelta(minutes=7 * (row % 24)) for row, moment in enumerate(np.repeat(np.array(when), 24))]
    rows = EventRows(
        pa.array([f"u{row % 5}" for row in range(n)], pa.string()),
        pa.array([None if row % 4 == 2 else f"i{row % 3}" for row in range(n)], pa.string()),
        pa.array([KINDS[row % 4] for row in range(n)], pa.string()),
        np.array([moment.astimezone(UTC).replace(tzinfo=None) for moment in at], "datetime64[us]"),
        np.array([float(row % 7) if row % 4 == 1 else np.nan for row in range(n)]),
        np.full(n, np.nan),
    )
    ensure_months(database, months_of(rows))
    with database.begin() as connection:
        record_events(connection, rows, NOON, Recording(fold=fold))


def keeping(database: Database, **days: int) -> None:
    with database.begin() as connection:
        changes = {f"keep_{what}_days": number for what, number in days.items()}
        save_policy(connection, lambda policy: Policy.model_validate({**policy.model_dump(), **changes}))


def profiles(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    with database.begin() as connection:
        return {
            table: [tuple(row) for row in connection.execute(text(f"SELECT * FROM {table} ORDER BY {', '.join(key)}"))]
            for table, key in PROFILES.items()
        }


def parts(database: Database, table: str) -> list[str]:
    with database.begin() as connection:
        return [one.name for one in partitions.partitions_before(connection, table, NOON.date() - timedelta(days=1))]


def same(one: dict[str, list[tuple[Any, ...]]], other: dict[str, list[tuple[Any, ...]]]) -> bool:
    return all(
        len(one[table]) == len(other[table]) and np.allclose(np.array(one[table]), np.array(other[table]), rtol=1e-9)
        for table in one
    )


def test_dropped_months_live_on_in_profiles_and_in_their_replay(runtime: Runtime, shop: DeliveryShop) -> None:
    database = runtime.database
    old, older, recent = (NOON - timedelta(days=days) for days in (150, 200, 30))
    happened(database, older, old, recent)
    shop.campaign()
    before = profiles(database)
    keeping(database, events=100)

    assert drop_old(database, NOON) == {"dropped.events": 2}
    assert drop_old(database, NOON) == {}

    assert parts(database, "events") == ["events_2026_01"]
    assert profiles(database) == before
    assert replay(database, rebuild=False).differing == 0
    replay(database)
    assert same(profiles(database), before)

    happened(database, old - timedelta(hours=9))  # late, about a month that is gone
    after = profiles(database)
    assert drop_old(database, NOON) == {"dropped.events": 1}
    replay(database)
    assert same(profiles(database), after)
    with database.begin() as connection:
        refold_default_zone(connection)  # the same zone: what is kept is not forgotten by who folds hours again
    assert same(profiles(database), after)


def test_pushes_that_were_sent_live_on_in_profiles_too(runtime: Runtime, shop: DeliveryShop) -> None:
    database = runtime.database
    shop.campaign()
    then = NOON - timedelta(days=120)
    partitions.ensure_partitions(database, "deliveries", then.date(), NOON.date())
    for user, state in (("u1", "accepted"), ("u2", "rejected")):
        shop._insert("deliveries", {"day": then.date(), "id": (push := uuid.uuid4()), "push_id": push, "state": state,
            "at": then, "campaign_id": 1, "user_id": shop.user(user), "gateway": "log", "attempts": 1, "send_at": then,
            "counts": True, "scopes": []})  # fmt: skip
    replay(database)
    before = profiles(database)
    assert len(before["user_profiles"]) == 1
    keeping(database, deliveries=93)

    assert drop_old(database, NOON)["dropped.deliveries"] == 27

    replay(database)
    assert profiles(database) == before


def test_a_month_whose_events_wait_to_be_folded_stays_for_another_day(runtime: Runtime, shop: DeliveryShop) -> None:
    happened(runtime.database, NOON - timedelta(days=150), fold=False)
    keeping(runtime.database, events=100)

    assert drop_old(runtime.database, NOON) == {"undropped.events": 1}
    fold_all(runtime.database)
    before = profiles(runtime.database)
    assert drop_old(runtime.database, NOON) == {"dropped.events": 1}

    assert profiles(runtime.database) == before
    assert replay(runtime.database, rebuild=False).differing == 0


def test_nothing_is_dropped_unless_the_workspace_says_so_and_caps_keep_what_they_look_back_on(
    runtime: Runtime, shop: DeliveryShop
) -> None:
    happened(runtime.database, NOON - timedelta(days=2_000))

    assert drop_old(runtime.database, NOON) == {}
    with pytest.raises(ValueError, match="93"):
        keeping(runtime.database, deliveries=30)


def test_a_planned_push_that_neither_ended_nor_waits_is_an_alarm(runtime: Runtime, shop: DeliveryShop) -> None:
    yesterday = NOON + timedelta(days=1)
    shop.campaign()
    partitions.ensure_ahead(runtime.database, NOON)
    for number in range(3):
        values = {"date": NOON.date(), "occurrence_id": 1, "user_id": number, "revision": 0, "run_id": 1, "shard": 0,
                  "arm": 0, "reason": DECISION_REASONS.index("planned"), "push_id": uuid.uuid4()}  # fmt: skip
        if number == 0:
            values["push_id"] = shop.push("waits")
        shop._insert("decisions", values, returning="user_id")
        if number == 1:
            shop._insert("decisions", {**values, "revision": 1, "reason": DECISION_REASONS.index("too_late")},
                         returning="user_id")  # fmt: skip

    assert keep_house(runtime.database, NOON) == {}, "of the days before"
    assert keep_house(runtime.database, yesterday) == {"lost": 1}
    assert keep_house(runtime.database, yesterday) == {"lost": 1}

    with runtime.database.begin() as connection:
        assert counters.read(connection)["lost"] == {NOON.date().isoformat(): 1}


def test_upkeep_keeps_house_once_a_day_and_counts_what_it_did(runtime: Runtime, shop: DeliveryShop) -> None:
    happened(runtime.database, NOON - timedelta(days=150))
    keeping(runtime.database, events=100)

    assert upkeep(runtime, NOON)["dropped.events"] == 1
    happened(runtime.database, NOON - timedelta(days=150, hours=3))
    assert "dropped.events" not in upkeep(runtime, NOON)

    with runtime.database.begin() as connection:
        assert counters.read(connection)["upkeep"]["dropped.events"] == 1
