"""What providers' answers mean, and where a webhook may connect to: tables."""

from __future__ import annotations

import math
import socket
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest

from engine.config import read_settings
from engine.delivery.gateways import Kind, build_gateways, known_gateways
from engine.delivery.gateways.addresses import is_public, resolve_pinned
from engine.delivery.gateways.exchange import Answer, NotSent, Uncertain
from engine.delivery.gateways.retry_after import read_retry_after
from engine.delivery.gateways.transport import Pin
from engine.delivery.gateways.webhook import WebhookGateway, classify
from engine.errors import BadInput

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, Kind.ACCEPTED),
        (201, Kind.ACCEPTED),
        (204, Kind.ACCEPTED),
        (301, Kind.DEAD_DEVICE),
        (302, Kind.DEAD_DEVICE),
        (400, Kind.PAYLOAD_REFUSED),
        (401, Kind.CREDENTIALS_REFUSED),
        (403, Kind.CREDENTIALS_REFUSED),
        (404, Kind.DEAD_DEVICE),
        (405, Kind.PAYLOAD_REFUSED),
        (410, Kind.DEAD_DEVICE),
        (413, Kind.PAYLOAD_REFUSED),
        (422, Kind.PAYLOAD_REFUSED),
        (429, Kind.THROTTLED),
        (500, Kind.UNKNOWN),
        (502, Kind.RETRY),
        (503, Kind.RETRY),
        (504, Kind.RETRY),
        (101, Kind.UNKNOWN),
    ],
)
def test_a_webhook_receivers_status_has_one_meaning(status: int, kind: Kind) -> None:
    assert classify(Answer(status, None, ""), NOW).kind is kind


def test_what_never_left_may_be_tried_again_and_what_may_have_arrived_is_unknown() -> None:
    assert classify(NotSent("connection refused"), NOW).kind is Kind.RETRY
    assert classify(Uncertain("timed out"), NOW).kind is Kind.UNKNOWN


def test_a_busy_receivers_wish_is_kept_and_what_it_said_is_recorded() -> None:
    outcome = classify(Answer(503, "120", "come back later"), NOW)

    assert outcome.delay == timedelta(minutes=2)
    assert outcome.detail == "HTTP 503 come back later"


@pytest.mark.parametrize(
    ("header", "delay"),
    [
        (None, None),
        ("", None),
        ("0", timedelta(0)),
        (" 30 ", timedelta(seconds=30)),
        ("-5", None),
        ("1.5", None),
        ("99999999999999999999", timedelta(days=1)),
        ("soon", None),
        ("Mon, 02 Mar 2026 12:01:30 GMT", timedelta(seconds=90)),
        ("Monday, 02-Mar-26 12:01:30 GMT", timedelta(seconds=90)),
        ("Mon Mar  2 12:01:30 2026", timedelta(seconds=90)),
        ("Mon, 02 Mar 2026 11:00:00 GMT", timedelta(0)),
        ("Mon, 02 Mar 2099 11:00:00 GMT", timedelta(days=1)),
        ("٣٠", None),
    ],
)
def test_retry_after_is_read_in_both_forms(header: str | None, delay: timedelta | None) -> None:
    assert read_retry_after(header, NOW) == delay


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2001:4860:4860::8888", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("240.0.0.1", False),
        ("192.0.2.7", False),
        ("::", False),
        ("::1", False),
        ("fe80::1", False),
        ("fec0::1", False),
        ("fc00::1", False),
        ("fd12::1", False),
        ("ff02::1", False),
        ("2001:db8::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("::127.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::808:808", True),
        ("64:ff9b:1::7f00:1", False),
        ("2002:7f00:1::", False),
        ("2002:a00:1::", False),
        ("2001:0:808:808::80ff:fefe", False),  # Teredo around 127.0.1.1
    ],
)
def test_only_addresses_of_the_public_internet_may_be_reached(address: str, public: bool) -> None:
    assert is_public(ip_address(address)) is public


def test_a_host_with_a_private_address_is_refused_unless_that_is_allowed() -> None:
    with pytest.raises(BadInput, match="not on the public internet"):
        resolve_pinned("localhost", 443, allow_private=False)

    assert ip_address(resolve_pinned("localhost", 443, allow_private=True)).is_loopback


@pytest.mark.parametrize("literal", ["0x7f000001", "2130706433", "127.1", "[::ffff:127.0.0.1]", "0177.0.0.1"])
def test_other_spellings_of_loopback_do_not_slip_through(literal: str) -> None:
    gateway = WebhookGateway(f"https://{literal}/hook", SECRET)

    with pytest.raises((BadInput, OSError)):
        resolve_pinned(gateway._host, gateway._port, allow_private=False)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://ops:hunter2@shop.example/hook", "user name or password"),
        ("https://8.8.8.8@169.254.169.254/latest", "user name or password"),
        ("https://shop.example:99999/hook", "not a URL"),
        ("https://[::1/hook", "not a URL"),
        ("file:///etc/passwd", "not an http"),
        ("gopher://ops:hunter2@127.0.0.1:6379/_FLUSHALL", "not an http"),
        ("http://shop.example/hook", "must be https"),
    ],
)
def test_an_address_that_is_no_webhooks_is_refused_and_never_repeated(url: str, said: str) -> None:
    with pytest.raises(BadInput, match=said) as refused:
        WebhookGateway(url, SECRET)

    assert "hunter2" not in f"{refused.value} {refused.value.hint}"


def test_a_name_that_changes_its_address_is_asked_once_and_one_private_address_among_others_refuses_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """DNS rebinding: public for whoever checks, private for whoever connects; or both at once."""
    answers = iter([["8.8.8.8"], ["169.254.169.254"], ["8.8.8.8", "10.0.0.1"], ["::ffff:10.0.0.1"]])

    def resolve(*_: object, **__: object) -> list[tuple]:
        return [(0, 0, 0, "", (address, 443)) for address in next(answers)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    gateway = WebhookGateway("https://shop.example/hook", SECRET)
    for _ in range(2):  # the second message goes to the address that was checked for the first
        gateway._pinned_transport()
        assert gateway._pin == Pin("shop.example", "8.8.8.8", 443)
    for _ in range(3):
        gateway._pinned_at = -math.inf
        with pytest.raises(BadInput, match="not on the public internet"):
            gateway._pinned_transport()
    assert next(answers, None) is None
    gateway.close()


def test_log_is_always_configured_and_webhook_where_it_has_an_address(tmp_path: Path) -> None:
    bare = build_gateways(read_settings(home=tmp_path))
    both = build_gateways(read_settings(home=tmp_path, webhook_url="https://example.com/hook", webhook_secret=SECRET))

    assert sorted(bare) == ["log"]
    assert sorted(both) == ["log", "webhook"]
    assert set(both) < set(known_gateways())


@pytest.mark.parametrize(
    ("url", "secret", "says"),
    [
        ("https://example.com/hook", None, "HORAE_WEBHOOK_SECRET is not"),
        ("https://example.com/hook", "whsec_c2hvcnQ=", "has 5 bytes"),
        ("https://example.com/hook", "whsec_", "has 0 bytes"),
        ("http://example.com/hook", SECRET, "must be https"),
        ("ftp://example.com/hook", SECRET, "not an http"),
        ("https:///hook", SECRET, "not an http"),
    ],
)
def test_a_wrong_webhook_setting_is_named(tmp_path: Path, url: str, secret: str | None, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        build_gateways(read_settings(home=tmp_path, webhook_url=url, webhook_secret=secret))
