"""Devices for people: whose, by which gateway, alive or dead and why, how long unheard of. Tokens are shown hashed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, text

STALE = timedelta(days=30)
"""FCM calls a token stale that did not connect for a month: leave it out of delivery rates, send to it all the same."""

EXPIRED = timedelta(days=270)
"""FCM refuses Android tokens that did not connect for 270 days."""


@dataclass(frozen=True, slots=True)
class Registered:
    """A device; `token` is the beginning of the SHA-256 of its token."""

    user_id: str
    gateway: str
    token: str
    seen_at: datetime
    dead_at: datetime | None
    dead_reason: str | None
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Health:
    """The devices of one gateway."""

    gateway: str
    live: int
    stale: int
    """Live, and not registered again for STALE."""
    expired: int
    """Of the stale, not for EXPIRED."""
    dead: int
    users: int
    """Users with a live device."""


_LIST = text("""
    SELECT u.external_id AS user_id, d.gateway, left(encode(sha256(convert_to(d.token, 'UTF8')), 'hex'), 12) AS token,
           d.seen_at, d.dead_at, d.dead_reason, d.attributes - 'keys' - 'auth' - 'p256dh' AS attributes
    FROM devices d JOIN users u ON u.id = d.user_id
    WHERE (CAST(:user AS text) IS NULL OR u.external_id = :user)
      AND (CAST(:gateway AS text) IS NULL OR d.gateway = :gateway)
      AND (NOT :dead OR d.dead_at IS NOT NULL)
      AND (CAST(:before AS timestamptz) IS NULL OR (d.dead_at IS NULL AND d.seen_at < :before))
    ORDER BY d.seen_at DESC, d.id DESC LIMIT :most
""")

# By id, whose index is there: the latest registration of millions would have to be sorted for.
_BROWSE = text("""
    SELECT d.id, u.external_id AS user_id, d.gateway,
           left(encode(sha256(convert_to(d.token, 'UTF8')), 'hex'), 12) AS token,
           d.seen_at, d.dead_at, d.dead_reason, d.attributes - 'keys' - 'auth' - 'p256dh' AS attributes
    FROM devices d JOIN users u ON u.id = d.user_id
    WHERE (CAST(:user AS text) IS NULL OR d.user_id = (SELECT id FROM users WHERE external_id = :user))
      AND (CAST(:gateway AS text) IS NULL OR d.gateway = :gateway)
      AND (CAST(:state AS text) IS NULL OR CASE :state WHEN 'dead' THEN d.dead_at IS NOT NULL
           WHEN 'stale' THEN d.dead_at IS NULL AND d.seen_at < :stale ELSE d.dead_at IS NULL END)
      AND (CAST(:before AS bigint) IS NULL OR d.id < :before)
    ORDER BY d.id DESC LIMIT :most
""")

_HEALTH = text("""
    SELECT gateway, count(*) FILTER (WHERE dead_at IS NULL) AS live,
           count(*) FILTER (WHERE dead_at IS NULL AND seen_at < :stale) AS stale,
           count(*) FILTER (WHERE dead_at IS NULL AND seen_at < :expired) AS expired,
           count(*) FILTER (WHERE dead_at IS NOT NULL) AS dead,
           count(DISTINCT user_id) FILTER (WHERE dead_at IS NULL) AS users
    FROM devices GROUP BY gateway ORDER BY gateway
""")


def find_devices(
    connection: Connection,
    most: int,
    *,
    user: str | None = None,
    gateway: str | None = None,
    dead: bool = False,
    before: datetime | None = None,
) -> list[Registered]:
    """Up to `most` devices, latest registration first: of a user (the shop's id), of a gateway, `dead` ones only, live
    ones not registered since `before`."""
    chosen = {"user": user, "gateway": gateway, "dead": dead, "before": before}
    return [Registered(*row) for row in connection.execute(_LIST, {"most": most, **chosen}).all()]


def browse_devices(
    connection: Connection,
    most: int,
    now: datetime,
    *,
    user: str | None = None,
    gateway: str | None = None,
    state: str | None = None,
    before: int | None = None,
) -> list[tuple[int, Registered]]:
    """Up to `most` devices with their ids, those that came last first, of ids below `before`: of a user (the shop's
    id), of a gateway, and of a state at business time `now`: live, stale (live, not registered for STALE) or dead."""
    chosen = {"user": user, "gateway": gateway, "state": state, "stale": now - STALE, "before": before}
    return [(row[0], Registered(*row[1:])) for row in connection.execute(_BROWSE, {"most": most, **chosen}).all()]


def health(connection: Connection, now: datetime) -> list[Health]:
    """How the devices of each gateway stand at business time `now`."""
    rows = connection.execute(_HEALTH, {"stale": now - STALE, "expired": now - EXPIRED})
    return [Health(*row) for row in rows.all()]
