"""From the shop's ids and type names to the store's; what is not known yet gets a stub.

A stub user has no consent record and is not eligible; a stub item has no title. The users' or items' file that brings
them later completes the same row, so that their events are linked without being touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic_core import to_json
from sqlalchemy import Connection, text

from engine.errors import BadInput
from engine.store.bulk import copy_out, fetch, stage_rows
from engine.store.slots import slot_of
from engine.store.tables import EVENT_TYPES

FEW = 1_000
"""So many names travel in the statement. A table made for each would cost more, and bloat the catalogue where requests
come all day; for many a table is faster."""

FIRST_OTHER_TYPE = 100
MOST_OTHER_TYPES = 1_000
"""Event types besides the known ones. More means that the wrong column was taken for the type."""


@dataclass(frozen=True)
class Users:
    """Users in the order asked for. id, slot, zone: int64 (zone indexes `zones`, the effective IANA names)."""

    id: np.ndarray
    slot: np.ndarray
    zone: np.ndarray
    zones: Sequence[str]
    stubs: int
    """Rows made for users that were unknown."""


_DEFAULT_ZONE = "SELECT definition ->> 'default_timezone' FROM policies ORDER BY version DESC LIMIT 1"


def default_zone(connection: Connection) -> str:
    """The zone of users who have none: the workspace policy's."""
    return connection.execute(text(_DEFAULT_ZONE)).scalar_one_or_none() or "UTC"


def resolve_users(connection: Connection, names: pa.StringArray) -> Users:
    """The users with these external ids (distinct, no nulls); makes stubs of the unknown."""
    asked = _ask(connection, "staged_users_asked", names)
    found = _find_users(connection, asked, len(names))
    made = 0
    missing = np.flatnonzero(found.id < 0)
    if len(missing):
        made = _make_stubs(connection, names.take(pa.array(missing)))
        found = _find_users(connection, asked, len(names))
    return replace(found, stubs=made)


def _make_stubs(connection: Connection, new: pa.StringArray) -> int:
    slots = np.array([slot_of(name) for name in new.to_pylist()], np.int16)
    given: dict[str, Any] = {}
    source = "staged_users_new"
    if len(new) <= FEW:
        source = "unnest(CAST(:names AS text[]), CAST(:slots AS smallint[])) AS given (name, slot)"
        given = {"names": new.to_pylist(), "slots": slots.tolist()}
    else:
        stage_rows(connection, source, "name text, slot smallint", {"name": new, "slot": slots})
    statement = (
        f"INSERT INTO users (external_id, slot, stub) SELECT name, slot, true FROM {source}"
        " ORDER BY name ON CONFLICT DO NOTHING"
    )
    return connection.execute(text(statement), given).rowcount


def _find_users(connection: Connection, asked: _Asked, count: int) -> Users:
    """The `count` users that are asked for, by position; id −1 where there is none."""
    user, slot, zone = np.full(count, -1, np.int64), np.full(count, -1, np.int64), np.zeros(count, np.int64)
    # One row per zone: the arrays reach numpy without an object per user.
    by_zone = fetch(
        connection,
        f"SELECT coalesce(timezone, ({_DEFAULT_ZONE}), 'UTC') AS zone, array_agg(position), array_agg(users.id),"
        f" array_agg(users.slot) FROM {asked.source} JOIN users ON external_id = name GROUP BY zone ORDER BY zone",
        asked.parameters,
    )
    for code, (_name, positions, ids, slots) in enumerate(by_zone):
        at = np.array(positions)
        user[at], slot[at], zone[at] = ids, slots, code
    return Users(user, slot, zone, [name for name, *_ in by_zone] or ["UTC"], 0)


def resolve_items(connection: Connection, names: pa.StringArray) -> tuple[np.ndarray, int]:
    """The ids (int64) of the items with these external ids (distinct, no nulls), and how many stubs were made."""
    asked = _ask(connection, "staged_items_asked", names)
    found = _find_items(connection, asked, len(names))
    made = 0
    if np.any(found < 0):
        driver: Any = connection.connection.driver_connection
        with driver.cursor() as cursor:
            cursor.execute(
                f"INSERT INTO items (external_id, stub) SELECT name, true FROM {asked.source}"
                " WHERE NOT EXISTS (SELECT FROM items WHERE external_id = name) ORDER BY name ON CONFLICT DO NOTHING",
                asked.parameters,
            )
            made = cursor.rowcount
        found = _find_items(connection, asked, len(names))
    return found, made


def _find_items(connection: Connection, asked: _Asked, count: int) -> np.ndarray:
    items = np.full(count, -1, np.int64)
    query = f"FROM {asked.source} JOIN items ON external_id = name"
    if asked.parameters:
        [(positions, ids)] = fetch(
            connection, f"SELECT array_agg(position), array_agg(items.id) {query}", asked.parameters
        )
        if positions:
            items[positions] = ids
        return items
    found = copy_out(connection, f"SELECT position, items.id {query}", {"position": "integer", "id": "bigint"})
    items[found["position"]] = found["id"]
    return items


@dataclass(frozen=True)
class _Asked:
    """Names in SQL: `source` has columns position and name; psycopg's parameters."""

    source: str
    parameters: tuple[str, ...] = ()


def _ask(connection: Connection, table: str, names: pa.StringArray) -> _Asked:
    if len(names) > FEW:
        stage_rows(connection, table, "position integer, name text", _numbered(names))
        return _Asked(table)
    # As JSON, which is written and read at once: psycopg writes the members of an array one by one.
    given = "json_array_elements_text(%s::json) WITH ORDINALITY AS given (name, n)"
    numbered = f"SELECT name, n::integer - 1 AS position FROM {given}"
    return _Asked(f"({numbered}) asked", (to_json(names.to_pylist()).decode(),))


def resolve_types(connection: Connection, names: Sequence[str]) -> np.ndarray:
    """The ids (int64) of these event types (distinct); types besides the known ones get ids from 100.

    Raises BadInput where the store would hold more than MOST_OTHER_TYPES of those.
    """
    others = [name for name in names if name not in EVENT_TYPES]
    known = dict(EVENT_TYPES)
    if others:
        known |= dict(fetch(connection, "SELECT name, id FROM event_types WHERE name = ANY(%s)", (others,)))
        for name in sorted(set(others) - set(known)):
            known[name] = _new_type(connection, name)
    return np.array([known[name] for name in names], np.int64)


def _new_type(connection: Connection, name: str) -> int:
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('horae.event_types'))"))
    number: int | None = connection.execute(
        text(
            "INSERT INTO event_types (id, name) SELECT greatest(max(id) + 1, :first), :name FROM event_types"
            " HAVING count(*) < :most ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING id"
        ),
        {"first": FIRST_OTHER_TYPE, "name": name, "most": MOST_OTHER_TYPES + len(EVENT_TYPES)},
    ).scalar_one_or_none()
    if number is None:
        raise BadInput(
            f"more than {MOST_OTHER_TYPES:,} event types besides the known ones, the next is {name!r}",
            hint="is the right column event_type?",
        )
    return number


def _numbered(names: pa.StringArray) -> dict[str, Any]:
    return {"position": np.arange(len(names), dtype=np.int32), "name": names}
