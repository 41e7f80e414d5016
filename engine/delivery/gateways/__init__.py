"""Gateways: what carries a push out of Horae, behind one small interface.

Adding a gateway is one file and one registration. This is the whole of a gateway to devices over HTTP (Huawei's Push
Kit, of which the access token is left out; JPush is the same with Basic authentication):

    # gateways/hms.py
    class HmsGateway:
        name = "hms"                          # what a campaign's `gateway:` says, and a device's
        needs_device = True                   # an Outgoing carries the device it is meant for
        timeout = timedelta(seconds=15)       # a request is over, or given up as unknown, within this time

        def __init__(self, app_id, key):
            self._url = f"https://push-api.cloud.huawei.com/v1/{app_id}/messages:send"
            self._transport = Transport(Wire(self.timeout, concurrency=200, http2=True))

        def send_many(self, messages, start_by=math.inf):
            results = self._transport.post_many([self._request(message) for message in messages], start_by)
            return [classify(result, machine_now()) for result in results]

        def close(self):
            self._transport.close()

    def classify(result, now):                # pure: tested by a table from the vendor's documentation
        if not isinstance(result, Answer):
            return no_answer(result)          # NotSent: RETRY, Uncertain: UNKNOWN
        code = (parse_object(result.body) or {}).get("code")
        kinds = {"80000000": Kind.ACCEPTED, "80300007": Kind.DEAD_DEVICE, "80200003": Kind.CREDENTIALS_REFUSED}
        return Outcome(kinds.get(code, Kind.UNKNOWN), detail=code)

    def build(settings):                      # None where it is not configured; BadInput where it is wrongly
        return settings.hms_app_id and HmsGateway(settings.hms_app_id, settings.hms_key)

    # the last lines of this file
    register_gateway("hms", "engine.delivery.gateways.hms", devices=True)

What an outcome means decides what happens to the push, so a gateway is honest about doubt: it says `RETRY` or a refusal
only where the provider certainly did not take the message, and `UNKNOWN` wherever it might have.

`push` is the channel of all gateways to devices: what a campaign names to reach users on whatever they carry.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from typing import Protocol

from engine.campaigns.audience import ANY_DEVICE
from engine.config import Settings
from engine.delivery.messages import Device, Kind, Outcome, Outgoing
from engine.errors import BadInput

__all__ = ["ATTEMPT", "Built", "Device", "Gateway", "Kind", "Outcome", "Outgoing", "build_gateways", "device_gateways"]
__all__ += ["known_gateways", "register_gateway", "try_gateways"]

PUSH = ANY_DEVICE

ATTEMPT = timedelta(seconds=30)
"""δ: within this time of its reservation an attempt is over. A request that might last longer would never begin."""


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
        """The longest time from the start of a request to its outcome; shorter than ATTEMPT."""

    def send_many(self, messages: Sequence[Outgoing], start_by: float = math.inf) -> list[Outcome]:
        """Send `messages`; outcomes in their order.

        No request starts after `start_by` (seconds of clock.monotonic: the lease is checked before each request); a
        message whose turn comes later is RETRY. Provider errors are outcomes, never exceptions.
        """

    def close(self) -> None:
        """Release connections."""


_MODULES: dict[str, str] = {}
_WITH_DEVICES: set[str] = set()


def register_gateway(name: str, module: str, *, devices: bool = False) -> None:
    """Let `module.build(settings)` make the gateway `name`; the module is imported when gateways are first built.

    `devices`: devices may be registered for it.
    """
    _MODULES[name] = module
    if devices:
        _WITH_DEVICES.add(name)


@dataclass(frozen=True)
class Built:
    """The gateways that settings configure, by name, and what is wrong with those that could not be made."""

    gateways: Mapping[str, Gateway]
    problems: Mapping[str, BadInput]


def try_gateways(settings: Settings) -> Built:
    """Every gateway that `settings` configures; one that is configured wrongly does not stop the others."""
    made: dict[str, Gateway] = {}
    problems = {}
    for name, module in _MODULES.items():
        try:
            gateway: Gateway | None = import_module(module).build(settings)
            if gateway is not None:
                _require_time(gateway)
        except BadInput as error:
            problems[name] = error
            continue
        if gateway is not None:
            made[name] = gateway
    members = {name: gateway for name, gateway in made.items() if name in _WITH_DEVICES}
    if members:
        from engine.delivery.gateways.push import PushGateway  # noqa: PLC0415 - it names this module's types

        made[PUSH] = PushGateway(members)
    return Built(made, problems)


def _require_time(gateway: Gateway) -> None:
    """Raise BadInput for a gateway whose requests might outlast an attempt: none of them would ever begin."""
    if gateway.timeout >= ATTEMPT:
        most, given = ATTEMPT.total_seconds(), gateway.timeout.total_seconds()
        gateway.close()
        raise BadInput(
            f"the gateway {gateway.name} gives a request {given:g} s, and an attempt is over after {most:g} s",
            hint="a shorter timeout: what is prepared before the request takes some of that time too",
        )


def build_gateways(settings: Settings) -> dict[str, Gateway]:
    """The gateways that `settings` configures, by name. Raises BadInput where one is configured wrongly."""
    built = try_gateways(settings)
    if built.problems:
        raise next(iter(built.problems.values()))
    return dict(built.gateways)


def known_gateways() -> list[str]:
    """Names of all gateways of this installation, configured or not."""
    return sorted([*_MODULES, PUSH])


def device_gateways() -> list[str]:
    """Names of the gateways that devices may be registered for."""
    return sorted(_WITH_DEVICES)


register_gateway("apns", "engine.delivery.gateways.apns", devices=True)
register_gateway("fcm", "engine.delivery.gateways.fcm", devices=True)
register_gateway("log", "engine.delivery.gateways.log")
register_gateway("webhook", "engine.delivery.gateways.webhook")
register_gateway("webpush", "engine.delivery.gateways.webpush", devices=True)
