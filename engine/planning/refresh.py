"""Late binding: users with new events are planned again, alone, for their pushes that are due before long.

Ingest marks users with new events. A refresh, woken by the event API and every few seconds anyway, takes the marked and
weighs their planned pushes anew, on what is known now (events that wait to be folded count too): the item and the
window may change, each change is a new revision of the decision, and a push for which nothing speaks any more (the item
was bought and nothing else is worth it, the user opted out) is closed. What is due within ten minutes is frozen; what
was explored only ever ends, since its propensity is that of its draw; where a rate is scarce the window stays.

Whoever plans a user holds the lock of the user's slot; slots that are busy wait for the next refresh. Killed anywhere,
it has changed whole runs' pushes or none, and the marks are still there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from sqlalchemy import Connection, text

from engine import clock
from engine.ingest.write import NEWS, URGENT
from engine.planning import locks
from engine.planning.replanning import Waiting, plan_again
from engine.planning.rewriting import write
from engine.planning.roster import FROZEN
from engine.planning.scene import Again, Scene
from engine.planning.scenes import SCENES
from engine.planning.wake import Wake
from engine.store.database import Database
from engine.store.partitions import ensure_partitions

if TYPE_CHECKING:
    from engine.runtime import Runtime

AHEAD = timedelta(hours=48)
"""Pushes due so soon are planned again; those of users who bought or opted out, however late. Of the others the next
events decide, and dispatch looks at each in the end."""

AT_ONCE = 100
"""Users planned again together: what comes meanwhile waits for them, part of a second. Reading costs about as much
for one user as for fifty, so far fewer at once would be slower."""

PASSES = 20
"""Of one call, so many users each; it asks for the next call where more wait."""

_CHANGED = text("""
    SELECT c.user_id, c.slot, c.changed_at, c.urgent FROM changed_users c
    WHERE c.slot <> ALL(CAST(:busy AS int[]))
    ORDER BY c.urgent DESC, c.changed_at, c.user_id LIMIT :most
""")

READY_RUNS = 3

_LATEST = text("""
    SELECT id FROM runs WHERE state = 'published' AND as_of > :since ORDER BY id DESC LIMIT :most
""")

_WAITING = text("""
    SELECT p.id, p.run_id, p.occurrence_id, p.user_id, p.item_id, p.revision, p.explored, o.at_once,
           extract(epoch FROM p.window_start)::float8 AS slot, extract(epoch FROM p.send_at)::float8 AS at
    FROM pushes p JOIN occurrences o ON o.id = p.occurrence_id
    JOIN campaign_versions v ON v.campaign_id = o.campaign_id AND v.version = o.version
    WHERE p.user_id = ANY(:users) AND p.state = 'planned' AND p.send_at > :frozen
      AND (p.send_at <= :until OR p.user_id = ANY(:urgent)) AND v.definition->>'class' = 'marketing'
    ORDER BY p.run_id, p.user_id, p.occurrence_id
""")

_HAPPENED = text("""
    SELECT DISTINCT user_id, event_type, coalesce(item_id, -1) AS item_id FROM events
    WHERE user_id = ANY(:users) AND occurred_at >= :begin AND (event_type = :purchase
          OR event_type = :unsubscribe AND NOT coalesce(attributes, '{}') ?| ARRAY['topic', 'channel'])
      AND occurred_at <= :now AND received_at >= :since
""")

_DONE = text("""
    DELETE FROM changed_users c USING unnest(CAST(:users AS bigint[]), CAST(:at AS timestamptz[])) AS seen (user_id, at)
    WHERE c.user_id = seen.user_id AND c.changed_at = seen.at
""")


class Mark(NamedTuple):
    """A user with new events, the user's slot, when it was marked last, and whether a planned push may have to end."""

    user: int
    slot: int
    at: datetime
    urgent: bool


def refresh(runtime: Runtime, now: datetime, wake: Wake) -> dict[str, int]:
    """Plan the marked users' pushes again at business time `now`, those of later events as of these; counts of users,
    of pushes that `changed` and that `ended`, of `busy` slots. Twice at once or killed anywhere, it changes nothing
    twice."""
    counts: Counter[str] = Counter()
    busy: set[int] = set()
    for number in range(PASSES):
        marks = _marked(runtime.database, busy)
        if not marks:
            return dict(counts)  # nothing, where nobody was marked
        if number % 2 == 0:  # of the urgent alone, and so a short pass: they wait for one long pass at most
            marks = [mark for mark in marks if mark.urgent] or marks
        found, theirs = _refresh(runtime, max(now, *(mark.at for mark in marks)), marks)
        counts += found
        counts["busy"] += len(theirs)
        busy |= theirs
    wake("horae.refresh")
    return dict(counts)


def keep_ready(runtime: Runtime, now: datetime) -> None:
    """Make the scenes of the latest runs while nobody waits: in a process that just started the first event would wait
    for seconds."""
    with runtime.database.snapshot() as snapshot:
        for run_id in snapshot.connection.execute(_LATEST, {"since": now - AHEAD, "most": READY_RUNS}).scalars().all():
            SCENES.of(runtime, snapshot, run_id, now)


def _marked(database: Database, busy: Collection[int]) -> list[Mark]:
    """Those whose pushes may have to end, then those that wait longest; none of `busy` slots."""
    with database.begin() as connection:
        return [Mark(*row) for row in connection.execute(_CHANGED, {"busy": list(busy), "most": AT_ONCE})]


def _refresh(runtime: Runtime, now: datetime, marks: Sequence[Mark]) -> tuple[Counter[str], set[int]]:
    """Plan the pushes of these again: counts, and the slots that others are at."""
    counts: Counter[str] = Counter()
    database, slots = runtime.database, {mark.slot for mark in marks}
    with database.begin() as connection:
        runs = sorted({row.run_id for row in _waiting(connection, marks, now)})
    if runs:
        today = now.astimezone(UTC).date()
        ensure_partitions(database, "deliveries", today, today)
    busy: set[int] = set()
    for run_id in runs:
        with database.begin() as connection:
            busy |= slots.difference(locks.try_some(connection, slots - busy))
            free = [mark for mark in marks if mark.slot not in busy]
            rows = [row for row in _waiting(connection, free, now) if row.run_id == run_id]
            if rows:
                counts += _plan_again(runtime, connection, (run_id, now), rows)
    done = [mark for mark in marks if mark.slot not in busy]
    with database.begin() as connection:
        given = {"users": [mark.user for mark in done], "at": [mark.at for mark in done]}
        counts["users"] += connection.execute(_DONE, given).rowcount
    return counts, busy


def _waiting(connection: Connection, marks: Sequence[Mark], now: datetime) -> list[Waiting]:
    given = {
        "users": [mark.user for mark in marks],
        "urgent": [mark.user for mark in marks if mark.urgent],
        "frozen": now + FROZEN,
        "until": now + AHEAD,
    }
    return [Waiting(**row._mapping) for row in connection.execute(_WAITING, given)]


@dataclass(frozen=True)
class Happened:
    """Since the first plan: who opted out, and pairs (user, item) bought, of ids."""

    left: frozenset[int]
    bought: frozenset[tuple[int, int]]


def _happened(connection: Connection, users: Sequence[int], since: datetime, now: datetime) -> Happened:
    given = {"users": list(users), "begin": since - NEWS, "since": since, "now": now, **URGENT}
    rows = connection.execute(_HAPPENED, given).all()
    return Happened(
        frozenset(row.user_id for row in rows if row.event_type == URGENT["unsubscribe"]),
        frozenset((row.user_id, row.item_id) for row in rows if row.event_type == URGENT["purchase"]),
    )


def _plan_again(
    runtime: Runtime, connection: Connection, when: tuple[int, datetime], rows: list[Waiting]
) -> Counter[str]:
    """Plan the pushes `rows` of one run again and write what changes; their users' slots are locked."""
    run_id, now = when
    since = connection.execute(text("SELECT as_of FROM runs WHERE id = :run"), {"run": run_id}).scalar_one()
    happened = _happened(connection, sorted({row.user_id for row in rows}), since, now)
    bought = {row.id for row in rows if (row.user_id, row.item_id) in happened.bought}
    ends = {number: "no_consent" for number, row in enumerate(rows) if row.user_id in happened.left}
    numbers = [
        number for number, row in enumerate(rows) if not (row.explored or row.at_once or row.user_id in happened.left)
    ]
    with runtime.database.snapshot() as snapshot:
        # Read after the snapshot began: no profile holds a later event, so nobody's is made anew from all their events.
        at = max(now, clock.business_now(snapshot.connection))
        scene = SCENES.of(runtime, snapshot, run_id, at)
        changes = plan_again(
            replace(scene, again=_again(scene, [rows[n] for n in numbers], happened, now)), rows, numbers
        )
    # What was bought is not offered any more, though nothing else may take its place: then the push ends.
    idle = {n: "no_candidate" for n, row in enumerate(rows) if row.id in bought and n not in changes.moves}
    return write(connection, now, replace(changes, ends=idle | changes.ends | ends), bought)


def _again(scene: Scene, rows: Sequence[Waiting], happened: Happened, now: datetime) -> Again:
    position = {occasion.occurrence_id: number for number, occasion in enumerate(scene.occasions)}
    return Again(
        user=np.array([row.user_id for row in rows], np.int64),
        occurrence=np.array([position[row.occurrence_id] for row in rows], np.int64),
        slot=np.array([row.slot for row in rows], np.float64),
        at=np.array([row.at for row in rows], np.float64),
        earliest=(now + FROZEN).timestamp(),
        still=_bounds(scene),
        bought=np.array(sorted(happened.bought), np.int64).reshape(-1, 2),
    )


def _bounds(scene: Scene) -> np.ndarray:
    """bool[O]: occurrences whose pushes use up a rate, and so keep their window."""
    return np.array(
        [
            o.definition.per_quarter is not None or scene.policy.per_quarter(o.definition.gateway) is not None
            for o in scene.occasions
        ]
    )
