"""Stop switches: all pushes, one gateway, one campaign.

Every intent looks at the switches in the statement that commits it, and stopping moves the epoch that every intent
compares (`delivery.epoch.move_epoch`): an intent that began before the stop and has not committed can no longer commit.
So once `stop` has committed, what may still leave is exactly what is in `sending`, and that is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from engine import audit
from engine.campaigns import store
from engine.delivery.epoch import move_epoch
from engine.delivery.gateways import known_gateways
from engine.errors import UnknownName, did_you_mean

ALL = "all"
HORAE = "horae"
"""The author of stops that are Horae's own doing."""

_STOP = text("""
    INSERT INTO switches (scope, stopped_at, author, why) VALUES (:scope, clock_timestamp(), :author, :why)
    ON CONFLICT (scope) DO NOTHING
""")
_IN_FLIGHT = text("""
    SELECT count(*) FROM pushes p
    WHERE p.send_at <= coalesce((SELECT business_now FROM workspace WHERE id = 1), now())
      AND p.state = 'sending' AND p.lease_until > clock_timestamp()
      AND :scope IN ('all', 'gateway:' || p.gateway, 'campaign:' || p.campaign_id)
""")


@dataclass(frozen=True)
class Switch:
    """A switch that is off."""

    scope: str
    stopped_at: datetime
    author: str | None
    why: str | None


def scope_of(connection: Connection, gateway: str | None = None, campaign: str | None = None) -> str:
    """The switch of a gateway, of a campaign by name, or of everything. Raises UnknownName."""
    if campaign is not None:
        return f"campaign:{store.get(connection, campaign).id}"
    if gateway is not None:
        if gateway not in known_gateways():
            hint = did_you_mean(gateway, known_gateways()) or f"known are {', '.join(known_gateways())}"
            raise UnknownName(f"there is no gateway {gateway!r}", hint=hint)
        return f"gateway:{gateway}"
    return ALL


def stop(connection: Connection, scope: str, author: str | None = None, why: str | None = None) -> int:
    """Stop `scope`; returns how many of its pushes are under way and may still leave, once this has committed.

    Waits for intents that are being committed. Stopping what is stopped changes nothing.
    """
    if connection.execute(_STOP, {"scope": scope, "author": author, "why": why}).rowcount:
        audit.record(connection, author, "sending.stop", scope, None, {"why": why})
    move_epoch(connection)
    return int(connection.execute(_IN_FLIGHT, {"scope": scope}).scalar_one())


def start(connection: Connection, scope: str, author: str | None = None) -> bool:
    """Let `scope` send again; whether it was stopped. Pushes whose window has passed expire."""
    gone = connection.execute(text("DELETE FROM switches WHERE scope = :scope"), {"scope": scope})
    if gone.rowcount:
        audit.record(connection, author, "sending.start", scope)
    return gone.rowcount == 1


def stop_channel(connection: Connection, gateway: str, why: str) -> None:
    """Stop a gateway that refuses us: Horae's own doing, until a person has looked."""
    stop(connection, f"gateway:{gateway}", HORAE, why)


def stopped(connection: Connection) -> list[Switch]:
    """The switches that are off."""
    rows = connection.execute(text("SELECT scope, stopped_at, author, why FROM switches ORDER BY scope"))
    return [Switch(*row) for row in rows]
