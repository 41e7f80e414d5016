"""Where a webhook may connect to: resolve once, look at every address, connect to the one that was looked at.

Checking a name and letting the client resolve it again is no check at all (DNS rebinding); so the caller pins the
address returned here. Rules after the Standard Webhooks specification's section on SSRF.
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

from engine.errors import BadInput

_NAT64 = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
_V4_COMPATIBLE = IPv6Network("::/96")


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether `address` is on the public internet, looking through every way of wrapping IPv4 in IPv6 (pure)."""
    if isinstance(address, IPv6Address):
        wrapped = _wrapped(address)
        if wrapped is not None:
            return is_public(wrapped)
        if address.is_site_local:
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def resolve_pinned(host: str, port: int, *, allow_private: bool) -> str:
    """The address to connect to for `host`.

    Raises BadInput where any of the host's addresses is not public (unless `allow_private`), OSError where the name
    does not resolve.
    """
    found = [info[4][0] for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    addresses = [ip_address(str(text).partition("%")[0]) for text in found]
    refused = [str(address) for address in addresses if not is_public(address)]
    if refused and not allow_private:
        raise BadInput(
            f"the webhook's host {host} has the address {refused[0]}, which is not on the public internet",
            hint="a receiver in your own network needs HORAE_WEBHOOK_ALLOW_PRIVATE=1",
        )
    return str(addresses[0])


def _wrapped(address: IPv6Address) -> IPv4Address | None:
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if any(address in network for network in _NAT64) or (address in _V4_COMPATIBLE and int(address) > 1):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return None
