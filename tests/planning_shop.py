"""A small shop for tests of planning, and workers that run what is woken, one after the other."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from sqlalchemy import Connection, text

from engine import clock
from engine.campaigns import store
from engine.campaigns.definition import Campaign
from engine.campaigns.policy import Cap
from engine.campaigns.policy_store import save_policy
from engine.planning import run
from engine.runtime import Runtime
from engine.store.bulk import copy_rows
from engine.store.slots import slot_of
from engine.store.tables import DECISION_REASONS

NOW = datetime(2026, 3, 2, 5, 0, tzinfo=UTC)  # a Monday
ZONES = ("Europe/Berlin", "America/New_York", "Asia/Tokyo", None)
USERS, ITEMS = 400, 30


def daily(**changes: Any) -> Campaign:
    """A campaign that was due this morning by everybody's clock."""
    definition = {
        "name": "daily",
        "class": "marketing",
        "schedule": {"once": "2026-03-02T08:00", "zone": "local"},
        "items": "personalised",
        "horizon": "24h",
        "message": {"title": "Hello", "body": "{{ item.title }}"},
        **changes,
    }
    return Campaign.model_validate(definition)


def fill_shop(runtime: Runtime) -> Runtime:
    """USERS users in four zones who looked at some of ITEMS items; the clock stands at NOW; four shards."""
    runtime = replace(runtime, settings=runtime.settings.model_copy(update={"shard_slots": 256}))
    rng = np.random.default_rng(7)
    names = [f"u{n}" for n in range(USERS)]
    with runtime.database.begin() as connection:
        clock.start_virtual(connection, NOW)
        zones = pa.array([ZONES[n % 4] for n in range(USERS)], pa.string())
        copy_rows(
            connection,
            "users",
            {
                "external_id": pa.array(names),
                "slot": np.array([slot_of(name) for name in names], np.int16),
                "timezone": zones,
                "consent": (np.arange(USERS) % 10 != 9, np.arange(USERS) % 7 != 6),
                "stub": np.arange(USERS) % 50 == 49,
            },
        )
        copy_rows(
            connection,
            "items",
            {
                "external_id": pa.array([f"i{n}" for n in range(ITEMS)]),
                "title": pa.array([f"Item {n}" for n in range(ITEMS)]),
                "category": pa.array([f"c{n % 4}" for n in range(ITEMS)]),
                "price": rng.uniform(1, 20, ITEMS).round(2),
            },
        )
        users = connection.execute(text("SELECT id, slot FROM users ORDER BY id")).all()
        items = connection.execute(text("SELECT id FROM items ORDER BY id")).scalars().all()
        _profiles(connection, rng, users, np.array(items, np.int64))
    return runtime


def _profiles(connection: Connection, rng: np.random.Generator, users: Sequence[Any], items: np.ndarray) -> None:
    last = NOW.timestamp() - 86_400.0
    copy_rows(
        connection,
        "item_profiles",
        {
            "item_id": items,
            "event_type": np.ones(len(items), np.int16),
            "value": np.zeros(len(items)),
            "n": np.full(len(items), 9, np.int64),
            "first_at": np.full(len(items), last - 1e6),
            "last_at": np.full(len(items), last),
            **{f"s{i}": rng.uniform(1, 20, len(items)) for i in range(5)},
        },
    )
    pairs = [(slot, user, item) for user, slot in users for item in rng.choice(items, 3, replace=False)]
    copy_rows(
        connection,
        "user_item_profiles",
        {
            "slot": np.array([slot for slot, _, _ in pairs], np.int16),
            "user_id": np.array([user for _, user, _ in pairs], np.int64),
            "item_id": np.array([item for _, _, item in pairs], np.int64),
            "event_type": np.full(len(pairs), 4, np.int16),
            "value": np.ones(len(pairs)),
            "n": np.ones(len(pairs), np.int64),
            "first_at": np.full(len(pairs), last),
            "last_at": np.full(len(pairs), last),
            **{f"s{i}": rng.uniform(0.5, 3, len(pairs)) for i in range(7)},
        },
    )
    hours = [(slot, user, int(hour)) for user, slot in users for hour in rng.choice(24, 2, replace=False)]
    copy_rows(
        connection,
        "user_hour_profiles",
        {
            "slot": np.array([slot for slot, _, _ in hours], np.int16),
            "user_id": np.array([user for _, user, _ in hours], np.int64),
            "rung": np.full(len(hours), 2, np.int16),
            "hour": np.array([hour for _, _, hour in hours], np.int16),
            "n": np.ones(len(hours), np.int64),
            "first_at": np.full(len(hours), last),
            "last_at": np.full(len(hours), last),
            "s0": rng.uniform(1, 9, len(hours)),
            "s1": rng.uniform(1, 9, len(hours)),
        },
    )


class Workers:
    """Runs what is woken, one after the other."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime, self.queue = runtime, deque[tuple[str, tuple[int, ...]]]()

    def wake(self, task: str, *ids: int) -> None:
        self.queue.append((task, ids))

    def drain(self) -> Counter[str]:
        done: Counter[str] = Counter()
        while self.queue:
            task, ids = self.queue.popleft()
            done[task] += 1
            if task == "horae.plan_shard":
                run.plan_shard(self.runtime, ids[0], ids[1], self.wake)
            elif task == "horae.settle":
                run.settle(self.runtime, ids[0], self.wake)
        return done

    def tick(self, now: datetime = NOW) -> int:
        opened = run.tick_campaigns(self.runtime, now, self.wake)["run"]
        self.drain()
        return opened

    def recover(self) -> None:
        """What ticks do once nobody has worked on a run for a while."""
        while run.wake_forgotten(self.runtime.database, self.wake, after=timedelta()):
            self.drain()


def create(runtime: Runtime, *campaigns: Campaign) -> None:
    with runtime.database.begin() as connection:
        for campaign in campaigns:
            store.create(connection, campaign, NOW)


def set_caps(runtime: Runtime, *caps: Cap, **rules: Any) -> None:
    with runtime.database.begin() as connection:
        save_policy(connection, lambda policy: policy.model_copy(update={"caps": caps, **rules}))


def rows(runtime: Runtime, query: str) -> list[Any]:
    with runtime.database.begin() as connection:
        return list(connection.execute(text(query)).all())


def reasons(runtime: Runtime) -> Counter[str]:
    last = "SELECT DISTINCT ON (occurrence_id, user_id) reason FROM decisions"
    found = rows(runtime, f"{last} ORDER BY occurrence_id, user_id, revision DESC")
    return Counter(DECISION_REASONS[row.reason] for row in found)
