"""Planning a shard: one claim, one snapshot, one transaction.

The shard's row is claimed under a lease and a fence; the transaction that writes its decisions and proposals also marks
it done, conditional on the fence. It holds the advisory locks of the shard's slots from before its snapshot until it
commits, so nobody else plans these users meanwhile. Users are planned block by block: memory does not grow with them.

Leases are measured by the database's clock, one for all hosts.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from psycopg.errors import LockNotAvailable
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from engine import clock
from engine.errors import LeaseLost, Unavailable
from engine.planning import locks, proposals
from engine.planning.opening import at_prices, set_scene
from engine.planning.pricing import run_prices
from engine.planning.proposals import Shelf
from engine.planning.runspec import read_run
from engine.planning.scarcity import read_capacities
from engine.planning.scene import BLOCK_USERS, Scene, blocks_of, plan_block
from engine.planning.wake import Wake
from engine.store.database import Database, Snapshot

if TYPE_CHECKING:
    from engine.runtime import Runtime

LEASE = timedelta(seconds=90)
"""A shard's lease, renewed with every block of users."""

ABANDONED_SHARD = locks.abandoned("s.lease_until", LEASE, locks.SHARD_HELD)
"""SQL: whether nobody plans the shard `s` any more, which somebody claimed."""

SCENE_KEPT = timedelta(minutes=5)
"""How long a process plans a run's shards on the items as it first read them."""

MOST_TRIES = 5
"""How often a shard is begun before its run fails: what fails again and again must not be tried for ever."""

PATIENCE = "20s"
"""How long a shard waits for the slots of another; then it goes back to waiting."""


def plan_shard(runtime: Runtime, run_id: int, shard: int, wake: Wake) -> dict[str, int]:
    """Plan one shard: its decisions, their proposals and its done mark in one transaction.

    Returns what was done, and nothing where another worker holds the shard or it is done. Raises LeaseLost where
    another worker took over meanwhile: then nothing was written. Any other failure goes back to whoever runs the task,
    is kept with the run for people to read, and after MOST_TRIES ends the run.
    """
    claim = _claim(runtime.database, run_id, shard)
    if claim is None:
        return {}
    try:
        with runtime.database.begin() as connection:
            connection.execute(text(f"SET LOCAL lock_timeout = '{PATIENCE}'"))
            locks.lock_slots(connection, claim.slots)
            connection.execute(text("SET LOCAL lock_timeout = 0"))
            locks.speak_or_end(connection, LEASE)
            done, last = _plan(runtime, connection, claim)
    except OperationalError as error:
        if not isinstance(error.orig, LockNotAvailable):
            raise
        _give_back(runtime.database, claim)
        return {"busy": 1}
    except (LeaseLost, Unavailable):
        raise
    except Exception as error:
        _note_failure(runtime.database, claim, error)
        raise
    if last:
        wake("horae.settle", run_id)
    return done


@dataclass(frozen=True)
class Claim:
    """A shard that this worker holds until somebody raises its fence."""

    run_id: int
    shard: int
    fence: int
    slots: tuple[int, int]


def _claim(database: Database, run_id: int, shard: int) -> Claim | None:
    with database.begin() as connection:
        row = connection.execute(
            text(
                "UPDATE shards s SET state = 'planning', fence = s.fence + 1, lease_until = clock_timestamp() + :lease"
                " FROM runs r WHERE r.id = s.run_id AND r.state = 'planning' AND s.run_id = :run AND s.shard = :shard"
                f" AND (s.state = 'waiting' OR s.state = 'planning' AND {ABANDONED_SHARD})"
                " RETURNING s.fence, s.slot_from, s.slot_until"
            ),
            {"run": run_id, "shard": shard, "lease": LEASE},
        ).first()
    return None if row is None else Claim(run_id, shard, row.fence, (row.slot_from, row.slot_until))


def _give_back(database: Database, claim: Claim) -> None:
    with database.begin() as connection:
        connection.execute(
            text(
                "UPDATE shards SET state = 'waiting', lease_until = NULL"
                " WHERE run_id = :run AND shard = :shard AND fence = :fence AND state = 'planning'"
            ),
            {"run": claim.run_id, "shard": claim.shard, "fence": claim.fence},
        )


def _note_failure(database: Database, claim: Claim, error: Exception) -> None:
    """Keep what went wrong with the run, and the shard to be tried again, up to MOST_TRIES times."""
    with database.begin() as connection:
        connection.execute(
            text(
                "UPDATE runs SET error = :error, state = CASE WHEN :tries >= :most THEN 'failed' ELSE state END"
                " WHERE id = :run AND state = 'planning'"
            ),
            {
                "error": f"shard {claim.shard}: {str(error).strip() or type(error).__name__}"[:1000],
                "tries": claim.fence,
                "most": MOST_TRIES,
                "run": claim.run_id,
            },
        )
    _give_back(database, claim)


def _renew(database: Database, claim: Claim) -> None:
    """Extend the lease. Raises LeaseLost."""
    with database.begin() as connection:
        held = connection.execute(
            text(
                "UPDATE shards SET lease_until = clock_timestamp() + :lease"
                " WHERE run_id = :run AND shard = :shard AND fence = :fence AND state = 'planning'"
            ),
            {"lease": LEASE, "run": claim.run_id, "shard": claim.shard, "fence": claim.fence},
        ).rowcount
    if held != 1:
        raise LeaseLost(f"shard {claim.shard} of run {claim.run_id} was taken over by another worker")


def _plan(runtime: Runtime, connection: Connection, claim: Claim) -> tuple[dict[str, int], bool]:
    """Plan the shard inside `connection`'s transaction, which holds its slots; (what was done, it was the last)."""
    with runtime.database.snapshot() as snapshot:
        scene = _scene(runtime, snapshot, claim.run_id)
        shelf = Shelf(claim.run_id, claim.shard, scene.terms.secret, scene.occasions)
        users, counts = _blocks(runtime.database, connection, claim, scene, shelf)
    if scene.refused is not None:
        refused = text("UPDATE runs SET error = :why WHERE id = :run")
        connection.execute(refused, {"why": f"nobody was planned: {scene.refused}"[:1000], "run": claim.run_id})
    done = {"users": users, "decisions": counts.total()}
    return done, _finish(connection, claim, users, counts, scene.as_of)


_kept: dict[tuple[str, int, int], tuple[float, Scene]] = {}
"""The scene of the run that this process planned last, and until when (monotonic clock) it may be used again."""


def _scene(runtime: Runtime, snapshot: Snapshot, run_id: int) -> Scene:
    """The scene of a run: kept from shard to shard for a while, since items, windows and prices are everybody's.

    Then its `as_of` is that of the first shard, which is what each of them records.
    """
    seed = snapshot.connection.execute(text("SELECT seed FROM runs WHERE id = :run"), {"run": run_id}).scalar_one()
    key = (runtime.database.libpq_url, run_id, seed)  # a database made anew counts its runs from 1 again
    until, scene = _kept.get(key, (0.0, None))
    if scene is not None and clock.monotonic() < until:
        return replace(scene, snapshot=snapshot)
    spec = read_run(snapshot.connection, run_id)
    scene = set_scene(snapshot, runtime.gateways, spec)
    capacities = read_capacities(snapshot.connection, spec, scene.as_of)
    scene = at_prices(scene, run_prices(runtime.database, scene, run_id, capacities))
    _kept.clear()
    _kept[key] = (clock.monotonic() + SCENE_KEPT.total_seconds(), scene)
    return scene


def _blocks(
    database: Database, connection: Connection, claim: Claim, scene: Scene, shelf: Shelf
) -> tuple[int, Counter[tuple[str, str]]]:
    """Plan block by block; how many users, and how many decisions by reason and arm."""
    users, counts = 0, Counter[tuple[str, str]]()
    proposals.stage(connection)
    most = max(1, 2 * BLOCK_USERS // max(2, len(scene.occasions)))
    for first, until, count in blocks_of(scene.snapshot, claim.slots, most):
        block = plan_block(scene, (first, until)) if count else None
        if block is not None:
            counts += proposals.write(connection, shelf, block)
        users += count
        _renew(database, claim)
    return users, counts


def _finish(
    connection: Connection, claim: Claim, users: int, counts: Counter[tuple[str, str]], as_of: datetime
) -> bool:
    """Mark the shard done; whether it was the run's last. Raises LeaseLost."""
    marked = connection.execute(
        text(
            "UPDATE shards SET state = 'done', users = :users, as_of = :as_of, done_at = clock_timestamp(),"
            " counts = CAST(:counts AS jsonb), lease_until = NULL"
            " WHERE run_id = :run AND shard = :shard AND fence = :fence AND state = 'planning'"
        ),
        {
            "users": users,
            "as_of": as_of,
            "counts": json.dumps([[*what, n] for what, n in sorted(counts.items())]),
            "run": claim.run_id,
            "shard": claim.shard,
            "fence": claim.fence,
        },
    ).rowcount
    if marked != 1:
        raise LeaseLost(f"shard {claim.shard} of run {claim.run_id} was taken over by another worker")
    return bool(
        connection.execute(
            text(
                "UPDATE runs SET shards_done = shards_done + 1, users_done = users_done + :users WHERE id = :run"
                " RETURNING shards_done = shards_total"
            ),
            {"users": users, "run": claim.run_id},
        ).scalar_one()
    )
