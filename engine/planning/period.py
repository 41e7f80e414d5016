"""The past period that a simulation plays: what is to be different, what users have got so far, what was scarce."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from sqlalchemy import text

from engine.campaigns.definition import Campaign
from engine.campaigns.policy import Cap, Policy
from engine.localtime import Hours
from engine.planning.ledger import GIVEN, Ledger
from engine.planning.prices import Capacities
from engine.planning.recall import Items, read_items
from engine.planning.remembered import Kind
from engine.planning.runspec import RunSpec, secret_of
from engine.planning.scarcity import STOCK_DAY
from engine.planning.sides import Side
from engine.planning.usage import NOTHING_SHORT, Stock, about_items, capacities_of
from engine.store.database import Snapshot


@dataclass(frozen=True)
class Change:
    """What is to be different; None: as it was. quiet_hours, min_gap, capacity (pushes of each campaign per UTC
    quarter-hour) and pushes_per_stock may also be "none"."""

    caps: tuple[Cap, ...] | None = None
    min_gap: timedelta | str | None = None
    quiet_hours: Hours | str | None = None
    capacity: int | str | None = None
    pushes_per_stock: int | str | None = None

    def of(self, policy: Policy) -> Policy:
        """The workspace's rules with the change."""
        names = ("caps", "min_gap", "quiet_hours", "pushes_per_stock")
        given = {name: getattr(self, name) for name in names}
        changes = {name: None if value == "none" else value for name, value in given.items() if value is not None}
        return policy.model_copy(update=changes)

    def of_run(self, spec: RunSpec) -> RunSpec:
        """A run with the change in its campaigns."""
        if self.capacity is None:
            return spec
        capacity = None if isinstance(self.capacity, str) else self.capacity
        changed = (
            replace(o, definition=o.definition.model_copy(update={"capacity_per_quarter": capacity}))
            for o in spec.occasions
        )
        return replace(spec, occasions=tuple(changed))


_DELIVERED = """
SELECT d.user_id, (extract(epoch FROM d.at) * 1000000)::bigint AS at,
       coalesce(d.local_day, d.day) - DATE '0001-01-01' + 1 AS day, d.counts,
       array_to_string(d.scopes, chr(10)) AS scopes, d.campaign_id, d.gateway, coalesce(d.item_id, -1) AS item
FROM deliveries d JOIN users u ON u.id = d.user_id
LEFT JOIN occurrences o ON o.id = d.occurrence_id LEFT JOIN runs r ON r.id = o.run_id
WHERE u.slot >= {first} AND u.slot < {until} AND d.at >= '{since}' AND d.day >= DATE '{day}'
  AND (d.at < '{begin}' OR r.as_of < '{begin}') AND NOT d.test AND d.state IN ('accepted', 'unknown')
"""

_SPENT = text("""
    SELECT d.campaign_id, count(*) AS n FROM deliveries d
    LEFT JOIN occurrences o ON o.id = d.occurrence_id LEFT JOIN runs r ON r.id = o.run_id
    WHERE (d.at < :begin OR r.as_of < :begin) AND NOT d.test AND d.state IN ('accepted', 'unknown') GROUP BY 1
""")

_STOCK = text("""
    SELECT id, stock FROM (
        SELECT i.id, CASE WHEN v.item_id IS NULL THEN i.stock ELSE (v.definition->>'stock')::bigint END AS stock
        FROM items i LEFT JOIN (SELECT DISTINCT ON (item_id) item_id, definition FROM item_versions
                                WHERE until > :as_of ORDER BY item_id, until) v ON v.item_id = i.id
    ) known WHERE stock > 0 AND stock <= CAST(:enough AS bigint) ORDER BY id
""")


class Period:
    """The period being played: what users have got so far, and both sides' counts."""

    def __init__(self, snapshot: Snapshot, change: Change, specs: list[RunSpec]) -> None:
        self.snapshot, self.change, self.specs = snapshot, change, specs
        self.secret = secret_of(snapshot.connection)
        self.items: Items = read_items(snapshot)
        self.kinds: list[Kind] = []
        self.definitions: dict[int, Campaign] = {}
        self.ledger = Ledger()
        self.really, self.simulated = Side(), Side()
        self.counts: Counter[str] = Counter()
        self._kind_of: dict[Any, int] = {}
        given = {"begin": specs[0].as_of}
        self._spent = Counter({row.campaign_id: int(row.n) for row in snapshot.connection.execute(_SPENT, given)})
        self._users = int(snapshot.connection.execute(text("SELECT count(*) FROM users")).scalar_one())

    def past(self, slots: tuple[int, int], since: datetime) -> np.ndarray:
        """What the users of `slots` got, GIVEN[m]: really by earlier runs, then by the simulation."""
        if slots not in self.ledger:
            self.ledger.add(slots, self._delivered(slots, since))
        return self.ledger.of(slots)

    def _delivered(self, slots: tuple[int, int], since: datetime) -> np.ndarray:
        query = _DELIVERED.format(
            first=slots[0], until=slots[1], since=since.isoformat(), day=since.date().isoformat(),
            begin=self.specs[0].as_of.isoformat(),
        )  # fmt: skip
        rows = self.snapshot.arrow(query)
        out = np.zeros(len(rows), GIVEN)
        for name, column in (("user", "user_id"), ("at", "at"), ("day", "day"), ("campaign", "campaign_id"),
                             ("item", "item")):  # fmt: skip
            out[name] = np.asarray(rows[column], np.int64)
        pairs = zip(rows["scopes"].to_pylist(), rows["counts"].to_pylist(), strict=True)
        out["kind"] = [self.kind(pair, Kind(frozenset(pair[0].split("\n")), pair[1])) for pair in pairs]
        out["gateway"] = [self.ledger.gateway(name) for name in rows["gateway"].to_pylist()]
        out["run"] = out["occurrence"] = -1
        return out

    def kind(self, key: Any, made: Kind) -> int:
        """The number of a kind of push."""
        if key not in self._kind_of:
            self._kind_of[key] = len(self.kinds)
            self.kinds.append(made)
        return self._kind_of[key]

    def capacities(self, spec: RunSpec, policy: Policy) -> Capacities:
        """What the run may send, less what the simulation gave in earlier runs, with the stock of then."""
        spent = self._spent + self.ledger.spent()
        taken = self.ledger.taken(spec.as_of.timestamp())
        return capacities_of(spec.occasions, policy, spec.as_of, taken, spent, self._stock(spec, policy))

    def _stock(self, spec: RunSpec, policy: Policy) -> Stock:
        each = policy.pushes_per_stock
        if each is None or not about_items(spec.occasions):
            return NOTHING_SHORT
        given = {"as_of": spec.as_of, "enough": -(-self._users // each)}
        rows = self.snapshot.connection.execute(_STOCK, given).all()
        items = np.array([row.id for row in rows], np.int64)
        stock = np.array([row.stock for row in rows], np.int64)
        used = self.ledger.about(items, (spec.as_of - STOCK_DAY).timestamp())
        return Stock(items, np.maximum(stock * each - used, 0))
