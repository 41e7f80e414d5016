"""Everything that is held about a user, as one JSON object.

The rows are the store's own with the shop's ids beside Horae's; receipts are decoded. Not in it: the log gateway's
journal and rejects files, which are files of the shop, and what a model learned of everybody together.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sqlalchemy import Connection, text

from engine import audit
from engine.errors import BadInput, UnknownName, UserErased
from engine.ingest.erased import audit_subject, erased_among
from engine.planning import receipt
from engine.privacy.held import tables_of_users
from engine.store.database import Database
from engine.store.tables import ARMS, DECISION_REASONS, metadata


def export_user(database: Database, name: str, actor: str | None = None) -> dict[str, Any]:
    """Everything held about the user with the shop's id `name`: {"user": {…}, "rows": {table: [{…}, …]}}.

    All of it as of one moment; the audit log says that `actor` asked for it. Raises UnknownName where there is nobody
    of that name, saying so where they were erased.
    """
    with database.snapshot() as snapshot:
        connection = snapshot.connection
        found = connection.execute(
            text("SELECT u.id, to_jsonb(u) AS held FROM users u WHERE external_id = :name"), {"name": name}
        ).one_or_none()
        if found is None:
            if erased_among(connection, [name]):
                said = "nothing is held about them, and nothing is taken in again"
                raise UserErased(f"user {name!r} was erased", hint=said)
            raise UnknownName(f"there is no user {name!r}", hint="the id as it was ingested, letter by letter")
        rows = {table: _rows(connection, table, columns, found.id) for table, columns in tables_of_users()}
    with database.begin() as connection:
        audit.record(connection, actor, "user.export", audit_subject(connection, name))
    return {"user": found.held, "rows": {table: each for table, each in rows.items() if each}}


def _rows(connection: Connection, table: str, columns: tuple[str, ...], user: int) -> list[dict[str, Any]]:
    known = metadata.tables[table].columns
    shown, joins = ["to_jsonb(t) - 'receipt'"], []
    if "item_id" in known:
        shown.append("jsonb_strip_nulls(jsonb_build_object('item', i.external_id))")
        joins.append("LEFT JOIN items i ON i.id = t.item_id")
    if "event_type" in known:
        shown.append("jsonb_strip_nulls(jsonb_build_object('type', y.name))")
        joins.append("LEFT JOIN event_types y ON y.id = t.event_type")
    if "campaign_id" in known:
        shown.append("jsonb_strip_nulls(jsonb_build_object('campaign', c.name))")
        joins.append("LEFT JOIN campaigns c ON c.id = t.campaign_id")
    kept = ", t.receipt" if "receipt" in known else ""
    where = " OR ".join(f"t.{column} = :user" for column in columns)
    query = f"SELECT {' || '.join(shown)} AS held{kept} FROM {table} t {' '.join(joins)} WHERE {where} ORDER BY 1"
    rows = connection.execute(text(query), {"user": user}).all()
    return [_told(table, dict(row.held), getattr(row, "receipt", None)) for row in rows]


def _told(table: str, row: dict[str, Any], stored: bytes | None) -> dict[str, Any]:
    if table == "decisions":
        row |= {"arm": ARMS[row["arm"]], "reason": DECISION_REASONS[row["reason"]]}
    if stored is not None:
        row["receipt"] = _receipt(bytes(stored))
    return row


def _receipt(stored: bytes) -> Any:
    try:
        found = receipt.decode(stored)
    except BadInput:
        return stored.hex()
    shown = {name: value for name, value in vars(found).items() if not isinstance(value, np.ndarray)}
    names = found.alternatives.dtype.names or ()
    return {
        **{name: _number(value) for name, value in shown.items()},
        "features": [_number(value) for value in found.features.tolist()],
        "alternatives": [
            {name: _number(value) for name, value in zip(names, row, strict=True)}
            for row in found.alternatives.tolist()
        ],
    }


def _number(value: Any) -> Any:
    """NaN has no place in JSON."""
    return None if isinstance(value, float) and not np.isfinite(value) else value
