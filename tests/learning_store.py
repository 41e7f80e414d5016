"""A small seeded shop written straight into a store, for the tests of learning."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
from sqlalchemy import Connection, text

from engine.features.decay import Folded
from engine.features.readings import take
from engine.features.state import Profiles
from engine.ingest.profiles import FoldRows
from engine.learning.history import item_profiles, user_profiles
from engine.store.bulk import copy_rows
from engine.store.database import Database
from engine.store.partitions import ensure_partitions
from engine.store.slots import slot_of
from engine.store.tables import EVENT_TYPES

START = datetime(2026, 6, 1, tzinfo=UTC)
ZONE = "America/New_York"


class Shop:
    """Users with favourite items that they buy again, at an hour of their own; item k·5 … belong to category k."""

    def __init__(self, users: int = 120, items: int = 60, days: int = 90, seed: int = 5) -> None:
        rng = np.random.default_rng(seed)
        self.users, self.items, self.days = users, items, days
        self.end = START + timedelta(days=days)
        self.slots = np.array([slot_of(f"u{i}") for i in range(users)], np.int16)
        counts = rng.poisson(40, users) + 1
        user = np.repeat(np.arange(users), counts)
        favourites = rng.integers(0, items, (users, 6))
        item = np.where(
            rng.random(len(user)) < 0.7,
            favourites[user, rng.integers(0, 6, len(user))],
            (items * rng.random(len(user)) ** 2).astype(np.int64),
        )
        hour = (rng.integers(8, 22, users)[user] + rng.normal(0, 1.5, len(user))) % 24
        at = START.timestamp() + rng.integers(0, days, len(user)) * 86_400 + (hour + 4) * 3600
        kind = rng.choice([1, 3, 4, 6], len(user), p=[0.4, 0.1, 0.45, 0.05])
        item = np.where(kind == EVENT_TYPES["app_open"], -1, item)
        keep = at < self.end.timestamp()
        order = np.argsort(at[keep], kind="stable")
        self.user, self.item = user[keep][order], item[keep][order]
        self.kind, self.at = kind[keep][order], np.round(at[keep][order], 3)
        self.value = np.where(self.kind == 4, 1.0 + self.item % 7, np.nan)

    def write(self, database: Database) -> None:
        """Users, items, events and profiles, as ingest would leave them."""
        ensure_partitions(database, "events", START.date(), self.end.date())
        with database.begin() as connection:
            self._write_people_and_items(connection)
            self.write_events(connection, slice(None))
            self.write_profiles(connection, slice(None))

    def _write_people_and_items(self, connection: Connection) -> None:
        copy_rows(
            connection,
            ["users", "(id,", "external_id,", "slot,", "timezone)"][0],
            {
                "id": np.arange(1, self.users + 1),
                "external_id": pa.array([f"u{i}" for i in range(self.users)]),
                "slot": self.slots,
                "timezone": pa.array([ZONE] * self.users),
            },
        )
        copy_rows(
            connection,
            "items",
            {
                "id": np.arange(1, self.items + 1),
                "external_id": pa.array([f"i{i}" for i in range(self.items)]),
                "category": pa.array([f"c{i // 5}" for i in range(self.items)]),
                "brand": pa.array([f"b{i % 4}" if i % 9 else None for i in range(self.items)]),
                "price": 1.0 + np.arange(self.items) % 7,
            },
        )

    def write_events(self, connection: Connection, rows: slice) -> None:
        """The events of `rows`, without their profiles."""
        at = (self.at[rows] * 1e6).astype("int64").astype("datetime64[us]")
        n = len(at)
        keys = np.frombuffer(b"".join(uuid.uuid4().bytes for _ in range(n)), np.uint8).reshape(n, 16)
        copy_rows(
            connection,
            "events",
            {
                "key": keys,
                "user_id": self.user[rows].astype(np.int64) + 1,
                "item_id": (self.item[rows].astype(np.int64) + 1, self.item[rows] >= 0),
                "event_type": self.kind[rows].astype(np.int16),
                "occurred_at": at,
                "received_at": at,
                "value": (self.value[rows], ~np.isnan(self.value[rows])),
            },
        )

    def events(self) -> FoldRows:
        """The same events as arrays of ids."""
        return FoldRows(
            slot=self.slots[self.user].astype(np.int64),
            user=self.user.astype(np.int64) + 1,
            item=np.where(self.item >= 0, self.item + 1, -1).astype(np.int64),
            event_type=self.kind.astype(np.int64),
            at=self.at,
            value=self.value,
            zone=np.zeros(len(self.at), np.int64),
            zones=(ZONE,),
        )

    def profiles(self, rows: slice) -> tuple[Profiles, Folded]:
        """Profiles of users and of items, of the events of `rows`."""
        events = self.events().where(np.arange(len(self.at))[rows])
        return user_profiles(events), item_profiles(events)

    def write_profiles(self, connection: Connection, rows: slice) -> None:
        """The profile tables, from the events of `rows`."""
        profiles, items = self.profiles(rows)
        _copy(connection, "item_profiles", items, ("item_id", "event_type"), None)
        for table, folded, keys in (
            ("user_profiles", profiles.users, ("user_id", "event_type")),
            ("user_item_profiles", profiles.pairs, ("user_id", "item_id", "event_type")),
            ("user_hour_profiles", profiles.hours, ("user_id", "rung", "hour")),
        ):
            _copy(connection, table, folded, keys, self.slots)

    def forget_after(self, database: Database, instant: datetime) -> None:
        """Delete every event at or after `instant`, and make the profiles those of what is left."""
        until = int(np.searchsorted(self.at, instant.timestamp()))
        with database.begin() as connection:
            connection.execute(text("DELETE FROM events WHERE occurred_at >= :at"), {"at": instant})
            for table in ("item_profiles", "user_profiles", "user_item_profiles", "user_hour_profiles"):
                connection.execute(text(f"DELETE FROM {table}"))
            self.write_profiles(connection, slice(0, until))


def _copy(connection: Connection, table: str, folded: Folded, keys: tuple[str, ...], slots: np.ndarray | None) -> None:
    small = {"event_type", "rung", "hour"}
    if slots is not None:
        folded = take(folded, np.lexsort((folded.keys[0], slots[folded.keys[0] - 1])))
    columns: dict[str, object] = {
        name: column.astype(np.int16) if name in small else column
        for name, column in zip(keys, folded.keys, strict=True)
    }
    if slots is not None:
        columns["slot"] = slots[folded.keys[0] - 1]
    columns |= {"n": folded.n.astype(np.int64), "first_at": folded.first_at, "last_at": folded.last_at}
    columns |= {f"s{i}": np.ascontiguousarray(folded.s[:, i]) for i in range(folded.s.shape[1])}
    if table != "user_hour_profiles":
        columns["value"] = folded.value
    copy_rows(connection, table, columns)
