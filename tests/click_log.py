"""Pushes with receipts, deliveries and clicks, written straight into a store: what learning from clicks begins with."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
from sqlalchemy import Connection, text

from engine.features.schema import NAMES
from engine.features.state import State
from engine.learning.scoring import load_scorer
from engine.localtime import local_hours
from engine.planning import receipt
from engine.store.bulk import copy_rows
from engine.store.database import Database
from engine.store.partitions import ensure_partitions
from engine.store.tables import DECISION_REASONS, EVENT_TYPES
from tests.learning_store import ZONE, Shop

RATE, TASTE = NAMES.index("window_rate"), NAMES.index("pair_purchases_45d")


def write_pushes(database: Database, shop: Shop, occurrences: int = 110, days: int = 20, seed: int = 8) -> None:
    """A push to every user at each of so many occurrences in the last days, clicked by taste and window."""
    rng = np.random.default_rng(seed)
    first = shop.end - timedelta(days=days)
    for table in ("decisions", "deliveries", "events"):
        ensure_partitions(database, table, first.date(), (shop.end + timedelta(days=1)).date())
    with database.begin() as connection:
        connection.execute(
            text("INSERT INTO campaigns (id, name, state, version) VALUES (1, 'old', 'done', 1) ON CONFLICT DO NOTHING")
        )
    block = 22
    for start in range(0, occurrences, block):
        _write_block(
            database,
            shop,
            [first + timedelta(days=days) * (n + 0.3) / occurrences for n in range(start, start + block)],
            rng,
        )


def _write_block(database: Database, shop: Shop, instants: list[datetime], rng: np.random.Generator) -> None:
    with database.snapshot() as snapshot:
        scorer = load_scorer(snapshot.connection)
        state = scorer.state(snapshot, (0, 1024), instants[0], scorer.catalogue(snapshot, instants[0]))
    users = len(state)
    for at in instants:
        item = _items(state, shop.items, rng)
        hour = local_hours(np.full(users, at.timestamp()), np.zeros(users, np.int64), [ZONE])
        rows = scorer.features(state, np.arange(users), item, hour.astype(np.int64) // 3)
        taste = np.log1p(np.nan_to_num(rows[:, TASTE]))
        clicked = rng.random(users) < 1 / (1 + np.exp(1.2 - 1.2 * taste - 0.8 * np.log(rows[:, RATE])))
        ids = rng.integers(0, 256, (users, 16), dtype=np.uint8)
        with database.begin() as connection:
            _write_sent(
                connection, at, {"user_id": state.users, "push_id": ids, "item_id": state.catalogue.ids[item]}, rows
            )
            _write_clicks(connection, at + timedelta(minutes=20), state.users[clicked], ids[clicked], rng)


def _items(state: State, items: int, rng: np.random.Generator) -> np.ndarray:
    """What each user's push is about: mostly what they bought before."""
    own = [state.pair_item[state.pair_start[user] : state.pair_start[user + 1]] for user in range(len(state))]
    return np.array([rng.choice(mine) if rng.random() < 0.6 and len(mine) else rng.integers(0, items) for mine in own])


def _write_sent(connection: Connection, at: datetime, push: dict[str, np.ndarray], rows: np.ndarray) -> None:
    """An occurrence, its decisions with receipts, and their deliveries."""
    n = len(rows)
    occurrence = connection.execute(
        text(
            "INSERT INTO occurrences (campaign_id, version, label, date, starts_at, ends_at)"
            " VALUES (1, 1, :label, :date, :at, :until) RETURNING id"
        ),
        {"label": at.isoformat(), "date": at.date(), "at": at, "until": at + timedelta(hours=3)},
    ).scalar_one()
    push = push | {"occurrence_id": np.full(n, occurrence, np.int64)}
    stamps, days = np.full(n, _stamp(at)), np.full(n, np.datetime64(at.date(), "D"))
    small, nothing = np.zeros(n, np.int16), np.zeros((n, receipt.MOST_ALTERNATIVES), receipt.ALTERNATIVE)
    head = receipt.headers(n, as_of=at.timestamp(), model=0, options=2, library=(0, 1, 0))
    decisions = {
        "date": days,
        "revision": small,
        "run_id": np.zeros(n, np.int64),
        "shard": np.zeros(n, np.int32),
        "arm": small,
        "reason": np.full(n, DECISION_REASONS.index("planned"), np.int16),
        "receipt": receipt.encode(head, rows, np.ones(n, bool), nothing),
    }
    deliveries = {
        "day": days,
        "id": push["push_id"],
        "state": pa.repeat(pa.scalar("accepted"), n),
        "at": stamps,
        "campaign_id": np.ones(n, np.int64),
        "gateway": pa.repeat(pa.scalar("log"), n),
        "attempts": small + 1,
        "send_at": stamps,
        "counts": np.ones(n, bool),
        "scopes": _no_texts(n),
    }
    copy_rows(connection, "decisions", push | decisions)
    copy_rows(connection, "deliveries", push | deliveries)


def _write_clicks(
    connection: Connection, at: datetime, users: np.ndarray, pushes: np.ndarray, rng: np.random.Generator
) -> None:
    n = len(users)
    stamps = np.full(n, _stamp(at))
    clicks = {
        "key": rng.integers(0, 256, (n, 16), dtype=np.uint8),
        "user_id": users,
        "event_type": np.full(n, EVENT_TYPES["push_click"], np.int16),
        "occurred_at": stamps,
        "received_at": stamps,
        "push_id": pushes,
    }
    copy_rows(connection, "events", clicks)


def _stamp(at: datetime) -> np.datetime64:
    return np.datetime64(at.astimezone(UTC).replace(tzinfo=None), "us")


def _no_texts(rows: int) -> pa.Array:
    """Empty text arrays, in PostgreSQL's binary form."""
    return pa.repeat(pa.scalar(bytes(4) + bytes(4) + (25).to_bytes(4, "big"), pa.binary()), rows)
