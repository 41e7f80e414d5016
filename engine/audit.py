"""Who changed what: one row for each change of what people decide, in the transaction that makes it.

Append-only: nothing in Horae changes or deletes a row. `actor` is the operating system's user name for the command
line, `key:ID` or `user:NAME` for the HTTP API, `horae` for what Horae does by itself. `before` and `after` hold what
differs and never a secret: callers give names, states and definitions, not tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, insert, or_, select

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
    connection: Connection,
    *,
    subject: str | None = None,
    actor: str | None = None,
    action: str | None = None,
    before: int | None = None,
    most: int = 100,
) -> list[Entry]:
    """The latest `most` entries, newest first; of one subject, one actor, one action ("campaign.pause") or all actions
    on one kind of thing ("campaign") where given; `before`: only those older than the entry of that id."""
    query = select(audit_log).order_by(audit_log.c.id.desc()).limit(most)
    if subject is not None:
        query = query.where(audit_log.c.subject == subject)
    if actor is not None:
        query = query.where(audit_log.c.actor == actor)
    if action is not None:
        of_kind = func.starts_with(audit_log.c.action, f"{action}.")
        query = query.where(or_(audit_log.c.action == action, of_kind))
    if before is not None:
        query = query.where(audit_log.c.id < before)
    return [Entry(*row) for row in connection.execute(query)]


@dataclass(frozen=True)
class Change:
    """What an entry changed at one place of its subject: path ("caps", "message.title"); None: there was or is none."""

    path: str
    before: Any
    after: Any


def changes(entry: Entry) -> list[Change]:
    """An entry's difference, place by place: into mappings, and of lists what went and what came."""
    return list(_changes("", entry.before or {}, entry.after or {}))


def _changes(path: str, before: Any, after: Any) -> Iterator[Change]:
    if before == after:
        return
    if isinstance(before, dict | None) and isinstance(after, dict | None) and (before or after):
        was, became = before or {}, after or {}
        for name in {**was, **became}:
            yield from _changes(f"{path}.{name}".lstrip("."), was.get(name), became.get(name))
    elif isinstance(before, list) and isinstance(after, list):
        went, came = ([one for one in ours if one not in others] for ours, others in ((before, after), (after, before)))
        for number in range(max(len(went), len(came), 1)):
            old, new = (those[number] if number < len(those) else None for those in (went, came))
            yield Change(path, old, new)
    else:
        yield Change(path, before, after)


def differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of two mappings what is not the same in both."""
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return ({n: before[n] for n in names if n in before}, {n: after[n] for n in names if n in after})


def _plain(value: Mapping[str, Any] | None) -> Any:
    return None if value is None else json.loads(json.dumps(dict(value), default=str))
