"""How well the send windows foretell visits over a long stretch: curves learned up to an instant, then left alone."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import numpy as np

from engine.learning import dataset
from engine.learning.backtest import sending
from engine.learning.backtest.resampling import Draws
from engine.learning.history import read_events
from engine.learning.reading import read_items
from engine.learning.replay import Replay
from engine.learning.walk import LESSONS, MOST_USERS, Progress
from engine.learning.window_fit import Visits, fit, lesson
from engine.store.database import Database

FOREVER_DAYS = 3650.0


def measure(database: Database, since: datetime, until: datetime, tell: Progress) -> dict[str, Any]:
    """Measures of curves as of `since` on the visits in [since, until), of every user who was known by then."""
    tell("reading events", 0.0)
    with database.snapshot() as snapshot:
        events = read_events(snapshot, until=until)
        items = read_items(snapshot, since)
    replay = Replay(events, items.ids)
    lessons = []
    week = timedelta(days=7)
    for back in range(LESSONS, 0, -1):
        instant = since - week * back
        state = replay.at(instant.timestamp(), items, MOST_USERS, FOREVER_DAYS).state
        visits = dataset.visits_after(events, state, (instant + week).timestamp())
        lessons.append(lesson(state.hours, len(state), visits))
    tell("fitting", 0.5)
    state = replay.at(since.timestamp(), items, MOST_USERS, FOREVER_DAYS).state
    model = fit(state.hours, len(state), lessons)
    came = dataset.visits_after(events, state, until.timestamp())
    known = np.zeros(len(state), bool)
    known[state.hours.user] = True
    came = Visits(came.user[known[came.user]], came.hour[known[came.user]])
    return sending.report([sending.judge(model, state, came)], Draws(state.users, np.random.default_rng(1)))
