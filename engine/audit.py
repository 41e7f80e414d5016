"""Who changed what: one row for each change of what people decide, in the transaction that makes it.

Append-only: nothing in Horae changes or deletes a row. `actor` is the operating system's user name for the command
line, `key:ID` or `user:NAME` for the HTTP API, `horae` for what Horae does by itself. `before` and `after` hold what
differs and never a secret: callers give names, states and definitions, not tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select

from engine.store.tables import audit_log

HORAE = "horae"
"""The actor of what Horae does by itself."""


@dataclass(frozen=True)
class Entry:
    """A row of the log; `at` is machine time."""

    id: int
    at: datetime
    actor: str
    action: str
    subject: str
    before: Any
    after: Any


def record(
    connection: Connection,
    actor: str | None,
    action: str,
    subject: str,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    """Note that `actor` (None: Horae itself) did `action` ("campaign.pause") to `subject` ("campaign:daily").

    before and after: what it was and became, as far as it differs; None where there is nothing before or after.
    """
    values = {"actor": actor or HORAE, "action": action, "subject": subject}
    connection.execute(insert(audit_log).values(**values, before=_plain(before), after=_plain(after)))


def read(
    connection: Connection, *, subject: str | None = None, actor: str | None = None, most: int = 100
) -> list[Entry]:
    """The latest `most` entries, newest first; of one subject or one actor where given."""
    query = select(audit_log).order_by(audit_log.c.id.desc()).limit(most)
    if subject is not None:
        query = query.where(audit_log.c.subject == subject)
    if actor is not None:
        query = query.where(audit_log.c.actor == actor)
    return [Entry(*row) for row in connection.execute(query)]


def differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of two mappings what is not the same in both."""
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return ({n: before[n] for n in names if n in before}, {n: after[n] for n in names if n in after})


def _plain(value: Mapping[str, Any] | None) -> Any:
    return None if value is None else json.loads(json.dumps(dict(value), default=str))
