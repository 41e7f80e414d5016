"""Events folded into the four profile tables: in memory by `features.decay`, in the store by one statement per table.

Order of locks, the same for every writer, so that concurrent folds cannot deadlock: the fold lock, `user_visits`, then
the tables in the order of PROFILES, the rows of each in the order of their keys. `item_profiles` comes last: its hot
rows are shared by everybody and are held the shortest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from sqlalchemy import Connection, text

from engine import localtime
from engine.features import decay
from engine.features.decay import Folded
from engine.store.bulk import copy_out, stage_rows
from engine.store.tables import EVENT_TYPES, HALF_LIVES_DAYS, PROFILE_KEYS

PROFILES: dict[str, tuple[str, ...]] = {
    table: PROFILE_KEYS[table]
    for table in ("user_item_profiles", "user_hour_profiles", "user_profiles", "item_profiles")
}
"""The profile tables and their keys, in the order in which they are written."""

VALUED = ("user_item_profiles", "user_profiles", "item_profiles")
"""Those that sum the events' values."""

RUNGS = {"push_open": 0, "push_click": 0, "app_open": 1, "view": 1, "search": 1, "add_to_cart": 1, "push_sent": 3}
"""How directly an event says that its user was at the screen; every other type is 2, and 3 says that we were."""

NO_RUNG = ("push_dismiss", "unsubscribe", "push_received")
"""Types that say nothing about when a user likes to act."""

BESIDE = 2
"""The rung whose events come many at one instant (the lines of a basket): there an instant counts once for hours."""

FOLD_LOCK = "hashtext('horae.fold')"
"""Advisory lock: shared by whoever folds events, exclusive for whoever rebuilds profiles or changes users' zones."""


@dataclass(frozen=True)
class FoldRows:
    """n events to fold.

    slot: int64, −1 without a user · user, item: int64 ids, −1: none · event_type: int64 · at: float64, epoch seconds ·
    value: float64, NaN: none · zone: int64, index into `zones` (IANA names) of the user's effective zone.
    """

    slot: np.ndarray
    user: np.ndarray
    item: np.ndarray
    event_type: np.ndarray
    at: np.ndarray
    value: np.ndarray
    zone: np.ndarray
    zones: Sequence[str]

    def __len__(self) -> int:
        return len(self.at)

    def where(self, keep: np.ndarray) -> FoldRows:
        """The events at `keep` (bool[n] or positions)."""
        arrays = ("slot", "user", "item", "event_type", "at", "value", "zone")
        return replace(self, **{name: getattr(self, name)[keep] for name in arrays})


def fold_events(
    rows: FoldRows, tables: Sequence[str] = tuple(PROFILES), visits: np.ndarray | None = None
) -> dict[str, Folded]:
    """The profiles of these events, by table.

    visits: bool[n], the events that count for hours, as `claim_visits` says; by default the first of each visit here.
    """
    found = {table: _FOLDS[table](rows) for table in tables if table in _FOLDS}
    if "user_hour_profiles" in tables:
        found["user_hour_profiles"] = _fold_hours(rows.where(_once_each(rows) if visits is None else visits))
    return {table: found[table] for table in tables}


def _once_each(rows: FoldRows) -> np.ndarray:
    counts = np.ones(len(rows), bool)
    beside, _, first = _visits(rows)
    counts[beside] = False
    counts[first] = True
    return counts


def claim_visits(connection: Connection, rows: FoldRows) -> np.ndarray:
    """Which of these events count for hours, bool[n]: all of rungs 0, 1 and 3, and of rung 2 the first of each (user,
    instant) that no fold has counted before, in whatever order events arrive. The caller holds the fold lock, shared.
    """
    counts = np.ones(len(rows), bool)
    beside, keys, first = _visits(rows)
    counts[beside] = False
    if not len(first):
        return counts
    at = keys[1].astype("datetime64[us]")
    stage_rows(connection, "staged_visits", "LIKE user_visits", {"user_id": keys[0], "at": at})
    made = copy_out(
        connection,
        "INSERT INTO user_visits SELECT user_id, at FROM staged_visits ORDER BY user_id, at"
        " ON CONFLICT DO NOTHING RETURNING user_id, at",
        {"user": "bigint", "at": "timestamptz"},
    )
    new = np.isin(_pairs(*keys), _pairs(made["user"], made["at"].astype(np.int64)))
    counts[first[new]] = True
    return counts


def _visits(rows: FoldRows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows of rung 2 (positions), their distinct (user, microsecond) as int64[2, v], and the first row of each."""
    beside = np.flatnonzero((rows.user >= 0) & (_rungs(rows.event_type) == BESIDE))
    micros = np.round(rows.at[beside] * 1e6).astype(np.int64)
    order = np.lexsort((micros, rows.user[beside]))
    user, at = rows.user[beside][order], micros[order]
    new = np.ones(len(order), bool)
    new[1:] = (user[1:] != user[:-1]) | (at[1:] != at[:-1])
    return beside, np.stack([user[new], at[new]]), beside[order[new]]


def _pairs(user: np.ndarray, at: np.ndarray) -> np.ndarray:
    pairs: np.ndarray = np.stack([user.astype(np.int64), at], axis=1).view("S16").ravel()
    return pairs


def share_fold_lock(connection: Connection) -> None:
    """Keep rebuilds and changes of zones out until the transaction ends."""
    connection.execute(text(f"SELECT pg_advisory_xact_lock_shared({FOLD_LOCK})"))


def take_fold_lock(connection: Connection) -> None:
    """Keep every fold out until the transaction ends; call it first of all, before any row is locked."""
    connection.execute(text(f"SELECT pg_advisory_xact_lock({FOLD_LOCK})"))


def add_profiles(connection: Connection, folded: dict[str, Folded], *, kept: bool = False) -> None:
    """Merge folded events into the store; each event in one call only. The caller holds the fold lock, shared.

    kept: not into the profiles, but into what is kept of events that are dropped.
    """
    for table in PROFILES:
        profiles = folded.get(table)
        if profiles is not None and len(profiles):
            stage_rows(connection, f"staged_{table}", f"LIKE {table}", profile_columns(table, profiles))
            connection.execute(text(_upsert(table, "kept_" if kept else "")))


def read_profiles(connection: Connection, table: str, condition: str) -> Folded:
    """The rows of a profile table, or of the kept_… beside it, that `condition` (SQL) selects, sorted by key."""
    of = table.removeprefix("kept_")
    small = {"slot", "event_type", "rung", "hour"}
    sums = [f"s{number}" for number in range(len(HALF_LIVES_DAYS[of]))]
    columns = {name: "smallint" if name in small else "bigint" for name in PROFILES[of]}
    columns |= {"n": "bigint", "first_at": "float8", "last_at": "float8", **dict.fromkeys(sums, "float8")}
    columns |= {"value": "float8"} if of in VALUED else {}
    key = ", ".join(PROFILES[of])
    found = copy_out(connection, f"SELECT {', '.join(columns)} FROM {table} WHERE {condition} ORDER BY {key}", columns)
    s = np.stack([found[name] for name in sums], axis=1)
    keys = tuple(found[name].astype(np.int64) for name in PROFILES[of])
    value = found.get("value", np.zeros(len(s)))
    return Folded(keys, found["n"], found["first_at"], found["last_at"], s, value)


def with_kept(connection: Connection, found: dict[str, Folded], condition: str) -> dict[str, Folded]:
    """Profiles folded from stored events, with what is kept of dropped ones; `condition`: SQL over the kept tables."""
    both = {}
    for table, folded in found.items():
        kept = read_profiles(connection, f"kept_{table}", condition)
        both[table] = decay.merge(folded, kept, HALF_LIVES_DAYS[table]) if len(kept) else folded
    return both


def profile_columns(table: str, folded: Folded) -> dict[str, np.ndarray]:
    """The columns of a profile table, typed as `bulk.copy_rows` wants them."""
    small = {"slot", "event_type", "rung", "hour"}
    columns = {
        name: key.astype(np.int16 if name in small else np.int64)
        for name, key in zip(PROFILES[table], folded.keys, strict=True)
    }
    columns |= {"n": folded.n.astype(np.int64), "first_at": folded.first_at, "last_at": folded.last_at}
    columns |= {f"s{number}": np.ascontiguousarray(s) for number, s in enumerate(folded.s.T)}
    return columns | {"value": folded.value} if table in VALUED else columns


def _upsert(table: str, prefix: str) -> str:
    key = ", ".join(PROFILES[table])
    valued = table in VALUED
    names = [*PROFILES[table], "n", "first_at", "last_at"]
    names += [f"s{number}" for number in range(len(HALF_LIVES_DAYS[table]))] + (["value"] if valued else [])
    merged = decay.merge_assignments(HALF_LIVES_DAYS[table], "stored", "excluded", valued=valued)
    assignments = ", ".join(f"{name} = {expression}" for name, expression in merged.items())
    return (
        f"INSERT INTO {prefix}{table} AS stored ({', '.join(names)})"
        f" SELECT {', '.join(names)} FROM staged_{table} ORDER BY {key}"
        f" ON CONFLICT ({key}) DO UPDATE SET {assignments}"
    )


def _fold_users(rows: FoldRows) -> Folded:
    of = rows.where(rows.user >= 0)
    return _fold((of.slot, of.user, of.event_type), of, "user_profiles")


def _fold_pairs(rows: FoldRows) -> Folded:
    of = rows.where((rows.user >= 0) & (rows.item >= 0))
    return _fold((of.slot, of.user, of.item, of.event_type), of, "user_item_profiles")


def _fold_items(rows: FoldRows) -> Folded:
    of = rows.where(rows.item >= 0)
    return _fold((of.item, of.event_type), of, "item_profiles")


SILENT = -1
"""Instead of a rung: a type that says nothing about when a user likes to act."""


def _rungs(event_type: np.ndarray) -> np.ndarray:
    """The rung of each event type, int64; SILENT for those of NO_RUNG."""
    rung = np.full(len(event_type), BESIDE, np.int64)
    for name, number in (*RUNGS.items(), *((name, SILENT) for name in NO_RUNG)):
        rung[event_type == EVENT_TYPES[name]] = number
    return rung


def _fold_hours(rows: FoldRows) -> Folded:
    rung = _rungs(rows.event_type)
    known = (rows.user >= 0) & (rung != SILENT)
    of, rung = rows.where(known), rung[known]
    hour = localtime.local_hours(of.at, of.zone, of.zones).astype(np.int64)
    return _fold((of.slot, of.user, rung, hour), of, "user_hour_profiles")


def _fold(keys: tuple[np.ndarray, ...], rows: FoldRows, table: str) -> Folded:
    values = rows.value if table in VALUED else None
    return decay.fold(keys, rows.at, None, HALF_LIVES_DAYS[table], values=values)


_FOLDS = {
    "user_item_profiles": _fold_pairs,
    "user_profiles": _fold_users,
    "item_profiles": _fold_items,
}
