"""What FCM, APNs and Web Push answer means, what they are sent, and which credentials are refused at start: tables."""

from __future__ import annotations

import json
import sys
import uuid
from base64 import urlsafe_b64decode
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from engine.bench.provider.authority import make_files, pem_of
from engine.campaigns.template import PAYLOAD_BYTES, Message, payload_size
from engine.config import read_settings
from engine.delivery import gateways
from engine.delivery.callback_token import TOKEN_LENGTH, CallbackKey
from engine.delivery.gateways import Device, Kind, Outgoing, apns, build_gateways, fcm, try_gateways, webpush
from engine.delivery.gateways.credentials import read_service_account
from engine.delivery.gateways.exchange import Answer, NotSent, Uncertain
from engine.delivery.gateways.jose import sign_token
from engine.delivery.sending import Pace
from engine.errors import BadInput
from tests.delivery_store import Pigeon

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
TOKEN = CallbackKey(1, b"k" * 32).sign(uuid.UUID(int=7), NOW)


def outgoing(**changes: Any) -> Outgoing:
    usual: dict[str, Any] = {
        "push_id": uuid.UUID(int=7),
        "occurrence_id": 7,
        "campaign": "bread",
        "user_id": "u1",
        "item_id": "i1",
        "title": "Bäckerei",
        "body": "Frisch, 2 €",
        "data": {"link": "shop://i1"},
        "collapse_id": uuid.UUID(int=7).hex,
        "at": NOW,
        "ttl": timedelta(hours=1),
        "device": Device(1, "token", "fcm", NOW),
        "callback_token": TOKEN,
    }
    return Outgoing(**{**usual, **changes})


def fcm_error(status: str, code: str | None = None, message: str = "") -> str:
    details = [{"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code}] if code else []
    return json.dumps({"error": {"status": status, "message": message, "details": details}})


# --- FCM -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, '{"name": "projects/p/messages/1"}', Kind.ACCEPTED),
        (200, "<html>", Kind.UNKNOWN),
        (200, "[]", Kind.UNKNOWN),
        (400, fcm_error("INVALID_ARGUMENT", "INVALID_ARGUMENT", "Android message is too big"), Kind.PAYLOAD_REFUSED),
        (400, fcm_error("INVALID_ARGUMENT", None, "Invalid value at 'message.data[0].value'"), Kind.PAYLOAD_REFUSED),
        (
            400,
            fcm_error("INVALID_ARGUMENT", "INVALID_ARGUMENT", "The registration token is not a valid FCM one"),
            Kind.DEAD_DEVICE,
        ),
        (401, fcm_error("UNAUTHENTICATED"), Kind.CREDENTIALS_REFUSED),
        (401, fcm_error("UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR"), Kind.CREDENTIALS_REFUSED),
        (403, fcm_error("PERMISSION_DENIED"), Kind.CREDENTIALS_REFUSED),
        (403, fcm_error("PERMISSION_DENIED", "SENDER_ID_MISMATCH"), Kind.DEAD_DEVICE),
        (404, fcm_error("NOT_FOUND", "UNREGISTERED"), Kind.DEAD_DEVICE),
        (404, fcm_error("NOT_FOUND"), Kind.CREDENTIALS_REFUSED),
        (404, "no such page", Kind.CREDENTIALS_REFUSED),
        (413, "", Kind.PAYLOAD_REFUSED),
        (429, fcm_error("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"), Kind.THROTTLED),
        (500, fcm_error("INTERNAL", "INTERNAL"), Kind.UNKNOWN),
        (502, "bad gateway", Kind.UNKNOWN),
        (503, fcm_error("UNAVAILABLE", "UNAVAILABLE"), Kind.RETRY),
        (302, "", Kind.UNKNOWN),
        (418, '{"error": 3}', Kind.PAYLOAD_REFUSED),
    ],
)
def test_an_answer_of_fcm_has_one_meaning(status: int, body: str, kind: Kind) -> None:
    assert fcm.classify(Answer(status, None, body), NOW).kind is kind


def test_a_message_to_fcm_carries_what_each_platform_reads() -> None:
    sent = json.loads(fcm.body_of(outgoing(ttl=timedelta(days=90)), NOW, validate_only=True) or b"")
    message = sent["message"]

    assert sent["validate_only"] is True
    assert message["notification"] == {"title": "Bäckerei", "body": "Frisch, 2 €"}
    assert message["data"] == {
        "push_id": str(uuid.UUID(int=7)),
        "callback_token": TOKEN,
        "link": "shop://i1",
    }
    assert message["android"] == {
        "ttl": "2419200s",
        "priority": "HIGH",
        "collapse_key": uuid.UUID(int=7).hex,
        "notification": {"tag": uuid.UUID(int=7).hex},
    }
    expires = int((NOW + timedelta(days=90)).timestamp())
    assert message["apns"]["headers"]["apns-expiration"] == str(expires)
    assert message["webpush"]["headers"]["TTL"] == "2419200"
    assert "validate_only" not in json.loads(fcm.body_of(outgoing(), NOW) or b"")


# --- APNs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (200, None, Kind.ACCEPTED),
        (400, "BadDeviceToken", Kind.DEAD_DEVICE),
        (400, "DeviceTokenNotForTopic", Kind.DEAD_DEVICE),
        (400, "BadCollapseId", Kind.PAYLOAD_REFUSED),
        (400, "PayloadEmpty", Kind.PAYLOAD_REFUSED),
        (400, "InvalidPushType", Kind.PAYLOAD_REFUSED),
        (400, "BadTopic", Kind.CREDENTIALS_REFUSED),
        (400, "TopicDisallowed", Kind.CREDENTIALS_REFUSED),
        (400, "MissingTopic", Kind.CREDENTIALS_REFUSED),
        (400, "IdleTimeout", Kind.RETRY),
        (403, "ExpiredProviderToken", Kind.CREDENTIALS_REFUSED),
        (403, "InvalidProviderToken", Kind.CREDENTIALS_REFUSED),
        (403, "BadEnvironmentKeyIdInToken", Kind.CREDENTIALS_REFUSED),
        (404, "BadPath", Kind.PAYLOAD_REFUSED),
        (405, "MethodNotAllowed", Kind.PAYLOAD_REFUSED),
        (410, "Unregistered", Kind.DEAD_DEVICE),
        (410, "ExpiredToken", Kind.DEAD_DEVICE),
        (413, "PayloadTooLarge", Kind.PAYLOAD_REFUSED),
        (429, "TooManyRequests", Kind.THROTTLED),
        (429, "TooManyProviderTokenUpdates", Kind.THROTTLED),
        (500, "InternalServerError", Kind.UNKNOWN),
        (503, "ServiceUnavailable", Kind.RETRY),
        (503, "Shutdown", Kind.RETRY),
    ],
)
def test_an_answer_of_apns_has_one_meaning(status: int, reason: str | None, kind: Kind) -> None:
    body = json.dumps({"reason": reason}) if reason else ""

    assert apns.classify(Answer(status, None, body), NOW).kind is kind


@pytest.mark.parametrize(
    ("seen", "timestamp", "kind"),
    [
        (NOW, int((NOW - timedelta(hours=1)).timestamp() * 1000), Kind.RETRY),
        (NOW, int((NOW + timedelta(hours=1)).timestamp() * 1000), Kind.DEAD_DEVICE),
        (NOW, None, Kind.DEAD_DEVICE),
        (NOW, "soon", Kind.DEAD_DEVICE),
        (NOW, 10**30, Kind.DEAD_DEVICE),
        (None, 0, Kind.DEAD_DEVICE),
    ],
)
def test_a_device_that_registered_after_apns_lost_it_lives(
    seen: datetime | None, timestamp: object, kind: Kind
) -> None:
    answer = Answer(410, None, json.dumps({"reason": "Unregistered", "timestamp": timestamp}))

    outcome = apns.classify(answer, NOW, Device(1, "00" * 32, "apns", seen))

    assert outcome.kind is kind


def test_apns_expiry_is_an_instant_and_the_collapse_id_fits() -> None:
    headers = apns.headers_of(outgoing(collapse_id="é" * 40), NOW)

    assert headers["apns-expiration"] == str(int((NOW + timedelta(hours=1)).timestamp()))
    assert len(headers["apns-collapse-id"].encode()) == 64
    assert json.loads(apns.payload_of(outgoing(data={"aps": "no", "push_id": "no"})) or b"") == {
        "aps": {"alert": {"title": "Bäckerei", "body": "Frisch, 2 €"}},
        "push_id": str(uuid.UUID(int=7)),
        "callback_token": TOKEN,
    }


def test_every_process_makes_the_same_provider_token_and_a_new_one_after_40_minutes() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    begun = datetime.fromtimestamp(apns.token_issued_at(NOW), UTC)
    tokens = [
        sign_token(key, {"iss": "TEAM", "iat": apns.token_issued_at(begun + timedelta(minutes=m))}, kid="KEY")
        for m in (0, 20, 39, 40)
    ]

    assert tokens[0] == tokens[1] == tokens[2] != tokens[3]
    claims = jwt.decode(tokens[3], key.public_key(), algorithms=["ES256"], options={"verify_iat": False})
    assert claims == {"iss": "TEAM", "iat": int(begun.timestamp()) + 2400}
    assert jwt.get_unverified_header(tokens[0]) == {"alg": "ES256", "typ": "JWT", "kid": "KEY"}


# --- Web Push --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, "", Kind.ACCEPTED),
        (201, "", Kind.ACCEPTED),
        (202, "", Kind.ACCEPTED),
        (400, "bad ttl", Kind.PAYLOAD_REFUSED),
        (401, '{"errno": 109}', Kind.CREDENTIALS_REFUSED),
        (403, '{"reason":"BadJwtToken"}', Kind.CREDENTIALS_REFUSED),
        (403, '{"reason":"VapidPkHashMismatch"}', Kind.DEAD_DEVICE),
        (403, "the VAPID credentials do not correspond to those used to create the subscription", Kind.DEAD_DEVICE),
        (404, "", Kind.DEAD_DEVICE),
        (410, "", Kind.DEAD_DEVICE),
        (413, "", Kind.PAYLOAD_REFUSED),
        (429, "", Kind.THROTTLED),
        (500, "", Kind.UNKNOWN),
        (503, "", Kind.RETRY),
        (307, "", Kind.UNKNOWN),
    ],
)
def test_an_answer_of_a_push_service_has_one_meaning(status: int, body: str, kind: Kind) -> None:
    assert webpush.classify(Answer(status, None, body), NOW).kind is kind


def raw(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def test_the_encryption_is_that_of_rfc_8291s_example() -> None:
    own = ec.derive_private_key(int.from_bytes(raw("yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw")), ec.SECP256R1())
    body = webpush.encrypt(
        b"When I grow up, I want to be a watermelon",
        raw("BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"),
        raw("BTBZMqHH6r4Tts7J_aSIgg"),
        own,
        raw("DGv6ra1nlYgDCS1FRnbzlw"),
    )

    assert body == raw(
        "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_"
        "yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
    )


@pytest.mark.parametrize(
    ("endpoint", "origin"),
    [
        ("https://fcm.googleapis.com/fcm/send/abc", "https://fcm.googleapis.com"),
        ("https://updates.push.services.mozilla.com/wpush/v2/abc", "https://updates.push.services.mozilla.com"),
        ("https://web.push.apple.com:443/abc", "https://web.push.apple.com"),
        ("https://fcm.googleapis.com:8443/x", None),
        ("http://fcm.googleapis.com/x", None),
        ("https://evil.example/x", None),
        ("https://push.apple.com.evil.example/x", None),
        ("https://user@web.push.apple.com/x", None),
        ("https://169.254.169.254/latest", None),
        ("https://[::1/x", None),
        ("https://web.push.apple.com:port/x", None),
        ("nonsense", None),
    ],
)
def test_only_known_push_services_are_spoken_to(endpoint: str, origin: str | None) -> None:
    hosts = read_settings().webpush_hosts.split(",")

    assert webpush.origin_of(endpoint, hosts) == origin


@pytest.mark.parametrize("collapse", [uuid.UUID(int=7).hex, "too long " * 9, "ünïcode"])
def test_a_topic_is_at_most_32_characters_of_base64url(collapse: str) -> None:
    headers = webpush.headers_of(outgoing(collapse_id=collapse, urgent=True, ttl=timedelta(seconds=-3)))

    assert 0 < len(headers["topic"]) <= 32
    assert headers["topic"].replace("-", "").replace("_", "").isascii()
    assert (headers["ttl"], headers["urgency"]) == ("0", "high")


# --- all -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vendor", [fcm, apns, webpush])
def test_what_never_left_is_tried_again_and_what_may_have_arrived_is_unknown(vendor: Any) -> None:
    assert vendor.classify(NotSent("refused"), NOW).kind is Kind.RETRY
    assert vendor.classify(Uncertain("timed out"), NOW).kind is Kind.UNKNOWN
    assert vendor.classify(Answer(429, "120", ""), NOW).delay == timedelta(minutes=2)
    assert vendor.classify(Answer(503, "Mon, 02 Mar 2026 12:00:30 GMT", ""), NOW).delay == timedelta(seconds=30)


def test_the_longest_message_that_templates_let_through_fits_every_provider() -> None:
    title, link = 'Ti"tle', "shop://" + "x" * 50
    body = "x" * (PAYLOAD_BYTES - payload_size(Message(title, "x" * 3000, {"link": link})) + 3000)
    assert payload_size(Message(title, body, {"link": link})) == PAYLOAD_BYTES
    message = outgoing(title=title, body=body, data={"link": link})

    assert len(message.callback_token) == TOKEN_LENGTH
    assert fcm.body_of(message, NOW) is not None
    assert apns.payload_of(message) is not None
    assert len(webpush.payload_of(message)) + webpush.OVERHEAD <= webpush.MOST_BYTES


def test_every_gateway_is_built_from_its_files_and_the_channel_of_all_with_them(tmp_path: Path) -> None:
    files = make_files(tmp_path, 443, datetime.now(UTC))
    settings = read_settings(
        home=tmp_path,
        fcm_credentials=files.service_account,
        apns_key=files.apns_key,
        apns_key_id="KEY1234567",
        apns_team_id="ABCDE12345",
        apns_topic="a.b",
        webpush_key=files.vapid_key,
        webpush_subject="mailto:push@shop.com",
    )

    assert sorted(build_gateways(settings)) == ["apns", "fcm", "log", "push", "webpush"]


def _write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


RSA = pem_of(rsa.generate_private_key(65537, 2048))
P384 = ec.generate_private_key(ec.SECP384R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
ED25519 = ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
ACCOUNT = {
    "type": "service_account",
    "project_id": "p",
    "client_email": "a@b",
    "private_key_id": "k",
    "token_uri": "https://x/t",
}


@pytest.mark.parametrize(
    ("setting", "content", "more", "says"),
    [
        ("fcm_credentials", None, {}, "HORAE_FCM_CREDENTIALS: .*cannot be read"),
        ("fcm_credentials", "{", {}, "is not JSON"),
        ("fcm_credentials", "[]", {}, "no key of a service account"),
        ("fcm_credentials", json.dumps({"type": "authorized_user"}), {}, "no key of a service account"),
        ("fcm_credentials", json.dumps({"type": "service_account"}), {}, "lacks project_id"),
        ("fcm_credentials", json.dumps({**ACCOUNT, "token_uri": "http://x"}), {}, "must be https"),
        ("fcm_credentials", json.dumps({**ACCOUNT, "private_key": "no"}), {}, "no unencrypted PEM"),
        ("fcm_credentials", json.dumps({**ACCOUNT, "private_key": P384.decode()}), {}, "no RSA key"),
        ("apns_key", RSA, {"apns_key_id": "K" * 10, "apns_team_id": "T" * 10, "apns_topic": "a"}, "P-256"),
        ("apns_key", P384, {}, "HORAE_APNS_KEY_ID is not"),
        ("apns_key", P384, {"apns_key_id": "short", "apns_team_id": "T" * 10, "apns_topic": "a"}, "10 capital"),
        ("apns_key", P384, {"apns_key_id": "K" * 10, "apns_team_id": "T" * 10}, "HORAE_APNS_TOPIC is not"),
        ("webpush_key", ED25519, {}, "HORAE_WEBPUSH_SUBJECT is not"),
        ("webpush_key", ED25519, {"webpush_subject": "mailto:me@localhost"}, "could write to"),
        ("webpush_key", ED25519, {"webpush_subject": "https://shop.local/x"}, "could write to"),
        ("webpush_key", ED25519, {"webpush_subject": "me@shop.com"}, "could write to"),
        ("webpush_key", ED25519, {"webpush_subject": "mailto:me@shop.com"}, "P-256"),
    ],
)
def test_a_wrong_credential_is_named_and_does_not_stop_the_other_gateways(
    tmp_path: Path, setting: str, content: str | bytes | None, more: dict[str, str], says: str
) -> None:
    path = tmp_path / "file" if content is None else _write(tmp_path / "file", content)
    settings = read_settings(home=tmp_path, **{setting: path}, **more)

    with pytest.raises(BadInput, match=says):
        build_gateways(settings)
    assert "log" in try_gateways(settings).gateways


def test_a_file_that_holds_no_certificate_is_named(tmp_path: Path) -> None:
    files = make_files(tmp_path, 443, datetime.now(UTC))

    with pytest.raises(BadInput, match="holds no PEM certificate"):
        build_gateways(
            read_settings(home=tmp_path, fcm_credentials=files.service_account, provider_ca=files.service_account)
        )


def test_keys_and_tokens_are_not_shown_where_objects_are_printed(tmp_path: Path) -> None:
    files = make_files(tmp_path, 443, datetime.now(UTC))
    account = read_service_account(files.service_account, "X")
    device = Device(1, "a-secret-token", "fcm", NOW)

    assert "key=" not in repr(account).replace("key_id=", "")
    assert "a-secret-token" not in repr(device)


def test_a_gateway_whose_requests_might_outlast_an_attempt_is_refused_at_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Sloth(Pigeon):
        name = "sloth"
        timeout = Pace().deadline

    module = ModuleType("sloth")
    monkeypatch.setattr(module, "build", lambda settings: Sloth(), raising=False)
    monkeypatch.setitem(sys.modules, "sloth", module)
    monkeypatch.setitem(gateways._MODULES, "sloth", "sloth")

    built = try_gateways(read_settings(home=tmp_path))

    assert "gives a request 30 s, and an attempt is over after 30 s" in str(built.problems["sloth"])
    assert set(built.gateways) == {"log"}
    assert Pace().deadline <= Pace().lease
