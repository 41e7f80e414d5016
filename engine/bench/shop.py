"""A retail load in a store, as if it had been ingested: users, items, profiles and past pushes, and a click model.

The state is loaded untimed, folded in memory by the same code that ingest uses; raw events are not kept, as planning
reads profiles.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import xgboost
from sqlalchemy import Connection, text

from engine import clock
from engine.bench.loads import END, ZONES, RetailLoad, ending, part_sizes, retail_load, type_ids
from engine.bench.report import Tell
from engine.bench.yardstick import DEPTH, TREES
from engine.features.decay import Folded, merge
from engine.features.schema import NAMES, SLICES
from engine.ingest.profiles import PROFILES, FoldRows, fold_events, profile_columns
from engine.learning import head, registry
from engine.learning.candidates import Blend
from engine.learning.model import Model
from engine.learning.related import Counter, Related
from engine.learning.scoring import Learned, load_scorer
from engine.learning.windows import with_everybody
from engine.store.bulk import copy_rows
from engine.store.database import Database
from engine.store.partitions import ensure_ahead
from engine.store.slots import slot_of
from engine.store.tables import HALF_LIVES_DAYS

_MODEL_USERS, _MODEL_ROWS = 4_000, 60_000
_LOADERS = 2


def build_shop(
    database: Database, users: int, seed: int = 1, tell: Tell = lambda _: None, end: datetime | None = None
) -> dict[str, object]:
    """Load a shop of `users` users into an empty database, its clock at the load's end, with a click model as champion;
    the description of its load.

    end: whole days after loads.END; then the load ends there, and business time is the machine's.

    Parts of the load are made and folded side by side in processes of their own; what a profile's key guards comes
    after its rows, which is several times as fast as with them.
    """
    virtual, end = end is None, end or END
    ensure_ahead(database, end)
    ensure_ahead(database, end - timedelta(days=3))
    sizes = part_sizes(users)
    first = ending(retail_load(sizes[0], seed), end)
    with database.begin() as connection:
        if virtual:
            clock.start_virtual(connection, end)
        _items(connection, first)
        keys = _drop_keys(connection)
    jobs = [(database.libpq_url, size, seed, part, end) for part, size in enumerate(sizes)]
    events, items = 0, None
    for done, (held, folded) in enumerate(_side_by_side(jobs), 1):
        events += held
        items = folded if items is None else merge(items, folded, HALF_LIVES_DAYS["item_profiles"])
        tell(f"loaded part {done} of {len(jobs)}: {events:,} events")
    assert items is not None
    tell("indexing the profiles")
    with database.begin() as connection:
        copy_rows(connection, "item_profiles", profile_columns("item_profiles", items))
        _make_keys(connection, keys)
    with database.autocommit() as connection:
        connection.execute(text("VACUUM ANALYZE"))
    tell("training a click model")
    _train(database, first, users, end)
    return first.description() | {"users": users, "events": events}


def _side_by_side(jobs: list[_Job]) -> Iterator[tuple[int, Folded]]:
    if len(jobs) == 1:
        yield _load_part(jobs[0])
        return
    with ProcessPoolExecutor(_LOADERS, mp_context=multiprocessing.get_context("spawn")) as pool:
        for future in as_completed([pool.submit(_load_part, job) for job in jobs]):
            yield future.result()


_Job = tuple[str, int, int, int, datetime]


def _load_part(job: _Job) -> tuple[int, Folded]:
    """Make a part of the load and store its users, profiles and past pushes; its number of events, and the profiles of
    items, which all parts share."""
    url, size, seed, part, end = job
    load = ending(retail_load(size, seed, part=part), end)
    database = Database(url)
    try:
        with database.begin() as connection:
            users, items = _users(connection, load), _ids(connection, "items", load.item_ids)
            folded = fold_events(_events(load, users, items))
            of_items = folded.pop("item_profiles")
            for table, profiles in folded.items():
                copy_rows(connection, table, profile_columns(table, profiles))
            _past_pushes(connection, load, users, (part, end))
    finally:
        database.dispose()
    return len(load.user), of_items


def _drop_keys(connection: Connection) -> list[tuple[str, str, str]]:
    """Drop the primary keys of users' profiles; what each was: (table, name, definition)."""
    keys = [
        (row.table, row.name, row.definition)
        for row in connection.execute(
            text(
                'SELECT conrelid::regclass::text AS "table", conname AS name, pg_get_constraintdef(oid) AS definition'
                " FROM pg_constraint WHERE contype = 'p' AND conrelid::regclass::text = ANY(:tables) ORDER BY 1"
            ),
            {"tables": [table for table in PROFILES if table != "item_profiles"]},
        )
    ]
    for table, name, _ in keys:
        connection.execute(text(f"ALTER TABLE {table} DROP CONSTRAINT {name}"))
    return keys


def _make_keys(connection: Connection, keys: list[tuple[str, str, str]]) -> None:
    connection.execute(text("SET LOCAL maintenance_work_mem = '512MB'"))
    for table, name, definition in keys:
        connection.execute(text(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}"))


def _users(connection: Connection, load: RetailLoad) -> np.ndarray:
    """Store the users; their ids by position."""
    zones = pa.array([None if zone < 0 else ZONES[zone] for zone in load.zone], pa.string())
    columns = {"external_id": load.user_ids, "slot": _slots(load), "timezone": zones, "consent": load.consent}
    copy_rows(connection, "users", columns)
    return _ids(connection, "users", load.user_ids)


def _items(connection: Connection, load: RetailLoad) -> None:
    copy_rows(
        connection,
        "items",
        {
            "external_id": load.item_ids,
            "title": load.item_ids,
            "category": pa.array([f"category {code}" for code in load.category]),
            "brand": pa.array([f"brand {code}" for code in load.brand]),
            "price": load.price,
        },
    )


def _slots(load: RetailLoad) -> np.ndarray:
    return np.array([slot_of(user) for user in load.user_ids.to_pylist()], np.int16)


def _ids(connection: Connection, table: str, names: pa.StringArray) -> np.ndarray:
    """The ids of rows named `names` (sorted, and all there are between the first and the last)."""
    rows = connection.execute(
        text(
            f"SELECT array_agg(id ORDER BY external_id) FROM {table} WHERE external_id BETWEEN :first AND :last"
        ),
        {"first": names[0].as_py(), "last": names[-1].as_py()},
    )  # fmt: skip
    return np.array(rows.scalar_one(), np.int64)


def _events(load: RetailLoad, users: np.ndarray, items: np.ndarray) -> FoldRows:
    return FoldRows(
        slot=_slots(load).astype(np.int64)[load.user],
        user=users[load.user],
        item=np.where(load.item >= 0, items[np.maximum(load.item, 0)], -1),
        event_type=type_ids(load).astype(np.int64),
        at=load.occurred_at,
        value=load.value,
        zone=np.where(load.zone < 0, len(ZONES), load.zone).astype(np.int64)[load.user],
        zones=(*ZONES, "UTC"),
    )


def _past_pushes(connection: Connection, load: RetailLoad, users: np.ndarray, of: tuple[int, datetime]) -> None:
    """Up to two pushes of the last three days for half of the users: what caps count. of: the part, and its end."""
    part, end = of
    rng = np.random.default_rng([load.seed, 77, part])
    got = np.repeat(users, rng.choice(3, len(users), p=(0.5, 0.35, 0.15)))
    at = end.timestamp() - rng.uniform(3_600, 3 * 86_400, len(got))
    stamps = np.floor(at * 1e6).astype(np.int64).astype("datetime64[us]")
    ids = rng.integers(0, 256, (len(got), 16), dtype=np.uint8)
    copy_rows(
        connection,
        "deliveries",
        {
            "day": stamps.astype("datetime64[D]"),
            "id": ids,
            "push_id": ids,
            "state": pa.repeat(pa.scalar("accepted"), len(got)),
            "at": stamps,
            "campaign_id": np.zeros(len(got), np.int64),
            "user_id": got,
            "gateway": pa.repeat(pa.scalar("log"), len(got)),
            "attempts": np.ones(len(got), np.int16),
            "send_at": stamps,
            "local_day": stamps.astype("datetime64[D]"),
            "counts": np.ones(len(got), bool),
            "scopes": _lists(["channel:log", "campaign:earlier"], len(got)),
        },
    )


def _lists(values: list[str], rows: int) -> pa.Array:
    """PostgreSQL text[] values are not among what COPY packs: written as the binary form of the array they are."""
    body = b"".join(len(value).to_bytes(4, "big") + value.encode() for value in values)
    oid_of_text = (25).to_bytes(4, "big")
    head = (1).to_bytes(4, "big") + bytes(4) + oid_of_text + len(values).to_bytes(4, "big") + (1).to_bytes(4, "big")
    return pa.repeat(pa.scalar(head + body, pa.binary()), rows)


# --- the model -------------------------------------------------------------------------------------------------------


def _train(database: Database, load: RetailLoad, users: int, end: datetime) -> int:
    """A click model of the yardstick's size, on real feature rows, whose synthetic clicks depend on item and hour."""
    related = Related(_sorted_ids(database), _neighbours(load, end))
    with database.snapshot() as snapshot:
        curve = load_scorer(snapshot.connection)
        catalogue = curve.catalogue(snapshot, end)
        empty = xgboost.train({"max_depth": 1}, xgboost.DMatrix(np.zeros((2, len(NAMES))), np.array([0, 1])), 1)
        draft = _model(empty, related, load, end)
        scorer = Learned(0, draft)
        width = max(1, round(1024 * _MODEL_USERS / users))
        state = scorer.state(snapshot, (0, min(width, 1024)), end, catalogue)
        rng = np.random.default_rng([load.seed, 5])
        found = scorer.candidates(state, 50)
        at = np.sort(rng.choice(len(found), min(_MODEL_ROWS, len(found)), replace=False))
        cell = rng.integers(0, 16, len(at))
        rows = scorer.features(state, found.user[at], found.item[at], cell, found.related[at])
    labels = (rng.random(len(rows)) < _clicks(rows)).astype(np.float32)
    bare = rows.copy()
    bare[:, SLICES["window"]] = np.nan  # what stage 1 sees
    settings = {"objective": "binary:logistic", "max_depth": DEPTH, "eta": 0.1, "tree_method": "hist", "nthread": 1}
    booster = xgboost.train(settings, xgboost.QuantileDMatrix(bare, labels), TREES)
    chance = booster.inplace_predict(bare)
    clicks = head.fit(head.Lessons(rows, chance, labels > 0, np.arange(len(rows)) % 2 == 0), load.seed, 1)
    with database.begin() as connection:
        model = replace(_model(booster, related, load, end), head=None if clicks is None else clicks.head)
        version = registry.register(connection, model, {})
        registry.promote(connection, version)
    return version


def _model(booster: xgboost.Booster, related: Related, load: RetailLoad, end: datetime) -> Model:
    hours = np.bincount((load.occurred_at % 86_400 // 3_600).astype(np.int64), minlength=24)
    windows = with_everybody(np.concatenate([hours * 5 / 7, hours * 2 / 7]))
    return Model(booster, 1.0, related, Blend(), windows, end)


def _clicks(rows: np.ndarray) -> np.ndarray:
    """P(click) of feature rows: from the user's taste for the item and their hour."""

    def of(name: str) -> np.ndarray:
        return np.asarray(np.nan_to_num(rows[:, NAMES.index(name)], nan=0.0))

    taste = np.log1p(of("pair_purchases_45d") + of("category_purchases_14d")) + np.log1p(of("related_score"))
    logit = -3.5 + 1.2 * taste + 0.8 * of("window_log_ratio") + 0.2 * np.log1p(of("item_views_7d"))
    chances: np.ndarray = 1 / (1 + np.exp(-logit))
    return chances


def _sorted_ids(database: Database) -> np.ndarray:
    with database.begin() as connection:
        return np.sort(np.array(connection.execute(text("SELECT id FROM items")).scalars().all(), np.int64))


def _neighbours(load: RetailLoad, end: datetime) -> Any:
    with_item = load.item >= 0
    user, item, at = load.user[with_item], load.item[with_item], load.occurred_at[with_item]
    order = np.lexsort((at, user))
    counter = Counter(len(load.item_ids), end.timestamp())
    counter.add(user[order].astype(np.int64), item[order].astype(np.int64), at[order], np.ones(len(order)), 0.0)
    return counter.neighbours()
