"""Campaigns as people are told them: the command line and the API say the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, text

from engine.campaigns import store
from engine.campaigns.audience import AudienceQuery, count_audience
from engine.campaigns.policy_store import current_policy
from engine.campaigns.schedule import described, upcoming
from engine.campaigns.store import Stored

RECENT = timedelta(days=7)
"""Of closed triggers those that are counted."""


@dataclass(frozen=True)
class Whole:
    """A campaign in one version, and how it stands at `now`.

    audience: users by what stands in their way, `eligible` first; None where nobody counted · triggers: armed, and
    closed within RECENT, by state · versions: (version, created at, author), oldest first.
    """

    stored: Stored
    now: datetime
    phase: str
    audience: dict[str, int] | None
    triggers: dict[str, int]
    versions: list[tuple[int, datetime, str | None]]

    @property
    def definition(self) -> dict[str, Any]:
        """The definition as its file would say it."""
        return self.stored.definition.model_dump(mode="json", exclude_none=True)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        told = {"phase": self.phase, "triggers": self.triggers, "audience": self.audience}
        return {**summary(self.stored, self.now), **told, "definition": self.definition}


def whole(
    connection: Connection,
    gateways: Mapping[str, Any],
    name: str,
    now: datetime,
    *,
    version: int | None = None,
    counted: bool = True,
) -> Whole:
    """The campaign of that name (in an earlier `version`), its audience counted where `counted`. Raises UnknownName."""
    stored = store.get(connection, name)
    if version is not None:
        definition = store.get_version(connection, stored.id, version)
        stored = replace(stored, version=version, definition=definition)
    return Whole(
        stored,
        now,
        store.phase(connection, stored),
        _audience(connection, gateways, stored, now) if counted else None,
        _triggers(connection, stored, now),
        store.versions(connection, stored.id),
    )


def summary(stored: Stored, now: datetime) -> dict[str, Any]:
    """A campaign in a few words, as plain values for JSON."""
    one = stored.definition
    return {
        "name": stored.name,
        "class": one.class_,
        "state": stored.state,
        "version": stored.version,
        "due": described(one),
        "next": due_next(stored, now),
        "gateway": one.gateway,
    }


def due_next(stored: Stored, now: datetime) -> list[str]:
    """Labels of the next occurrences; of one by local time the reading of each user's clock."""
    if stored.state not in ("running", "paused"):
        return []
    return [item.label for item in upcoming(stored.definition, now)]


def _audience(connection: Connection, gateways: Mapping[str, Any], stored: Stored, now: datetime) -> dict[str, int]:
    one = stored.definition
    gateway = gateways.get(one.gateway)
    _, policy = current_policy(connection)
    needs_device = gateway is not None and gateway.needs_device
    return count_audience(
        connection,
        AudienceQuery(one.audience, now, one.gateway, needs_device, policy.default_timezone, topics=one.topics),
    )


def _triggers(connection: Connection, stored: Stored, now: datetime) -> dict[str, int]:
    if stored.definition.trigger is None:
        return {}
    rows = connection.execute(
        text(
            "SELECT state, count(*) FROM armed_triggers WHERE campaign_id = :campaign"
            " AND (state = 'armed' OR closed_at >= :since) GROUP BY 1 ORDER BY 1"
        ),
        {"campaign": stored.id, "since": now - RECENT},
    )
    return dict(rows.all())
