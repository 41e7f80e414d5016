"""Writes what a block decided: decisions, and a proposed push for each decision that was not there before.

`decisions` is the guard against a second push: a push row is written only with a revision 0 that did not conflict. Rows
travel by binary COPY into temporary tables, as conflicts are possible wherever a worker was presumed dead and was not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from sqlalchemy import Connection, text

from engine.planning import arms, chance, receipt
from engine.planning.occasions import Occasion
from engine.planning.record import Decided
from engine.planning.scene import Block
from engine.store.bulk import copy_rows
from engine.store.tables import ARMS, DECISION_REASONS

_STAGE = """
CREATE TEMP TABLE new_decisions (LIKE decisions) ON COMMIT DROP;
CREATE TEMP TABLE new_pushes (LIKE pushes INCLUDING DEFAULTS) ON COMMIT DROP;
CREATE TEMP TABLE new_displacements (LIKE displacements) ON COMMIT DROP;
ALTER TABLE new_decisions DROP COLUMN created_at;
"""

_COLUMNS = (
    "date, occurrence_id, user_id, revision, run_id, shard, arm, reason, push_id, item_id, window_start, send_at,"
    " score, value, price, propensity, receipt"
)

_INSERT = f"""
WITH decided AS (
    INSERT INTO decisions ({_COLUMNS}) SELECT {_COLUMNS} FROM new_decisions
    ON CONFLICT DO NOTHING RETURNING occurrence_id, user_id, reason, arm
), proposed AS (
    INSERT INTO pushes SELECT p.* FROM new_pushes p JOIN decided USING (occurrence_id, user_id)
), displacing AS (
    INSERT INTO displacements SELECT n.* FROM new_displacements n JOIN decided USING (occurrence_id, user_id)
)
SELECT reason, arm, count(*) AS n FROM decided GROUP BY 1, 2
"""


@dataclass(frozen=True)
class Shelf:
    """Where decisions go: the run, its shard, and its occurrences."""

    run_id: int
    shard: int
    secret: bytes
    occasions: Sequence[Occasion]


def stage(connection: Connection) -> None:
    """Make this transaction's temporary tables."""
    connection.execute(text(_STAGE))


def write(connection: Connection, shelf: Shelf, block: Block) -> Counter[tuple[str, str]]:
    """Write the decisions of a block, what they propose and whose places they would take; how many were new, by reason
    and arm."""
    decided, slots, features = block.decided, block.roster.slot, block.features
    ids = np.array([occasion.occurrence_id for occasion in shelf.occasions], np.int64)[decided.occurrence]
    dates = np.array([occasion.date for occasion in shelf.occasions], "datetime64[D]")[decided.occurrence]
    push_ids = chance.push_ids(shelf.secret, ids, decided.user)
    planned = decided.planned
    copy_rows(
        connection,
        "new_decisions",
        {
            "date": dates,
            "occurrence_id": ids,
            "user_id": decided.user,
            "revision": np.zeros(len(ids), np.int16),
            "run_id": np.full(len(ids), shelf.run_id, np.int64),
            "shard": np.full(len(ids), shelf.shard, np.int32),
            "arm": decided.arm.astype(np.int16),
            "reason": decided.reason.astype(np.int16),
            "push_id": (push_ids, planned),
            "item_id": (decided.item, decided.item >= 0),
            "window_start": stamps(decided.slot),
            "send_at": stamps(decided.send_at),
            **{name: _number(getattr(decided, name)) for name in ("score", "value", "price", "propensity")},
            "receipt": receipts(decided, features),
        },
    )
    _write_pushes(connection, shelf, decided, (ids, dates, push_ids, slots))
    _write_displacements(connection, shelf, block.displaced)
    new = Counter({(DECISION_REASONS[row.reason], ARMS[row.arm]): row.n for row in connection.execute(text(_INSERT))})
    connection.execute(text("TRUNCATE new_decisions, new_pushes, new_displacements"))
    return new


def stamps(seconds: np.ndarray) -> np.ndarray:
    """Epoch seconds as datetime64[us], NaT where NaN."""
    known = np.isfinite(seconds)
    micros = np.round(np.where(known, seconds, 0.0) * 1e6).astype(np.int64).astype("datetime64[us]")
    micros[~known] = np.datetime64("NaT")
    return micros


def _number(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return values.astype(np.float64), np.isfinite(values)


def receipts(decided: Decided, features: np.ndarray) -> pa.Array:
    """The receipts of decisions; features float32[planned, F], those of the planned ones."""
    head = decided.head.copy()
    head["alternatives"] = np.isfinite(decided.alternatives["slot"]).sum(1)
    rows = np.zeros((len(head), features.shape[1]), np.float32)
    rows[decided.planned] = features
    return receipt.encode(head, rows, decided.planned, decided.alternatives)


def _write_displacements(connection: Connection, shelf: Shelf, displaced: np.ndarray) -> None:
    ids = np.array([occasion.occurrence_id for occasion in shelf.occasions], np.int64)
    copy_rows(
        connection,
        "new_displacements",
        {
            "run_id": np.full(len(displaced), shelf.run_id, np.int64),
            "user_id": displaced[:, 0],
            "occurrence_id": ids[displaced[:, 1]],
            "rival_id": displaced[:, 2],
            "rival_user_id": displaced[:, 0],
        },
    )


def _write_pushes(
    connection: Connection, shelf: Shelf, decided: Decided, keys: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
) -> None:
    ids, dates, push_ids, slots = keys
    at = np.flatnonzero(decided.planned)
    occurrence = decided.occurrence[at]
    item = decided.item[at]
    campaigns = np.array([occasion.campaign_id for occasion in shelf.occasions], np.int64)
    gateways = pa.array([occasion.definition.gateway for occasion in shelf.occasions], pa.string())
    copy_rows(
        connection,
        "new_pushes",
        {
            "id": push_ids[at],
            "state": pa.repeat(pa.scalar("proposed"), len(at)),
            "date": dates[at],
            "occurrence_id": ids[at],
            "campaign_id": campaigns[occurrence],
            "run_id": np.full(len(at), shelf.run_id, np.int64),
            "user_id": decided.user[at],
            "slot": slots[decided.row[at]],
            "item_id": (item, item >= 0),
            "revision": np.zeros(len(at), np.int16),
            "gateway": gateways.take(pa.array(occurrence)),
            "window_start": stamps(decided.slot[at]),
            "window_end": stamps(decided.end[at]),
            "send_at": stamps(decided.send_at[at]),
            "not_after": stamps(decided.until[at]),
            "value": decided.value[at].astype(np.float64),
            "price": decided.price[at].astype(np.float64),
            "explored": decided.arm[at] == arms.EXPLORE,
        },
    )
