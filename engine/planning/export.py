"""Decisions as a Parquet file, for analysts: what was chosen, with which probability, and what became of it.

Rows are read date by date and shard by shard of users (a range of slots), so memory stays flat; the file appears whole
or not at all. One row is one revision of a decision; `last` marks the one that held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sqlalchemy import text

from engine.campaigns import store
from engine.errors import BadInput
from engine.features.logged import ROW, VERSION
from engine.planning import receipt
from engine.store.database import Database, Snapshot
from engine.store.files import written_whole
from engine.store.slots import shard_ranges
from engine.store.tables import ARMS, DECISION_REASONS, EVENT_TYPES

Progress = Callable[[int, int], None]
"""Told (rows written, parts left)."""

_SLOTS = 64
"""Slots of users read at a time."""

_STAMP = pa.timestamp("us", tz="UTC")

COLUMNS: dict[str, tuple[pa.DataType, str]] = {
    "date": (pa.date32(), "UTC date of the occurrence's start"),
    "campaign": (pa.string(), "name of the campaign"),
    "campaign_version": (pa.int32(), "version of its definition that was planned"),
    "occurrence": (pa.string(), "the due instant's label; trigger:… of a triggered send"),
    "occurrence_id": (pa.int64(), "its number"),
    "run": (pa.int64(), "the planning run"),
    "as_of": (_STAMP, "business time of the snapshot that was decided on; null without a receipt"),
    "user": (pa.string(), "the user's id, as ingested (who was erased is not in the file)"),
    "revision": (pa.int16(), "0: as the shard decided; higher: settlement, late binding, displacement"),
    "last": (pa.bool_(), "whether no later revision follows: the decision that held"),
    "arm": (pa.string(), "exploit, explore or holdout"),
    "reason": (pa.string(), "planned, or why not"),
    "propensity": (
        pa.float64(),
        "probability of the choice of revision 0: e/|A| + (1 - e) where it is the exploit choice",
    ),
    "options": (pa.int64(), "|A|: the feasible (offer, window) pairs, and nothing; null without a receipt"),
    "item": (pa.string(), "item_id that was chosen; null: none, or deleted since"),
    "window_start": (_STAMP, "start of the chosen 3-hour window"),
    "send_at": (_STAMP, "when the push was due"),
    "exploit_item": (pa.string(), "item_id that exploiting would have chosen"),
    "exploit_window_start": (_STAMP, "window that exploiting would have chosen; null: nothing"),
    "is_exploit": (pa.bool_(), "whether the choice of revision 0 is that one"),
    "score": (pa.float64(), "the model's score of the choice"),
    "value": (pa.float64(), "its value to the campaign"),
    "price": (pa.float64(), "the price of the capacity it used"),
    "model": (pa.int32(), "version of the model; null: the baseline"),
    "policy": (pa.int32(), "version of the workspace's rules"),
    "outcome": (pa.string(), "state in which the push ended, or its state now; null: there was no push"),
    "outcome_reason": (pa.string(), "why, of an outcome other than accepted"),
    "outcome_at": (_STAMP, "business time of the outcome"),
    "variant": (
        pa.string(),
        "EXPERIMENT:ARM of the message that was sent; null: nothing was under test, or nothing left",
    ),
    "opened": (pa.bool_(), "an event push_open or push_click names the push; null: it was not accepted"),
    "clicked": (pa.bool_(), "an event push_click names the push"),
    "dismissed": (pa.bool_(), "an event push_dismiss or unsubscribe names the push"),
    "purchase_value": (pa.float64(), "value of the purchases that name the push"),
}
"""The file's columns: type and meaning. The meanings are also in the file, as metadata of each field."""

SCHEMA = pa.schema(
    [pa.field(name, kind, metadata={"description": meaning}) for name, (kind, meaning) in COLUMNS.items()]
)


@dataclass(frozen=True)
class Wanted:
    """Which decisions: dates [first, until), None: all; of one campaign, or all."""

    first: date | None = None
    until: date | None = None
    campaign: str | None = None


def export_decisions(database: Database, file: Path, wanted: Wanted, progress: Progress | None = None) -> int:
    """Write the decisions `wanted` to the Parquet `file`; how many rows.

    Raises BadInput where the file cannot be written or there are no such decisions, UnknownName for a campaign.
    """
    if wanted.first is not None and wanted.until is not None and wanted.first >= wanted.until:
        raise BadInput(f"the time from {wanted.first} to {wanted.until} is empty", hint="--to is exclusive")
    with database.snapshot() as snapshot:
        campaign = None if wanted.campaign is None else store.get(snapshot.connection, wanted.campaign).id
        dates = _dates(snapshot, wanted)
        if not dates:
            raise BadInput("there are no decisions in that time", hint="see what was planned: horae runs list")
        with written_whole(file) as part:
            return _write(snapshot, part, dates, campaign, progress)


def _dates(snapshot: Snapshot, wanted: Wanted) -> list[date]:
    found = snapshot.connection.execute(
        text(
            "SELECT DISTINCT date FROM occurrences WHERE run_id IS NOT NULL"
            " AND (CAST(:first AS date) IS NULL OR date >= :first) AND (CAST(:until AS date) IS NULL OR date < :until)"
            " ORDER BY 1"
        ),
        {"first": wanted.first, "until": wanted.until},
    )
    return list(found.scalars())


def _write(snapshot: Snapshot, file: Path, dates: list[date], campaign: int | None, progress: Progress | None) -> int:
    rows = 0
    parts = [(day, slots) for day in dates for slots in shard_ranges(_SLOTS)]
    with pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
        for number, (day, slots) in enumerate(parts, 1):
            for table in _read(snapshot, day, slots, campaign):
                writer.write_table(table)
                rows += len(table)
            if progress is not None:
                progress(rows, len(parts) - number)
    return rows


_QUERY = """
SELECT d.date, c.name AS campaign, o.version AS campaign_version, o.label AS occurrence, d.occurrence_id,
       d.run_id AS run, u.external_id AS "user", d.revision,
       d.revision = max(d.revision) OVER (PARTITION BY d.occurrence_id, d.user_id) AS last,
       d.arm, d.reason, d.propensity, i.external_id AS item, d.item_id, d.window_start, d.send_at, d.score, d.value,
       d.price, {head} AS head, p.state AS hot, e.state AS ended, e.reason AS why,
       e.at AS outcome_at, e.variant, f.opened, f.clicked, f.dismissed, f.purchase_value
FROM users u JOIN decisions d ON d.user_id = u.id
JOIN occurrences o ON o.id = d.occurrence_id JOIN campaigns c ON c.id = o.campaign_id
LEFT JOIN items i ON i.id = d.item_id LEFT JOIN pushes p ON p.id = d.push_id
LEFT JOIN deliveries e ON e.push_id = d.push_id AND e.user_id = d.user_id AND e.day >= d.date - 1
LEFT JOIN LATERAL (
    SELECT bool_or(event_type IN ({opens})) AS opened, bool_or(event_type = {click}) AS clicked,
           bool_or(event_type IN ({dismissals})) AS dismissed,
           sum(value) FILTER (WHERE event_type = {purchase}) AS purchase_value
    FROM events v WHERE e.state = 'accepted' AND v.user_id = d.user_id AND v.push_id = d.push_id
                    AND v.occurred_at >= e.at
) f ON e.state = 'accepted'
WHERE u.slot >= {first} AND u.slot < {until} AND d.date = DATE '{day}'{campaign}
ORDER BY d.occurrence_id, d.user_id, d.revision
"""


_LEAST = ROW.itemsize + receipt.HEADER.itemsize
_ROW_END = f"{ROW.itemsize + 1} + 4 * (get_byte(d.receipt, 1) + 256 * get_byte(d.receipt, 2))"
_HEAD = (
    f"CASE WHEN octet_length(d.receipt) >= {_LEAST} AND get_byte(d.receipt, 0) = {VERSION}"
    f" THEN substring(d.receipt FROM {_ROW_END} FOR {receipt.HEADER.itemsize}) END"
)
"""The header of a receipt of this version, which follows the row: ROW's `features` (u2) are its bytes 1 and 2."""


def _read(snapshot: Snapshot, day: date, slots: tuple[int, int], campaign: int | None) -> Iterator[pa.Table]:
    of = "" if campaign is None else f" AND o.campaign_id = {campaign:d}"
    ids = EVENT_TYPES
    query = _QUERY.format(
        head=_HEAD,
        opens=f"{ids['push_open']}, {ids['push_click']}",
        click=ids["push_click"],
        dismissals=f"{ids['push_dismiss']}, {ids['unsubscribe']}",
        purchase=ids["purchase"],
        first=slots[0],
        until=slots[1],
        day=day.isoformat(),
        campaign=of,
    )
    rows = snapshot.arrow(query)
    if len(rows):
        yield _described(rows, _exploited(snapshot, rows))


def _exploited(snapshot: Snapshot, rows: pa.Table) -> dict[int, str]:
    """External ids of what exploiting would have chosen."""
    _, head = _heads(rows["head"])
    ids = np.unique(head["exploit_item"][head["exploit_item"] >= 0])
    if not len(ids):
        return {}
    found = snapshot.arrow(f"SELECT id, external_id FROM items WHERE id IN ({','.join(map(str, ids.tolist()))})")
    return dict(zip(found["id"].to_pylist(), found["external_id"].to_pylist(), strict=True))


def _heads(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """(there bool[n], HEADER[n]): receipts' headers, zeros where there is none of this version."""
    size, stored = receipt.HEADER.itemsize, column.to_pylist()
    there = np.array([one is not None and len(one) == size for one in stored], np.bool_)
    empty = bytes(size)
    flat = b"".join(one if ok else empty for one, ok in zip(stored, there, strict=True))
    return there, np.frombuffer(flat, receipt.HEADER)


def _described(rows: pa.Table, names: dict[int, str]) -> pa.Table:
    there, head = _heads(rows["head"])
    exploits = there & np.isfinite(head["exploit_slot"])
    slots = np.where(exploits, head["exploit_slot"], 0.0)
    window = np.asarray(pc.cast(rows["window_start"], pa.int64()).fill_null(0)) / 1e6
    item = np.asarray(rows["item_id"].fill_null(-1), np.int64)
    chosen = np.asarray(rows["send_at"].is_valid(), bool)
    same = np.where(chosen, exploits & (window == slots) & (item == head["exploit_item"]), ~exploits)
    has_choice = there & np.asarray(rows["propensity"].is_valid(), bool)
    made: dict[str, Any] = {
        "arm": _names(rows["arm"], ARMS),
        "reason": _names(rows["reason"], DECISION_REASONS),
        "as_of": _stamps(head["as_of"], there),
        "options": pa.array(head["options"].astype(np.int64), mask=~there),
        "exploit_item": pa.array(
            [names.get(int(one)) if ok else None for one, ok in zip(head["exploit_item"], exploits, strict=True)]
        ),
        "exploit_window_start": _stamps(slots, exploits),
        "is_exploit": pa.array(same, mask=~has_choice),
        "model": pa.array(head["model"], mask=~(there & (head["model"] > 0))),
        "policy": pa.array(head["policy"], mask=~there),
        "outcome": pc.coalesce(rows["ended"], rows["hot"]),
        "outcome_reason": rows["why"],
    }
    accepted = pc.fill_null(pc.equal(rows["ended"], "accepted"), pa.scalar(value=False))
    for name in ("opened", "clicked", "dismissed"):
        made[name] = pc.if_else(accepted, pc.fill_null(rows[name], pa.scalar(value=False)), pa.scalar(None, pa.bool_()))
    columns = [made[name] if name in made else rows[name] for name in COLUMNS]
    return pa.table([_cast(column, SCHEMA.field(n).type) for n, column in enumerate(columns)], schema=SCHEMA)


def _cast(column: Any, kind: pa.DataType) -> Any:
    return column if column.type == kind else column.cast(kind)


def _names(column: pa.ChunkedArray, names: tuple[str, ...]) -> pa.Array:
    return pa.array(names).take(pc.cast(column, pa.int32()).combine_chunks())


def _stamps(seconds: np.ndarray, there: np.ndarray) -> pa.Array:
    micros = np.round(np.where(there, seconds, 0.0) * 1e6).astype(np.int64)
    return pa.array(micros, mask=~there).cast(_STAMP)
