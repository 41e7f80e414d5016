"""Reads decisions of a past run back as options, for many users at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.localtime import local_days, local_seconds
from engine.planning import receipt, remembered
from engine.planning.case import ORDINAL_1970
from engine.planning.remembered import Remembered
from engine.planning.rewriting import REFRESHED
from engine.planning.runspec import RunSpec
from engine.store.database import Snapshot
from engine.store.tables import DECISION_REASONS

REASON = {name: code for code, name in enumerate(DECISION_REASONS)}


@dataclass(frozen=True)
class Items:
    """Every item: ids int64, sorted, and category int32 (index into categories, −1: none)."""

    ids: np.ndarray
    category: np.ndarray
    categories: tuple[str, ...]

    def category_of(self, item: np.ndarray) -> np.ndarray:
        """int32: the categories of items (ids int64), −1 where an item has none or is gone."""
        if not len(self.ids):
            return np.full(item.shape, -1, np.int32)
        at = np.minimum(np.searchsorted(self.ids, item), len(self.ids) - 1)
        return np.where(self.ids[at] == item, self.category[at], -1).astype(np.int32)


def read_items(snapshot: Snapshot) -> Items:
    """All items with their categories."""
    rows = snapshot.arrow("SELECT id, category FROM items ORDER BY id")
    names = pc.drop_null(pc.unique(rows["category"])).sort()
    codes = pc.fill_null(pc.index_in(rows["category"], value_set=names), -1)
    return Items(np.asarray(rows["id"], np.int64), np.asarray(codes, np.int32), tuple(names.to_pylist()))


@dataclass(frozen=True)
class Recalled:
    """Decisions of n users and the run's O occurrences. users int64[n] sorted; zone int32[n] into zones; own bool[n]:
    with quiet hours of their own; asked bool[n, O]; arm, reason int8[n, O] of revision 0; chosen bool[n, O]: it chose a
    push; kept bool[n, O]: there is a receipt; what: the options; local float64[n, O, P]: local seconds since midnight.

    really: reason int8[n, O] of the last revision, really_at, really_value float64[n, O] (NaN: nothing); failed
    bool[n, O]: a push stood to the end and did not reach the provider. late: what late binding made of pushes.
    """

    users: np.ndarray
    zone: np.ndarray
    zones: tuple[str, ...]
    own: np.ndarray
    asked: np.ndarray
    arm: np.ndarray
    reason: np.ndarray
    chosen: np.ndarray
    kept: np.ndarray
    what: Remembered
    local: np.ndarray
    really: np.ndarray
    really_at: np.ndarray
    really_value: np.ndarray
    failed: np.ndarray
    late: Late


@dataclass(frozen=True)
class Late:
    """What late binding made of pushes, all [n, O]. there bool: it changed or ended this one; from_at float64,
    from_item int64: what the push was when it was published; reason int8, at, value float64, item int64: what it
    became."""

    there: np.ndarray
    from_at: np.ndarray
    from_item: np.ndarray
    reason: np.ndarray
    at: np.ndarray
    value: np.ndarray
    item: np.ndarray


_QUERY = """
SELECT d.user_id, d.occurrence_id, d.revision, d.arm, d.reason, coalesce(d.item_id, -1) AS item,
       extract(epoch FROM d.window_start)::float8 AS slot, extract(epoch FROM d.send_at)::float8 AS at,
       d.value, d.price, d.receipt, d.shard, coalesce(u.timezone, '{zone}') AS timezone,
       u.quiet_from IS NOT NULL AS own,
       coalesce(e.state NOT IN ('accepted', 'unknown'), false) AS failed
FROM users u JOIN decisions d ON d.user_id = u.id
LEFT JOIN deliveries e ON e.push_id = d.push_id AND e.user_id = d.user_id AND e.day >= d.date - 1
WHERE u.slot >= {first} AND u.slot < {until} AND d.run_id = {run} AND d.date IN ({dates})
ORDER BY d.user_id, d.occurrence_id, d.revision
"""


def recall(snapshot: Snapshot, spec: RunSpec, slots: tuple[int, int], items: Items, zone: str) -> Recalled | None:
    """The decisions of run `spec` about users of slots [from, until); None where there are none. `zone`: IANA name of
    users without one."""
    dates = ", ".join(f"DATE '{day.isoformat()}'" for day in sorted({o.date for o in spec.occasions}))
    rows = snapshot.arrow(_QUERY.format(zone=zone, first=slots[0], until=slots[1], run=spec.run_id, dates=dates))
    return _recalled(rows, spec, items) if len(rows) else None


def _recalled(rows: pa.Table, spec: RunSpec, items: Items) -> Recalled:
    users, row = np.unique(np.asarray(rows["user_id"], np.int64), return_inverse=True)
    ids = np.array([occasion.occurrence_id for occasion in spec.occasions], np.int64)
    order = np.argsort(ids)
    occurrence = order[np.searchsorted(ids[order], np.asarray(rows["occurrence_id"], np.int64))]
    first = np.asarray(rows["revision"]) == 0
    zones = pc.unique(rows["timezone"]).sort()
    code = np.zeros(len(users), np.int32)
    code[row] = np.asarray(pc.index_in(rows["timezone"], value_set=zones), np.int32)
    shape = (len(users), len(ids))

    def spread(name: str, otherwise: Any, kind: Any, pick: np.ndarray) -> np.ndarray:
        out = np.full(shape, otherwise, kind)
        out[row[pick], occurrence[pick]] = np.asarray(pc.fill_null(rows[name], otherwise))[pick]
        return out

    everything = np.ones(len(rows), bool)  # revisions ascend: the last one of a decision stays
    at = np.flatnonzero(first)
    own = np.zeros(len(users), bool)
    own[row] = np.asarray(rows["own"])
    what, kept = _options(rows, at, (row[at], occurrence[at]), shape)
    known = _placed(what, code, tuple(zones.to_pylist()), items)
    asked = np.zeros(shape, bool)
    asked[row, occurrence] = True
    really = spread("reason", 0, np.int8, everything)
    return Recalled(
        users=users,
        zone=code,
        zones=tuple(zones.to_pylist()),
        own=own,
        asked=asked,
        arm=spread("arm", 0, np.int8, first),
        reason=spread("reason", 0, np.int8, first),
        chosen=np.isfinite(spread("at", np.nan, np.float64, first)),
        kept=kept,
        what=known[0],
        local=known[1],
        really=really,
        really_at=spread("at", np.nan, np.float64, everything),
        really_value=spread("value", np.nan, np.float64, everything),
        failed=spread("failed", False, bool, everything) & (really == REASON["planned"]),
        late=_late(rows, spread),
    )


def _late(rows: pa.Table, spread: Callable[[str, Any, Any, np.ndarray], np.ndarray]) -> Late:
    refreshed = np.asarray(rows["shard"]) == REFRESHED
    planned = ~refreshed & (np.asarray(rows["reason"]) == REASON["planned"])
    return Late(
        there=spread("shard", 0, np.int64, refreshed) == REFRESHED,
        from_at=spread("at", np.nan, np.float64, planned),
        from_item=spread("item", -1, np.int64, planned),
        reason=spread("reason", 0, np.int8, refreshed),
        at=spread("at", np.nan, np.float64, refreshed),
        value=spread("value", np.nan, np.float64, refreshed),
        item=spread("item", -1, np.int64, refreshed),
    )


def _options(
    rows: pa.Table, at: np.ndarray, place: tuple[np.ndarray, np.ndarray], shape: tuple[int, int]
) -> tuple[Remembered, np.ndarray]:
    """The choices and alternatives of revisions 0 (rows `at`, of users and occurrences `place`), and who has a
    receipt."""
    what = remembered.nothing(*shape)
    row, occurrence = place
    instant = np.asarray(pc.fill_null(rows["at"], np.nan))[at]
    some = np.flatnonzero(np.isfinite(instant))
    here = (row[some], occurrence[some], np.zeros(len(some), np.int64))
    what.there[here] = True
    for name in ("item", "slot", "at", "value", "price"):
        getattr(what, name)[here] = np.asarray(pc.fill_null(rows[name], 0))[at][some]
    stored = [rows["receipt"][int(number)].as_py() for number in at]
    found = [receipt.alternatives_of(one) for one in stored]
    counts = np.array([len(one) for one in found], np.int64)
    flat = np.concatenate([*found, np.zeros(0, receipt.ALTERNATIVE)])
    which = np.repeat(np.arange(len(at)), counts)
    number = 1 + np.arange(len(flat)) - np.repeat(np.cumsum(counts) - counts, counts)
    there = (row[which], occurrence[which], number)
    what.there[there] = True
    for name, of in (("item", "item"), ("slot", "slot"), ("at", "send_at"), ("end", "end"), ("value", "value"),
                     ("price", "price"), ("code", "code")):  # fmt: skip
        getattr(what, name)[there] = flat[of]
    kept = np.zeros(shape, bool)
    kept[row, occurrence] = [one is not None for one in stored]
    return what, kept


def _placed(what: Remembered, zone: np.ndarray, zones: tuple[str, ...], items: Items) -> tuple[Remembered, np.ndarray]:
    """The options with local days and categories, and their local seconds since midnight."""
    where = np.nonzero(what.there)
    instants, codes = what.at[where], zone[where[0]]
    what.day[where] = local_days(instants, codes, zones).astype(np.int64) + ORDINAL_1970
    what.category[where] = items.category_of(what.item[where])
    local = np.zeros(what.at.shape)
    local[where] = local_seconds(instants, codes, zones) % 86_400
    return what, local
