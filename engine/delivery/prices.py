"""What items cost when the plan looked: a push about something that is dearer by now is about something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection, text

from engine.errors import BadInput
from engine.planning import receipt

_CHANGED = text("""
    SELECT v.item_id, v.until, (v.definition->>'price')::float8 AS price FROM item_versions v
    WHERE v.item_id = ANY(:items) AND v.until > :since ORDER BY v.item_id, v.version
""")

_AGAIN = text("""
    SELECT p.id, d.receipt FROM pushes p
    JOIN decisions d ON d.date = p.date AND d.occurrence_id = p.occurrence_id AND d.user_id = p.user_id
                    AND d.revision = p.revision
    WHERE p.id = ANY(CAST(:ids AS uuid[]))
""")


class Looked(NamedTuple):
    """A push about an item, and when the plan looked (business time)."""

    push_id: UUID
    item_id: int
    as_of: datetime
    revised: bool


def prices_then(connection: Connection, pushes: Sequence[Looked]) -> Mapping[UUID, float | None]:
    """Of those pushes whose item has changed since the plan looked, its price then (None: it had none)."""
    if not pushes:
        return {}
    given = {"items": list({one.item_id for one in pushes}), "since": min(one.as_of for one in pushes)}
    versions: dict[int, list[tuple[datetime, float | None]]] = {}
    for row in connection.execute(_CHANGED, given):
        versions.setdefault(row.item_id, []).append((row.until, row.price))
    if not versions:
        return {}
    revised = [one.push_id for one in pushes if one.revised and one.item_id in versions]
    as_of = _seen_again(connection, revised)
    found = {}
    for one in pushes:
        looked = as_of.get(one.push_id, one.as_of)
        # The first version that ended after the plan looked is the one it saw.
        for until, price in versions.get(one.item_id, ()):
            if until > looked:
                found[one.push_id] = price
                break
    return found


def _seen_again(connection: Connection, ids: Sequence[UUID]) -> dict[UUID, datetime]:
    """When the latest revision of each push looked, by its receipt."""
    found = {}
    for row in connection.execute(_AGAIN, {"ids": list(ids)}) if ids else ():
        try:
            found[row.id] = datetime.fromtimestamp(receipt.decode(bytes(row.receipt or b"")).as_of, UTC)
        except BadInput:
            continue  # of another version: the run's own instant stands
    return found
