"""What is particular to users, items and events: how a block is checked, who writes it, and how."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import date, datetime
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from engine.ingest.block import Block, Reject
from engine.ingest.check import check_devices, check_events, check_items, check_promotions, check_users
from engine.ingest.device_rows import DeviceRows
from engine.ingest.devices import store_devices
from engine.ingest.entities import Stored, store_items, store_users
from engine.ingest.entity_rows import EntityRows
from engine.ingest.erased import ERASED
from engine.ingest.event_rows import EventRows
from engine.ingest.layout import Kind
from engine.ingest.options import Options
from engine.ingest.promotion_rows import PromotionRows
from engine.ingest.promotions import store_promotions
from engine.ingest.summary import Summary
from engine.ingest.write import Recording, ensure_months, months_of, record_events
from engine.store.database import Database

WRITERS = 2
"""Connections that write events: a second one uses the database's second core."""

Outcome = tuple[Summary, list[Reject]]
"""What storing some rows counts, and the rows that the store itself refused."""


class Intake(Protocol):
    """One kind of rows."""

    kind: Kind
    writers: int

    def check(self, block: Block) -> tuple[Any, list[Reject]]:
        """The rows of a block that may be stored, and those that may not."""
        ...

    def split(self, rows: Any) -> Sequence[tuple[int, Any]]:
        """The rows by writer: (its number, its rows)."""
        ...

    def store(self, block: Block, rows: Any) -> Outcome:
        """Store rows of a block in one transaction."""
        ...


class UserIntake:
    """Users; one writer, since of two rows of a user the later one wins."""

    kind: Kind = "users"
    writers = 1

    def __init__(self, database: Database) -> None:
        self._database = database

    def check(self, block: Block) -> tuple[EntityRows, list[Reject]]:
        """See Intake."""
        return check_users(block)

    def split(self, rows: EntityRows) -> Sequence[tuple[int, EntityRows]]:
        """See Intake."""
        return [(0, rows)] if len(rows) else []

    def store(self, block: Block, rows: EntityRows) -> Outcome:
        """See Intake."""
        with self._database.begin() as connection:
            stored = store_users(connection, rows)
        return _entity_outcome(self.kind, block, rows, stored)


class ItemIntake:
    """Items; one writer, as for users."""

    kind: Kind = "items"
    writers = 1

    def __init__(self, database: Database, now: datetime, options: Options) -> None:
        self._database, self._now, self._options = database, now, options

    def check(self, block: Block) -> tuple[EntityRows, list[Reject]]:
        """See Intake."""
        return check_items(block, self._options)

    def split(self, rows: EntityRows) -> Sequence[tuple[int, EntityRows]]:
        """See Intake."""
        return [(0, rows)] if len(rows) else []

    def store(self, block: Block, rows: EntityRows) -> Outcome:
        """See Intake."""
        with self._database.begin() as connection:
            stored = store_items(connection, rows, self._now)
        return _entity_outcome(self.kind, block, rows, stored)


class DeviceIntake:
    """Devices; one writer, as for users. `gateways` are the names there are."""

    kind: Kind = "devices"
    writers = 1

    def __init__(self, database: Database, now: datetime, options: Options, gateways: Collection[str]) -> None:
        self._database, self._now, self._options, self._gateways = database, now, options, gateways

    def check(self, block: Block) -> tuple[DeviceRows, list[Reject]]:
        """See Intake."""
        return check_devices(block, self._now, self._options, self._gateways)

    def split(self, rows: DeviceRows) -> Sequence[tuple[int, DeviceRows]]:
        """See Intake."""
        return [(0, rows)] if len(rows) else []

    def store(self, block: Block, rows: DeviceRows) -> Outcome:
        """See Intake."""
        del block
        with self._database.begin() as connection:
            stored = store_devices(connection, rows, self._now)
        summary = Summary(
            self.kind,
            rows=len(rows),
            accepted=len(rows),
            created=stored.created,
            updated=stored.updated,
            unchanged=stored.unchanged,
            user_stubs=stored.user_stubs,
        )
        return summary, []


class EventIntake:
    """Events; split by user, so that two writers never fold the same user at once."""

    kind: Kind = "events"
    writers = WRITERS

    def __init__(self, database: Database, now: datetime, options: Options) -> None:
        self._database, self._now, self._options = database, now, options
        self._months: set[date] = set()
        self._all_new = True

    def check(self, block: Block) -> tuple[EventRows, list[Reject]]:
        """See Intake."""
        return check_events(block, self._now, self._options)

    def split(self, rows: EventRows) -> Sequence[tuple[int, EventRows]]:
        """See Intake."""
        chosen = _spread(rows.user) % WRITERS
        parts = [(number, np.flatnonzero(chosen == number)) for number in range(WRITERS)]
        return [(number, rows.take(part)) for number, part in parts if len(part)]

    def store(self, block: Block, rows: EventRows) -> Outcome:
        """See Intake."""
        del block
        missing = months_of(rows) - self._months
        ensure_months(self._database, missing)
        self._months |= missing
        recording = Recording(self._options.source, expect_new=self._all_new)
        with self._database.begin() as connection:
            recorded = record_events(connection, rows, self._now, recording)
        self._all_new = self._all_new and not recorded.duplicates
        summary = Summary(
            self.kind,
            rows=len(rows),
            accepted=recorded.accepted,
            duplicates=recorded.duplicates,
            user_stubs=recorded.user_stubs,
            item_stubs=recorded.item_stubs,
            other_types=recorded.other_types,
            rejected={ERASED: recorded.erased} if recorded.erased else {},
        )
        return summary, []


class PromotionIntake:
    """Promotions; one writer, since of two announcements the later row wins."""

    kind: Kind = "promotions"
    writers = 1

    def __init__(self, database: Database, now: datetime, options: Options) -> None:
        self._database, self._now, self._options = database, now, options

    def check(self, block: Block) -> tuple[PromotionRows, list[Reject]]:
        """See Intake."""
        return check_promotions(block, self._now, self._options)

    def split(self, rows: PromotionRows) -> Sequence[tuple[int, PromotionRows]]:
        """See Intake."""
        return [(0, rows)] if len(rows) else []

    def store(self, block: Block, rows: PromotionRows) -> Outcome:
        """See Intake."""
        with self._database.begin() as connection:
            stored = store_promotions(connection, rows)
        refused = [
            Reject(int(block.lines[at]), "item_id: no such item", "ingest the items first", block.row(at))
            for at in stored.unknown
        ]
        taken = len(rows) - len(refused)
        summary = Summary(
            self.kind,
            rows=taken,
            accepted=taken,
            created=stored.created,
            updated=stored.updated,
            unchanged=taken - stored.created - stored.updated,
        )
        return summary, refused


def _spread(names: pa.StringArray) -> np.ndarray:
    """A number for each text, equal for equal texts: the sum of its bytes. int64[n]."""
    _, offsets, data = names.cast(pa.large_binary()).buffers()
    ends = np.frombuffer(offsets, np.int64, len(names) + 1, names.offset * 8)
    flat = np.frombuffer(data, np.uint8) if data else np.zeros(0, np.uint8)
    sums = np.concatenate([[0], np.cumsum(flat, dtype=np.int64)])
    spread: np.ndarray = sums[ends[1:]] - sums[ends[:-1]]
    return spread


def _entity_outcome(kind: Kind, block: Block, rows: EntityRows, stored: Stored) -> Outcome:
    problem = "available_until: not after available_from"
    refused = [
        Reject(int(block.lines[at]), problem, "with what the store knows of the item", block.row(at))
        for at in stored.refused
    ]
    taken = len(rows) - len(refused)
    summary = Summary(
        kind,
        rows=taken,
        accepted=taken,
        created=stored.created,
        updated=stored.updated,
        unchanged=stored.unchanged,
        without_timezone=stored.without_timezone,
    )
    return summary, refused
