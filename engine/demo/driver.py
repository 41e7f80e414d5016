"""Drives the demo's virtual days: steps the clock, feeds the real events of the time, waits until due work is closed.

The engine runs as in production: workers and beat of `horae up`, on the virtual clock of the workspace row. A step is
over once nothing is due: no event waits to be folded, no user to be planned again, no occurrence to be made, no run to
be planned or settled, no push to be sent. What is open is read from the tables; workers are woken by name rather than
waiting for beat, and again where that was not enough (a killed worker leaves leases that must run out first).
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
from sqlalchemy import Connection, text

from engine import clock
from engine.campaigns.definition import Campaign
from engine.campaigns.schedule import due
from engine.delivery.dispatch import outstanding
from engine.demo.data import Journey
from engine.demo.workspace import LOG
from engine.errors import HoraeError, Unavailable
from engine.ingest.event_rows import EventRows
from engine.ingest.write import ensure_months, months_of, record_events
from engine.planning.wake import Wake
from engine.runtime import Runtime
from engine.store.partitions import ensure_ahead

STEP = clock.LONGEST_STEP
FIRST_PAUSE, LONGEST_PAUSE = 0.01, 0.1
"""Seconds between two looks at what is open."""
WAKE_AGAIN_SECONDS = 2.0
PATIENCE_SECONDS = 300.0
"""How long one step may take: killed workers start again and their leases run out well within it."""


@dataclass(frozen=True)
class Open:
    """Work that is due at business now and not closed."""

    occurrences: int = 0
    """Those to be made, or without a run."""
    runs: int = 0
    pushes: int = 0
    events: int = 0
    """Those to be folded."""
    changed: int = 0
    """Users with new events who were not planned again yet."""

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of work there are."""
        return frozenset(kind for kind, n in asdict(self).items() if n)

    def __bool__(self) -> bool:
        return bool(self.kinds)


TASKS = {
    "occurrences": "horae.tick_campaigns",
    "runs": "horae.tick_campaigns",
    "pushes": "horae.dispatch_due",
    "events": "horae.fold",
    "changed": "horae.refresh",
    "leases": "horae.upkeep",
}
"""Which task does each kind of work; leases are those of killed workers."""

_OPEN = text("""
    SELECT (SELECT count(*) FROM occurrences o JOIN campaigns c ON c.id = o.campaign_id
            WHERE o.run_id IS NULL AND c.state = 'running') AS occurrences,
           (SELECT count(*) FROM runs WHERE state IN ('planning', 'settling')) AS runs,
           (SELECT count(*) FROM runs WHERE state = 'failed') AS failed,
           (SELECT count(*) FROM unfolded_events) AS events, (SELECT count(*) FROM changed_users) AS changed
""")


@dataclass(frozen=True)
class Made:
    """A campaign and the instant before which its occurrences have been made."""

    definition: Campaign
    scheduled_until: datetime | None


class Driver:
    """Steps one workspace through time; `up` is its running `horae up`, `campaigns` all it has."""

    def __init__(
        self, runtime: Runtime, journey: Journey, campaigns: Sequence[Campaign], up: subprocess.Popen[bytes], wake: Wake
    ) -> None:
        self._runtime = runtime
        self._journey = journey
        self._campaigns = campaigns
        self._up = up
        self._wake = wake
        self._log = runtime.settings.home / LOG
        self._lead = timedelta(minutes=runtime.settings.planning_lead_minutes)

    def run(self, start: datetime, end: datetime, seen: Callable[[datetime], None]) -> None:
        """Go from `start` to `end` by steps, each closed before the next; `seen` hears of each.

        Raises Unavailable where the engine does not get its work done.
        """
        database = self._runtime.database
        ensure_months(database, months_of(rows_of(self._journey.events_between(start, end))))
        day = None
        for before, now in steps(start, end):
            if now.date() != day:
                day = now.date()
                ensure_ahead(database, now)
            with database.begin() as connection:
                clock.step_virtual(connection, now)
                events = rows_of(self._journey.events_between(before, now))
                record_events(connection, events, now)
            self.close(now)
            seen(now)

    def close(self, now: datetime) -> None:
        """Wait until nothing is due at business time `now`, waking who can do it."""
        moved_at = woken_at = clock.monotonic()
        last, asked, pause = Open(), frozenset[str](), FIRST_PAUSE
        while found := self._open(now):
            at = clock.monotonic()
            if found != last:
                last, moved_at, pause = found, at, FIRST_PAUSE
            if at - moved_at > PATIENCE_SECONDS:
                raise Unavailable(f"the workers do not get on: {found}", hint=f"see {self._log}")
            if at - woken_at > WAKE_AGAIN_SECONDS:
                # A killed worker's leases run out, and the tick finds what was forgotten.
                self._wake_all({*found.kinds, "leases"})
                woken_at = at
            else:
                self._wake_all(found.kinds - asked - {"runs"})  # the tick that opens a run wakes its shards
            asked = found.kinds
            self._pause(pause)
            pause = min(1.5 * pause, LONGEST_PAUSE)  # looking often takes the workers' time

    def _open(self, now: datetime) -> Open:
        with self._runtime.database.begin() as connection:
            row = connection.execute(_OPEN).one()
            unmade = self._unmade(connection, now)
        if row.failed:
            raise HoraeError("a planning run failed", hint=f"see {self._log}")
        pushes = outstanding(self._runtime.database, now)
        return Open(row.occurrences + unmade, row.runs, pushes, row.events, row.changed)

    def _unmade(self, connection: Connection, now: datetime) -> int:
        """Occurrences that a tick would make now."""
        until = now + self._lead
        running = connection.execute(text("SELECT name, scheduled_until FROM campaigns WHERE state = 'running'"))
        made_until = {row.name: row.scheduled_until for row in running}
        return sum(
            not item.missed
            for campaign in self._campaigns
            if campaign.name in made_until
            for item in due(Made(campaign, made_until[campaign.name]), now, until)
        )

    def _wake_all(self, kinds: Set[str]) -> None:
        for task in sorted({TASKS[kind] for kind in kinds}):
            self._wake(task)

    def _pause(self, seconds: float) -> None:
        """Wait a moment for other processes. Raises Unavailable where `horae up` has ended."""
        try:
            code = self._up.wait(seconds)
        except subprocess.TimeoutExpired:
            return
        raise Unavailable(f"horae up ended with {code}", hint=f"see {self._log}")


def rows_of(events: pa.Table) -> EventRows:
    """Events in canonical columns as the ingest takes them."""
    columns = events.combine_chunks()

    def strings(name: str) -> pa.StringArray:
        column = columns[name]
        return column.chunk(0) if column.num_chunks else pa.array([], pa.string())

    def numbers(name: str) -> np.ndarray:
        return np.asarray(columns[name].to_numpy(), np.float64)

    return EventRows(
        user=strings("user_id"),
        item=strings("item_id"),
        event_type=strings("event_type"),
        occurred_at=columns["occurred_at"].cast(pa.int64()).to_numpy().astype("datetime64[us]"),
        value=numbers("value"),
        quantity=numbers("quantity"),
        event_id=strings("event_id"),
    )


def steps(start: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
    """(before, now) of each step from `start` to `end`."""
    before = start
    while before < end:
        now = min(before + STEP, end)
        yield before, now
        before = now
