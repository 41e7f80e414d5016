"""Settling a run: one task gives the capacity there is to the proposals, refills, and publishes.

Everything is in one transaction, conditional on the run's fence: a settlement that is killed was never begun, and one
that was presumed dead records nothing. Proposals that lose get their next best window where there is room (revision 1
of their decision), else the reason `capacity`; their row is then gone, as it never was a push that dispatch could see.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from sqlalchemy import Connection, text

from engine import clock
from engine.errors import LeaseLost
from engine.planning import displacing, locks, receipt
from engine.planning.allotment import Allotment, Proposals, Terms, allot
from engine.planning.prices import Capacities
from engine.planning.proposals import stamps
from engine.planning.runspec import RunSpec, read_run, secret_of
from engine.planning.scarcity import read_capacities, read_incumbents
from engine.planning.wake import Wake
from engine.store.bulk import copy_rows
from engine.store.database import Database, Snapshot
from engine.store.partitions import ensure_partitions

if TYPE_CHECKING:
    from engine.runtime import Runtime

LEASE = timedelta(minutes=5)
"""Long enough to publish a million pushes."""

ABANDONED_SETTLEMENT = locks.abandoned("r.lease_until", LEASE, locks.SETTLEMENT_HELD)
"""SQL: whether nobody is at the settlement of the run `r` any more, which somebody claimed."""


def settle(runtime: Runtime, run_id: int, wake: Wake) -> dict[str, int]:
    """Settle and publish run `run_id`, once its shards are done; nothing where that is done or under way elsewhere.

    Raises LeaseLost where another worker took over meanwhile: then nothing was written.
    """
    fence = _claim(runtime.database, run_id)
    if fence is None:
        return {}
    with runtime.database.begin() as connection:
        today = clock.business_now(connection).date()
    ensure_partitions(runtime.database, "deliveries", today, today)  # for what is displaced
    with runtime.database.begin() as connection:
        locks.lock_settlement(connection)
        locks.speak_or_end(connection, LEASE)
        spec = read_run(connection, run_id)
        changed = _allot(runtime.database, connection, spec)
        changed |= displacing.carry_out(connection, run_id, clock.business_now(connection))
        published = _publish(connection, run_id, fence)
    wake("horae.dispatch_due")
    return {"published": published, **changed}


def _claim(database: Database, run_id: int) -> int | None:
    with database.begin() as connection:
        fence: int | None = connection.execute(
            text(
                "UPDATE runs r SET state = 'settling', fence = fence + 1, lease_until = clock_timestamp() + :lease"
                " WHERE id = :run AND (state = 'planning' AND shards_done = shards_total"
                f" OR state = 'settling' AND {ABANDONED_SETTLEMENT}) RETURNING fence"
            ),
            {"run": run_id, "lease": LEASE},
        ).scalar_one_or_none()
    return fence


def _publish(connection: Connection, run_id: int, fence: int) -> int:
    published = connection.execute(
        text("UPDATE pushes SET state = 'planned' WHERE run_id = :run AND state = 'proposed'"), {"run": run_id}
    ).rowcount
    ours = connection.execute(
        text(
            "UPDATE runs SET state = 'published', published_at = clock_timestamp(), lease_until = NULL"
            " WHERE id = :run AND fence = :fence AND state = 'settling'"
        ),
        {"run": run_id, "fence": fence},
    ).rowcount
    if ours != 1:
        raise LeaseLost(f"the settlement of run {run_id} was taken over by another worker")
    return published


# --- capacity --------------------------------------------------------------------------------------------------------


def _allot(database: Database, connection: Connection, spec: RunSpec) -> dict[str, int]:
    """Accept, refill and refuse the proposals that use up what is scarce."""
    now = clock.business_now(connection)
    capacities = read_capacities(connection, spec, now)
    if not capacities.bounded():
        return {"moved": 0, "refused": 0}
    with database.snapshot() as snapshot:
        proposals = _read_proposals(snapshot, spec, capacities)
    terms = Terms(secret_of(connection), spec.seed, spec.occasions)
    result = allot(
        terms,
        capacities,
        proposals,
        lambda at: _read_alternatives(connection, spec, proposals, at),
        lambda: read_incumbents(connection, spec, capacities, now),
        now,
    )
    _write(connection, proposals, result)
    displacing.note(connection, spec, proposals, result)
    return {"moved": len(result.moved), "refused": len(result.refused)}


def _read_proposals(snapshot: Snapshot, spec: RunSpec, capacities: Capacities) -> Proposals:
    scarce = (capacities.of >= 0).any(0) | (capacities.budget_of >= 0)
    items = len(capacities.stock) > 0
    bounded = [
        o.occurrence_id
        for o, row in zip(spec.occasions, scarce, strict=True)
        if row or (items and o.definition.items.kind != "none")
    ]
    rows = snapshot.arrow(
        "SELECT id, occurrence_id, user_id, coalesce(item_id, -1) AS item,"
        " extract(epoch FROM send_at)::float8 AS send_at, value, price FROM pushes"
        f" WHERE run_id = {spec.run_id:d} AND state = 'proposed'"
        f" AND occurrence_id IN ({','.join(map(str, bounded)) or '-1'})"
    )
    storage = rows["id"].combine_chunks()
    storage = storage.storage if isinstance(storage, pa.ExtensionArray) else storage
    ids = np.frombuffer(b"".join(storage.to_pylist()), np.uint8).reshape(-1, 16)
    position = {occasion.occurrence_id: number for number, occasion in enumerate(spec.occasions)}
    occurrence = np.asarray(rows["occurrence_id"], np.int64)
    known, at = np.unique(occurrence, return_inverse=True)
    return Proposals(
        ids,
        np.array([position[number] for number in known.tolist()], np.int64)[at.reshape(-1)],
        *(np.asarray(rows[name], np.int64) for name in ("user_id", "item")),
        *(np.asarray(rows[name], np.float64) for name in ("send_at", "value", "price")),
    )


_TOUCHED = text("""
    SELECT DISTINCT p.user_id FROM pushes p
    JOIN shards s ON s.run_id = :run AND p.slot >= s.slot_from AND p.slot < s.slot_until
    WHERE p.user_id = ANY(:users) AND p.run_id <> :run AND p.planned_at > s.done_at
""")


def _read_alternatives(connection: Connection, spec: RunSpec, proposals: Proposals, of: np.ndarray) -> list[np.ndarray]:
    """The alternatives in the receipts of proposals `of` (positions), in that order.

    None for users whom another run, a trigger or a refresh planned since: the alternatives do not know those pushes.
    Nobody plans these users from here on until this transaction ends.
    """
    if not len(of):
        return []
    users = np.unique(proposals.user[of]).tolist()
    slots = connection.execute(text("SELECT DISTINCT slot FROM users WHERE id = ANY(:users)"), {"users": users})
    locks.lock_some(connection, slots.scalars())
    touched = set(connection.execute(_TOUCHED, {"run": spec.run_id, "users": users}).scalars())
    occasions = [spec.occasions[o] for o in proposals.occurrence[of]]
    rows = connection.execute(
        text(
            "SELECT d.user_id, d.receipt FROM unnest(CAST(:dates AS date[]), CAST(:occurrences AS bigint[]),"
            " CAST(:users AS bigint[])) WITH ORDINALITY AS lost (date, occurrence_id, user_id, number)"
            " JOIN decisions d USING (date, occurrence_id, user_id) WHERE d.revision = 0 ORDER BY lost.number"
        ),
        {
            "dates": [occasion.date for occasion in occasions],
            "occurrences": [occasion.occurrence_id for occasion in occasions],
            "users": proposals.user[of].tolist(),
        },
    )
    none = np.zeros(0, receipt.ALTERNATIVE)
    return [none if row.user_id in touched else receipt.decode(bytes(row.receipt)).alternatives for row in rows]


# --- revisions -------------------------------------------------------------------------------------------------------

_STAGE = text(
    "CREATE TEMP TABLE settled (push_id uuid, reason smallint, item_id bigint, window_start timestamptz,"
    " window_end timestamptz, send_at timestamptz, score float8, value float8, price float8) ON COMMIT DROP"
)

_MOVE = text("""
    UPDATE pushes p
    SET item_id = s.item_id, window_start = s.window_start, window_end = s.window_end, send_at = s.send_at,
        not_after = s.window_end, value = s.value, price = s.price, revision = 1
    FROM settled s WHERE p.id = s.push_id AND p.state = 'proposed' AND s.send_at IS NOT NULL
""")

_REVISE = text(f"""
    INSERT INTO decisions (date, occurrence_id, user_id, revision, run_id, shard, arm, reason, push_id, item_id,
                           window_start, send_at, score, value, price, propensity, receipt)
    SELECT d.date, d.occurrence_id, d.user_id, 1, d.run_id, d.shard, d.arm,
           CASE WHEN s.send_at IS NULL THEN s.reason ELSE d.reason END,
           CASE WHEN s.send_at IS NOT NULL THEN d.push_id END,
           s.item_id, s.window_start, s.send_at, s.score, s.value, s.price, d.propensity,
           CASE WHEN s.send_at IS NULL THEN d.receipt ELSE {receipt.WITHOUT_FEATURES} END
    FROM settled s JOIN pushes p ON p.id = s.push_id AND p.state = 'proposed'
    JOIN decisions d ON d.date = p.date AND d.occurrence_id = p.occurrence_id AND d.user_id = p.user_id
                    AND d.revision = 0
    ON CONFLICT DO NOTHING
""")

_DROP = text(
    "DELETE FROM pushes p USING settled s WHERE p.id = s.push_id AND p.state = 'proposed' AND s.send_at IS NULL"
)


def _write(connection: Connection, proposals: Proposals, result: Allotment) -> None:
    """Record what was moved and refused: revision 1 of the decision, and the push changed or gone."""
    moved, to, refused = result.moved, result.to, result.refused
    if not len(moved) and not len(refused):
        return
    connection.execute(_STAGE)
    nothing = np.full(len(refused), np.nan)

    def column(values: np.ndarray) -> np.ndarray:
        return np.concatenate([values.astype(np.float64), nothing])

    item = np.concatenate([to["item"], np.full(len(refused), -1)])
    copy_rows(
        connection,
        "settled",
        {
            "push_id": np.ascontiguousarray(proposals.ids[np.concatenate([moved, refused])]),
            "reason": np.concatenate([np.zeros(len(moved), np.int16), result.reasons.astype(np.int16)]),
            "item_id": (item, item >= 0),
            "window_start": stamps(column(to["slot"])),
            "window_end": stamps(column(to["end"])),
            "send_at": stamps(column(to["send_at"])),
            **{name: (column(to[name]), np.isfinite(column(to[name]))) for name in ("score", "value", "price")},
        },
    )
    connection.execute(_REVISE)
    connection.execute(_MOVE)
    connection.execute(_DROP)
