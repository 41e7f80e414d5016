"""Apple Push Notification service, by provider token (a .p8 key).

The provider token must be 20 to 60 minutes old at most: APNs punishes newer ones that come more often than every 20
minutes, and refuses older ones. All processes use the same: it is issued "at" a multiple of 40 minutes and signed
deterministically, so that each computes the same bytes without asking anybody.
Sources: developer.apple.com/documentation/usernotifications, "Sending notification requests to APNs", "Handling
notification responses from APNs", "Establishing a token-based connection to APNs".
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Lock
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from engine import clock
from engine.config import Settings
from engine.delivery.gateways import Device, Kind, Outcome, Outgoing
from engine.delivery.gateways.answers import DETAIL, no_answer, parse_object, refused_for_now
from engine.delivery.gateways.credentials import read_p256_key
from engine.delivery.gateways.exchange import Answer, Request, Result
from engine.delivery.gateways.jose import sign_token
from engine.delivery.gateways.transport import Transport, Wire
from engine.errors import BadInput

MOST_BYTES = 4096
LONGEST_COLLAPSE_ID = 64
TOKEN_LIFE = timedelta(minutes=40)
TIMEOUT = timedelta(seconds=15)

_TOKEN = re.compile(r"(?:[0-9a-fA-F]{2}){32,100}")
_IDENTIFIER = re.compile(r"[A-Z0-9]{10}")

# Reasons that are about the token, and those that are about us; what is in neither is about the message.
_DEVICE = frozenset({"BadDeviceToken", "DeviceTokenNotForTopic", "MissingDeviceToken", "Unregistered", "ExpiredToken"})
_US = frozenset({"BadTopic", "MissingTopic", "TopicDisallowed", "BadCertificate", "BadCertificateEnvironment"})


@dataclass(frozen=True)
class ApnsAccount:
    """Who sends: the team's key, and the app it sends to."""

    team_id: str
    key_id: str
    topic: str
    key: ec.EllipticCurvePrivateKey = field(repr=False)


class ApnsGateway:
    """Sends alerts to the devices of one app."""

    name = "apns"
    needs_device = True

    def __init__(
        self, account: ApnsAccount, url: str, *, authority: Path | None = None, timeout: timedelta = TIMEOUT
    ) -> None:
        self.timeout = timeout
        self._account = account
        self._url = url.rstrip("/")
        self._wire = Wire(timeout, concurrency=800, http2=True, connections=2, authority=authority)
        self._transport = Transport(self._wire)
        self._lock = Lock()
        self._token: tuple[int, str] = (0, "")

    def send_many(self, messages: Sequence[Outgoing], start_by: float = math.inf) -> list[Outcome]:
        """Send each message to its device; see Gateway.send_many."""
        now = clock.machine_now()
        outcomes: list[Outcome | None] = []
        requests, places = [], []
        for message in messages:
            refusal, body = _refused_here(message), payload_of(message)
            if refusal is None and body is None:
                refusal = Outcome(Kind.PAYLOAD_REFUSED, detail=f"the payload is longer than {MOST_BYTES} bytes")
            outcomes.append(refusal)
            if refusal is None:
                places.append(len(outcomes) - 1)
                requests.append(self._request(message, body or b"", now))
        for place, result in zip(places, self._transport.post_many(requests, start_by), strict=True):
            outcomes[place] = classify(result, now, messages[place].device)
        return [outcome for outcome in outcomes if outcome is not None]

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()
        self._transport = Transport(self._wire)

    def _request(self, message: Outgoing, body: bytes, now: datetime) -> Request:
        headers = {"authorization": f"bearer {self._provider_token(now)}", **headers_of(message, now)}
        headers["apns-topic"] = self._account.topic
        token = message.device.token if message.device else ""
        return Request(f"{self._url}/3/device/{token}", headers, body)

    def _provider_token(self, now: datetime) -> str:
        issued = token_issued_at(now)
        with self._lock:
            if self._token[0] != issued:
                claims = {"iss": self._account.team_id, "iat": issued}
                self._token = (issued, sign_token(self._account.key, claims, kid=self._account.key_id))
            return self._token[1]


def build(settings: Settings) -> ApnsGateway | None:
    """The APNs gateway, or None where HORAE_APNS_KEY is not set. Raises BadInput for what is missing or wrong."""
    if settings.apns_key is None:
        return None
    needed = {"key_id": settings.apns_key_id, "team_id": settings.apns_team_id, "topic": settings.apns_topic}
    for name, value in needed.items():
        if not value:
            raise BadInput(f"HORAE_APNS_KEY is set but HORAE_APNS_{name.upper()} is not")
        if name != "topic" and not _IDENTIFIER.fullmatch(value):
            raise BadInput(f"HORAE_APNS_{name.upper()} is not 10 capital letters and digits: {value}")
    key = read_p256_key(settings.apns_key, "HORAE_APNS_KEY")
    account = ApnsAccount(str(needed["team_id"]), str(needed["key_id"]), str(needed["topic"]), key)
    return ApnsGateway(account, settings.apns_url, authority=settings.provider_ca)


def token_issued_at(now: datetime) -> int:
    """The `iat` of the provider token at machine time `now`: the latest multiple of TOKEN_LIFE since 1970."""
    life = int(TOKEN_LIFE.total_seconds())
    return int(now.timestamp()) // life * life


def headers_of(message: Outgoing, now: datetime) -> dict[str, str]:
    """APNs' headers of a message at machine time `now`; expiry is an absolute instant."""
    collapse = message.collapse_id.encode()[:LONGEST_COLLAPSE_ID].decode(errors="ignore")
    return {
        "apns-id": str(message.push_id),
        "apns-push-type": "alert",
        "apns-priority": "10",  # it is shown at an hour that was chosen for it
        "apns-expiration": str(int((now + message.ttl).timestamp())),
        "apns-collapse-id": collapse,
    }


def payload_of(message: Outgoing) -> bytes | None:
    """The JSON payload, or None where it is longer than APNs takes."""
    content: dict[str, Any] = {
        **{key: str(value) for key, value in message.data.items()},
        "push_id": str(message.push_id),
        "callback_token": message.callback_token,
        "aps": {"alert": {"title": message.title, "body": message.body}},
    }
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    return body if len(body) <= MOST_BYTES else None


def classify(result: Result, now: datetime, device: Device | None = None) -> Outcome:
    """What APNs' answer means. `now` is machine time, for a Retry-After that is a date.

    A device that APNs calls gone since an instant before its latest registration lives: the message may be sent again.
    """
    if not isinstance(result, Answer):
        return no_answer(result)
    if result.status == 200:
        return Outcome(Kind.ACCEPTED, provider_id=result.named)
    found = parse_object(result.body) or {}
    reason = found.get("reason")
    detail = f"HTTP {result.status} {reason if isinstance(reason, str) else result.body[:DETAIL]}".rstrip()
    if result.status in (429, 503):
        return refused_for_now(result, now, detail)
    since = _instant(found.get("timestamp")) if result.status == 410 else None
    if since is not None and device is not None and device.seen_at is not None and device.seen_at > since:
        return Outcome(Kind.RETRY, detail=f"{detail}, but it was registered again since")
    return Outcome(_refusal(result.status, reason), since=since, detail=detail)


def _refusal(status: int, reason: object) -> Kind:
    if reason in _DEVICE or status == 410:
        return Kind.DEAD_DEVICE
    if reason in _US or status == 403:
        return Kind.CREDENTIALS_REFUSED
    if reason == "IdleTimeout":
        return Kind.RETRY
    if 400 <= status < 500:
        return Kind.PAYLOAD_REFUSED
    return Kind.UNKNOWN


def _instant(milliseconds: object) -> datetime | None:
    if not isinstance(milliseconds, int | float):
        return None
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _refused_here(message: Outgoing) -> Outcome | None:
    """A token that is none would make a path of its own."""
    if message.device is None:
        raise ValueError("APNs sends to devices")
    if _TOKEN.fullmatch(message.device.token):
        return None
    return Outcome(Kind.DEAD_DEVICE, detail="this is no APNs device token: they are hexadecimal")
