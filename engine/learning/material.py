"""What a training learns from, read from the store in bounded work; or why there is too little of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
from sqlalchemy import text

from engine.errors import UnknownName, did_you_mean
from engine.features.catalogue import Items
from engine.ingest.profiles import FoldRows
from engine.learning import timeline
from engine.learning.history import read_events
from engine.learning.reading import read_items
from engine.learning.timeline import Timeline
from engine.store.database import Snapshot
from engine.store.tables import PROFILE_PARTITION_SLOTS, SLOTS

MOST_EVENTS = 4_000_000
"""Events read; of a store with more, users are sampled (and events without a user left out). About 1.5 GB at work."""


class TooLittleData(Exception):
    """Why no model can be trained yet: a sentence for the person who asked."""


@dataclass(frozen=True)
class Material:
    """What is learned from, as of `now`.

    goal: event type of a success · events: of a share of all users, sorted by nothing · items: by instant (epoch
    seconds), of every instant of the timeline and of now.
    """

    now: datetime
    goal: int
    goal_name: str
    events: FoldRows
    share: float
    timeline: Timeline
    items: dict[float, Items]


def read_material(snapshot: Snapshot, now: datetime, goal_name: str, *, newest_only: bool = False) -> Material:
    """Events before `now` (aware) and the items as they were at each instant; of the newest only, where asked for.

    Raises UnknownName for a goal the store has no event type of, TooLittleData with the reason.
    """
    goal = goal_of(snapshot, goal_name)
    share = share_of(snapshot)
    where = "true" if share == 1 else f"user_id IN (SELECT id FROM users WHERE slot < {round(share * SLOTS)})"
    events = read_events(snapshot, until=now, where=where)
    if not len(events):
        raise TooLittleData("there are no events yet")
    if not np.any(events.event_type == goal):
        raise TooLittleData(f"there is no event of type {goal_name} to learn from")
    chosen = _timeline(events, now)
    instants = (chosen.test, now) if newest_only else (*chosen.instants, now)
    items = {instant.timestamp(): items_to_learn_from(snapshot, instant) for instant in instants}
    if len(items[now.timestamp()]) < 2:
        raise TooLittleData("there are fewer than two items: nothing to choose between")
    return Material(now, goal, goal_name, events, share, chosen, items)


def items_to_learn_from(snapshot: Snapshot, instant: datetime) -> Items:
    """The items as they were. Where all are known from events alone, each counts as on offer: what may be pushed is
    for the catalogue to say, what users take next can be learned without one."""
    items = read_items(snapshot, instant)
    return replace(items, stub=np.zeros(len(items), bool)) if items.stub.all() else items


def goal_of(snapshot: Snapshot, name: str) -> int:
    """The id of the event type `name`. Raises UnknownName."""
    known = {row.name: int(row.id) for row in snapshot.connection.execute(text("SELECT name, id FROM event_types"))}
    if name not in known:
        raise UnknownName(f"no event is of type {name!r}", hint=did_you_mean(name, known))
    return known[name]


def share_of(snapshot: Snapshot) -> float:
    """The share of users to learn from, a whole number of slots, judged by the profiles of a sixteenth of them."""
    seen = snapshot.connection.execute(
        text("SELECT coalesce(sum(n), 0) FROM user_profiles WHERE slot < :slots"), {"slots": PROFILE_PARTITION_SLOTS}
    ).scalar_one()
    estimate = float(seen) * SLOTS / PROFILE_PARTITION_SLOTS
    return 1.0 if estimate <= MOST_EVENTS else max(int(SLOTS * MOST_EVENTS / estimate), 1) / SLOTS


def _timeline(events: FoldRows, now: datetime) -> Timeline:
    # One stray early stamp must not make a history long.
    first = datetime.fromtimestamp(float(np.quantile(events.at, 0.01)), UTC)
    chosen = timeline.choose(first, now)
    if chosen is None:
        raise TooLittleData(
            f"the history is too short: it begins on {first:%Y-%m-%d}, and a model needs four weeks,"
            f" until {timeline.needed(first):%Y-%m-%d}"
        )
    return chosen
