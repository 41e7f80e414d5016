"""What goes to a gateway and what comes back (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

NOTHING: Mapping[str, Any] = MappingProxyType({})
"""Of what nothing is known."""


class Device(NamedTuple):
    """A live push token of a user."""

    id: int
    token: str
    gateway: str = ""
    """What reaches it: one channel may have devices of several."""
    seen_at: datetime | None = None
    """Its latest registration, aware UTC."""
    attributes: Mapping[str, Any] = NOTHING

    def __repr__(self) -> str:
        return f"Device({self.id}, {self.gateway})"  # tokens stay out of logs


class Outgoing(NamedTuple):
    """One rendered push on its way to a provider. Ids of users and items are the shop's own."""

    push_id: UUID
    occurrence_id: int | None
    campaign: str
    user_id: str
    item_id: str | None
    title: str
    body: str
    data: Mapping[str, Any]
    collapse_id: str
    at: datetime
    """Business time of the attempt, aware UTC."""
    ttl: timedelta
    """How long the provider may keep it for a phone that is off."""
    urgent: bool = False
    """Somebody waits for it (transactional)."""
    test: bool = False
    device: Device | None = None
    callback_token: str = ""
    """By which callbacks about this push are authenticated; it goes into the payload as it is."""

    def __repr__(self) -> str:
        return f"Outgoing({self.push_id}, {self.campaign}, {self.user_id})"  # neither texts nor tokens


class Kind(StrEnum):
    """What became of one message at the provider."""

    ACCEPTED = "accepted"
    RETRY = "retry"
    """Certainly not taken, for a passing reason."""
    THROTTLED = "throttled"
    """Certainly not taken: too many requests."""
    DEAD_DEVICE = "dead_device"
    """Certainly not taken: the address does not exist (any more). Without devices, it is the channel's own address."""
    PAYLOAD_REFUSED = "payload_refused"
    """Certainly not taken: this message will never be."""
    CREDENTIALS_REFUSED = "credentials_refused"
    """Certainly not taken: we are not who we should be. The channel stops, the rows wait."""
    UNKNOWN = "unknown"
    """It may have been taken."""


class Outcome(NamedTuple):
    """What became of one message, with what the provider said."""

    kind: Kind
    delay: timedelta | None = None
    """The provider's own wish for the next attempt (Retry-After)."""
    provider_id: str | None = None
    since: datetime | None = None
    """Since when the provider calls the device dead, where it says so."""
    detail: str | None = None
    gateway: str | None = None
    """Which gateway of a channel of several said so; None: the channel itself."""
