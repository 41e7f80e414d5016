"""The one path by which events enter the store.

In one transaction: keys (what is known already is dropped), stubs of unknown users and items, events, then either the
profiles (files: a chunk is folded at once) or `unfolded_events` (HTTP: a folder takes them from there), and last
`changed_users`. Rows are locked in this order, each table's in key order, by every writer: no deadlocks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import numpy as np
import psycopg
import pyarrow as pa
from sqlalchemy import Connection

from engine.ingest.erased import without_erased
from engine.ingest.event_rows import EventRows
from engine.ingest.identities import FEW, resolve_items, resolve_types, resolve_users
from engine.ingest.news import note_triggers
from engine.ingest.preferences import note_preferences
from engine.ingest.profiles import FoldRows, add_profiles, claim_visits, fold_events, share_fold_lock
from engine.store.bulk import array_text, copy_out, copy_rows, fetch, jsonb, stage_rows
from engine.store.database import Database
from engine.store.partitions import ensure_partitions
from engine.store.tables import EVENT_TYPES


@dataclass(frozen=True)
class Recorded:
    """What became of some events."""

    accepted: int = 0
    duplicates: int = 0
    user_stubs: int = 0
    item_stubs: int = 0
    other_types: Mapping[str, int] = field(default_factory=dict)
    """Accepted events of types besides the known ones, by type."""
    erased: int = 0
    """Events of erased users, which were not taken."""


NEWS = timedelta(days=1)
"""An event that is received later than this after it occurred changes no planned push."""

URGENT = {name: EVENT_TYPES[name] for name in ("purchase", "unsubscribe")}
"""Types of events that may end a planned push: it is weighed again before others."""


@dataclass(frozen=True)
class Recording:
    """How events are recorded.

    source: whose event ids these are · fold: into profiles at once, else queued · expect_new: try first as if no event
    were known, which is faster where that is so.
    """

    source: str = ""
    fold: bool = True
    expect_new: bool = False


def months_of(rows: EventRows) -> set[date]:
    """The first days of the months (UTC) in which these events occurred: the partitions they need."""
    months: list[date] = np.unique(rows.occurred_at.astype("datetime64[M]")).astype("datetime64[D]").tolist()
    return set(months)


def ensure_months(database: Database, months: Collection[date]) -> None:
    """Make the partitions of `events` for these months, each on its own: years may lie between them."""
    for month in sorted(months):
        ensure_partitions(database, "events", month, month)


def record_events(
    connection: Connection, rows: EventRows, now: datetime, recording: Recording = Recording()
) -> Recorded:
    """Record events received at `now` (business time, not before any of them). Their months' partitions must exist.

    Equal keys are one event, here and in the store: the first is kept, the others are counted. Users of NEWS are noted
    in `changed_users`.
    """
    given = len(rows)
    rows = without_erased(connection, rows)
    erased = given - len(rows)
    if not len(rows):
        return Recorded(erased=erased)
    if recording.fold:
        share_fold_lock(connection)
    keys, first = _distinct(rows.keys(recording.source))
    fresh = _claim(connection, keys, recording.expect_new)
    duplicates = len(rows) - int(fresh.sum())
    if not fresh.any():
        return Recorded(duplicates=duplicates, erased=erased)
    keys, rows = keys[fresh], rows.take(first[fresh])
    type_names, type_of = _coded(rows.event_type)
    event_type = resolve_types(connection, type_names.to_pylist())[type_of]
    user_names, user_of = _coded(rows.user)
    users = resolve_users(connection, user_names)
    item_names, item_of = _coded(rows.item)
    items, item_stubs = resolve_items(connection, item_names)
    numbers = FoldRows(
        _pick(users.slot, user_of),
        _pick(users.id, user_of),
        _pick(items, item_of),
        event_type,
        rows.occurred_at.astype("datetime64[us]").astype(np.int64) / 1e6,
        rows.value,
        np.maximum(_pick(users.zone, user_of), 0),
        users.zones,
    )
    _write(connection, keys, rows, numbers, now)
    note_triggers(connection, keys, numbers, (now - NEWS).timestamp())
    note_preferences(connection, rows, numbers, (now - NEWS).timestamp())
    if recording.fold:
        add_profiles(connection, fold_events(numbers, visits=claim_visits(connection, numbers)))
    else:
        _queue(connection, keys, rows, numbers)
    _mark_changed(connection, numbers, now)  # last: who has the same users waits for this transaction from here on
    counted = Counter(np.asarray(type_names.to_pylist(), object)[type_of].tolist())
    others = {name: number for name, number in counted.items() if name not in EVENT_TYPES}
    return Recorded(len(rows), duplicates, users.stubs, item_stubs, others, erased)


def claim_ids(connection: Connection, ids: Collection[str], source: str) -> set[str]:
    """Which of these ids of `source` nothing has come under yet, events' or others'; from now on they are taken."""
    names = sorted(set(ids))
    if not names:
        return set()
    blank = np.full(len(names), np.datetime64("2000-01-01", "us"))
    nothing, nan = pa.nulls(len(names), pa.string()), np.full(len(names), np.nan)
    named = EventRows(nothing, nothing, nothing, blank, nan, nan, event_id=pa.array(names, pa.string()))
    keys, first = _distinct(named.keys(source))
    fresh = first[_claim(connection, keys, expect_new=False)]
    return {names[at] for at in fresh.tolist()}


def _distinct(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct keys in the order of their bytes, and the first row of each."""
    halves = np.ascontiguousarray(keys).view(">u8")
    order = np.lexsort((halves[:, 1], halves[:, 0]))
    in_order = halves[order]
    new = np.ones(len(order), bool)
    new[1:] = np.any(in_order[1:] != in_order[:-1], axis=1)
    # lexsort is stable: of equal keys the first row comes first.
    return keys[order[new]], order[new]


def _claim(connection: Connection, keys: np.ndarray, expect_new: bool) -> np.ndarray:
    """Enter `keys` (sorted, distinct) into event_keys; bool[n]: those that were not there."""
    if len(keys) <= FEW:
        text_of = keys.tobytes().hex()
        names = "{" + ",".join(text_of[at : at + 32] for at in range(0, len(text_of), 32)) + "}"
        [(made,)] = fetch(connection, _CLAIM_FEW, (names, len(keys)))
        return np.ones(len(keys), bool) if made is None else np.isin(_words(keys), _words(_bytes_of(made)))
    if expect_new:
        try:
            with connection.begin_nested():
                copy_rows(connection, "event_keys", {"key": keys})
            return np.ones(len(keys), bool)
        except psycopg.errors.UniqueViolation:
            pass  # some are known: find out which
    stage_rows(connection, "staged_keys", "key uuid", {"key": keys})
    made = copy_out(
        connection,
        "INSERT INTO event_keys SELECT key FROM staged_keys ORDER BY key ON CONFLICT DO NOTHING RETURNING key",
        {"key": "uuid"},
    )["key"]
    return np.isin(_words(keys), _words(made))


_CLAIM_FEW = """
    WITH made AS (
        INSERT INTO event_keys SELECT key FROM unnest(CAST(%s AS text)::uuid[]) AS given (key) ORDER BY key
        ON CONFLICT DO NOTHING RETURNING key
    ) SELECT CASE WHEN count(*) < %s THEN coalesce(array_agg(key), '{}') END FROM made
"""
"""One statement where a table, a COPY and a savepoint would be five; null: all are new."""


def _bytes_of(keys: Sequence[UUID]) -> np.ndarray:
    return np.frombuffer(b"".join(key.bytes for key in keys), np.uint8).reshape(-1, 16)


def _words(keys: np.ndarray) -> np.ndarray:
    words: np.ndarray = np.ascontiguousarray(keys).view("S16").ravel()
    return words


def _coded(column: pa.StringArray) -> tuple[pa.StringArray, np.ndarray]:
    """The distinct texts of a column, and each row's position among them (int64; −1: null)."""
    coded = column.dictionary_encode()
    codes: np.ndarray = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return coded.dictionary, codes


def _pick(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """values[at], −1 where `at` is −1."""
    padded = np.append(values, -1)
    picked: np.ndarray = padded[at]
    return picked


def _write(connection: Connection, keys: np.ndarray, rows: EventRows, numbers: FoldRows, now: datetime) -> None:
    # By user and time: neighbours in the index on (user_id, occurred_at).
    order = np.lexsort((numbers.at, numbers.user))
    rows, numbers = rows.take(order), numbers.where(order)
    received = np.datetime64(now.astimezone(UTC).replace(tzinfo=None), "us")
    columns: dict[str, Any] = {
        "key": keys[order],
        "user_id": (numbers.user, numbers.user >= 0),
        "item_id": (numbers.item, numbers.item >= 0),
        "event_type": numbers.event_type.astype(np.int16),
        "occurred_at": rows.occurred_at,
        "received_at": np.full(len(rows), received),
    }
    for name, values in (("value", rows.value), ("quantity", rows.quantity)):
        known = ~np.isnan(values)
        if known.any():
            columns[name] = (values, known)
    if rows.push_id is not None:
        columns["push_id"] = rows.push_id
    if rows.attributes is not None:
        columns["attributes"] = jsonb(rows.attributes)
    copy_rows(connection, "events", columns)


def _queue(connection: Connection, keys: np.ndarray, rows: EventRows, numbers: FoldRows) -> None:
    copy_rows(
        connection,
        "unfolded_events",
        {
            "key": keys,
            "slot": numbers.slot.astype(np.int16),
            "user_id": (numbers.user, numbers.user >= 0),
            "item_id": (numbers.item, numbers.item >= 0),
            "event_type": numbers.event_type.astype(np.int16),
            "occurred_at": rows.occurred_at,
            "value": (numbers.value, ~np.isnan(numbers.value)),
        },
    )


def _mark_changed(connection: Connection, events: FoldRows, now: datetime) -> None:
    """Note in `changed_users` whose events are news: their planned pushes are weighed again."""
    news = (events.at >= (now - NEWS).timestamp()) & (events.user >= 0)
    user, first, of = np.unique(events.user[news], return_index=True, return_inverse=True)
    if not len(user):
        return
    slot = events.slot[news][first]
    urgent = np.bincount(of, np.isin(events.event_type[news], list(URGENT.values())), len(user)) > 0
    fetch(
        connection,
        "INSERT INTO changed_users AS known (user_id, slot, changed_at, urgent) SELECT user_id, slot, %s, urgent <> 0"
        " FROM unnest(CAST(%s AS text)::bigint[], CAST(%s AS text)::smallint[], CAST(%s AS text)::smallint[])"
        " AS given (user_id, slot, urgent) ORDER BY user_id"
        # Another mark even where the clock says the same: a refresh takes away the mark that it saw, not this one.
        " ON CONFLICT (user_id) DO UPDATE SET urgent = known.urgent OR excluded.urgent,"
        " changed_at = greatest(known.changed_at + interval '1 microsecond', excluded.changed_at)",
        (now, array_text(user), array_text(slot), array_text(urgent.astype(np.int16))),
    )
