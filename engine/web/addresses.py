"""From where a request comes: from whoever is connected or, through a proxy that is trusted, from whom it names."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from starlette.requests import Request

from engine.errors import BadInput

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks(given: str) -> tuple[Network, ...]:
    """Addresses and networks between commas. Raises BadInput."""
    try:
        return tuple(ipaddress.ip_network(part.strip(), strict=False) for part in given.split(",") if part.strip())
    except ValueError as error:
        raise BadInput(
            f"HORAE_API_PROXIES: {error}", hint="addresses or networks between commas, such as 10.0.0.0/8"
        ) from None


def address_of(request: Request, proxies: Sequence[Network]) -> str:
    """The address of whoever asks: the last one in X-Forwarded-For that is no proxy of ours, where one of these is
    connected; anybody else's header says nothing."""
    connected = request.client.host if request.client is not None else "unknown"
    passed = [part.strip() for part in request.headers.get("x-forwarded-for", "").split(",") if part.strip()]
    while passed and _among(connected, proxies):
        connected = passed.pop()
    return connected[:100]


def _among(address: str, proxies: Sequence[Network]) -> bool:
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(known in network for network in proxies)
