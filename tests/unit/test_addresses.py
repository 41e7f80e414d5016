"""Who asks, behind proxies: a header is believed of a proxy that is ours, and of nobody else."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from engine.errors import BadInput
from engine.web.addresses import address_of, networks


def asked(connected: str, forwarded: str | None = None) -> Request:
    headers = [(b"x-forwarded-for", forwarded.encode())] if forwarded is not None else []
    return Request({"type": "http", "client": (connected, 5), "headers": headers})


@pytest.mark.parametrize(
    ("proxies", "connected", "forwarded", "address"),
    [
        ("", "10.0.0.1", "1.2.3.4", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.1", "1.2.3.4", "1.2.3.4"),
        ("10.0.0.0/8", "10.0.0.1", "6.6.6.6, 1.2.3.4, 10.0.0.9", "1.2.3.4"),
        ("10.0.0.1", "9.9.9.9", "1.2.3.4", "9.9.9.9"),
        ("10.0.0.1", "10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", "10.0.0.1", "no address", "no address"),
    ],
)
def test_only_our_own_proxies_are_believed(proxies: str, connected: str, forwarded: str | None, address: str):
    assert address_of(asked(connected, forwarded), networks(proxies)) == address


def test_a_proxy_that_is_no_address_is_told():
    with pytest.raises(BadInput, match="HORAE_API_PROXIES"):
        networks("10.0.0.0/8, proxy")
