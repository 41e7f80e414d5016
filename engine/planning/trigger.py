"""Sends that an administrator triggers: one occurrence of a campaign, now, for its audience or a list of users.

The same idempotency key with the same request gives the first answer again and sends nothing; with another request it
is refused. Caps, quiet hours, consent and holdout hold as for any other occurrence.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import Connection, text

from engine import audit
from engine.campaigns import store
from engine.campaigns.audience import AudienceQuery, count_audience
from engine.campaigns.definition import Campaign
from engine.campaigns.policy_store import current_policy
from engine.campaigns.schedule import last_instant
from engine.campaigns.template import needed_data, sources
from engine.errors import BadInput, Conflict
from engine.learning import registry
from engine.planning.occasions import Occasion
from engine.planning.run import open_runs, wake_shards
from engine.planning.runspec import TRIGGER, RunSpec, secret_of, seed_of
from engine.planning.wake import Wake
from engine.planning.windows import AT_ONCE
from engine.store.bulk import copy_rows
from engine.store.database import Database

if TYPE_CHECKING:
    from engine.runtime import Runtime

UNSAVED = 0
"""Instead of a campaign's id in the preview of a definition that is not stored: ids begin at 1."""

REMEMBERED = timedelta(days=30)
"""How long (machine time) an idempotency key stands for its first request; OneSignal remembers as long."""

_CHUNK = 10_000
_SHOWN = 5
_DATA_BYTES = 3_000
_LONGEST_KEY = 200
_DATA = re.compile(r"\bdata\.([A-Za-z_][A-Za-z0-9_]*)")


@dataclass(frozen=True)
class Request:
    """What is to be sent. at_once: now, or not at all; users: the shop's ids (None: the campaign's audience); data: for
    the template; key: makes repeats harmless."""

    at_once: bool = False
    users: tuple[str, ...] | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    key: str | None = None

    def digest(self, campaign: str) -> str:
        """What tells this request from another under the same key."""
        users = None if self.users is None else sorted(self.users)
        canonical = json.dumps([campaign, self.at_once, users, dict(self.data)], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()


@dataclass(frozen=True)
class Triggered:
    """What a trigger made, or would make (occurrence_id 0). audience: users by what stands in their way, `eligible`
    first; unknown: how many listed ids no user has, and the first of them; unset: template data that is not given."""

    campaign: str
    occurrence_id: int
    starts_at: datetime
    ends_at: datetime
    audience: dict[str, int]
    unknown: int
    unknown_ids: tuple[str, ...]
    unset: tuple[str, ...]
    repeated: bool = False

    @property
    def asked(self) -> int:
        """How many users the occurrence asks for."""
        return sum(self.audience.values())


def trigger(database: Database, now: datetime, name: str, request: Request, author: str | None = None) -> Triggered:
    """Make the occurrence that `request` asks for; a run over it is opened by the next tick or `open_run`.

    Raises UnknownName; Conflict where the campaign is not running or over, or the key was used for another request;
    BadInput where its message needs template data that is not given, or no listed user is known.
    """
    with database.begin() as connection:
        earlier = _earlier(connection, name, request)
        if earlier is not None:
            return earlier
        made = _make(connection, now, name, request)
        if request.key is not None:
            _remember(connection, name, request, made)
        after = {"occurrence": made.occurrence_id, "users": made.asked, "at_once": request.at_once}
        audit.record(connection, author, "campaign.trigger", f"campaign:{name}", None, after)
        return made


def open_run(runtime: Runtime, now: datetime, made: Triggered, wake: Wake) -> int | None:
    """Open a run over what was just triggered and wake its shards; the run's id, None where a tick was faster and will
    say it. Of a repeated request the run that it has."""
    if made.repeated:
        with runtime.database.begin() as connection:
            query = text("SELECT run_id FROM occurrences WHERE id = :id")
            return connection.execute(query, {"id": made.occurrence_id}).scalar_one_or_none()
    run_id = open_runs(runtime, now, made.starts_at, only=made.occurrence_id)
    if run_id is not None:
        wake_shards(runtime.database, run_id, wake)
    return run_id


def forget(connection: Connection) -> int:
    """Forget keys that were given more than REMEMBERED ago; how many."""
    old = text("DELETE FROM triggers WHERE created_at < clock_timestamp() - CAST(:kept AS interval)")
    return connection.execute(old, {"kept": REMEMBERED}).rowcount


def describe(database: Database, now: datetime, name: str, request: Request) -> Triggered:
    """What `trigger` would answer; nothing stays in the store. Raises as `trigger` does."""
    with database.begin() as connection:
        earlier = _earlier(connection, name, request)
        if earlier is not None:
            return earlier
        with connection.begin_nested() as undone:
            made = _make(connection, now, name, request)
            undone.rollback()
        return replace(made, occurrence_id=0)


def spec_of(
    database: Database, now: datetime, name: str, request: Request, definition: Campaign | None = None
) -> RunSpec:
    """The run that a preview of `request` plans, by `definition` where that is given instead of the stored one.

    A campaign that is not stored yet is planned as campaign UNSAVED: whom it holds out, and ties, are drawn anew once
    it is. Raises as `trigger` does; where a definition is given its campaign need not run, nor be there.
    """
    with database.begin() as connection:
        campaign_id, version, definition = _previewed(connection, name, definition)
        starts_at, ends_at = _bounds(definition, now, at_once=request.at_once)
        _require_data(definition, request.data, unset_data(definition, request.data))
        ids, _ = _resolve(connection, request)
        occasion = Occasion(
            0, campaign_id, version, TRIGGER, starts_at, ends_at, definition, request.at_once,
            ids is not None, ids,
        )  # fmt: skip
        policy, _ = current_policy(connection)
        seed = seed_of(secret_of(connection), now, [occasion])
        return RunSpec(0, now, seed, registry.champion(connection), policy, (occasion,))


# --- inside ----------------------------------------------------------------------------------------------------------


def _make(connection: Connection, now: datetime, name: str, request: Request) -> Triggered:
    stored = _running(connection, name)
    bounds = _bounds(stored.definition, now, at_once=request.at_once)
    unset = unset_data(stored.definition, request.data)
    _require_data(stored.definition, request.data, unset)
    ids, unknown = _resolve(connection, request)
    occurrence_id = _insert(connection, stored, request, bounds)
    if ids is not None:
        listed = {"occurrence_id": np.full(len(ids), occurrence_id, np.int64), "user_id": ids}
        copy_rows(connection, "occurrence_users", listed)
    return Triggered(
        campaign=name,
        occurrence_id=occurrence_id,
        starts_at=bounds[0],
        ends_at=bounds[1],
        audience=_audience(connection, stored, now, None if ids is None else occurrence_id),
        unknown=len(unknown),
        unknown_ids=tuple(unknown[:_SHOWN]),
        unset=unset,
    )


def _require_data(campaign: Campaign, data: Mapping[str, Any], unset: tuple[str, ...]) -> None:
    """Raise BadInput where the message cannot be rendered for anybody: every push would end as rejected."""
    needed = needed_data(campaign.message, data, unset)
    if needed:
        example = json.dumps(dict.fromkeys(needed, "…"), ensure_ascii=False)
        raise BadInput(
            f"the message of campaign {campaign.name} needs {', '.join(f'data.{field}' for field in needed)}",
            hint=f"give it with --data '{example}'",
        )


def unset_data(campaign: Campaign, data: Mapping[str, Any]) -> tuple[str, ...]:
    """Template data that the message mentions and `data` does not give."""
    written = " ".join(source for _, source in sources(campaign.message))
    return tuple(sorted(set(_DATA.findall(written)) - set(data)))


def _previewed(connection: Connection, name: str, definition: Campaign | None) -> tuple[int, int, Campaign]:
    """The id, version and definition that a preview plans."""
    if definition is None:
        stored = _running(connection, name)
        return stored.id, stored.version, stored.definition
    _require_by_hand(definition)
    known = store.find(connection, name)
    return (UNSAVED, 1, definition) if known is None else (known.id, known.version, definition)


def _running(connection: Connection, name: str) -> store.Stored:
    stored = store.get(connection, name, lock=True)
    if stored.state != "running":
        how = {"paused": "resume", "draft": "launch"}.get(stored.state)
        hint = f"{how} it first: horae campaign {how} {name}" if how else None
        raise Conflict(f"campaign {name} is {stored.state} and cannot be triggered", hint=hint)
    _require_by_hand(stored.definition)
    return stored


def _require_by_hand(campaign: Campaign) -> None:
    if campaign.items.kind == "event":
        raise BadInput(
            f"campaign {campaign.name} is about the item of its trigger, and a send by hand has none",
            hint="a campaign for sends by hand has other items: none, fixed or personalised",
        )


def _bounds(campaign: Campaign, now: datetime, *, at_once: bool) -> tuple[datetime, datetime]:
    end = now + (AT_ONCE if at_once else campaign.horizon)
    expiry = last_instant(campaign)
    if expiry is not None and expiry <= now:
        raise Conflict(f"campaign {campaign.name} expired at {expiry:%Y-%m-%d %H:%M} UTC")
    return now, min(end, expiry.astimezone(UTC)) if expiry else end


def _resolve(connection: Connection, request: Request) -> tuple[np.ndarray | None, list[str]]:
    """The ids (int64, sorted) of the listed users, None without a list, and those that nobody has."""
    if request.users is None:
        return None, []
    found: dict[str, int] = {}
    for start in range(0, len(request.users), _CHUNK):
        rows = connection.execute(
            text("SELECT external_id, id FROM users WHERE external_id = ANY(:names)"),
            {"names": list(request.users[start : start + _CHUNK])},
        )
        found.update((row.external_id, row.id) for row in rows)
    if not found:
        raise BadInput(f"none of the {len(request.users)} listed users is known here")
    unknown = [name for name in request.users if name not in found]
    return np.unique(np.array(list(found.values()), np.int64)), unknown


def _insert(connection: Connection, stored: store.Stored, request: Request, bounds: tuple[datetime, datetime]) -> int:
    data = json.dumps(dict(request.data), ensure_ascii=False)
    if len(data.encode()) > _DATA_BYTES:
        raise BadInput(f"the template data is larger than {_DATA_BYTES} bytes")
    occurrence_id: int = connection.execute(
        text(
            "INSERT INTO occurrences (campaign_id, version, label, date, starts_at, ends_at, at_once, listed, data)"
            " VALUES (:campaign, :version, :label, :date, :starts, :ends, :at_once, :listed, CAST(:data AS jsonb))"
            " RETURNING id"
        ),
        {
            "campaign": stored.id,
            "version": stored.version,
            "label": f"{TRIGGER}{uuid.uuid4()}",
            "date": bounds[0].astimezone(UTC).date(),
            "starts": bounds[0],
            "ends": bounds[1],
            "at_once": request.at_once,
            "listed": request.users is not None,
            "data": data,
        },
    ).scalar_one()
    return occurrence_id


def _audience(connection: Connection, stored: store.Stored, now: datetime, listed: int | None) -> dict[str, int]:
    _, policy = current_policy(connection)
    definition = stored.definition
    query = AudienceQuery(
        where=definition.audience,
        now=now,
        gateway=definition.gateway,
        needs_device=False,
        default_timezone=policy.default_timezone,
        listed=listed,
        topics=definition.topics,
    )
    return count_audience(connection, query)


def _earlier(connection: Connection, name: str, request: Request) -> Triggered | None:
    """The first answer under this key. Raises Conflict where it was for another request."""
    if request.key is None:
        return None
    if not request.key.strip() or len(request.key) > _LONGEST_KEY:
        raise BadInput(f"an idempotency key has 1 to {_LONGEST_KEY} characters")
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('horae.trigger.' || :key))"), {"key": request.key})
    row = connection.execute(
        text("SELECT request_sha256, response FROM triggers WHERE idempotency_key = :key"), {"key": request.key}
    ).one_or_none()
    if row is None:
        return None
    if row.request_sha256 != request.digest(name):
        raise Conflict(
            f"idempotency key {request.key!r} was used for another request", hint="a new request needs a new key"
        )
    known = dict(row.response)
    return Triggered(
        **{
            **known,
            "starts_at": datetime.fromisoformat(known["starts_at"]),
            "ends_at": datetime.fromisoformat(known["ends_at"]),
            "unknown_ids": tuple(known["unknown_ids"]),
            "unset": tuple(known["unset"]),
            "repeated": True,
        }
    )


def _remember(connection: Connection, name: str, request: Request, made: Triggered) -> None:
    connection.execute(
        text(
            "INSERT INTO triggers (idempotency_key, occurrence_id, request_sha256, response)"
            " VALUES (:key, :occurrence, :digest, CAST(:response AS jsonb))"
        ),
        {
            "key": request.key,
            "occurrence": made.occurrence_id,
            "digest": request.digest(name),
            "response": json.dumps(asdict(made), default=datetime.isoformat),
        },
    )
