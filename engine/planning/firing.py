"""Triggers that are due are handed to the planner: one explicit occurrence of the campaign for all users due together.

From there they are planned as any occurrence is: caps, gaps, quiet hours, consent, holdout, value and receipts hold,
the shard holds the slot's lock, and a user gets at most one push of an occurrence. While a run over triggers is under
way, what becomes due waits for its end, so that a burst becomes one larger run and not a queue of small ones.

After downtime nothing bursts: what is due later than the campaign's `misfire_grace` is skipped or, with `run_once`,
handed on while the campaign's horizon from then is not over; of several triggers of a user the latest alone.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, text

from engine import clock
from engine.campaigns import store
from engine.campaigns.schedule import TRIGGERED, last_instant
from engine.campaigns.store import Stored
from engine.planning import locks
from engine.planning.arming import arm, called_off
from engine.planning.run import open_runs, wake_shards
from engine.planning.wake import Wake
from engine.store.database import Database
from engine.store.partitions import ensure_partitions
from engine.store.ticks import once_a_day

if TYPE_CHECKING:
    from engine.runtime import Runtime

FORGOTTEN = timedelta(days=30)
"""Business time after which triggers that came to nothing are forgotten."""

MOST = 50_000
"""Triggers handed on in one occurrence; the rest wait for the next."""

_DUE = text("""
    SELECT id, user_id, item_id, due_at FROM armed_triggers a
    WHERE campaign_id = :campaign AND state = 'armed' AND due_at <= :now
      AND NOT EXISTS (SELECT 1 FROM unfolded_events e WHERE e.user_id = a.user_id)
    ORDER BY happened_at DESC, id DESC LIMIT :most
""")

_CLOSE = text("""
    UPDATE armed_triggers SET state = :state, closed_at = :now, occurrence_id = :occurrence
    WHERE id = ANY(:ids) AND state = 'armed'
""")

_UNDER_WAY = text("""
    SELECT EXISTS (
        SELECT 1 FROM runs r JOIN occurrences o ON o.run_id = r.id
        WHERE r.state IN ('planning', 'settling')
          AND EXISTS (SELECT 1 FROM armed_triggers a WHERE a.occurrence_id = o.id))
""")

_OCCURRENCE = text("""
    INSERT INTO occurrences (campaign_id, version, label, date, starts_at, ends_at, listed)
    VALUES (:campaign, :version, :label, :date, :starts, :ends, true) RETURNING id
""")

_LIST = text("""
    INSERT INTO occurrence_users (occurrence_id, user_id, item_id)
    SELECT :occurrence, a.user_id, a.item_id FROM armed_triggers a WHERE a.id = ANY(:ids)
""")


def tick_triggers(runtime: Runtime, now: datetime, wake: Wake) -> dict[str, int]:
    """Arm, call off and hand on triggers at business time `now`, and open a run over what was handed on.

    Idempotent: twice at once, or killed anywhere, it arms each happening once and hands each trigger on once.
    """
    database = runtime.database
    today = now.astimezone(UTC).date()
    ensure_partitions(database, "deliveries", today, today)
    with database.begin() as connection:
        locks.lock_triggers(connection)
        campaigns = [one for one in store.get_all(connection, ("running",)) if one.definition.trigger is not None]
        counts = arm(connection, campaigns, now)
        if campaigns and not connection.execute(_UNDER_WAY).scalar_one():
            for stored in campaigns:
                counts += fire(connection, stored, now)
    run = None
    if counts["fired"]:
        once_a_day(database, "forget_triggers", clock.machine_now(), lambda: _forget(database, now))
        run = open_runs(runtime, now, now)
        if run is not None:
            wake_shards(database, run, wake)
    return {**{name: number for name, number in counts.items() if number}, **({"run": run} if run else {})}


def fire(connection: Connection, stored: Stored, now: datetime) -> Counter[str]:
    """Hand on the triggers of one campaign that are due at `now`; counts of `fired`, `missed` and `called_off`."""
    trigger = stored.definition.trigger
    due = connection.execute(_DUE, {"campaign": stored.id, "now": now, "most": MOST}).all()
    if trigger is None or not due:
        return Counter()
    off = called_off(connection, trigger, [row.id for row in due], now)
    open_ = [row for row in due if row.id not in off]
    fit = _latest([row for row in open_ if _in_time(stored, row.due_at, now)])
    over = last_instant(stored.definition)
    if over is not None and over <= now:
        fit = []
    missed = [row.id for row in open_ if row.id not in set(fit)]
    occurrence = _make(connection, stored, fit, now) if fit else None
    for state, ids in (("cancelled", sorted(off)), ("missed", missed), ("fired", fit)):
        if ids:
            at = {"state": state, "now": now, "ids": ids, "occurrence": occurrence if state == "fired" else None}
            connection.execute(_CLOSE, at)
    return Counter(fired=len(fit), missed=len(missed), called_off=len(off))


def _forget(database: Database, now: datetime) -> int:
    """Call off what is armed of campaigns that are over, and delete triggers that came to nothing long ago: no limit
    counts them. Those handed on stay, since limits do. Returns how many were deleted."""
    with database.begin() as connection:
        over = text(
            "UPDATE armed_triggers a SET state = 'cancelled', closed_at = :now FROM campaigns c"
            " WHERE c.id = a.campaign_id AND a.state = 'armed' AND c.state IN ('cancelled', 'done')"
        )
        connection.execute(over, {"now": now})
        old = text("DELETE FROM armed_triggers WHERE state IN ('cancelled', 'missed') AND closed_at < :before")
        return connection.execute(old, {"before": now - FORGOTTEN}).rowcount


def _in_time(stored: Stored, due_at: datetime, now: datetime) -> bool:
    late = now - due_at
    if late <= stored.definition.misfire_grace:
        return True
    return stored.definition.misfire == "run_once" and late < stored.definition.horizon


def _latest(due: Sequence[Any]) -> list[int]:
    """Of each user the trigger that happened last."""
    first: dict[int, int] = {}
    for row in due:
        first.setdefault(row.user_id, row.id)
    return list(first.values())


def _make(connection: Connection, stored: Stored, ids: Sequence[int], now: datetime) -> int:
    end = now + stored.definition.horizon
    expiry = last_instant(stored.definition)
    given = {
        "campaign": stored.id,
        "version": stored.version,
        "label": f"{TRIGGERED}{uuid.uuid4()}",
        "date": now.astimezone(UTC).date(),
        "starts": now,
        "ends": min(end, expiry.astimezone(UTC)) if expiry else end,
    }
    occurrence: int = connection.execute(_OCCURRENCE, given).scalar_one()
    connection.execute(_LIST, {"occurrence": occurrence, "ids": list(ids)})
    return occurrence
