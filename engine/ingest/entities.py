"""Users and items into the store: new ones are made, changed ones are changed, what a row does not mention stays.

Nothing is written for rows that change nothing, so that running a file twice is running it once. A change of an item
keeps the row before it in `item_versions`. A change of a user's effective zone moves their hours: the hour profiles of
these users are folded again from their events, in the same transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import Connection, text

from engine.ingest.entity_rows import EntityRows, collapse
from engine.ingest.erased import without_erased
from engine.ingest.hours import refold_hours
from engine.ingest.identities import default_zone
from engine.ingest.preferences import store_preferences
from engine.ingest.profiles import take_fold_lock
from engine.store.bulk import jsonb, stage_rows
from engine.store.slots import slot_of

USER_COLUMNS = {"timezone": "text", "country": "text", "locale": "text", "consent": "boolean"}
ITEM_COLUMNS = {
    "title": "text",
    "category": "text",
    "brand": "text",
    "price": "float8",
    "available_from": "timestamptz",
    "available_until": "timestamptz",
    "stock": "bigint",
}


@dataclass(frozen=True)
class Stored:
    """What became of some users or items; `refused` are positions in their block."""

    created: int
    updated: int
    unchanged: int
    without_timezone: int = 0
    refused: tuple[int, ...] = ()


def store_users(connection: Connection, rows: EntityRows) -> Stored:
    """Create or change these users; erased ones are left out, and counted in none of the numbers."""
    said = rows = without_erased(connection, rows)
    rows = collapse(rows)
    if not len(rows):
        return Stored(0, 0, 0)
    if "timezone" in rows.columns:
        take_fold_lock(connection)
    slots = np.array([slot_of(name) for name in rows.ids.to_pylist()], np.int16)
    _stage(connection, "users", USER_COLUMNS, rows, {"slot": slots})
    names = ", ".join(USER_COLUMNS)
    created = connection.execute(
        text(
            f"INSERT INTO users (external_id, slot, {names}, tz_source, attributes)"
            f" SELECT external_id, slot, {names}, CASE WHEN timezone IS NOT NULL THEN 'explicit' END,"
            " coalesce(attributes, '{}') FROM staged_users ORDER BY external_id ON CONFLICT DO NOTHING"
        )
    ).rowcount
    changed = connection.execute(text(_update_users()), {"default": default_zone(connection)}).all()
    refold_hours(connection, np.array([row.id for row in changed if row.moved], np.int64))
    if "preferences" in said.columns:
        store_preferences(connection, said.ids, said.columns["preferences"])
    without = connection.execute(
        text("SELECT count(*) FROM users JOIN staged_users USING (external_id) WHERE users.timezone IS NULL")
    ).scalar_one()
    return Stored(created, len(changed), len(rows) - created - len(changed), without)


def store_items(connection: Connection, rows: EntityRows, now: datetime) -> Stored:
    """Create or change these items; `now` (business time) ends the versions that change.

    A row whose item would end before it starts, with what the store knows of it, is refused.
    """
    rows = collapse(rows)
    if not len(rows):
        return Stored(0, 0, 0)
    _stage(connection, "items", ITEM_COLUMNS, rows, {})
    refused = connection.execute(text(_BACKWARDS)).scalars().all()
    names = ", ".join(ITEM_COLUMNS)
    created = connection.execute(
        text(
            f"INSERT INTO items (external_id, {names}, attributes) SELECT external_id, {names},"
            " coalesce(attributes, '{}') FROM staged_items ORDER BY external_id ON CONFLICT DO NOTHING"
        )
    ).rowcount
    updated = connection.execute(text(_update_items()), {"now": now}).scalar_one()
    unchanged = len(rows) - len(refused) - created - updated
    return Stored(created, updated, unchanged, refused=tuple(rows.origin[list(refused)].tolist()))


def _stage(
    connection: Connection, table: str, columns: dict[str, str], rows: EntityRows, more: dict[str, np.ndarray]
) -> None:
    defined = [f"{name} {kind}, says_{name} boolean" for name, kind in columns.items()]
    definition = f"position integer, external_id text, slot smallint, {', '.join(defined)}, attributes jsonb"
    staged: dict[str, Any] = {"position": np.arange(len(rows), dtype=np.int32), "external_id": rows.ids, **more}
    for name in columns:
        staged[f"says_{name}"] = rows.mentions(name)
        if name in rows.columns:
            staged[name] = rows.columns[name]
    if rows.attributes is not None:
        staged["attributes"] = jsonb(rows.attributes)
    stage_rows(connection, f"staged_{table}", definition, staged)


def _merged(columns: dict[str, str]) -> str:
    """Select items of the row that the stored `known` and the staged `given` make together."""
    parts = [f"CASE WHEN given.says_{name} THEN given.{name} ELSE known.{name} END AS {name}" for name in columns]
    return ", ".join([*parts, "known.attributes || coalesce(given.attributes, '{}') AS attributes"])


def _differs(columns: dict[str, str]) -> str:
    parts = [f"(given.says_{name} AND given.{name} IS DISTINCT FROM known.{name})" for name in columns]
    if "timezone" in columns:
        # A zone that a device reported becomes the shop's own word.
        parts.append("(given.timezone IS NOT NULL AND known.tz_source <> 'explicit')")
    return " OR ".join([*parts, "known.attributes || given.attributes <> known.attributes", "known.stub"])


def _changed(table: str, columns: dict[str, str], more: str) -> str:
    return (
        f"changed AS (SELECT known.id, {more}, {_merged(columns)} FROM {table} AS known"
        f" JOIN staged_{table} AS given USING (external_id) WHERE {_differs(columns)}"
        " ORDER BY external_id FOR UPDATE OF known)"
    )


def _assigned(columns: dict[str, str]) -> str:
    return ", ".join(f"{name} = changed.{name}" for name in [*columns, "attributes"]) + ", stub = false"


def _update_users() -> str:
    return (
        f"WITH {_changed('users', USER_COLUMNS, 'given.says_timezone, known.timezone AS before')}"
        f" UPDATE users SET {_assigned(USER_COLUMNS)}, updated_at = now(), tz_source = CASE"
        " WHEN changed.timezone IS NULL THEN NULL WHEN changed.says_timezone THEN 'explicit'"
        " ELSE users.tz_source END FROM changed WHERE users.id = changed.id RETURNING users.id,"
        " coalesce(changed.before, :default) <> coalesce(changed.timezone, :default) AS moved"
    )


_WAS_PRICE = "(before->>'price')::float8"
_RESTOCKED = "(coalesce((before->>'stock')::bigint, 1) = 0 AND coalesce(stock, 1) > 0)"


def _update_items() -> str:
    return (
        f"WITH {_changed('items', ITEM_COLUMNS, 'known.version, to_jsonb(known) AS before')},"
        " kept AS (INSERT INTO item_versions (item_id, version, definition, until)"
        " SELECT id, version, before, :now FROM changed),"
        " news AS (INSERT INTO item_news (item_id, version, at, price_before, price, restocked)"
        f" SELECT id, version, :now, {_WAS_PRICE}, price, {_RESTOCKED} FROM changed"
        f" WHERE price < {_WAS_PRICE} OR {_RESTOCKED}),"
        f" done AS (UPDATE items SET {_assigned(ITEM_COLUMNS)}, version = changed.version + 1, updated_at = now()"
        " FROM changed WHERE items.id = changed.id RETURNING 1) SELECT count(*) FROM done"
    )


_BACKWARDS = """
WITH backwards AS (
    SELECT given.position,
        CASE WHEN given.says_available_from THEN given.available_from ELSE known.available_from END AS starts,
        CASE WHEN given.says_available_until THEN given.available_until ELSE known.available_until END AS ends
    FROM staged_items AS given LEFT JOIN items AS known USING (external_id)
)
DELETE FROM staged_items USING backwards
WHERE staged_items.position = backwards.position AND starts >= ends RETURNING staged_items.position
"""
"""Staged items that would end before they start, taken out."""
