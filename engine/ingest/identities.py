"""From the shop's ids and type names to the store's; what is not known yet gets a stub.

A stub user has no consent record and is not eligible; a stub item has no title. The users' or items' file that brings
them later completes the same row, so that their events are linked without being touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection, text

from engine.errors import BadInput
from engine.store.slots import slot_of
from engine.store.tables import EVENT_TYPES

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


def default_zone(connection: Connection) -> str:
    """The zone of users who have none: the workspace policy's."""
    found = connection.execute(
        text("SELECT definition ->> 'default_timezone' FROM policies ORDER BY version DESC LIMIT 1")
    ).scalar_one_or_none()
    return found or "UTC"


def resolve_users(connection: Connection, names: Sequence[str]) -> Users:
    """The users with these external ids (distinct); makes stubs of the unknown."""
    rows = _select(connection, "SELECT external_id, id, timezone FROM users WHERE external_id = ANY(%s)", names)
    missing = sorted(set(names) - {row[0] for row in rows})
    if missing:
        slots = [slot_of(name) for name in missing]
        made = _insert(
            connection,
            "INSERT INTO users (external_id, slot, stub) SELECT name, slot, true"
            " FROM unnest(%s::text[], %s::smallint[]) AS given (name, slot) ORDER BY name ON CONFLICT DO NOTHING",
            (missing, slots),
        )
        rows += _select(connection, "SELECT external_id, id, timezone FROM users WHERE external_id = ANY(%s)", missing)
    else:
        made = 0
    default = default_zone(connection)
    zones = sorted({row[2] or default for row in rows} | {default})
    code = {name: number for number, name in enumerate(zones)}
    known = {row[0]: (row[1], code[row[2] or default]) for row in rows}
    found = np.array([known[name] for name in names], np.int64).reshape(-1, 2)
    slot = np.array([slot_of(name) for name in names], np.int64)
    return Users(found[:, 0], slot, found[:, 1], zones, made)


def resolve_items(connection: Connection, names: Sequence[str]) -> tuple[np.ndarray, int]:
    """The ids (int64) of the items with these external ids (distinct), and how many stubs were made."""
    rows = _select(connection, "SELECT external_id, id FROM items WHERE external_id = ANY(%s)", names)
    missing = sorted(set(names) - {row[0] for row in rows})
    made = 0
    if missing:
        made = _insert(
            connection,
            "INSERT INTO items (external_id, stub) SELECT name, true FROM unnest(%s::text[]) AS given (name)"
            " ORDER BY name ON CONFLICT DO NOTHING",
            (missing,),
        )
        rows += _select(connection, "SELECT external_id, id FROM items WHERE external_id = ANY(%s)", missing)
    known = dict(rows)
    return np.array([known[name] for name in names], np.int64), made


def resolve_types(connection: Connection, names: Sequence[str]) -> np.ndarray:
    """The ids (int64) of these event types (distinct); types besides the known ones get ids from 100.

    Raises BadInput where the store would hold more than MOST_OTHER_TYPES of those.
    """
    others = [name for name in names if name not in EVENT_TYPES]
    known = dict(EVENT_TYPES)
    if others:
        known |= dict(_select(connection, "SELECT name, id FROM event_types WHERE name = ANY(%s)", others))
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


def _select(connection: Connection, query: str, names: Sequence[str]) -> list[tuple[Any, ...]]:
    # Straight to the driver: tens of thousands of rows, which SQLAlchemy would wrap one by one.
    driver: Any = connection.connection.driver_connection
    with driver.cursor(binary=True) as cursor:
        rows: list[tuple[Any, ...]] = cursor.execute(query, (list(names),)).fetchall()
    return rows


def _insert(connection: Connection, query: str, parameters: tuple[Any, ...]) -> int:
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor:
        made: int = cursor.execute(query, parameters).rowcount
    return made
