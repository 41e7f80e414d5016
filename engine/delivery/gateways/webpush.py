"""Web Push: RFC 8030 (protocol), RFC 8291 and 8188 (encryption), RFC 8292 (VAPID).

A device's token is the subscription's endpoint, a URL that the browser was given by its push service; its attributes
hold the keys `p256dh` and `auth` (at the top, or below `keys` as in the browser's own JSON). Endpoints come from
outside, so that only hosts in HORAE_WEBPUSH_HOSTS are spoken to.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from base64 import urlsafe_b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from threading import Lock
from urllib.parse import SplitResult, urlsplit

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from engine import clock
from engine.config import Settings
from engine.delivery.gateways import Device, Kind, Outcome, Outgoing
from engine.delivery.gateways.answers import DETAIL, no_answer, refused_for_now
from engine.delivery.gateways.credentials import read_p256_key
from engine.delivery.gateways.exchange import Answer, Request, Result
from engine.delivery.gateways.jose import encode_base64url, sign_token
from engine.delivery.gateways.transport import Transport, Wire
from engine.errors import BadInput

MOST_BYTES = 4096
"""What every push service takes (RFC 8030, section 7.2): the encrypted body."""

OVERHEAD = 16 + 4 + 1 + 65 + 1 + 16
"""Salt, record size, length of the key id, key id; the delimiter of the last record, the tag (RFC 8188, 8291)."""

LONGEST_TOPIC = 32
TOKEN_LIFE = timedelta(hours=12)
"""VAPID tokens may live for 24 hours; they are renewed every 12 and end after 24."""

TIMEOUT = timedelta(seconds=15)

_TOPIC = re.compile(r"[A-Za-z0-9_-]{1,32}")
_NOBODY = re.compile(r"(localhost|.*\.(local|localhost|example|invalid|test))", re.IGNORECASE)
_MISMATCH = ("mismatch", "do not correspond")
"""How push services say that a subscription was made for another key: Apple (VapidPkHashMismatch), Mozilla; Google."""


@dataclass(frozen=True)
class Vapid:
    """Who sends (RFC 8292)."""

    subject: str
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def public(self) -> str:
        """What browsers subscribe with: `applicationServerKey`."""
        return encode_base64url(_point(self.key.public_key()))


class WebPushGateway:
    """Sends to browsers, through whatever push service each has chosen."""

    name = "webpush"
    needs_device = True

    def __init__(
        self, vapid: Vapid, hosts: Sequence[str], *, authority: Path | None = None, timeout: timedelta = TIMEOUT
    ) -> None:
        self.timeout = timeout
        self._vapid = vapid
        self._hosts = tuple(hosts)
        self._wire = Wire(timeout, concurrency=400, http2=True, authority=authority)
        self._transport = Transport(self._wire)
        self._lock = Lock()
        self._tokens: dict[str, tuple[int, str]] = {}

    def send_many(self, messages: Sequence[Outgoing], start_by: float = math.inf) -> list[Outcome]:
        """Encrypt and send each message to its subscription; see Gateway.send_many."""
        now = clock.machine_now()
        outcomes: list[Outcome | None] = [None] * len(messages)
        requests, places = [], []
        for place, message in enumerate(messages):
            try:
                requests.append(self._request(message, now))
                places.append(place)
            except _Refused as refused:
                outcomes[place] = refused.outcome
        for place, result in zip(places, self._transport.post_many(requests, start_by), strict=True):
            outcomes[place] = classify(result, now)
        return [outcome for outcome in outcomes if outcome is not None]

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()
        self._transport = Transport(self._wire)

    def _request(self, message: Outgoing, now: datetime) -> Request:
        if message.device is None:
            raise ValueError("Web Push sends to subscriptions")
        origin = origin_of(message.device.token, self._hosts)
        if origin is None:
            raise _Refused(Kind.DEAD_DEVICE, "the endpoint is no https URL of a host in HORAE_WEBPUSH_HOSTS")
        content = payload_of(message)
        if len(content) + OVERHEAD > MOST_BYTES:
            raise _Refused(Kind.PAYLOAD_REFUSED, f"the payload is longer than {MOST_BYTES - OVERHEAD} bytes")
        try:
            body = encrypt(content, *keys_of(message.device))
        except ValueError as error:
            raise _Refused(Kind.DEAD_DEVICE, f"the subscription's keys are wrong: {error}") from error
        headers = {
            "authorization": self._authorization(origin, now),
            "content-encoding": "aes128gcm",
            "content-type": "application/octet-stream",
            **headers_of(message),
        }
        return Request(message.device.token, headers, body)

    def _authorization(self, origin: str, now: datetime) -> str:
        life = int(TOKEN_LIFE.total_seconds())
        begun = int(now.timestamp()) // life * life
        with self._lock:
            known = self._tokens.get(origin)
            if known is None or known[0] != begun:
                claims = {"aud": origin, "exp": begun + 2 * life - 60, "sub": self._vapid.subject}
                known = (begun, f"vapid t={sign_token(self._vapid.key, claims)}, k={self._vapid.public}")
                self._tokens[origin] = known
            return known[1]


class _Refused(Exception):
    """A message that cannot be sent."""

    def __init__(self, kind: Kind, detail: str) -> None:
        super().__init__(detail)
        self.outcome = Outcome(kind, detail=detail)


def build(settings: Settings) -> WebPushGateway | None:
    """The Web Push gateway, or None where HORAE_WEBPUSH_KEY is not set. Raises BadInput for what is wrong."""
    if settings.webpush_key is None:
        return None
    subject = settings.webpush_subject
    if not subject:
        raise BadInput("HORAE_WEBPUSH_KEY is set but HORAE_WEBPUSH_SUBJECT is not", hint="mailto:… or https://…")
    address = subject.removeprefix("mailto:").rpartition("@")[2] if subject.startswith("mailto:") else None
    host = address or (urlsplit(subject).hostname if subject.startswith("https://") else None)
    if not host or _NOBODY.fullmatch(host):
        raise BadInput(
            f"HORAE_WEBPUSH_SUBJECT is no address that a push service could write to: {subject}",
            hint="mailto:you@your-shop.com or https://your-shop.com; Apple refuses localhost",
        )
    hosts = [host.strip().lower() for host in settings.webpush_hosts.split(",") if host.strip()]
    vapid = Vapid(subject, read_p256_key(settings.webpush_key, "HORAE_WEBPUSH_KEY"))
    return WebPushGateway(vapid, hosts, authority=settings.provider_ca)


def origin_of(endpoint: str, hosts: Sequence[str]) -> str | None:
    """The origin of a subscription's endpoint (the audience of its token), or None where we do not speak to it.

    `hosts` are names (with a port where it is not 443), or begin with a dot and stand for all below a domain.
    """
    try:
        parts: SplitResult = urlsplit(endpoint)
        port = parts.port
    except ValueError:
        return None
    name = (parts.hostname or "").lower()
    place = name if port in (None, 443) else f"{name}:{port}"
    allowed = any(place.endswith(host) if host.startswith(".") else place == host for host in hosts)
    return f"https://{place}" if parts.scheme == "https" and allowed and "@" not in parts.netloc else None


def keys_of(device: Device) -> tuple[bytes, bytes]:
    """The subscription's public key (65 bytes) and authentication secret (16). Raises ValueError."""
    given = device.attributes.get("keys")
    held: Mapping[str, object] = given if isinstance(given, Mapping) else device.attributes
    public, secret = (_decoded(held.get(name), name) for name in ("p256dh", "auth"))
    if len(public) != 65 or len(secret) != 16:
        raise ValueError(f"p256dh has {len(public)} bytes and auth {len(secret)}, not 65 and 16")
    return public, secret


def headers_of(message: Outgoing) -> dict[str, str]:
    """RFC 8030's headers of a message."""
    topic = message.collapse_id
    if not _TOPIC.fullmatch(topic):
        topic = encode_base64url(hashlib.sha256(topic.encode()).digest()[:24])
    return {
        "ttl": str(max(int(message.ttl.total_seconds()), 0)),
        "topic": topic,
        "urgency": "high" if message.urgent else "normal",
    }


def payload_of(message: Outgoing) -> bytes:
    """What the service worker gets: JSON."""
    content = {
        "push_id": str(message.push_id),
        "callback_token": message.callback_token,
        "title": message.title,
        "body": message.body,
        "data": {key: str(value) for key, value in message.data.items()},
    }
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def encrypt(
    content: bytes,
    public: bytes,
    secret: bytes,
    own: ec.EllipticCurvePrivateKey | None = None,
    salt: bytes | None = None,
) -> bytes:
    """`content` as one record of aes128gcm for the subscription with this public key (65 bytes) and secret (16).

    RFC 8291, section 3.4. `own` and `salt` are made anew for each message. Raises ValueError for a public key that is
    no point of P-256.
    """
    own, salt = own or ec.generate_private_key(ec.SECP256R1()), salt or os.urandom(16)
    theirs = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public)
    sender = _point(own.public_key())
    shared = own.exchange(ec.ECDH(), theirs)
    material = _derive(secret, shared, b"WebPush: info\x00" + public + sender, 32)
    key = _derive(salt, material, b"Content-Encoding: aes128gcm\x00", 16)
    nonce = _derive(salt, material, b"Content-Encoding: nonce\x00", 12)
    header = salt + MOST_BYTES.to_bytes(4) + bytes([len(sender)]) + sender
    return header + AESGCM(key).encrypt(nonce, content + b"\x02", None)


def classify(result: Result, now: datetime) -> Outcome:
    """What a push service's answer means. `now` is machine time, for a Retry-After that is a date."""
    if not isinstance(result, Answer):
        return no_answer(result)
    if result.status in (200, 201, 202):
        return Outcome(Kind.ACCEPTED, provider_id=result.named)
    detail = f"HTTP {result.status} {result.body[:DETAIL]}".strip()
    if result.status in (429, 503):
        return refused_for_now(result, now, detail)
    return Outcome(_refusal(result.status, result.body), detail=detail)


def _refusal(status: int, said: str) -> Kind:
    if status in (404, 410):
        return Kind.DEAD_DEVICE
    if status in (401, 403):  # refused us, or only this subscription, which was made for another key
        return Kind.DEAD_DEVICE if any(words in said.lower() for words in _MISMATCH) else Kind.CREDENTIALS_REFUSED
    if 400 <= status < 500:
        return Kind.PAYLOAD_REFUSED
    return Kind.UNKNOWN


def _derive(salt: bytes, material: bytes, info: bytes, length: int) -> bytes:
    return HKDF(SHA256(), length, salt, info).derive(material)


def _point(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def _decoded(value: object, name: str) -> bytes:
    if not isinstance(value, str):
        raise ValueError(f"{name} is missing")  # noqa: TRY004 - of a device, not of an argument
    return urlsafe_b64decode(value.rstrip("=") + "=" * (-len(value.rstrip("=")) % 4))
