"""Who a user is, as far as Horae knows: their record, devices, preferences, and the items they care for most."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from sqlalchemy import Connection, text

from engine.campaigns.policy_store import current_policy
from engine.campaigns.rules import own_hours
from engine.errors import UnknownName
from engine.features import decay
from engine.ingest.erased import erased_among
from engine.localtime import Hours
from engine.store.tables import EVENT_TYPES, HALF_LIVES_DAYS

SHOWN_HEX = 12
"""Characters of a token's hash that tell devices apart."""

INTEREST_DAYS = 30.0
"""Half-life of what items are ordered by."""

_INTEREST = HALF_LIVES_DAYS["user_item_profiles"].index(INTEREST_DAYS)
_NOT_THEIRS = [EVENT_TYPES[name] for name in ("push_sent", "push_received", "push_dismiss")]


@dataclass(frozen=True)
class Device:
    """A device. token: the beginning of the SHA-256 of its push token, which itself is shown to nobody; seen_at and
    dead_at are business time, dead_reason in the provider's word."""

    gateway: str
    token: str
    seen_at: datetime
    dead_at: datetime | None
    dead_reason: str | None


@dataclass(frozen=True)
class Liked:
    """An item the user did something with. interest: decayed events (half-life 30 days); last_at UTC."""

    item: str
    title: str | None
    category: str | None
    interest: float
    events: int
    last_at: datetime


@dataclass(frozen=True)
class Profile:
    """A user. name: the shop's id · zone: IANA, the workspace's where zone_source is None · zone_source: explicit |
    device · consent None: there is no record · quiet: their own quiet hours · aliases: other ids they are known by ·
    preferences: (kind, name, allowed)."""

    id: int
    slot: int
    name: str
    zone: str
    zone_source: str | None
    country: str | None
    locale: str | None
    consent: bool | None
    quiet: Hours | None
    attributes: dict[str, Any]
    stub: bool
    created_at: datetime
    updated_at: datetime
    aliases: tuple[str, ...]
    devices: tuple[Device, ...]
    preferences: tuple[tuple[str, str, bool], ...]


def read_profile(connection: Connection, name: str) -> Profile:
    """The user with the shop's id `name`. Raises UnknownName, saying so where they were erased."""
    row = connection.execute(text("SELECT * FROM users WHERE external_id = :name"), {"name": name}).one_or_none()
    if row is None:
        if erased_among(connection, [name]):
            hint = "nothing is held about them, and nothing is taken in again"
            raise UnknownName(f"user {name!r} was erased", hint=hint)
        raise UnknownName(f"there is no user {name!r}", hint="the id as it was ingested, letter by letter")
    given = {"user": row.id}
    aliases = connection.execute(text("SELECT alias FROM identities WHERE user_id = :user ORDER BY 1"), given)
    devices = connection.execute(text("SELECT * FROM devices WHERE user_id = :user ORDER BY seen_at DESC, id"), given)
    said = connection.execute(
        text("SELECT kind, name, allowed FROM preferences WHERE user_id = :user ORDER BY 1, 2"), given
    )
    _, policy = current_policy(connection)
    return Profile(
        id=row.id,
        slot=row.slot,
        name=row.external_id,
        zone=row.timezone or policy.default_timezone,
        zone_source=None if row.timezone is None else row.tz_source or "explicit",
        country=row.country,
        locale=row.locale,
        consent=row.consent,
        quiet=own_hours(row.quiet_from, row.quiet_until),
        attributes=row.attributes,
        stub=row.stub,
        created_at=row.created_at,
        updated_at=row.updated_at,
        aliases=tuple(aliases.scalars()),
        devices=tuple(_device(one) for one in devices),
        preferences=tuple((one.kind, one.name, one.allowed) for one in said),
    )


def _device(row: Any) -> Device:
    hashed = hashlib.sha256(row.token.encode()).hexdigest()[:SHOWN_HEX]
    return Device(row.gateway, hashed, row.seen_at, row.dead_at, row.dead_reason)


def top_items(connection: Connection, profile: Profile, now: datetime, most: int = 10) -> list[Liked]:
    """The items the user did most with, by decayed events as of `now` (business time), the most first."""
    rows = connection.execute(
        text(
            f"SELECT item_id, n, last_at, s{_INTEREST} AS s FROM user_item_profiles"
            " WHERE slot = :slot AND user_id = :user AND event_type <> ALL(:without)"
        ),
        {"slot": profile.slot, "user": profile.id, "without": _NOT_THEIRS},
    ).all()
    if not rows:
        return []
    items, of = np.unique([row.item_id for row in rows], return_inverse=True)
    last_at = np.array([row.last_at for row in rows])
    until = max(now.timestamp(), float(last_at.max()))
    s = decay.read(np.array([[row.s] for row in rows]), last_at, until, (INTEREST_DAYS,))[:, 0]
    interest, events = np.bincount(of, s), np.bincount(of, [row.n for row in rows])
    latest = np.zeros(len(items))
    np.maximum.at(latest, of, last_at)
    best = np.argsort(-interest, kind="stable")[:most]
    known = {
        row.id: row
        for row in connection.execute(
            text("SELECT id, external_id, title, category FROM items WHERE id = ANY(:ids)"),
            {"ids": items[best].tolist()},
        )
    }
    return [
        Liked(one.external_id, one.title, one.category, float(interest[at]), int(events[at]),
              datetime.fromtimestamp(latest[at], UTC))
        for at in best.tolist() if (one := known.get(int(items[at]))) is not None
    ]  # fmt: skip
