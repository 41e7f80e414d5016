"""What goes to a gateway and what comes back (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Device:
    """A live push token of a user."""

    id: int
    token: str = field(repr=False)
    gateway: str = ""
    """What reaches it: one channel may have devices of several."""
    seen_at: datetime | None = None
    """Its latest registration, aware UTC."""
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outgoing:
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
    callback_token: str = field(default="", repr=False)
    """By which callbacks about this push are authenticated; it goes into the payload as it is."""


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


@dataclass(frozen=True, slots=True)
class Outcome:
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
