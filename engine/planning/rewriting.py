"""Writes what a refresh changed: pushes, and a new revision of each one's decision, only while they are planned."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from uuid import UUID

import numpy as np
import pyarrow as pa
from sqlalchemy import Connection, text

from engine.planning.decide import REASON
from engine.planning.proposals import receipts, stamps
from engine.planning.replanning import Changes, Waiting
from engine.planning.roster import FROZEN
from engine.store import endings
from engine.store.bulk import copy_rows

_OUTCOME = {
    "not_eligible": ("suppressed", "not_eligible"),
    "no_consent": ("suppressed", "no_consent"),
    "no_device": ("suppressed", "no_device"),
    "no_candidate": ("cancelled", "no_candidate"),
    "not_worth": ("cancelled", "not_worth"),
    "expired": ("cancelled", "offer_ended"),
    "failed_input": ("cancelled", "failed_input"),
}
"""How a push ends whose decision ends so: state and reason of its delivery."""

REFRESHED = -1
"""Instead of a shard's number, of decisions that a refresh revised."""

_STAGE = text("""
    CREATE TEMP TABLE refreshed (push_id uuid, revision smallint, reason smallint, item_id bigint,
        window_start timestamptz, window_end timestamptz, send_at timestamptz, not_after timestamptz, score float8,
        value float8, price float8, propensity float8, receipt bytea, state text, why text) ON COMMIT DROP
""")

_TOLD = f"""
    INSERT INTO decisions (date, occurrence_id, user_id, revision, run_id, shard, arm, reason, push_id, item_id,
                           window_start, send_at, score, value, price, propensity, receipt)
    SELECT d.date, d.occurrence_id, d.user_id, r.revision, d.run_id, {REFRESHED}, d.arm, r.reason, p.id, r.item_id,
           r.window_start, r.send_at, r.score, r.value, r.price, coalesce(r.propensity, d.propensity), r.receipt
    FROM hit p JOIN refreshed r ON r.push_id = p.id
    JOIN decisions d ON d.date = p.date AND d.occurrence_id = p.occurrence_id AND d.user_id = p.user_id
                    AND d.revision = 0
    RETURNING 1
"""

_MOVE = text(f"""
    WITH hit AS (
        UPDATE pushes p SET item_id = r.item_id, window_start = r.window_start, window_end = r.window_end,
            send_at = r.send_at, not_after = r.not_after, value = r.value, price = r.price, revision = r.revision,
            planned_at = clock_timestamp()
        FROM refreshed r WHERE p.id = r.push_id AND r.state IS NULL AND p.state = 'planned'
            AND p.revision = r.revision - 1 AND p.send_at > :frozen RETURNING p.*
    ), told AS ({_TOLD}) SELECT count(*) FROM told
""")

_END = text(f"""
    WITH hit AS (
        DELETE FROM pushes p USING refreshed r
        WHERE p.id = r.push_id AND r.state IS NOT NULL AND p.state = 'planned' AND p.revision = r.revision - 1
          AND p.send_at > :frozen RETURNING p.*
    ), told AS ({_TOLD}), ended AS (
        {endings.into_ledger("hit p JOIN refreshed r ON r.push_id = p.id", "r.state", "r.why")}
    ) SELECT count(*) FROM told
""")


def write(connection: Connection, now: datetime, changes: Changes, bought: set[UUID]) -> Counter[str]:
    """Write `changes` at business time `now`; how many pushes `changed` and `ended`. `bought`: pushes that end because
    of a purchase of their item."""
    if not changes.moves and not changes.ends:
        return Counter()
    connection.execute(_STAGE)
    _stage_moves(connection, changes)
    _stage_ends(connection, changes, bought)
    frozen = {"frozen": now + FROZEN}
    moved = connection.execute(_MOVE, frozen).scalar_one()
    ended = connection.execute(_END, frozen | {"now": now}).scalar_one()
    return Counter(changed=int(moved), ended=int(ended))


def _stage_moves(connection: Connection, changes: Changes) -> None:
    if changes.block is None or not changes.moves:
        return
    decided = changes.block.decided
    at = np.array(list(changes.moves.values()), np.int64)
    rows = [changes.rows[number] for number in changes.moves]
    copy_rows(
        connection,
        "refreshed",
        {
            **_named(rows),
            "reason": decided.reason[at].astype(np.int16),
            "item_id": (decided.item[at], decided.item[at] >= 0),
            "window_start": stamps(decided.slot[at]),
            "window_end": stamps(decided.end[at]),
            "send_at": stamps(decided.send_at[at]),
            "not_after": stamps(decided.until[at]),
            **{
                name: getattr(decided, name)[at].astype(np.float64)
                for name in ("score", "value", "price", "propensity")
            },
            "receipt": receipts(decided, changes.block.features).take(pa.array(at)),
        },
    )


def _stage_ends(connection: Connection, changes: Changes, bought: set[UUID]) -> None:
    if not changes.ends:
        return
    rows = [changes.rows[number] for number in changes.ends]
    outcomes = [_OUTCOME[reason] for reason in changes.ends.values()]
    why = [
        "item_bought" if row.id in bought and state == "cancelled" else name
        for row, (state, name) in zip(rows, outcomes, strict=True)
    ]
    states = ["suppressed" if name == "item_bought" else state for (state, _), name in zip(outcomes, why, strict=True)]
    copy_rows(
        connection,
        "refreshed",
        {
            **_named(rows),
            "reason": np.array([REASON[reason] for reason in changes.ends.values()], np.int16),
            "state": pa.array(states, pa.string()),
            "why": pa.array(why, pa.string()),
        },
    )


def _named(rows: list[Waiting]) -> dict[str, np.ndarray]:
    ids = np.frombuffer(b"".join(row.id.bytes for row in rows), np.uint8).reshape(-1, 16)
    return {"push_id": ids, "revision": np.array([row.revision + 1 for row in rows], np.int16)}
