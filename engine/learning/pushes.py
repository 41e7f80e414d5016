"""What became of the pushes that were sent: rows to learn clicks from, and nothing that is not known yet.

A row is the feature row that its decision stored (log and learn), labelled by what the user did within an attribution
window of the delivery. Only rows whose window is over count: a click that can still come is no refusal. A response
that names its push belongs to that push; any other belongs to the last push before it, never to an earlier one.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import text

from engine.features.logged import rows_of
from engine.learning.crediting import last_before, robots
from engine.learning.timeline import ATTRIBUTION
from engine.store.database import Snapshot
from engine.store.tables import DECISION_REASONS, EVENT_TYPES, SLOTS

CLICKED_WITHIN = timedelta(days=1)
LOOK_BACK = timedelta(days=56)
RECORDED_WITHIN = timedelta(seconds=60)
"""The ledger's instant is when a provider's answer was recorded: a quick thumb's answer, which names its push, may be
that much earlier."""

MOST_PUSHES = 300_000
"""Pushes learned from; of more, those of a share of all users: 150 MB of features."""

_OPEN, _CLICK = EVENT_TYPES["push_open"], EVENT_TYPES["push_click"]

_SENT = """
SELECT d.push_id::text AS push_id, d.user_id, d.item_id, extract(epoch FROM d.at)::float8 AS at, x.receipt
FROM deliveries d
JOIN users u ON u.id = d.user_id
JOIN occurrences o ON o.id = d.occurrence_id
JOIN LATERAL (
    SELECT receipt FROM decisions
    WHERE date = o.date AND occurrence_id = d.occurrence_id AND user_id = d.user_id AND push_id = d.push_id
          AND reason = {planned}
    ORDER BY revision DESC LIMIT 1
) x ON true
WHERE d.state = 'accepted' AND NOT d.test AND d.item_id IS NOT NULL AND {when} AND u.slot < {slots}
ORDER BY d.at, d.push_id
"""

_TOLD = """
SELECT user_id, item_id, event_type, extract(epoch FROM occurred_at)::float8 AS at, push_id::text AS push_id
FROM events
WHERE occurred_at >= '{since}'::timestamptz AND occurred_at < '{until}'::timestamptz AND user_id IS NOT NULL
      AND event_type IN ({types})
      AND user_id IN (SELECT d.user_id FROM deliveries d WHERE d.state = 'accepted' AND {when})
"""


@dataclass(frozen=True)
class Pushes:
    """n delivered pushes about an item whose outcome is known, by time of delivery.

    user, item: int64 ids · at: float64, epoch seconds · rows: float32[n, F], as they were scored · opened, clicked:
    bool, within CLICKED_WITHIN (a click opens) · converted: bool, the goal about the item within ATTRIBUTION; only
    known where `matured` (bool), which is later · others: how many were left out, without a row of this schema
    or to a machine.
    """

    user: np.ndarray
    item: np.ndarray
    at: np.ndarray
    rows: np.ndarray
    opened: np.ndarray
    clicked: np.ndarray
    converted: np.ndarray
    matured: np.ndarray
    others: int

    def __len__(self) -> int:
        return len(self.at)

    @property
    def labels(self) -> np.ndarray:
        """What counts as a click, bool[n]: opens where the app reports no clicks at all."""
        return self.clicked if self.clicked.any() else self.opened

    def where(self, keep: np.ndarray) -> Pushes:
        """The pushes at `keep` (bool[n] or positions)."""
        arrays = ("user", "item", "at", "rows", "opened", "clicked", "converted", "matured")
        return Pushes(**{name: getattr(self, name)[keep] for name in arrays}, others=self.others)


def read_pushes(
    snapshot: Snapshot, now: datetime, goal: int, since: datetime | None = None, most: int = MOST_PUSHES
) -> Pushes:
    """The pushes delivered since `since` (aware; LOOK_BACK before `now` by default) whose clicks are known at `now`.

    goal: the event type of a conversion.
    """
    since = since or now - LOOK_BACK
    until = now - CLICKED_WITHIN
    when = f"d.day >= '{since:%Y-%m-%d}'::date AND d.at >= '{since.isoformat()}'::timestamptz"
    when += f" AND d.at <= '{until.isoformat()}'::timestamptz"
    count = f"SELECT count(*) FROM deliveries d WHERE d.state = 'accepted' AND NOT d.test AND {when}"
    there = int(snapshot.connection.execute(text(count)).scalar_one())
    slots = SLOTS if there <= most else max(SLOTS * most // there, 1)
    sent = snapshot.arrow(_SENT.format(planned=DECISION_REASONS.index("planned"), when=when, slots=slots))
    told = snapshot.arrow(
        _TOLD.format(since=since.isoformat(), until=now.isoformat(), types=f"{_OPEN}, {_CLICK}, {int(goal)}", when=when)
    )
    return _labelled(sent, told, goal, now.timestamp())


def _labelled(sent: pa.Table, told: pa.Table, goal: int, now: float) -> Pushes:
    user, at = _ints(sent["user_id"]), np.asarray(sent["at"], np.float64)
    rows, known = rows_of([bytes(stored) for stored in sent["receipt"].to_pylist()])
    response = np.asarray(told["event_type"], np.int64) != goal
    machines = _machines(told.filter(pa.array(response)), user)
    kept = known & ~np.isin(user, machines)
    push = credited(sent, told)
    kind, when = np.asarray(told["event_type"], np.int64), np.asarray(told["at"], np.float64)
    found = {name: np.zeros(len(user), bool) for name in ("opened", "clicked", "converted")}
    late = np.full(len(when), np.inf)
    late[push >= 0] = when[push >= 0] - at[push[push >= 0]]
    soon = (late >= -RECORDED_WITHIN.total_seconds()) & (late < CLICKED_WITHIN.total_seconds())
    for name, types in (("opened", (_OPEN, _CLICK)), ("clicked", (_CLICK,))):
        found[name][push[soon & np.isin(kind, types)]] = True
    item = _ints(sent["item_id"])
    found["converted"][_converted(told.filter(pa.array(~response)), user, item, at)] = True
    matured = at <= now - ATTRIBUTION.total_seconds()
    pushes = Pushes(user, item, at, rows, **found, matured=matured, others=int((~kept).sum()))
    return pushes.where(np.flatnonzero(kept))


def credited(sent: pa.Table, told: pa.Table) -> np.ndarray:
    """The push that each response belongs to, int64[m] positions, −1 for none: the one it names, else the last.

    Both tables have push_id (text), user_id and at (epoch seconds).
    """
    at = np.asarray(sent["at"], np.float64)
    last = last_before(_ints(sent["user_id"]), at, _ints(told["user_id"]), np.asarray(told["at"], np.float64))
    named = pc.fill_null(pc.index_in(told["push_id"], value_set=sent["push_id"].combine_chunks(), skip_nulls=True), -1)
    of_name = np.asarray(named, np.int64)
    # one that names a push we do not know answers something else
    return np.asarray(np.where(np.asarray(pc.is_valid(told["push_id"])), of_name, last), np.int64)


def _converted(told: pa.Table, user: np.ndarray, item: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Positions of the pushes that goals followed: the last one about the item within ATTRIBUTION before each."""
    about = _ints(told["item_id"])
    width = int(max(item.max(initial=0), about.max(initial=0))) + 2
    when = np.asarray(told["at"], np.float64)
    push = last_before(user * width + item, at, _ints(told["user_id"]) * width + about, when)
    there = np.flatnonzero(push >= 0)
    return np.asarray(push[there[when[there] - at[push[there]] < ATTRIBUTION.total_seconds()]], np.int64)


def _machines(responses: pa.Table, sent_to: np.ndarray) -> np.ndarray:
    kind = np.asarray(responses["event_type"], np.int64)
    return robots(_ints(responses["user_id"]), np.asarray(responses["at"], np.float64), kind, sent_to)


def _ints(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(pc.fill_null(column, -1), np.int64)
