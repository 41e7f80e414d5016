"""What users want by channel and topic: from user files, and from events of type unsubscribe.

A preference is one row: (channel, gateway) or (topic, name) → allowed. What no row says is allowed where the user's
consent is. An `unsubscribe` with an attribute `topic` or `channel` turns that one off; without either it withdraws
consent as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from sqlalchemy import Connection, text

from engine import audit
from engine.errors import UnknownName
from engine.ingest.erased import audit_subject
from engine.ingest.event_rows import EventRows
from engine.ingest.preference_text import parse_preferences
from engine.ingest.profiles import FoldRows
from engine.store.tables import EVENT_TYPES

_SAY = text("""
    WITH given AS (
        SELECT DISTINCT ON (user_id, kind, name) user_id, kind, name, allowed
        FROM unnest(CAST(:users AS bigint[]), CAST(:kinds AS text[]), CAST(:names AS text[]),
                    CAST(:allowed AS boolean[])) WITH ORDINALITY AS g (user_id, kind, name, allowed, position)
        ORDER BY user_id, kind, name, position DESC
    )
    INSERT INTO preferences AS known (user_id, kind, name, allowed) SELECT * FROM given
    ON CONFLICT (user_id, kind, name) DO UPDATE SET allowed = excluded.allowed, updated_at = now()
    WHERE known.allowed <> excluded.allowed
""")


def say_preferences(connection: Connection, said: Sequence[tuple[int, str, str, bool]]) -> int:
    """Store (user id, kind, name, allowed), of repeated ones the last; how many were new or changed."""
    if not said:
        return 0
    users, kinds, names, allowed = (list(column) for column in zip(*said, strict=True))
    given = {"users": users, "kinds": kinds, "names": names, "allowed": allowed}
    return connection.execute(_SAY, given).rowcount


def store_preferences(connection: Connection, ids: pa.StringArray, column: pa.StringArray) -> int:
    """Store the preferences of users with these external ids, checked texts or null; how many changed something."""
    given = [(name, source) for name, source in zip(ids.to_pylist(), column.to_pylist(), strict=True) if source]
    if not given:
        return 0
    query = text("SELECT external_id, id FROM users WHERE external_id = ANY(:names)")
    known: dict[str, int] = dict(connection.execute(query, {"names": sorted({name for name, _ in given})}).all())
    said = [(known[name], *one) for name, source in given for one in parse_preferences(source)]
    return say_preferences(connection, said)


def note_preferences(connection: Connection, rows: EventRows, numbers: FoldRows, since: float) -> None:
    """Follow the new events of type unsubscribe that are not older than `since` (epoch seconds)."""
    left = np.flatnonzero(
        (numbers.event_type == EVENT_TYPES["unsubscribe"]) & (numbers.user >= 0) & (numbers.at >= since)
    )
    if not len(left):
        return
    said: list[tuple[int, str, str, bool]] = []
    everything: set[int] = set()
    for row in left.tolist():
        source = None if rows.attributes is None else rows.attributes[row].as_py()
        about = _named(json.loads(source) if source else {})
        said += [(int(numbers.user[row]), kind, name, False) for kind, name in about]
        if not about:
            everything.add(int(numbers.user[row]))
    say_preferences(connection, said)
    if everything:
        withdraw = text(
            "UPDATE users SET consent = false, updated_at = now() FROM (SELECT id FROM users WHERE id = ANY(:users)"
            " AND consent IS DISTINCT FROM false ORDER BY external_id FOR UPDATE) gone WHERE users.id = gone.id"
        )
        connection.execute(withdraw, {"users": sorted(everything)})


def _named(attributes: dict[str, Any]) -> list[tuple[str, str]]:
    named = [(kind, attributes.get(kind)) for kind in ("topic", "channel")]
    return [(kind, name) for kind, name in named if isinstance(name, str) and 0 < len(name) <= 64]


def change_preferences(
    connection: Connection, name: str, said: Sequence[tuple[str, str, bool]], author: str | None = None
) -> list[tuple[str, str, bool]]:
    """Store (kind, name, allowed) of the user with the shop's id `name`; all their preferences then, by kind and name.

    Raises UnknownName.
    """
    user = connection.execute(text("SELECT id FROM users WHERE external_id = :name"), {"name": name}).scalar()
    if user is None:
        raise UnknownName(f"there is no user {name!r}", hint="the id as it was ingested, letter by letter")
    if say_preferences(connection, [(user, *one) for one in said]):
        after = {f"{kind}:{what}": allowed for kind, what, allowed in said}
        audit.record(connection, author, "user.preferences", audit_subject(connection, name), None, after)
    rows = connection.execute(
        text("SELECT kind, name, allowed FROM preferences WHERE user_id = :user ORDER BY 1, 2"), {"user": user}
    )
    return [(row.kind, row.name, row.allowed) for row in rows]
