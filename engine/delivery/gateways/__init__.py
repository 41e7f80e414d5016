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

    def build(settings):                      # None where it is not configured
        return PigeonGateway()

    # the last lines of this file
    register_gateway("pigeon", "engine.delivery.gateways.pigeon")

What an outcome means decides what happens to the push, so a gateway is honest about doubt: it says `RETRY` or a refusal
only where the provider certainly did not take the message, and `UNKNOWN` wherever it might have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from importlib import import_module
from typing import Protocol

from engine.config import Settings
from engine.delivery.messages import Device, Kind, Outcome, Outgoing

__all__ = ["Device", "Gateway", "Kind", "Outcome", "Outgoing", "build_gateways", "known_gateways", "register_gateway"]


class Gateway(Protocol):
    """A way out. Several threads use it at once; never inside a database transaction."""

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
    _BUILDERS[name] = partial(_build, module)


def _build(module: str, settings: Settings) -> Gateway | None:
    gateway: Gateway | None = import_module(module).build(settings)
    return gateway


def build_gateways(settings: Settings) -> dict[str, Gateway]:
    """The gateways that `settings` configures, by name. Raises BadInput where one is configured wrongly."""
    built = {name: build(settings) for name, build in _BUILDERS.items()}
    return {name: gateway for name, gateway in built.items() if gateway is not None}


def known_gateways() -> list[str]:
    """Names of all gateways of this installation, configured or not."""
    return sorted(_BUILDERS)


register_gateway("apns", "engine.delivery.gateways.apns")
register_gateway("fcm", "engine.delivery.gateways.fcm")
register_gateway("log", "engine.delivery.gateways.log")
register_gateway("webhook", "engine.delivery.gateways.webhook")
register_gateway("webpush", "engine.delivery.gateways.webpush")
