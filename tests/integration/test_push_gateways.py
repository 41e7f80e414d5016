"""FCM, APNs and Web Push against a local provider that checks as the true ones do, and misbehaves when told to."""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from engine.bench.provider.authority import TOPIC, make_files, pem_of
from engine.bench.provider.launch import Provider, apns_token, fcm_token
from engine.clock import machine_now, monotonic
from engine.config import read_settings
from engine.delivery.dispatch import dispatch_due
from engine.delivery.gateways import Device, Gateway, Kind, Outgoing, build_gateways
from engine.delivery.gateways.credentials import read_service_account
from engine.delivery.gateways.fcm import FcmGateway, FcmOptions
from engine.runtime import Runtime
from engine.status import gather
from tests.delivery_store import NOON, DeliveryShop

VENDORS = ("fcm", "apns", "webpush")


def outgoing(device: Device, **changes: Any) -> Outgoing:
    push_id = uuid.uuid4()
    usual: dict[str, Any] = {
        "push_id": push_id,
        "occurrence_id": 7,
        "campaign": "bread",
        "user_id": "u1",
        "item_id": "i1",
        "title": "Bäckerei",
        "body": "Frisch, 2 € 🥖",
        "data": {"link": "shop://i1"},
        "collapse_id": push_id.hex,
        "at": machine_now(),
        "ttl": timedelta(hours=1),
        "device": device,
    }
    return Outgoing(**{**usual, **changes})


@pytest.fixture
def gateways(provider: Provider, tmp_path: Path) -> Iterator[dict[str, Gateway]]:
    built = build_gateways(read_settings(home=tmp_path, **provider.settings()))
    yield built
    for gateway in built.values():
        gateway.close()


@pytest.fixture
def device(provider: Provider) -> Callable[[str], Device]:
    """A new device of a gateway."""

    def make(vendor: str) -> Device:
        if vendor == "webpush":
            made = provider.subscribe()
            keys = {"keys": {"p256dh": made.p256dh, "auth": made.auth}}
            return Device(1, made.endpoint, vendor, NOON, keys)
        token = fcm_token(secrets.token_hex(6)) if vendor == "fcm" else apns_token(secrets.randbits(250))
        return Device(1, token, vendor, NOON)

    return make


def rough(provider: Provider, vendor: str, tmp_path: Path) -> dict[str, Gateway]:
    """Gateways at the provider's rough port."""
    settings = {**provider.settings(), "fcm_url": provider.rough, "apns_url": provider.rough}
    return build_gateways(read_settings(home=tmp_path, **settings))


def told(provider: Provider, **fault: Any) -> None:
    provider.tell(faults={"/v1/": fault, "/3/": fault, "/wp/": fault})


# --- what is sent ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_message_is_accepted_and_arrives_as_it_was_written(
    provider: Provider, gateways: dict[str, Gateway], device: Callable[[str], Device], vendor: str
) -> None:
    message = outgoing(device(vendor))
    [outcome] = gateways[vendor].send_many([message])
    received = provider.received()[-1]
    shown = received.get("message") or received["request"]["message"]
    text = shown.get("notification") or shown.get("aps", {}).get("alert") or shown

    assert outcome.kind is Kind.ACCEPTED, outcome
    assert outcome.provider_id
    assert (text["title"], text["body"]) == ("Bäckerei", "Frisch, 2 € 🥖")
    assert str(message.push_id) in json.dumps(shown)
    if vendor == "apns":
        assert received["apns"]["apns-topic"] == TOPIC
        assert abs(int(received["apns"]["apns-expiration"]) - machine_now().timestamp() - 3600) < 60


@pytest.mark.parametrize("vendor", VENDORS)
def test_many_at_once_each_get_their_own_outcome(
    provider: Provider, gateways: dict[str, Gateway], device: Callable[[str], Device], vendor: str
) -> None:
    devices = [device(vendor) for _ in range(8)]
    path = [one.token.removeprefix(provider.origin) for one in devices]
    provider.tell(gone={path[2]: int(4e12)}, foreign=[path[5]])  # milliseconds: long after it was registered

    kinds = [outcome.kind for outcome in gateways[vendor].send_many([outgoing(one) for one in devices])]

    assert [n for n, kind in enumerate(kinds) if kind is Kind.DEAD_DEVICE] == [2, 5]
    assert kinds.count(Kind.ACCEPTED) == 6


@pytest.mark.parametrize("vendor", VENDORS)
def test_nothing_leaves_after_the_lease(
    provider: Provider, gateways: dict[str, Gateway], device: Callable[[str], Device], vendor: str
) -> None:
    before = len(provider.received())
    [outcome] = gateways[vendor].send_many([outgoing(device(vendor))], start_by=monotonic() - 1)

    assert outcome.kind is Kind.RETRY
    assert len(provider.received()) == before


@pytest.mark.parametrize("vendor", VENDORS)
def test_what_is_too_long_never_leaves(
    provider: Provider, gateways: dict[str, Gateway], device: Callable[[str], Device], vendor: str
) -> None:
    before = len(provider.received())
    [outcome] = gateways[vendor].send_many([outgoing(device(vendor), body="x" * 5000)])

    assert outcome.kind is Kind.PAYLOAD_REFUSED
    assert [line for line in provider.received(before) if line["vendor"] == vendor] == []


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_token_of_the_wrong_kind_is_a_dead_device(
    gateways: dict[str, Gateway], device: Callable[[str], Device], vendor: str
) -> None:
    other = {"fcm": "apns", "apns": "webpush", "webpush": "fcm"}[vendor]

    assert gateways[vendor].send_many([outgoing(device(other))])[0].kind is Kind.DEAD_DEVICE


@pytest.mark.parametrize("keys", [{}, {"p256dh": "AAAA", "auth": "AAAA"}, {"p256dh": 3, "auth": None}])
def test_a_subscription_without_keys_is_a_dead_device(
    gateways: dict[str, Gateway], device: Callable[[str], Device], keys: dict[str, object]
) -> None:
    whole = device("webpush")
    broken = Device(1, whole.token, "webpush", NOON, keys)

    assert gateways["webpush"].send_many([outgoing(broken)])[0].kind is Kind.DEAD_DEVICE


def test_a_public_key_that_is_no_point_of_the_curve_is_a_dead_device(
    gateways: dict[str, Gateway], device: Callable[[str], Device]
) -> None:
    auth = device("webpush").attributes["keys"]["auth"]
    broken = Device(1, device("webpush").token, "webpush", NOON, {"p256dh": "B" + "A" * 86, "auth": auth})

    assert gateways["webpush"].send_many([outgoing(broken)])[0].kind is Kind.DEAD_DEVICE


# --- credentials -----------------------------------------------------------------------------------------------------


def test_an_access_token_is_asked_for_once_and_again_when_it_is_refused(
    provider: Provider, gateways: dict[str, Gateway], device: Callable[[str], Device]
) -> None:
    def exchanges() -> int:
        return sum(line["vendor"] == "oauth" for line in provider.received())

    before = exchanges()
    for _ in range(3):
        gateways["fcm"].send_many([outgoing(device("fcm")), outgoing(device("fcm"))])
    assert exchanges() == before + 1

    provider.tell(expired=True)
    kinds = {outcome.kind for outcome in gateways["fcm"].send_many([outgoing(device("fcm")) for _ in range(5)])}
    assert kinds == {Kind.ACCEPTED}
    assert exchanges() == before + 2


def strangers(provider: Provider, folder: Path, vendor: str) -> dict[str, Any]:
    """Settings with a key that the provider does not know."""
    files = make_files(folder / "strangers", provider.port, datetime.now(UTC))
    name = {"fcm": "fcm_credentials", "apns": "apns_key", "webpush": "webpush_key"}[vendor]
    path = {"fcm": files.service_account, "apns": files.apns_key, "webpush": files.vapid_key}[vendor]
    return {**provider.settings(), name: path}


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_key_that_the_provider_does_not_know_is_refused_and_nothing_is_taken(
    provider: Provider, device: Callable[[str], Device], tmp_path: Path, vendor: str
) -> None:
    gateway = build_gateways(read_settings(home=tmp_path, **strangers(provider, tmp_path, vendor)))[vendor]
    outcomes = gateway.send_many([outgoing(device(vendor)), outgoing(device(vendor))])
    gateway.close()

    assert {outcome.kind for outcome in outcomes} == {Kind.CREDENTIALS_REFUSED}
    assert "key" not in str(outcomes[0].detail).lower()


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_certificate_that_does_not_verify_is_not_spoken_to(
    provider: Provider, device: Callable[[str], Device], tmp_path: Path, vendor: str
) -> None:
    other = make_files(tmp_path / "other", provider.port, datetime.now(UTC)).authority
    gateway = build_gateways(read_settings(home=tmp_path, **{**provider.settings(), "provider_ca": other}))[vendor]
    before = len(provider.received())
    [outcome] = gateway.send_many([outgoing(device(vendor))])
    gateway.close()

    assert outcome.kind is Kind.RETRY
    assert "certificate" in str(outcome.detail).lower()
    assert provider.received(before) == []


# --- a provider that misbehaves --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "kind", "delay"),
    [
        ({"status": 429, "headers": {"retry-after": "30"}}, Kind.THROTTLED, timedelta(seconds=30)),
        ({"status": 503, "headers": {"retry-after": "Fri, 01 Jan 2100 00:00:00 GMT"}}, Kind.RETRY, timedelta(days=1)),
        ({"status": 503}, Kind.RETRY, None),
        ({"status": 500, "body": "<html>oops"}, Kind.UNKNOWN, None),
    ],
    ids=["429", "503 until", "503", "500"],
)
@pytest.mark.parametrize("vendor", VENDORS)
def test_a_provider_in_trouble_is_believed(
    provider: Provider,
    gateways: dict[str, Gateway],
    device: Callable[[str], Device],
    vendor: str,
    fault: dict[str, Any],
    kind: Kind,
    delay: timedelta | None,
) -> None:
    told(provider, **fault)

    [outcome] = gateways[vendor].send_many([outgoing(device(vendor))])

    assert (outcome.kind, outcome.delay) == (kind, delay)


def test_an_answer_that_is_no_json_is_doubt_and_a_token_endpoint_that_talks_nonsense_is_not(
    provider: Provider, gateways: dict[str, Gateway], device: Callable[[str], Device]
) -> None:
    provider.tell(faults={"/token": {"status": 200, "body": "<html>", "times": 1}})
    assert gateways["fcm"].send_many([outgoing(device("fcm"))])[0].kind is Kind.RETRY

    told(provider, status=200, body="<html>hello")
    assert gateways["fcm"].send_many([outgoing(device("fcm"))])[0].kind is Kind.UNKNOWN


@pytest.mark.parametrize(
    ("wire", "kinds"),
    [
        ("drop", {Kind.UNKNOWN}),
        ("reset", {Kind.UNKNOWN}),
        ("noise", {Kind.UNKNOWN}),
        ("refuse", {Kind.RETRY, Kind.ACCEPTED}),
        ("goaway", {Kind.UNKNOWN, Kind.RETRY, Kind.ACCEPTED}),
    ],
)
def test_a_connection_that_breaks_is_doubt_unless_the_provider_says_that_it_looked_at_nothing(
    provider: Provider, device: Callable[[str], Device], tmp_path: Path, wire: str, kinds: set[Kind]
) -> None:
    gateway = rough(provider, "apns", tmp_path)["apns"]
    gateway.send_many([outgoing(device("apns"))])
    broken, after = device("apns"), device("apns")
    provider.tell(faults={broken.token: {"wire": wire, "times": 1}})
    before = len(provider.received())

    [outcome] = gateway.send_many([outgoing(broken)])
    taken = [line for line in provider.received(before) if line["token"] == broken.token]

    assert outcome.kind in kinds
    assert bool(taken) == (wire in ("drop", "reset")) or outcome.kind is Kind.ACCEPTED
    if outcome.kind is Kind.ACCEPTED:
        assert len(taken) == 1, "it was tried again by the client only because the first try was not looked at"
    assert gateway.send_many([outgoing(after)])[0].kind is Kind.ACCEPTED, "the next one finds a new connection"
    gateway.close()


def test_a_provider_that_is_too_slow_leaves_doubt(
    provider: Provider, device: Callable[[str], Device], tmp_path: Path
) -> None:
    account = read_service_account(provider.files.service_account, "X")
    options = FcmOptions(provider.origin, authority=provider.files.authority, timeout=timedelta(milliseconds=400))
    gateway = FcmGateway(account, options)
    gateway.send_many([outgoing(device("fcm"))])
    told(provider, delay=1.0)

    [outcome] = gateway.send_many([outgoing(device("fcm"))])
    gateway.close()

    assert outcome.kind is Kind.UNKNOWN


# --- as dispatch sees it ---------------------------------------------------------------------------------------------


@pytest.fixture
def sending(runtime: Runtime, provider: Provider) -> Iterator[Callable[..., Runtime]]:
    """The test's deployment with the provider's settings, some of them changed."""
    opened = []

    def make(**changes: Any) -> Runtime:
        settings = runtime.settings.model_copy(update={**provider.settings(), **changes})
        made = Runtime(settings, runtime.database, runtime.redis_url, runtime.broker_url, runtime.caps_url)
        opened.append(made)
        return made

    yield make
    for made in opened:
        for gateway in made.gateways.values():
            gateway.close()


def test_a_user_is_reached_by_whatever_their_devices_are_registered_for(
    shop: DeliveryShop, sending: Callable[..., Runtime], provider: Provider
) -> None:
    made = provider.subscribe()
    shop.campaign(gateway="push", devices="all")
    shop.device("ada", fcm_token("ada"), "fcm")
    shop.device("ada", apns_token(77), "apns")
    shop.device("bob", made.endpoint, "webpush", attributes={"p256dh": made.p256dh, "auth": made.auth})
    shop.pushes(["ada", "bob", "nobody"])
    before = len(provider.received())

    assert dispatch_due(sending(), NOON) == {"accepted": 2, "suppressed.no_device": 1}

    tokens = {fcm_token("ada"), apns_token(77), made.endpoint.removeprefix(provider.origin)}
    got = [line["vendor"] for line in provider.received(before) if line.get("token") in tokens]
    assert sorted(got) == ["apns", "fcm", "webpush"]


def test_wrong_credentials_stop_that_channel_only_and_its_pushes_wait(
    shop: DeliveryShop, sending: Callable[..., Runtime], provider: Provider, tmp_path: Path
) -> None:
    strange = tmp_path / "strange.p8"
    strange.write_bytes(pem_of(ec.generate_private_key(ec.SECP256R1())))
    runtime = sending(apns_key=strange)
    shop.campaign(gateway="push")
    for name, token, gateway in (("ada", apns_token(1), "apns"), ("bob", fcm_token("bob"), "fcm")):
        shop.device(name, token, gateway)
    shop.pushes(["ada", "bob"])

    assert dispatch_due(runtime, NOON) == {"accepted": 1, "channel_stopped": 1, "credentials_refused": 1}
    shop.sql("UPDATE pushes SET not_before = NULL")
    assert dispatch_due(runtime, NOON) == {"back.stopped": 1}
    [row] = shop.hot()
    assert (row["state"], row["attempts"]) == ("planned", 0)

    shop.sql("DELETE FROM switches")
    shop.sql("UPDATE pushes SET not_before = NULL")
    assert dispatch_due(sending(), NOON) == {"accepted": 1}


def test_a_dead_newest_device_gives_way_to_the_next_and_is_buried_with_its_reason(
    shop: DeliveryShop, sending: Callable[..., Runtime], provider: Provider
) -> None:
    shop.campaign(gateway="fcm")
    old, new = fcm_token("old"), fcm_token("new")
    shop.device("ada", old, "fcm", seen_at=NOON - timedelta(days=3))
    shop.device("ada", new, "fcm")
    shop.push("ada")
    provider.tell(gone={new: 0})

    assert dispatch_due(sending(), NOON) == {"accepted": 1, "dead_device": 1}

    with shop.database.begin() as connection:
        rows = connection.exec_driver_sql("SELECT token, dead_at, dead_reason FROM devices ORDER BY seen_at").all()
    assert [(row.token, row.dead_at) for row in rows] == [(old, None), (new, NOON)]
    assert "UNREGISTERED" in rows[1].dead_reason


def test_a_gateway_that_is_configured_wrongly_keeps_its_rows_and_lets_the_others_send(
    shop: DeliveryShop, sending: Callable[..., Runtime], tmp_path: Path
) -> None:
    not_elliptic = tmp_path / "rsa.p8"
    not_elliptic.write_bytes(pem_of(rsa.generate_private_key(65537, 2048)))
    shop.campaign("a", gateway="apns")
    shop.campaign("f", gateway="fcm")
    shop.device("ada", apns_token(5), "apns")
    shop.device("ada", fcm_token("ada5"), "fcm")
    shop.push("ada", "a")
    shop.push("ada", "f")

    assert dispatch_due(sending(apns_key=not_elliptic), NOON) == {"accepted": 1}
    assert [(row["gateway"], row["state"]) for row in shop.hot()] == [("apns", "planned")]


def test_status_says_what_keeps_pushes_waiting(
    shop: DeliveryShop, sending: Callable[..., Runtime], provider: Provider, tmp_path: Path
) -> None:
    strange = tmp_path / "strange.p8"
    strange.write_bytes(pem_of(ec.generate_private_key(ec.SECP256R1())))
    runtime = sending(apns_key=strange, webpush_subject="me@localhost", fcm_credentials=None)
    shop.campaign("a", gateway="apns")
    shop.campaign("f", gateway="fcm")
    shop.device("ada", apns_token(9), "apns")
    shop.push("ada", "a")
    shop.push("ada", "f")
    dispatch_due(runtime, NOON)

    alarms = "\n".join(gather(runtime.settings).alarms)

    assert "gateway webpush is configured wrongly: HORAE_WEBPUSH_SUBJECT" in alarms
    assert "gateway apns was stopped: credentials_refused: HTTP 403 InvalidProviderToken" in alarms
    assert "1 due pushes wait for the gateway fcm, which is not configured here" in alarms
