"""Reads catalogue and state from the store, as of a decision instant τ.

Profiles hold every event folded so far; what waits to be folded is added here, so that an event counts from the commit
that accepted it, however long folding takes. Where a profile holds an event at or after τ (a past τ, or a clock of
another host ahead of ours), the profiles of that user or item are rebuilt from the raw events before τ: exact, and rare
when τ is business time read after the snapshot began.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.features.catalogue import Catalogue, Items, build_catalogue
from engine.features.decay import Folded, merge, read
from engine.features.habits import Habits
from engine.features.prices import REMEMBERED_DAYS, PriceChanges
from engine.features.promotions import AHEAD_DAYS, KINDS, Promotions
from engine.features.readings import positions, take
from engine.features.state import HOUR_120D, PUSHED, Profiles, State, build_state
from engine.ingest.identities import default_zone
from engine.ingest.profiles import FoldRows
from engine.learning.history import item_profiles, read_events, user_profiles
from engine.store.database import Snapshot
from engine.store.tables import HALF_LIVES_DAYS, PROFILE_PARTITION_SLOTS

_FEW = 2_000
"""Ids that are written into a query; beyond that a wider range is read and the rest dropped."""


def read_catalogue(snapshot: Snapshot, as_of: datetime, habits: Habits | None = None) -> Catalogue:
    """Every item as it was at τ, and its profiles from events before τ; habits: the model's."""
    items = read_items(snapshot, as_of)
    tau = as_of.timestamp()
    rows = snapshot.arrow(f"SELECT item_id, event_type, {_profile_columns('item_profiles')} FROM item_profiles")
    profiles = _folded(rows, ("item_id", "event_type"), "item_profiles")
    late = np.unique(profiles.keys[0][profiles.last_at >= tau])
    if len(late):
        events = read_events(snapshot, until=as_of, where=_one_of("item_id", late))
        kept = take(profiles, ~np.isin(profiles.keys[0], late))
        rebuilt = item_profiles(events.where(np.isin(events.item, late)))
        profiles = _joined(kept, rebuilt)
    return build_catalogue(items, profiles, tau, habits)


def read_state(
    snapshot: Snapshot,
    slots: tuple[int, int],
    as_of: datetime,
    catalogue: Catalogue,
    user_ids: np.ndarray | None = None,
) -> State:
    """The state at τ of the users in slots [from, until); of `user_ids` (int64) only, where given."""
    in_slots = f"slot >= {slots[0]:d} AND slot < {slots[1]:d}"
    where = in_slots
    if user_ids is None:
        users, _ = _read_users(snapshot, where)
    else:
        wanted = np.unique(np.asarray(user_ids, np.int64))
        users, slot = _read_users(snapshot, f"{in_slots} AND {_one_of('id', wanted)}")
        there = np.isin(users, wanted)
        users, slot = users[there], slot[there]
        if len(users) <= _FEW:  # by whole keys: an index of (slot, user) finds nobody fast by a range of slots
            where = f"(slot, user_id) IN (SELECT * FROM unnest({_array(slot, 'smallint')}, {_array(users, 'bigint')}))"
    profiles = Profiles(
        _read_profiles(snapshot, "user_profiles", ("user_id", "event_type"), where),
        _read_profiles(snapshot, "user_item_profiles", ("user_id", "item_id", "event_type"), where),
        _read_profiles(snapshot, "user_hour_profiles", ("user_id", "rung", "hour"), where),
    )
    fresh = _unfolded(snapshot, where, as_of)
    if len(fresh):
        profiles = _with_unfolded(profiles, fresh)
    late = _late_users(profiles, as_of.timestamp())
    if len(late):
        theirs = _one_of("user_id", late, f"user_id IN (SELECT id FROM users WHERE {in_slots})")
        past = user_profiles(read_events(snapshot, until=as_of, where=theirs))
        profiles = Profiles(
            *(
                _joined(take(stored, ~np.isin(stored.keys[0], late)), take(rebuilt, np.isin(rebuilt.keys[0], late)))
                for stored, rebuilt in (
                    (profiles.users, past.users),
                    (profiles.pairs, past.pairs),
                    (profiles.hours, past.hours),
                )
            )
        )
    return build_state(users, profiles, catalogue, as_of.timestamp())


def read_everybody(snapshot: Snapshot, as_of: datetime) -> np.ndarray:
    """Everybody's decayed activity per hour of the week (day type × 24 + local hour) at τ, float64[48].

    From the users of the first profile partition, a sixteenth: a curve of 48 numbers needs no more.
    """
    where = f"slot < {PROFILE_PARTITION_SLOTS}"
    hours = _read_profiles(snapshot, "user_hour_profiles", ("user_id", "rung", "hour"), where)
    late = np.unique(hours.keys[0][hours.last_at >= as_of.timestamp()])
    if len(late):
        theirs = _one_of("user_id", late, f"user_id IN (SELECT id FROM users WHERE {where})")
        past = user_profiles(read_events(snapshot, until=as_of, where=theirs))
        ours = np.isin(past.hours.keys[0], late)
        hours = _joined(take(hours, ~np.isin(hours.keys[0], late)), take(past.hours, ours))
    weight = read(hours.s, hours.last_at, as_of.timestamp(), HALF_LIVES_DAYS["user_hour_profiles"])[:, HOUR_120D]
    acted = hours.keys[1] != PUSHED
    return np.bincount(hours.keys[2][acted], weight[acted], minlength=48)


def _unfolded(snapshot: Snapshot, where: str, as_of: datetime) -> FoldRows:
    """The users' events before τ that no profile holds yet."""
    rows = snapshot.arrow(
        "SELECT e.slot::bigint AS slot, e.user_id, coalesce(e.item_id, -1) AS item, e.event_type::bigint AS event_type,"
        " extract(epoch FROM e.occurred_at)::float8 AS at, coalesce(e.value, 'NaN') AS value, u.timezone AS zone"
        f" FROM (SELECT * FROM unfolded_events WHERE {where} AND occurred_at < '{as_of.isoformat()}') e"
        " JOIN users u ON u.id = e.user_id"
    )
    zones = pc.fill_null(rows["zone"], default_zone(snapshot.connection) if len(rows) else "UTC")
    coded = zones.combine_chunks().dictionary_encode()
    return FoldRows(
        slot=_ints(rows["slot"]),
        user=_ints(rows["user_id"]),
        item=_ints(rows["item"]),
        event_type=_ints(rows["event_type"]),
        at=_floats(rows["at"]),
        value=_floats(rows["value"]),
        zone=np.asarray(coded.indices, np.int64),
        zones=coded.dictionary.to_pylist(),
    )


def _with_unfolded(profiles: Profiles, fresh: FoldRows) -> Profiles:
    added = user_profiles(fresh)
    days = HALF_LIVES_DAYS
    return Profiles(
        merge(profiles.users, added.users, days["user_profiles"]),
        merge(profiles.pairs, added.pairs, days["user_item_profiles"]),
        merge(profiles.hours, added.hours, days["user_hour_profiles"]),
    )


def _late_users(profiles: Profiles, tau: float) -> np.ndarray:
    tables = (profiles.users, profiles.pairs, profiles.hours)
    return np.unique(np.concatenate([table.keys[0][table.last_at >= tau] for table in tables]))


def _read_users(snapshot: Snapshot, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Ids, ascending, and slots, both int64[U]."""
    rows = snapshot.arrow(f"SELECT id, slot FROM users WHERE {where}")
    ids = _ints(rows["id"])
    order = np.argsort(ids)
    return ids[order], _ints(rows["slot"])[order]


def _read_profiles(snapshot: Snapshot, table: str, keys: tuple[str, ...], where: str) -> Folded:
    rows = snapshot.arrow(f"SELECT {', '.join(keys)}, {_profile_columns(table)} FROM {table} WHERE {where}")
    return _folded(rows, keys, table)


def _profile_columns(table: str) -> str:
    counters = [f"s{i}" for i in range(len(HALF_LIVES_DAYS[table]))]
    value = [] if table == "user_hour_profiles" else ["value"]
    return ", ".join(["n", "first_at", "last_at", *counters, *value])


def _folded(rows: pa.Table, keys: tuple[str, ...], table: str) -> Folded:
    counters = [_floats(rows[f"s{i}"]) for i in range(len(HALF_LIVES_DAYS[table]))]
    return Folded(
        tuple(_ints(rows[key]) for key in keys),
        _ints(rows["n"]),
        _floats(rows["first_at"]),
        _floats(rows["last_at"]),
        np.stack(counters, axis=1),
        _floats(rows["value"]) if "value" in rows.column_names else np.zeros(len(rows)),
    )


def _joined(a: Folded, b: Folded) -> Folded:
    """Profiles of disjoint keys, one after the other."""
    return Folded(
        tuple(np.concatenate(pair) for pair in zip(a.keys, b.keys, strict=True)),
        np.concatenate([a.n, b.n]),
        np.concatenate([a.first_at, b.first_at]),
        np.concatenate([a.last_at, b.last_at]),
        np.concatenate([a.s, b.s]),
        np.concatenate([a.value, b.value]),
    )


def _one_of(column: str, ids: np.ndarray, many: str = "true") -> str:
    """A condition that `column` is one of `ids`, or the wider `many` where there are too many to write down."""
    return many if len(ids) > _FEW else f"{column} = ANY({_array(ids, 'bigint')})"


def _array(numbers: np.ndarray, kind: str) -> str:
    return f"'{{{','.join(map(str, numbers.tolist()))}}}'::{kind}[]"


# An item's row as of τ: that of the first change after τ says what it was before; without one it is the current row.
_ITEMS = """
SELECT i.id,
       coalesce(v.version, i.version) AS version,
       CASE WHEN v.item_id IS NULL THEN i.category ELSE v.definition->>'category' END AS category,
       CASE WHEN v.item_id IS NULL THEN i.brand ELSE v.definition->>'brand' END AS brand,
       CASE WHEN v.item_id IS NULL THEN i.price ELSE (v.definition->>'price')::float8 END AS price,
       CASE WHEN v.item_id IS NULL THEN i.stock ELSE (v.definition->>'stock')::bigint END::float8 AS stock,
       extract(epoch FROM CASE WHEN v.item_id IS NULL THEN i.available_from
                               ELSE (v.definition->>'available_from')::timestamptz END)::float8 AS available_from,
       extract(epoch FROM CASE WHEN v.item_id IS NULL THEN i.available_until
                               ELSE (v.definition->>'available_until')::timestamptz END)::float8 AS available_until,
       i.stub
FROM items i
LEFT JOIN (SELECT DISTINCT ON (item_id) item_id, version, definition FROM item_versions
           WHERE until > to_timestamp({tau!r}) ORDER BY item_id, until) v ON v.item_id = i.id
ORDER BY i.id
"""


# Prices before the changes of the last months before τ.
_CHANGES = """
SELECT item_id, extract(epoch FROM until)::float8 AS at, (definition->>'price')::float8 AS price
FROM item_versions WHERE until <= to_timestamp({tau!r}) AND until > to_timestamp({tau!r} - {remembered!r})
ORDER BY item_id, until, version
"""

# Promotions as last announced before τ; those of more than a year ago can no longer matter.
_PROMOTIONS = """
SELECT DISTINCT ON (item_id, kind, starts_at)
       item_id, kind, weight,
       extract(epoch FROM starts_at)::float8 AS starts, extract(epoch FROM ends_at)::float8 AS ends
FROM promotions
WHERE announced_at < to_timestamp({tau!r})
  AND starts_at < to_timestamp({tau!r} + {ahead!r}) AND starts_at > to_timestamp({tau!r} - 400 * 86400)
ORDER BY item_id, kind, starts_at, announced_at DESC
"""


def read_items(snapshot: Snapshot, as_of: datetime) -> Items:
    """Every item as it was at τ, sorted by id, with its past prices and its promotions as announced by then."""
    rows = snapshot.arrow(_ITEMS.format(tau=as_of.timestamp()))
    categories, category = _codes(rows["category"])
    brands, brand = _codes(rows["brand"])
    return Items(
        ids=_ints(rows["id"]),
        versions=_ints(rows["version"]).astype(np.int32),
        category=category,
        brand=brand,
        categories=categories,
        brands=brands,
        price=_floats(rows["price"]),
        stock=_floats(rows["stock"]),
        available_from=_floats(rows["available_from"]),
        available_until=_floats(rows["available_until"]),
        stub=np.asarray(rows["stub"].combine_chunks().to_numpy(zero_copy_only=False), bool),
        changes=_read_changes(snapshot, as_of, _ints(rows["id"])),
        promotions=_read_promotions(snapshot, as_of),
    )


def _read_changes(snapshot: Snapshot, as_of: datetime, ids: np.ndarray) -> PriceChanges:
    rows = snapshot.arrow(_CHANGES.format(tau=as_of.timestamp(), remembered=REMEMBERED_DAYS * 86_400))
    at = positions(ids, _ints(rows["item_id"]))
    return PriceChanges(at, _floats(rows["at"]), _floats(rows["price"]))


def _read_promotions(snapshot: Snapshot, as_of: datetime) -> Promotions:
    rows = snapshot.arrow(_PROMOTIONS.format(tau=as_of.timestamp(), ahead=AHEAD_DAYS * 86_400))
    return Promotions(
        _ints(rows["item_id"]),
        np.asarray(pc.index_in(rows["kind"], value_set=pa.array(KINDS)), np.int8),
        _floats(rows["starts"]),
        _floats(rows["ends"]),
        _floats(rows["weight"]),
    )


def _codes(column: pa.ChunkedArray) -> tuple[tuple[str, ...], np.ndarray]:
    """Distinct texts, sorted, and each row's place among them (int32; −1: none)."""
    names = pc.drop_null(pc.unique(column)).sort()
    codes = pc.fill_null(pc.index_in(column, value_set=names, skip_nulls=True), -1)
    return tuple(names.to_pylist()), np.asarray(codes, np.int32)


def _ints(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(column, np.int64)


def _floats(column: pa.ChunkedArray) -> np.ndarray:
    values: Any = pc.fill_null(column.cast(pa.float64()), float("nan"))
    return np.asarray(values, np.float64)
