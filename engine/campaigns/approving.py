"""Approving versions of campaigns: asked for, given or refused; with four eyes by somebody else.

With approvals on, a new campaign is a draft until its version is approved and launched. An edit of a draft is a version
that needs an approval of its own. An edit of a launched campaign waits beside it: the version in force goes on until
the new one is approved, which puts it in force at once. What was launched before approvals were turned on goes on by
its schedule; a send by hand needs an approval of its version.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from engine import audit
from engine.campaigns import approvals, store
from engine.campaigns.approvals import Said
from engine.campaigns.policy_store import current_policy
from engine.campaigns.store import Stored
from engine.errors import BadInput


@dataclass(frozen=True)
class Standing:
    """How a campaign stands with approvals. newest: the version that may be approved; in_force: whether it is the one
    that a launch or a run uses; state: the last word about it, None: nobody said anything; authors: who wrote what
    nobody approved yet."""

    name: str
    campaign_state: str
    newest: int
    in_force: bool
    state: Said | None
    actor: str | None
    reason: str | None
    at: datetime | None
    authors: tuple[str, ...]


def standing(connection: Connection, name: str) -> Standing:
    """How campaign `name` stands. Raises UnknownName."""
    return _standing(connection, store.get(connection, name))


def waiting(connection: Connection) -> list[Standing]:
    """Campaigns of which a version was asked to be approved, by name."""
    asked = approvals.asked_for(connection)
    stored = [each for each in store.get_all(connection, ("draft", "running", "paused")) if each.id in asked]
    return [one for one in (_standing(connection, each) for each in stored) if one.state == "requested"]


def request(connection: Connection, name: str, actor: str | None = None) -> Standing:
    """Ask for an approval of the newest version. Raises UnknownName, BadInput where it is approved or over."""
    stored, found = _open(connection, name, None)
    if found.state != "requested":
        approvals.note(connection, stored.id, found.newest, "requested", actor)
        _audit(connection, actor, "request_approval", name, found)
    return standing(connection, name)


def approve(
    connection: Connection, name: str, now: datetime, actor: str | None = None, version: int | None = None
) -> Standing:
    """Approve the newest version; `version` says which one was looked at. Of a launched campaign it is in force from
    business time `now` on; a draft may be launched then.

    Raises UnknownName, and BadInput where it is approved or over, `version` is not the newest any more, it was rejected
    and not asked for again, or, with four eyes, `actor` wrote some of what would be approved.
    """
    stored, found = _open(connection, name, version)
    if found.state == "rejected":
        why = f": {found.reason}" if found.reason else ""
        hint = f"change it, or ask again: horae campaign request-approval {name}"
        raise BadInput(f"version {found.newest} of campaign {name} was rejected{why}", hint=hint)
    if current_policy(connection)[1].approvals == "four_eyes" and (actor is None or actor in found.authors):
        wrote = f"{actor} wrote some of it" if actor else "nobody is named who does"
        raise BadInput(
            f"version {found.newest} of campaign {name} is to be approved by somebody else: {wrote}",
            hint="the workspace asks for four eyes",
        )
    approvals.note(connection, stored.id, found.newest, "approved", actor)
    _audit(connection, actor, "approve", name, found)
    if not found.in_force:
        store.put_in_force(connection, stored, found.newest, now)
    return standing(connection, name)


def reject(
    connection: Connection, name: str, reason: str, actor: str | None = None, version: int | None = None
) -> Standing:
    """Reject the newest version, with a reason; the one in force goes on. Raises as `approve` does."""
    if not reason.strip():
        raise BadInput("a rejection needs a reason", hint="whoever mends it reads it")
    stored, found = _open(connection, name, version)
    approvals.note(connection, stored.id, found.newest, "rejected", actor, reason.strip())
    _audit(connection, actor, "reject", name, found, reason.strip())
    return standing(connection, name)


def _open(connection: Connection, name: str, version: int | None) -> tuple[Stored, Standing]:
    """The campaign, locked, if its newest version may be spoken about."""
    stored = store.get(connection, name, lock=True)
    found = _standing(connection, stored)
    if stored.state in ("cancelled", "done"):
        raise BadInput(f"campaign {name} is {stored.state}: there is nothing to approve")
    if version is not None and version != found.newest:
        raise BadInput(f"version {version} of campaign {name} is not the newest: {found.newest} is")
    if found.state == "approved":
        raise BadInput(f"version {found.newest} of campaign {name} is approved already")
    return stored, found


def _standing(connection: Connection, stored: Stored) -> Standing:
    history, said = store.versions(connection, stored.id), approvals.words(connection, stored.id)
    newest = history[-1][0]
    last = {word.version: word for word in said}
    approved = max((version for version, word in last.items() if word.state == "approved"), default=0)
    word = last.get(newest)
    return Standing(
        name=stored.name,
        campaign_state=stored.state,
        newest=newest,
        in_force=newest == stored.version,
        state=word.state if word else None,
        actor=word.actor if word else None,
        reason=word.reason if word else None,
        at=word.at if word else None,
        authors=tuple(sorted({by for version, _, by in history if version > approved and by})),
    )


def _audit(
    connection: Connection, actor: str | None, action: str, name: str, found: Standing, reason: str | None = None
) -> None:
    after = {"version": found.newest, **({"reason": reason} if reason else {})}
    audit.record(connection, actor, f"campaign.{action}", f"campaign:{name}", {"approval": found.state}, after)
