"""What was said about versions of campaigns: requested, approved, rejected. Append-only; the last word counts.

The workspace's policy says whether a word is needed at all (`Policy.approvals`); `approving` is how it is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import Connection, insert, select

from engine.campaigns.policy_store import current_policy
from engine.errors import BadInput
from engine.store.tables import campaign_approvals

Said = Literal["requested", "approved", "rejected"]


@dataclass(frozen=True)
class Word:
    """What somebody said about a version; `at` is machine time."""

    version: int
    state: Said
    actor: str | None
    reason: str | None
    at: datetime


def needed(connection: Connection) -> bool:
    """Whether the workspace wants versions approved."""
    return current_policy(connection)[1].approvals != "off"


def words(connection: Connection, campaign_id: int) -> list[Word]:
    """All that was said about a campaign's versions, oldest first."""
    kept = campaign_approvals.c
    query = select(kept.version, kept.state, kept.actor, kept.reason, kept.at).where(kept.campaign_id == campaign_id)
    return [Word(*row) for row in connection.execute(query.order_by(kept.id))]


def asked_for(connection: Connection) -> frozenset[int]:
    """The campaigns of which somebody once asked for a version to be approved; the last word may be another since."""
    query = select(campaign_approvals.c.campaign_id).distinct().where(campaign_approvals.c.state == "requested")
    return frozenset(connection.execute(query).scalars())


def last_word(connection: Connection, campaign_id: int, version: int) -> Word | None:
    """The last word about a version, None where nobody said anything."""
    return next((word for word in reversed(words(connection, campaign_id)) if word.version == version), None)


def note(
    connection: Connection, campaign_id: int, version: int, state: Said, actor: str | None, reason: str | None = None
) -> None:
    """Write down a word."""
    values = {"campaign_id": campaign_id, "version": version, "state": state, "actor": actor, "reason": reason}
    connection.execute(insert(campaign_approvals).values(values))


def require_approved(connection: Connection, name: str, campaign_id: int, version: int) -> None:
    """Check that this version of campaign `name` may send, as far as approvals are needed. Raises BadInput."""
    if not needed(connection):
        return
    word = last_word(connection, campaign_id, version)
    if word is not None and word.state == "approved":
        return
    said = "has not been approved" if word is None else f"is {word.state}"
    why = f": {word.reason}" if word is not None and word.reason else ""
    how = "approve" if word is not None and word.state == "requested" else "request-approval"
    raise BadInput(
        f"version {version} of campaign {name} {said}{why}",
        hint=f"the workspace asks for it: horae campaign {how} {name}",
    )
