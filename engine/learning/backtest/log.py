"""What a backtest reads from the store: the events, the items as they were, and the weeks it runs over."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import numpy as np
from sqlalchemy import text

from engine.features.catalogue import Items
from engine.ingest.identities import default_zone
from engine.ingest.profiles import FoldRows
from engine.learning import material
from engine.learning.backtest import calendar
from engine.learning.backtest.calendar import Weeks
from engine.learning.dataset import CANDIDATES
from engine.learning.history import read_events
from engine.learning.material import TooLittleData
from engine.localtime import zone
from engine.store.database import Snapshot
from engine.store.tables import SLOTS

STALE = (0, 1, 7, 28)


@dataclass(frozen=True)
class Spec:
    """What to test.

    goal: event type of a success · first, last: bounds of the weekly instants (None: the newest thirteen) ·
    candidates: per user · stale: ages in days of the features to compare · new_only: only items that the user has not
    bought for NEW_DAYS · impute: compare what may stand for missing values · ablate: what each group of features and
    each source adds · seed, threads: for training · late: hours after each test instant at which items are chosen
    again, to say what late binding is worth.
    """

    goal: str = "purchase"
    first: date | None = None
    last: date | None = None
    candidates: int = CANDIDATES
    stale: tuple[int, ...] = STALE
    new_only: bool = False
    impute: bool = False
    ablate: bool = False
    seed: int = 1
    threads: int = 2
    late: tuple[int, ...] = ()


@dataclass(frozen=True)
class Log:
    """A log in memory.

    goal: id of the event type · items: by instant (epoch seconds) · share: of users read · lacking: why items cannot be
    ranked (a mailer's log has opens, but no items), None where they can; send windows are tested either way.
    """

    spec: Spec
    goal: int
    events: FoldRows
    share: float
    weeks: Weeks
    items: dict[float, Items]
    lacking: str | None

    @property
    def ids(self) -> np.ndarray:
        """All items' ids, int64, sorted."""
        return next(iter(self.items.values())).ids


def read_log(snapshot: Snapshot, now: datetime, spec: Spec) -> Log:
    """The events before `now`, and the items as of every instant. Raises UnknownName, TooLittleData with a reason."""
    goal = material.goal_of(snapshot, spec.goal)
    share = material.share_of(snapshot)
    where = "true" if share == 1 else f"user_id IN (SELECT id FROM users WHERE slot < {round(share * SLOTS)})"
    events = read_events(snapshot, until=now, where=where)
    if not len(events):
        raise TooLittleData("there are no events yet")
    if not np.any(events.user >= 0):
        raise TooLittleData("no event names a user")
    # one stray stamp must not make a history long
    begin, end = (datetime.fromtimestamp(float(at), UTC) for at in np.quantile(events.at, (0.01, 1.0)))
    weeks = calendar.weeks((begin, end), zone(default_zone(snapshot.connection)), spec.first, spec.last)
    if weeks is None:
        asked = "".join(f" {name} {day}" for name, day in (("from", spec.first), ("to", spec.last)) if day)
        raise TooLittleData(
            f"the history from {begin:%Y-%m-%d} to {end:%Y-%m-%d} holds no week{asked} to test on:"
            " one needs a week of history before it and seven days of outcomes after it"
        )
    ages = {timedelta(days=age) for age in spec.stale}
    instants = {*weeks.instants} | {instant - age for instant in weeks.test for age in ages}
    instants |= {instant + timedelta(hours=hours) for instant in weeks.test for hours in spec.late}
    read = {instant.timestamp(): material.items_to_learn_from(snapshot, instant) for instant in sorted(instants)}
    lacking = _lacking(snapshot, events, goal, spec.goal, len(next(iter(read.values()))))
    return Log(spec, goal, events, share, weeks, read, lacking)


def _lacking(snapshot: Snapshot, events: FoldRows, goal: int, goal_name: str, items: int) -> str | None:
    """Why items cannot be ranked, with the event types that could be a goal instead."""
    if not items:
        return "there are no items to choose from"
    taken = events.event_type[(events.user >= 0) & (events.item >= 0)]
    if np.any(taken == goal):
        return None
    names = {
        int(row.id): str(row.name) for row in snapshot.connection.execute(text("SELECT id, name FROM event_types"))
    }
    types, counts = np.unique(taken, return_counts=True)
    others = ", ".join(names[int(types[at])] for at in np.argsort(-counts)[:5])
    return f"no event of type {goal_name} names a user and an item" + (f" (--goal could be {others})" if others else "")
