"""Campaigns in the store: versions of their definition and their lifecycle.

    draft → running ⇄ paused      draft, running, paused → cancelled      running, paused → done

A running campaign none of whose occurrences has begun is shown as `scheduled`. `cancelled` and `done` are final. A
change of state is made under the row's lock: of two at once, one wins and the other is told. Stopping closes nothing by
itself: planning and delivery read the state before they plan or send.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, Row, Select, and_, delete, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from engine import audit
from engine.campaigns import approvals
from engine.campaigns.definition import Campaign
from engine.errors import Conflict, UnknownName, did_you_mean
from engine.store.tables import campaign_minutes, campaign_versions, campaigns, occurrences

State = Literal["draft", "running", "paused", "cancelled", "done"]

MOVES: dict[State, tuple[State, ...]] = {
    "draft": (),
    "running": ("paused",),
    "paused": ("running",),
    "cancelled": ("draft", "running", "paused"),
    "done": ("running", "paused"),
}
"""For each state, those from which it may be reached; from a draft only `launch` leads to running."""

_ACTIONS = {"running": "resume", "paused": "pause", "cancelled": "cancel", "done": "finish", "draft": "draft"}
"""What the audit log calls a move to a state."""


@dataclass(frozen=True)
class Stored:
    """A campaign as it stands in the store."""

    id: int
    name: str
    version: int
    state: State
    definition: Campaign
    created_at: datetime
    scheduled_until: datetime | None
    """Occurrences that begin before this instant have been made; None: none has."""


@dataclass(frozen=True)
class Created:
    """What `create` did."""

    stored: Stored
    outcome: Literal["created", "unchanged", "edited", "pending"]
    pending: int | None = None
    """The version that waits for an approval."""


def create(
    connection: Connection, campaign: Campaign, now: datetime, author: str | None = None, *, draft: bool = False
) -> Created:
    """Store a campaign; under an existing name an equal definition changes nothing, another is a new version (an edit).

    `draft`: a new one waits for `launch` before anything of it becomes due; where the workspace wants approvals every
    new one does, and an edit of a launched one is `pending`: the version in force goes on until it is approved. What is
    already planned stays as its version made it; a changed schedule counts from `now`.
    Raises Conflict where the campaign of that name is cancelled or done.
    """
    held = approvals.needed(connection)
    row = upsert(campaigns).values(
        name=campaign.name,
        state="draft" if draft or held else "running",
        version=1,
        scheduled_until=_since(campaign, now),
    )
    made = connection.execute(row.on_conflict_do_nothing().returning(campaigns.c.id)).scalar_one_or_none()
    if made is not None:
        _add_version(connection, made, 1, campaign, author)
        stored = get(connection, campaign.name)
        after = {"state": stored.state, "version": 1}
        audit.record(connection, author, "campaign.create", f"campaign:{campaign.name}", None, after)
        return Created(stored, "created")
    old = get(connection, campaign.name, lock=True)
    if old.definition == campaign:
        return Created(old, "unchanged")
    if old.state in ("cancelled", "done"):
        raise Conflict(f"campaign {old.name} is {old.state} and cannot change", hint="give the new one another name")
    if held and old.state != "draft":
        return _propose(connection, old, campaign, author)
    _edit(connection, old, campaign, now, author)
    return Created(get(connection, campaign.name), "edited")


def get(connection: Connection, name: str, *, lock: bool = False) -> Stored:
    """The campaign of that name, in its latest version; `lock` keeps others from changing it in this transaction.

    Raises UnknownName with the closest name there is.
    """
    if lock:
        # First the lock, then the reading: one statement would join the new version number with the old versions.
        connection.execute(select(campaigns.c.id).where(campaigns.c.name == name).with_for_update())
    stored = find(connection, name)
    if stored is None:
        names = connection.execute(select(campaigns.c.name)).scalars().all()
        raise UnknownName(
            f"there is no campaign {name!r}", hint=did_you_mean(name, names) or "see: horae campaign list"
        )
    return stored


def find(connection: Connection, name: str) -> Stored | None:
    """The campaign of that name, in its latest version, or None."""
    row = connection.execute(_latest().where(campaigns.c.name == name)).one_or_none()
    return None if row is None else _stored(row)


def get_all(connection: Connection, states: tuple[State, ...] | None = None) -> list[Stored]:
    """All campaigns (in one of `states`), by name."""
    query = _latest().order_by(campaigns.c.name)
    rows = connection.execute(query if states is None else query.where(campaigns.c.state.in_(states)))
    return [_stored(row) for row in rows]


def get_page(connection: Connection, most: int, after: str | None = None) -> list[Stored]:
    """The first `most` campaigns by name, of those after the name `after` where given."""
    query = _latest().order_by(campaigns.c.name).limit(most)
    rows = connection.execute(query if after is None else query.where(campaigns.c.name > after))
    return [_stored(row) for row in rows]


def get_version(connection: Connection, campaign_id: int, version: int) -> Campaign:
    """A campaign's definition as it was in `version`. Raises UnknownName."""
    query = select(campaign_versions.c.definition).where(
        campaign_versions.c.campaign_id == campaign_id, campaign_versions.c.version == version
    )
    definition = connection.execute(query).scalar_one_or_none()
    if definition is None:
        raise UnknownName(f"campaign {campaign_id} has no version {version}")
    return Campaign.model_validate(definition)


def versions(connection: Connection, campaign_id: int) -> list[tuple[int, datetime, str | None]]:
    """(version, created at, author) of each version of a campaign, oldest first."""
    query = select(campaign_versions.c.version, campaign_versions.c.created_at, campaign_versions.c.author)
    rows = connection.execute(query.where(campaign_versions.c.campaign_id == campaign_id).order_by("version"))
    return [(int(row.version), row.created_at, row.author) for row in rows]


def launch(connection: Connection, name: str, now: datetime, author: str | None = None) -> Stored:
    """Let a draft become due from business time `now` on. Raises UnknownName, and Conflict where it is no draft,
    or its version needs an approval that it does not have."""
    draft = get(connection, name, lock=True)
    if draft.state != "draft":
        raise Conflict(f"campaign {name} is {draft.state}, not a draft")
    approvals.require_approved(connection, name, draft.id, draft.version)
    since = _since(draft.definition, now)
    connection.execute(
        update(campaigns).where(campaigns.c.id == draft.id).values(state="running", scheduled_until=since)
    )
    _note_move(connection, author, "launch", name, "draft", "running")
    return get(connection, name)


def set_state(connection: Connection, name: str, to: State, author: str | None = None) -> Stored:
    """Move a campaign to another state; being there already changes nothing. `author` None: Horae itself.

    Raises UnknownName, and Conflict where the lifecycle does not allow it.
    """
    before = get(connection, name, lock=True)
    if before.state == to:
        return before
    if before.state not in MOVES[to]:
        hint = f"launch it first: horae campaign launch {name}" if before.state == "draft" else None
        raise Conflict(f"campaign {name} is {before.state} and cannot become {to}", hint=hint)
    connection.execute(update(campaigns).where(campaigns.c.id == before.id).values(state=to, paused_why=None))
    _note_move(connection, author, _ACTIONS[to], name, before.state, to)
    return get(connection, name)


def phase(connection: Connection, stored: Stored) -> str:
    """The state, or `scheduled` where it is running by a schedule of which no occurrence has been made yet."""
    if stored.state != "running" or stored.definition.schedule is None:
        return stored.state
    begun = connection.execute(select(occurrences.c.id).where(occurrences.c.campaign_id == stored.id).limit(1)).first()
    return "running" if begun is not None else "scheduled"


def pause(connection: Connection, name: str, why: str) -> bool:
    """Pause a running campaign for Horae's own reasons, which status shows; whether it was running.

    What it had sent so far is forgotten by the volume breaker: resumed, it begins anew.
    """
    moved = connection.execute(
        update(campaigns)
        .where(campaigns.c.name == name, campaigns.c.state == "running")
        .values(state="paused", paused_why=why)
        .returning(campaigns.c.id)
    ).scalar_one_or_none()
    if moved is not None:
        connection.execute(delete(campaign_minutes).where(campaign_minutes.c.campaign_id == moved))
        became = {"state": "paused", "why": why}
        audit.record(connection, None, "campaign.pause", f"campaign:{name}", {"state": "running"}, became)
    return moved is not None


def paused_by_horae(connection: Connection) -> dict[str, str]:
    """The campaigns that Horae itself paused, by name, and why."""
    rows = connection.execute(
        select(campaigns.c.name, campaigns.c.paused_why)
        .where(campaigns.c.state == "paused", campaigns.c.paused_why.is_not(None))
        .order_by(campaigns.c.name)
    )
    return {row.name: row.paused_why for row in rows}


def set_scheduled_until(connection: Connection, campaign_id: int, until: datetime) -> bool:
    """Note that occurrences beginning before `until` have been made; never moves back. Whether it moved."""
    earlier = campaigns.c.scheduled_until.is_(None) | (campaigns.c.scheduled_until < until)
    moved = connection.execute(
        update(campaigns).where(campaigns.c.id == campaign_id, earlier).values(scheduled_until=until)
    )
    return moved.rowcount == 1


def put_in_force(connection: Connection, old: Stored, version: int, now: datetime) -> None:
    """Make `version` the one that is used from now on, for what is not planned yet; a changed schedule counts from
    business time `now`."""
    campaign = get_version(connection, old.id, version)
    changes: dict[str, Any] = {"version": version}
    if campaign.schedule != old.definition.schedule:
        changes["scheduled_until"] = _since(campaign, now)
    connection.execute(update(campaigns).where(campaigns.c.id == old.id).values(**changes))


# --- inside ----------------------------------------------------------------------------------------------------------


def _latest() -> Select[Any]:
    versioned = and_(
        campaign_versions.c.campaign_id == campaigns.c.id, campaign_versions.c.version == campaigns.c.version
    )
    return select(campaigns, campaign_versions.c.definition).join(campaign_versions, versioned)


def _stored(row: Row[Any]) -> Stored:
    definition = Campaign.model_validate(row.definition)
    return Stored(row.id, row.name, row.version, row.state, definition, row.created_at, row.scheduled_until)


def _since(campaign: Campaign, now: datetime) -> datetime | None:
    """Where its occurrences begin to count: of a cron now, of one instant anywhere: its first zone may be past."""
    return None if campaign.schedule is not None and campaign.schedule.once is not None else now


def _add_version(
    connection: Connection, campaign_id: int, version: int, campaign: Campaign, author: str | None
) -> None:
    values = {"campaign_id": campaign_id, "version": version, "definition": _definition(campaign), "author": author}
    connection.execute(insert(campaign_versions).values(values))


def _definition(campaign: Campaign) -> dict[str, Any]:
    return campaign.model_dump(mode="json", exclude_none=True)


def _note_move(connection: Connection, author: str | None, action: str, name: str, before: str, after: str) -> None:
    audit.record(connection, author, f"campaign.{action}", f"campaign:{name}", {"state": before}, {"state": after})


def _edit(connection: Connection, old: Stored, campaign: Campaign, now: datetime, author: str | None) -> None:
    version = _newest(connection, old) + 1
    _add_version(connection, old.id, version, campaign, author)
    before, after = audit.differing(_definition(old.definition), _definition(campaign))
    numbers = ({"version": old.version, **before}, {"version": version, **after})
    audit.record(connection, author, "campaign.edit", f"campaign:{campaign.name}", *numbers)
    put_in_force(connection, old, version, now)


def _propose(connection: Connection, old: Stored, campaign: Campaign, author: str | None) -> Created:
    """An edit that waits beside the version in force; equal to the one that waits already, it changes nothing."""
    newest = _newest(connection, old)
    word = approvals.last_word(connection, old.id, newest)
    rejected = word is not None and word.state == "rejected"
    if newest > old.version and not rejected and get_version(connection, old.id, newest) == campaign:
        return Created(old, "unchanged", newest)
    version = newest + 1
    _add_version(connection, old.id, version, campaign, author)
    before, after = audit.differing(_definition(old.definition), _definition(campaign))
    numbers = ({"version": old.version, **before}, {"version": version, **after})
    audit.record(connection, author, "campaign.propose", f"campaign:{campaign.name}", *numbers)
    return Created(old, "pending", version)


def _newest(connection: Connection, stored: Stored) -> int:
    return versions(connection, stored.id)[-1][0]
