"""Runs: opened by a tick, planned by shards, settled by one task.

A run plans all occurrences found due in one tick, together, a planning lead before their first window. Everything is a
row: a shard is `waiting`, `planning` under a lease and a fence, or `done`; done shards are counted in SQL, and the last
one wakes settlement. Messages only carry ids. Whatever was lost with a worker or a broker, the next tick finds: shards
nobody works on, runs nobody settles.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, text

from engine.campaigns import audience_store, store
from engine.campaigns.policy_store import current_policy
from engine.campaigns.schedule import due, exhausted
from engine.learning import registry
from engine.planning import locks
from engine.planning.occasions import Occasion
from engine.planning.runspec import secret_of, seed_of
from engine.planning.settle import ABANDONED_SETTLEMENT, settle
from engine.planning.shards import ABANDONED_SHARD, plan_shard
from engine.planning.wake import Wake
from engine.store.database import Database
from engine.store.partitions import ensure_partitions
from engine.store.slots import shard_ranges

if TYPE_CHECKING:
    from engine.runtime import Runtime

__all__ = ["open_runs", "plan_shard", "settle", "tick_campaigns"]


FORGOTTEN = timedelta(seconds=30)
"""Machine time after which a message about work that nobody has begun counts as lost."""

_LAST_WORK = "greatest(r.created_at, (SELECT max(d.done_at) FROM shards d WHERE d.run_id = r.id))"

_FORGOTTEN_SHARDS = text(f"""
    SELECT s.run_id, s.shard FROM shards s JOIN runs r ON r.id = s.run_id
    WHERE r.state = 'planning' AND s.state <> 'done' AND {_LAST_WORK} <= clock_timestamp() - CAST(:after AS interval)
      AND NOT EXISTS (SELECT 1 FROM shards w WHERE w.run_id = r.id AND w.state = 'planning'
                      AND w.lease_until >= clock_timestamp())
    ORDER BY 1, 2
""")

_ABANDONED_SHARDS = text(f"""
    UPDATE shards s SET state = 'waiting', lease_until = NULL FROM runs r
    WHERE r.id = s.run_id AND r.state = 'planning' AND s.state = 'planning' AND {ABANDONED_SHARD}
    RETURNING s.run_id, s.shard
""")

_FORGOTTEN_RUNS = text(f"""
    SELECT r.id FROM runs r
    WHERE r.state = 'planning' AND r.shards_done = r.shards_total
          AND {_LAST_WORK} <= clock_timestamp() - CAST(:after AS interval)
       OR r.state = 'settling' AND {ABANDONED_SETTLEMENT}
    ORDER BY 1
""")


def tick_campaigns(runtime: Runtime, now: datetime, wake: Wake) -> dict[str, int]:
    """Make the occurrences that are due, open a run over those that wait for one, wake what nobody works on.

    Idempotent: twice at once, or killed anywhere, it makes each occurrence and run once.
    """
    lead = timedelta(minutes=runtime.settings.planning_lead_minutes)
    made, missed = make_occurrences(runtime.database, now, now + lead)
    run = open_runs(runtime, now, now + lead)
    woken = wake_forgotten(runtime.database, wake) + (wake_shards(runtime.database, run, wake) if run else 0)
    return {"occurrences": made, "missed": missed, "run": run or 0, "woken": woken}


def make_occurrences(database: Database, now: datetime, until: datetime) -> tuple[int, int]:
    """Make what is due before `until`; (made, missed). Campaigns that are over become done."""
    made = missed = 0
    with database.begin() as connection:
        locks.lock_tick(connection)
        for stored in store.get_all(connection, ("running",)):
            for item in due(stored, now, until):
                if item.missed:
                    missed += 1
                else:
                    made += _make(connection, stored, (item.label, item.starts_at, item.ends_at))
            if stored.definition.schedule is not None:
                store.set_scheduled_until(connection, stored.id, until)
            if exhausted(stored, now) and not _has_unplanned(connection, stored.id):
                store.set_state(connection, stored.name, "done")
    return made, missed


def open_runs(runtime: Runtime, now: datetime, until: datetime, only: int | None = None) -> int | None:
    """Open one run over every occurrence of a running campaign that starts before `until` and has none; its id.

    `only`: over this occurrence alone.
    """
    database = runtime.database
    with database.begin() as connection:
        dates = [row.date for row in _unplanned(connection, until, only)]
    if not dates:
        return None
    ensure_partitions(database, "decisions", min(dates), max(dates))
    with database.begin() as connection:
        locks.lock_tick(connection)
        rows = _unplanned(connection, until, only)
        if not rows or not {row.date for row in rows} <= set(_days(min(dates), max(dates))):
            return None  # another tick was faster, or another date came in between: the next tick has it
        occasions = [
            Occasion(
                o.id, o.campaign_id, o.version, o.label, o.starts_at, o.ends_at,
                store.get_version(connection, o.campaign_id, o.version), o.at_once, o.listed,
            ) for o in rows
        ]  # fmt: skip
        return _open(connection, now, occasions, runtime.settings.shard_slots)


def wake_shards(database: Database, run_id: int, wake: Wake) -> int:
    """Wake every shard of a run that was just opened; how many."""
    with database.begin() as connection:
        shards = connection.execute(
            text("SELECT shard FROM shards WHERE run_id = :run AND state = 'waiting' ORDER BY shard"), {"run": run_id}
        )
        waiting = shards.scalars().all()
    for shard in waiting:
        wake("horae.plan_shard", run_id, shard)
    return len(waiting)


def wake_forgotten(database: Database, wake: Wake, after: timedelta = FORGOTTEN) -> int:
    """Wake shards and settlements that nobody has worked on for `after` (machine time), and those at once whose worker
    has died; how many.

    While some worker plans a run, its other shards are in the queue behind: waking them again would only fill it. What
    the dead had begun is in no queue any more.
    """
    given = {"after": after}
    with database.begin() as connection:
        waiting = {tuple(row) for row in connection.execute(_ABANDONED_SHARDS)}
        waiting |= {tuple(row) for row in connection.execute(_FORGOTTEN_SHARDS, given)}
        settling = connection.execute(_FORGOTTEN_RUNS, given).scalars().all()
    for run_id, shard in sorted(waiting):
        wake("horae.plan_shard", run_id, shard)
    for run_id in settling:
        wake("horae.settle", run_id)
    return len(waiting) + len(settling)


_PIN = text("UPDATE occurrences SET audiences = CAST(:pins AS jsonb) WHERE id = :id")


# --- opening ---------------------------------------------------------------------------------------------------------


def _make(connection: Connection, stored: store.Stored, due_: tuple[str, datetime, datetime]) -> int:
    label, starts_at, ends_at = due_
    return connection.execute(
        text(
            "INSERT INTO occurrences (campaign_id, version, label, date, starts_at, ends_at)"
            " VALUES (:campaign, :version, :label, :date, :starts, :ends)"
            " ON CONFLICT (campaign_id, label) DO NOTHING"
        ),
        {
            "campaign": stored.id,
            "version": stored.version,
            "label": label,
            "date": starts_at.astimezone(UTC).date(),
            "starts": starts_at,
            "ends": ends_at,
        },
    ).rowcount


def _has_unplanned(connection: Connection, campaign_id: int) -> bool:
    query = text("SELECT 1 FROM occurrences WHERE campaign_id = :campaign AND run_id IS NULL LIMIT 1")
    return connection.execute(query, {"campaign": campaign_id}).first() is not None


def _unplanned(connection: Connection, until: datetime, only: int | None) -> Sequence[Any]:
    return connection.execute(
        text(
            "SELECT o.* FROM occurrences o JOIN campaigns c ON c.id = o.campaign_id"
            " WHERE o.run_id IS NULL AND c.state = 'running' AND o.starts_at <= :until"
            " AND (CAST(:only AS bigint) IS NULL OR o.id = :only) ORDER BY o.starts_at, o.id"
        ),
        {"until": until, "only": only},
    ).all()


def _ranges(connection: Connection, occasions: Sequence[Occasion], width: int) -> list[tuple[int, tuple[int, int]]]:
    """The shards that a run needs, by number: where all its audiences are lists, only those that hold somebody."""
    ranges = list(enumerate(shard_ranges(width)))
    if not all(occasion.listed for occasion in occasions):
        return ranges
    slots = connection.execute(
        text(
            "SELECT DISTINCT u.slot FROM occurrence_users l JOIN users u ON u.id = l.user_id"
            " WHERE l.occurrence_id = ANY(:ids)"
        ),
        {"ids": [occasion.occurrence_id for occasion in occasions]},
    )
    needed = {slot // width for slot in slots.scalars()} or {0}
    return [(number, bounds) for number, bounds in ranges if number in needed]


def _days(first: date, last: date) -> list[date]:
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def _open(connection: Connection, now: datetime, occasions: Sequence[Occasion], width: int) -> int:
    ranges = _ranges(connection, occasions, width)
    policy, _ = current_policy(connection)
    run_id: int = connection.execute(
        text(
            "INSERT INTO runs (state, as_of, seed, model_version, policy_version, shards_total, users_total)"
            " VALUES ('planning', :now, :seed, :model, :policy, :shards, (SELECT count(*) FROM users u"
            " WHERE u.slot / :width = ANY(:numbers))) RETURNING id"
        ),
        {
            "now": now,
            "seed": seed_of(secret_of(connection), now, occasions),
            "model": registry.champion(connection),
            "policy": policy,
            "shards": len(ranges),
            "width": width,
            "numbers": [number for number, _ in ranges],
        },
    ).scalar_one()
    connection.execute(
        text(
            "INSERT INTO shards (run_id, shard, slot_from, slot_until, state)"
            " VALUES (:run, :shard, :first, :until, 'waiting')"
        ),
        [{"run": run_id, "shard": n, "first": a, "until": b} for n, (a, b) in ranges],
    )
    connection.execute(
        text("UPDATE occurrences SET run_id = :run WHERE id = ANY(:ids)"),
        {"run": run_id, "ids": [occasion.occurrence_id for occasion in occasions]},
    )
    for occasion in occasions:
        if pins := audience_store.pinned(connection, occasion.definition.audience):
            connection.execute(_PIN, {"id": occasion.occurrence_id, "pins": json.dumps(pins)})
    return run_id
