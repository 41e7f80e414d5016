"""Replay: the profiles computed again from the events, to rebuild them or to check them.

It starts at what is kept of events that retention has dropped (`engine.ingest.retention`).

A slice at a time, each a transaction of its own that holds the fold lock exclusively: the users of one range of slots
(all their profiles), then the items. While a slice is rebuilt no fold is under way, so its events are either in the
profiles or still queued (and then left out), never half in; events that arrive meanwhile wait for the lock (files) or
in the queue (HTTP) and are folded afterwards, once. Readers see a slice's old rows until it commits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import Connection, text

from engine.errors import SchemaMismatch
from engine.features.decay import Folded, merge
from engine.ingest.hours import folded_events
from engine.ingest.items import folded_items
from engine.ingest.profiles import add_profiles, fold_events, read_profiles, take_fold_lock, with_kept
from engine.store.database import Database
from engine.store.slots import shard_ranges
from engine.store.tables import HALF_LIVES_DAYS, PROFILE_PARTITION_SLOTS

TOLERANCE = 1e-9
"""Relative difference up to which sums in another order are the same."""

RECIPE = json.dumps({"rules": 2} | HALF_LIVES_DAYS)
"""How profiles are computed: `rules` grows where the same half-lives count something else."""

SLICE_SLOTS = PROFILE_PARTITION_SLOTS

USER_TABLES = ("user_item_profiles", "user_hour_profiles", "user_profiles")

Done = Callable[[int, int], None]
"""Told (slices done, slices in all)."""


@dataclass(frozen=True)
class Replayed:
    """What a replay found: profile rows from the events, and how many stored rows differed from them."""

    profiles: int
    differing: int


def replay(database: Database, progress: Done | None = None, *, rebuild: bool = True) -> Replayed:
    """Compute every profile from the events; `rebuild` stores them, otherwise they are only compared."""
    slices: list[str | None] = [f"slot BETWEEN {low} AND {high - 1}" for low, high in shard_ranges(SLICE_SLOTS)]
    slices.append(None)
    profiles = differing = 0
    for number, slots in enumerate(slices, start=1):
        with database.begin() as connection:
            take_fold_lock(connection)
            found = _of_users(connection, slots) if slots else {"item_profiles": _of_items(connection)}
            for table, folded in found.items():
                profiles += len(folded)
                differing += _differing(read_profiles(connection, table, slots or "true"), folded)
                if rebuild:
                    connection.execute(text(f"DELETE FROM {table} WHERE {slots or 'true'}"))
            if rebuild:
                add_profiles(connection, found)
        if progress is not None:
            progress(number, len(slices))
    return Replayed(profiles, differing)


def require_current_profiles(database: Database) -> None:
    """Raise SchemaMismatch where the profiles were computed by another recipe than this code's."""
    with database.begin() as connection:
        current = _are_current(connection)
    if not current:
        raise SchemaMismatch(
            "the profiles were computed by an older version of Horae, in another way",
            hint="run: horae migrate (it computes them again from the events)",
        )


def renew_profiles(database: Database, progress: Done | None = None) -> bool:
    """Compute the profiles again where they were computed by another recipe; whether they were. Idempotent."""
    with database.begin() as connection:
        if _are_current(connection):
            return False
    replay(database, progress)
    with database.begin() as connection:
        _note_recipe(connection)
    return True


def _are_current(connection: Connection) -> bool:
    """Whether the profiles follow this code's recipe; where there are none yet, they will."""
    noted = connection.execute(text("SELECT profile_recipe FROM workspace")).scalar_one_or_none()
    if noted == RECIPE:
        return True
    if connection.execute(
        text("SELECT EXISTS (SELECT FROM user_profiles) OR EXISTS (SELECT FROM item_profiles)")
    ).scalar():
        return False
    _note_recipe(connection)
    return True


def _note_recipe(connection: Connection) -> None:
    connection.execute(text("UPDATE workspace SET profile_recipe = :now"), {"now": RECIPE})


def _of_users(connection: Connection, slots: str) -> dict[str, Folded]:
    return with_kept(connection, fold_events(folded_events(connection, f"users.{slots}"), USER_TABLES), slots)


def _of_items(connection: Connection) -> Folded:
    """Profiles of all items, month by month: a store's events need not fit into memory; then the pushes sent."""
    half_lives = HALF_LIVES_DAYS["item_profiles"]
    total = read_profiles(connection, "kept_item_profiles", "true")
    pushes = "(SELECT id AS key, item_id, 11::smallint AS event_type, at AS occurred_at, NULL::float8 AS value"
    pushes += " FROM deliveries WHERE state = 'accepted' AND NOT test)"
    for partition in (*_event_partitions(connection), pushes):
        found = folded_items(connection, partition)
        total = merge(total, found, half_lives) if len(total) else found
    return total


def _event_partitions(connection: Connection) -> Sequence[str]:
    return (
        connection.execute(
            text("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'events'::regclass ORDER BY 1")
        )
        .scalars()
        .all()
    )


def _differing(stored: Folded, computed: Folded) -> int:
    """How many keys stand in one of the two only, or with other numbers."""
    ours = np.stack([*stored.keys], axis=1)
    theirs = np.stack([*computed.keys], axis=1)
    if ours.shape != theirs.shape or not np.array_equal(ours, theirs):
        mine, other = ({tuple(key) for key in keys.tolist()} for keys in (ours, theirs))
        common = sorted(mine & other)
        return len(mine ^ other) + _differing(_only(stored, common), _only(computed, common))
    same = (stored.n == computed.n) & (stored.first_at == computed.first_at) & (stored.last_at == computed.last_at)
    same &= np.all(np.isclose(stored.s, computed.s, rtol=TOLERANCE, atol=0), axis=1)
    same &= np.isclose(stored.value, computed.value, rtol=TOLERANCE, atol=TOLERANCE)
    return int((~same).sum())


def _only(folded: Folded, keys: list[tuple[int, ...]]) -> Folded:
    wanted = set(keys)
    at = [row for row, key in enumerate(zip(*(key.tolist() for key in folded.keys), strict=True)) if key in wanted]
    return Folded(
        tuple(key[at] for key in folded.keys),
        folded.n[at],
        folded.first_at[at],
        folded.last_at[at],
        folded.s[at],
        folded.value[at],
    )
