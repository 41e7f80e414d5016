"""Pushes with receipts, deliveries and clicks, written straight into a store: what learning from clicks begins with."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
from sqlalchemy import text

from engine.features.schema import NAMES
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
        item = rng.integers(0, shop.items, users)
        hour = local_hours(np.full(users, at.timestamp()), np.zeros(users, np.int64), [ZONE])
        cell = hour.astype(np.int64) // 3
        own = rng.random(users) < 0.6  # most pushes are about what the user bought before
        pairs = [state.pair_item[state.pair_start[u] : state.pair_start[u + 1]] for u in range(users)]
        item = np.array([rng.choice(p) if o and len(p) else i for p, o, i in zip(pairs, own, item, strict=True)])
        rows = scorer.features(state, np.arange(users), item, cell)
        taste = np.log1p(np.nan_to_num(rows[:, TASTE]))
        clicked = rng.random(users) < 1 / (1 + np.exp(1.2 - 1.2 * taste - 0.8 * np.log(rows[:, RATE])))
        ids = rng.integers(0, 256, (users, 16), dtype=np.uint8)
        stamps = np.full(users, np.datetime64(at.astimezone(UTC).replace(tzinfo=None), "us"))
        days = np.full(users, np.datetime64(at.date(), "D"))
        head = receipt.headers(users, as_of=instants[0].timestamp(), model=0, options=2, library=(0, 1, 0))
        empty = np.zeros((users, receipt.MOST_ALTERNATIVES), receipt.ALTERNATIVE)
        with database.begin() as connection:
            occurrence = connection.execute(
                text(
                    "INSERT INTO occurrences (campaign_id, version, label, date, starts_at, ends_at, data) VALUES"
                    " (1, 1, :label, :date, :at, :until, CAST(:data AS jsonb)) RETURNING id"
                ),
                {
                    "label": at.isoformat(),
                    "date": at.date(),
                    "at": at,
                    "until": at + timedelta(hours=3),
                    "data": json.dumps({}),
                },
            ).scalar_one()
            shared = {"occurrence_id": np.full(users, occurrence, np.int64), "user_id": state.users, "push_id": ids}
            shared |= {"item_id": state.catalogue.ids[item]}
            copy_rows(
                connection,
                "decisions",
                shared
                | {
                    "date": days,
                    "revision": np.zeros(users, np.int16),
                    "run_id": np.zeros(users, np.int64),
                    "shard": np.zeros(users, np.int32),
                    "arm": np.zeros(users, np.int16),
                    "reason": np.full(users, DECISION_REASONS.index("planned"), np.int16),
                    "receipt": receipt.encode(head, rows, np.ones(users, bool), empty),
                },
            )
            copy_rows(
                connection,
                "deliveries",
                shared
                | {
                    "day": days,
                    "id": ids,
                    "state": pa.repeat(pa.scalar("accepted"), users),
                    "at": stamps,
                    "campaign_id": np.ones(users, np.int64),
                    "gateway": pa.repeat(pa.scalar("log"), users),
                    "attempts": np.ones(users, np.int16),
                    "send_at": stamps,
                    "counts": np.ones(users, bool),
                    "scopes": _no_texts(users),
                },
            )
            n, later = int(clicked.sum()), stamps + np.timedelta64(20, "m")
            copy_rows(
                connection,
                "events",
                {
                    "key": rng.integers(0, 256, (n, 16), dtype=np.uint8),
                    "user_id": state.users[clicked],
                    "event_type": np.full(n, EVENT_TYPES["push_click"], np.int16),
                    "occurred_at": later[clicked],
                    "received_at": later[clicked],
                    "push_id": ids[clicked],
                },
            )


def _no_texts(rows: int) -> pa.Array:
    """Empty text arrays, in PostgreSQL's binary form."""
    return pa.repeat(pa.scalar(bytes(4) + bytes(4) + (25).to_bytes(4, "big"), pa.binary()), rows)
