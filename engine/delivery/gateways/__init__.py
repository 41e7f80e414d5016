"""Gateways: what carries a push out of Horae, behind one small interface.

Adding a gateway is one file and one registration:

    # gateways/pigeon.py
    class PigeonGateway:
        name = "pigeon"                       # what a campaign's `gateway:` says
        needs_device = False                  # True: an Outgoing carries the device it is meant for
        timeout = timedelta(seconds=15)       # a request is over, or given up as unknown, within this time

        def send_many(self, messages, start_by=math.inf):
            return [Outcome(Kind.ACCEPTED) for message in messages if fly(message)]

        def close(self): ...

    # here
    _BUILDERS["pigeon"] = pigeon.build        # build(settings) -> Gateway, or None where it is not configured

What an outcome means decides what happens to the push, so a gateway is honest about doubt: it says `RETRY` or a refusal
only where the provider certainly did not take the message, and `UNKNOWN` wherever it might have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from importlib import import_module
from typing import Any, Protocol
from uuid import UUID

from engine.config import Settings


@dataclass(frozen=True, slots=True)
class Device:
    """A live push token of a user."""

    id: int
    token: str
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
    test: bool = False
    device: Device | None = None


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
    detail: str | None = None


class Gateway(Protocol):
    """A way out. Used by one thread at a time; never inside a database transaction."""

    @property
    def name(self) -> str:
        """What a campaign's `gateway` says."""

    @property
    def needs_device(self) -> bool:
        """Whether each Outgoing must carry a device."""

    @property
    def timeout(self) -> timedelta:
        """The longest time from the start of a request to its outcome."""

    def send_many(self, messages: Sequence[Outgoing], start_by: float = math.inf) -> list[Outcome]:
        """Send `messages`; outcomes in their order.

        No request starts after `start_by` (seconds of clock.monotonic: the lease is checked before each request); a
        message whose turn comes later is RETRY. Provider errors are outcomes, never exceptions.
        """

    def close(self) -> None:
        """Release connections."""


_BUILDERS: dict[str, Callable[[Settings], Gateway | None]] = {}


def register_gateway(name: str, module: str) -> None:
    """Let `module.build(settings)` make the gateway `name`; the module is imported when gateways are first built."""

    def build(settings: Settings) -> Gateway | None:
        gateway: Gateway | None = import_module(module).build(settings)
        return gateway

    _BUILDERS[name] = build


def build_gateways(settings: Settings) -> dict[str, Gateway]:
    """The gateways that `settings` configures, by name. Raises BadInput where one is configured wrongly."""
    built = {name: build(settings) for name, build in _BUILDERS.items()}
    return {name: gateway for name, gateway in built.items() if gateway is not None}


def known_gateways() -> list[str]:
    """Names of all gateways of this installation, configured or not."""
    return sorted(_BUILDERS)


register_gateway("log", "engine.delivery.gateways.log")
register_gateway("webhook", "engine.delivery.gateways.webhook")
