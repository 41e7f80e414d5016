"""Reads whom a block is about: its users, and every push that they got or will get."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.localtime import Hours, local_days
from engine.store.database import Snapshot

_ORDINAL_1970 = 719_163
_MOST_SECONDS = 86_400
FROZEN = timedelta(minutes=10)
"""Business time before a push is due in which nothing displaces or changes it any more."""

_FEW = 2_000
"""Ids that are written into a query; beyond that the whole range is read."""


@dataclass(frozen=True)
class Roster:
    """n users, sorted by id. users int64, slot int16; zoned bool: with a zone of their own; zone int32 indexes `zones`;
    group int32 indexes `groups`: the
    (zone, own quiet hours or None) that users share."""

    users: np.ndarray
    slot: np.ndarray
    zoned: np.ndarray
    zone: np.ndarray
    zones: tuple[str, ...]
    group: np.ndarray
    groups: tuple[tuple[str, Hours | None], ...]

    def __len__(self) -> int:
        return len(self.users)

    def rows_of(self, ids: np.ndarray) -> np.ndarray:
        """Rows of user ids (int64), −1 for those who are not here."""
        if not len(self.users):
            return np.full(len(ids), -1, np.int64)
        at = np.minimum(np.searchsorted(self.users, ids), len(self.users) - 1)
        return np.where(self.users[at] == ids, at, -1)


def read_roster(snapshot: Snapshot, slots: tuple[int, int], default_zone: str, asked: np.ndarray) -> Roster:
    """Those of slots [from, until) who are `asked` for (int64, sorted); without a zone they live in `default_zone`."""
    few = f" AND id IN ({_listed(asked)})" if len(asked) <= _FEW else ""
    rows = snapshot.arrow(
        "SELECT id, slot, timezone, extract(epoch FROM quiet_from)::int AS quiet_from,"
        f" extract(epoch FROM quiet_until)::int AS quiet_until FROM users WHERE {_in(slots)}{few} ORDER BY id"
    )
    rows = rows.filter(pa.array(np.isin(np.asarray(rows["id"], np.int64), asked)))
    zones, zone = _codes(pc.fill_null(rows["timezone"], default_zone))
    opens = np.asarray(pc.fill_null(rows["quiet_from"], -1), np.int64)
    closes = np.asarray(pc.fill_null(rows["quiet_until"], -1), np.int64)
    own = (opens >= 0) & (closes >= 0)
    quiet = np.where(own, opens * _MOST_SECONDS + closes, -1)
    pairs, group = np.unique(np.stack([zone.astype(np.int64), quiet]), axis=1, return_inverse=True)
    groups = tuple((zones[z], None if q < 0 else _hours(int(q))) for z, q in pairs.T)
    return Roster(
        users=np.asarray(rows["id"], np.int64),
        slot=np.asarray(rows["slot"], np.int16),
        zoned=np.asarray(pc.is_valid(rows["timezone"])),
        zone=zone,
        zones=zones,
        group=group.reshape(-1).astype(np.int32),
        groups=groups,
    )


@dataclass(frozen=True)
class Past:
    """Pushes that users got or will get, in (row, instant) order. row int64 (of the roster), at int64 (microseconds),
    day int32 (ordinal of the local day), counts bool, item int64 (−1: none), campaign int64, pending bool (planned, not
    yet sent); of those pending occurrence int64, value float64 and loose bool: published, not explored, not due within
    FROZEN; scopes: pyarrow list of strings, of those already sent (empty lists for pending ones)."""

    row: np.ndarray
    at: np.ndarray
    day: np.ndarray
    counts: np.ndarray
    item: np.ndarray
    campaign: np.ndarray
    pending: np.ndarray
    occurrence: np.ndarray
    value: np.ndarray
    loose: np.ndarray
    scopes: pa.Array

    def __len__(self) -> int:
        return len(self.row)

    def offsets(self, users: int) -> np.ndarray:
        """int64[users + 1]: where each row's pushes begin."""
        return np.searchsorted(self.row, np.arange(users + 1))

    def in_scope(self, scope: str) -> np.ndarray:
        """bool[m]: which of those already sent have `scope` among theirs."""
        parents = np.asarray(pc.list_parent_indices(self.scopes), np.int64)
        hits = _bools(pc.equal(pc.list_flatten(self.scopes), scope))
        found = np.zeros(len(self), bool)
        found[parents[hits]] = True
        return found


@dataclass(frozen=True)
class Look:
    """Which pushes to read: those delivered after `since`, as of business time `now`. ours: occurrences whose pushes
    are being planned; again: of those only these (occurrence, user) pairs, each int64 (None: all)."""

    since: datetime
    now: datetime
    ours: Sequence[int]
    again: tuple[np.ndarray, np.ndarray] | None = None


def read_past(snapshot: Snapshot, slots: tuple[int, int], roster: Roster, look: Look) -> Past:
    """Pushes delivered (or perhaps delivered), and those planned, but for what is being planned."""
    few = f" AND d.user_id IN ({_listed(roster.users)})" if len(roster) <= _FEW else ""
    sent = snapshot.arrow(
        "SELECT d.user_id, (extract(epoch FROM d.at) * 1000000)::bigint AS at,"
        " d.local_day - DATE '0001-01-01' + 1 AS day, d.counts, coalesce(d.item_id, -1) AS item, d.campaign_id,"
        " false AS pending, -1::bigint AS occurrence, 'NaN'::float8 AS value, false AS loose, d.scopes"
        " FROM deliveries d JOIN users u ON u.id = d.user_id"
        f" WHERE {_in(slots, 'u.')}{few} AND d.day >= DATE '{(look.since - timedelta(days=1)).date().isoformat()}'"
        f" AND d.at >= '{look.since.isoformat()}' AND NOT d.test AND d.state IN ('accepted', 'unknown')"
    )
    pending = snapshot.arrow(
        "SELECT p.user_id, (extract(epoch FROM p.send_at) * 1000000)::bigint AS at, NULL::int AS day, true AS counts,"
        " coalesce(p.item_id, -1) AS item, p.campaign_id, true AS pending, p.occurrence_id AS occurrence, p.value,"
        f" p.state = 'planned' AND NOT p.explored AND p.send_at > '{(look.now + FROZEN).isoformat()}' AS loose,"
        " '{}'::text[] AS scopes"
        f" FROM pushes p JOIN users u ON u.id = p.user_id WHERE {_in(slots, 'u.')}{few.replace('d.', 'p.')}"
        f" AND NOT {_planned_again(look)}"
    )
    both = pa.concat_tables([sent, pending.cast(sent.schema)]).combine_chunks()
    row = roster.rows_of(np.asarray(both["user_id"], np.int64))
    at = np.asarray(both["at"], np.int64)
    order = np.lexsort((at, row))
    row, at = row[order], at[order]
    local = local_days(at / 1e6, roster.zone[row], roster.zones).astype(np.int64) + _ORDINAL_1970
    day = np.asarray(pc.fill_null(both["day"], -1), np.int64)[order]
    return Past(
        row=row,
        at=at,
        day=np.where(day < 0, local, day).astype(np.int32),
        counts=_bools(both["counts"])[order],
        item=np.asarray(both["item"], np.int64)[order],
        campaign=np.asarray(both["campaign_id"], np.int64)[order],
        pending=_bools(both["pending"])[order],
        occurrence=np.asarray(both["occurrence"], np.int64)[order],
        value=np.asarray(both["value"], np.float64)[order],
        loose=_bools(both["loose"])[order],
        scopes=_one(both["scopes"].take(pa.array(order))),
    )


def _planned_again(look: Look) -> str:
    ours = f"p.occurrence_id IN ({','.join(str(int(occurrence)) for occurrence in look.ours) or '-1'})"
    if look.again is None:
        return ours
    pairs = ",".join(f"({int(o)},{int(u)})" for o, u in zip(*look.again, strict=True)) or "(-1,-1)"
    return f"(p.occurrence_id, p.user_id) IN ({pairs})"


def _listed(ids: np.ndarray) -> str:
    return ",".join(map(str, ids.tolist())) or "-1"


def _in(slots: tuple[int, int], prefix: str = "") -> str:
    return f"{prefix}slot >= {slots[0]:d} AND {prefix}slot < {slots[1]:d}"


def _hours(packed: int) -> Hours:
    return _time(packed // _MOST_SECONDS), _time(packed % _MOST_SECONDS)


def _time(seconds: int) -> time:
    return time(seconds // 3600 % 24, seconds // 60 % 60, seconds % 60)


def _codes(column: pa.ChunkedArray) -> tuple[tuple[str, ...], np.ndarray]:
    """Distinct texts, sorted, and each row's place among them (int32)."""
    names = pc.unique(column).sort()
    return tuple(names.to_pylist()), np.asarray(pc.index_in(column, value_set=names), np.int32)


def _bools(column: Any) -> np.ndarray:
    return np.asarray(_one(column).to_numpy(zero_copy_only=False), bool)


def _one(column: Any) -> Any:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
