"""What if: a past period planned again over its receipts, under other caps, gap, quiet hours, capacity or stock.

Run after run, each user's choice is made again among what their receipts remember, beside the pushes that the
simulation itself gave them before, which better ones may displace as in reality. Arms stay as they were drawn. What
receipts cannot know is said: offers and windows that were never weighed (so looser rules are a lower bound, and quiet
hours can only grow), and how late binding would have changed a push that was not planned in reality.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text

from engine.errors import BadInput
from engine.planning.period import Change, Period
from engine.planning.replaying import Replanned
from engine.planning.runspec import read_run
from engine.planning.sides import Side
from engine.store.database import Database
from engine.store.slots import shard_ranges

Progress = Callable[[int, int], None]
"""Told (parts done, parts in all)."""

_SLOTS = 64


@dataclass(frozen=True)
class Simulation:
    """Both sides, of how many runs and decisions; without_receipt: decisions that could not be made again and stay as
    they were; late_bound: pushes that both sides have and late binding changed or ended, alike in both; not_late_bound:
    pushes that late binding changed in reality, and that the simulation planned otherwise and left so."""

    runs: int
    decisions: int
    without_receipt: int
    late_bound: int
    not_late_bound: int
    really: Side
    simulated: Side


def simulate(
    database: Database, change: Change, begin: datetime, end: datetime, progress: Progress | None = None
) -> Simulation:
    """Plan the runs opened in [begin, end) again. Raises BadInput where there are none."""
    if begin >= end:
        raise BadInput(f"the time from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} is empty")
    with database.snapshot() as snapshot:
        ids = snapshot.connection.execute(
            text(
                "SELECT id FROM runs WHERE state = 'published' AND as_of >= :begin AND as_of < :end ORDER BY as_of, id"
            ),
            {"begin": begin, "end": end},
        ).scalars()
        specs = [change.of_run(read_run(snapshot.connection, run_id)) for run_id in ids]
        if not specs:
            raise BadInput("no run was opened in that time", hint="see: horae runs list")
        return _play(Period(snapshot, change, specs), progress)


def _play(period: Period, progress: Progress | None) -> Simulation:
    ranges = shard_ranges(_SLOTS)
    for number, spec in enumerate(period.specs):
        run = Replanned(period, spec)
        for part, slots in enumerate(ranges, 1):
            run.plan(slots)
            if progress is not None:
                progress(number * len(ranges) + part, len(period.specs) * len(ranges))
        run.settle()
    counts = period.counts
    return Simulation(
        len(period.specs), counts["decisions"], counts["without_receipt"], counts["late_bound"],
        counts["not_late_bound"], period.really, period.simulated,
    )  # fmt: skip
