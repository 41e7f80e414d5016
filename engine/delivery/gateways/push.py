"""The channel of all gateways to devices: each message goes by the gateway that its device is registered for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from engine.delivery.gateways import PUSH, Gateway, Kind, Outcome, Outgoing


class PushGateway:
    """Sends by its `members`, whichever reaches the device; they belong to whoever built them."""

    name = PUSH
    needs_device = True

    def __init__(self, members: Mapping[str, Gateway]) -> None:
        self.members = dict(members)

    @property
    def timeout(self) -> timedelta:
        """The slowest member's."""
        return max(gateway.timeout for gateway in self.members.values())

    def send_many(self, messages: Sequence[Outgoing], start_by: float = math.inf) -> list[Outcome]:
        """Send by all members at once; see Gateway.send_many. Outcomes say whose they are."""
        by_member: dict[str, list[int]] = {}
        outcomes = [Outcome(Kind.RETRY, detail="its gateway is not configured")] * len(messages)
        for place, message in enumerate(messages):
            name = message.device.gateway if message.device else ""
            if name in self.members:
                by_member.setdefault(name, []).append(place)

        def send(name: str) -> list[Outcome]:
            return self.members[name].send_many([messages[place] for place in by_member[name]], start_by)

        with ThreadPoolExecutor(max(len(by_member), 1)) as pool:
            for name, found in zip(by_member, pool.map(send, by_member), strict=True):
                for place, outcome in zip(by_member[name], found, strict=True):
                    outcomes[place] = outcome._replace(gateway=name)
        return outcomes

    def close(self) -> None:
        """Nothing of its own is open."""
