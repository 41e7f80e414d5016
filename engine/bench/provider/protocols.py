"""What FCM, APNs and Web Push answer: each checks a request as its documentation says, and knows its own errors."""

from __future__ import annotations

import itertools
import json
import re
import secrets
from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qs

import http_ece
import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from pydantic_core import from_json

from engine.bench.provider.authority import EMAIL, PROJECT, TEAM_ID, TOPIC, Files
from engine.delivery.gateways.fcm import SCOPE
from engine.delivery.gateways.jose import encode_base64url


class Headers(Protocol):
    """A request's headers, by lower-case names."""

    def get(self, key: str, default: Any = None, /) -> Any:
        """The first value, or `default`."""

    def items(self) -> Iterable[tuple[str, str]]:
        """All of them."""


GOOGLE = "https://oauth2.googleapis.com/token"


class Reply(NamedTuple):
    """An answer, and what was understood of the request (for the journal)."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    got: Mapping[str, Any] = MappingProxyType({})
    raw: bytes = b""
    """The request's JSON, journalled as it came."""


@dataclass
class World:
    """What the provider knows and how it was told to behave."""

    files: Files
    origin: str
    now: Callable[[], float]
    """Seconds since 1970, machine time."""
    gone: dict[str, int] = field(default_factory=dict)
    """Tokens that are no longer registered, and since when (milliseconds)."""
    foreign: set[str] = field(default_factory=set)
    """Tokens of another app."""
    subscriptions: dict[str, tuple[Any, bytes]] = field(default_factory=dict)
    """Web Push: path to the browser's private key and authentication secret."""


class Fcm:
    """`POST /v1/projects/PROJECT/messages:send`, and the token endpoint of Google's OAuth."""

    _token = re.compile(r"[\w-]{11,}:APA91b[\w-]{20,}")
    _ttl = re.compile(r"\d+(\.\d{1,9})?s")
    _taken = re.compile(r"from\Z|message_type\Z|google|gcm")

    def __init__(self, world: World) -> None:
        self._world = world
        self._key = load_pem_public_key(world.files.public("fcm"))
        self._issued: dict[str, float] = {}
        self._numbers = itertools.count(1)

    def exchange(self, body: bytes) -> Reply:
        """A signed assertion for an access token (RFC 7523)."""
        form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        if form.get("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer":
            return _json(400, {"error": "unsupported_grant_type"})
        try:
            claims = jwt.decode(
                form.get("assertion", ""),
                self._key,  # type: ignore[arg-type]
                algorithms=["RS256"],
                audience=[f"{self._world.origin}/token", GOOGLE],  # its own client names it wherever it asks
                issuer=EMAIL,
                options={"require": ["iat", "exp", "aud", "iss"]},
            )
        except jwt.PyJWTError as error:
            return _json(400, {"error": "invalid_grant", "error_description": f"Invalid JWT: {error}"})
        if SCOPE not in str(claims.get("scope")) and "cloud-platform" not in str(claims.get("scope")):
            return _json(400, {"error": "invalid_scope", "error_description": "Invalid OAuth scope"})
        token = f"ya29.{secrets.token_urlsafe(96)}"
        self._issued[token] = self._world.now() + 3600
        answer = {"access_token": token, "expires_in": 3599, "token_type": "Bearer"}
        return _json(200, answer, {"assertion": dict(claims)})

    def send(self, path: str, headers: Headers, body: bytes) -> Reply:
        """One message."""
        token = headers.get("authorization", "").removeprefix("Bearer ")
        if self._issued.get(token, 0) < self._world.now():
            return _google(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
        if path != f"/v1/projects/{PROJECT}/messages:send":
            return _google(404, "NOT_FOUND", "Requested entity was not found.")
        try:
            asked = from_json(body)
            message = asked["message"]
        except (ValueError, KeyError, TypeError):
            return _google(400, "INVALID_ARGUMENT", "Invalid JSON payload received.", "google.rpc.BadRequest")
        fault = self._fault(message, len(body))
        if fault is not None:
            return Reply(fault.status, fault.body, fault.headers, {"token": message.get("token")}, body)
        name = f'{{"name": "projects/{PROJECT}/messages/0:{next(self._numbers):032x}"}}'
        return Reply(200, name.encode(), _IS_JSON, {"token": message["token"]}, body)

    def forget(self) -> None:
        """Refuse every access token issued so far."""
        self._issued.clear()

    def _fault(self, message: Mapping[str, Any], length: int) -> Reply | None:  # noqa: PLR0911 - a list of checks
        device = str(message.get("token"))
        if not self._token.fullmatch(device):
            return _fcm(400, "INVALID_ARGUMENT", "The registration token is not a valid FCM registration token")
        if device in self._world.foreign:
            return _fcm(403, "SENDER_ID_MISMATCH", "SenderId mismatch", status="PERMISSION_DENIED")
        if device in self._world.gone:
            return _fcm(404, "UNREGISTERED", "Requested entity was not found.", status="NOT_FOUND")
        data = message.get("data", {})
        wrong = [key for key, value in data.items() if type(value) is not str]
        if wrong:
            said = f"Invalid value at 'message.data[0].value' (TYPE_STRING), {data[wrong[0]]}"
            return _google(400, "INVALID_ARGUMENT", said, "google.rpc.BadRequest")
        if any(map(self._taken.match, data)):
            return _fcm(400, "INVALID_ARGUMENT", "Invalid data payload key")
        if length > 4096:
            content = {"notification": message.get("notification", {}), "data": data}
            if len(json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()) > 4096:
                return _fcm(400, "INVALID_ARGUMENT", "Android message is too big")
        ttl = message.get("android", {}).get("ttl", "0s")
        if not self._ttl.fullmatch(ttl) or float(ttl[:-1]) > 28 * 86_400:
            return _fcm(400, "INVALID_ARGUMENT", "Invalid TTL")
        return None


class Apns:
    """`POST /3/device/TOKEN`."""

    _path = re.compile(r"/3/device/((?:[0-9a-f]{2}){32,100})", re.IGNORECASE)
    _uuid = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

    def __init__(self, world: World) -> None:
        self._world = world
        self._key = load_pem_public_key(world.files.public("apns"))
        self._claims: dict[str, Mapping[str, Any]] = {}
        self._newest: list[tuple[float, str]] = []

    def send(self, path: str, headers: Headers, body: bytes) -> Reply:
        """One notification."""
        got: dict[str, Any] = {
            "token": path.rpartition("/")[2],
            "apns": {name: value for name, value in headers.items() if name.startswith("apns-")},
        }
        refusal = self._refusal(path, headers, body)
        if refusal is not None:
            status, reason, more = refusal
            return _json(status, {"reason": reason, **more}, got, headers=self._id(headers))
        got["message"] = json.loads(body)
        return Reply(200, b"", self._id(headers), got)

    def _id(self, headers: Headers) -> tuple[tuple[str, str], ...]:
        return (("apns-id", headers.get("apns-id", "")),)

    def _refusal(self, path: str, headers: Headers, body: bytes) -> tuple[int, str, dict[str, int]] | None:
        reason = self._untrusted(headers)
        if reason is not None:
            return (429 if reason == "TooManyProviderTokenUpdates" else 403), reason, {}
        found = self._path.fullmatch(path)
        if found is None:
            return 400, "BadDeviceToken", {}
        token = found[1]
        if token in self._world.gone:
            return 410, "Unregistered", {"timestamp": self._world.gone[token]}
        if token in self._world.foreign:
            return 400, "DeviceTokenNotForTopic", {}
        reason = self._wrong(headers, body)
        return None if reason is None else (413 if reason == "PayloadTooLarge" else 400, reason, {})

    def _wrong(self, headers: Headers, body: bytes) -> str | None:
        expiration = headers.get("apns-expiration", "0")
        checks = (
            (headers.get("apns-topic") == TOPIC, "BadTopic" if headers.get("apns-topic") else "MissingTopic"),
            (headers.get("apns-push-type") in {"alert", "background"}, "InvalidPushType"),
            (headers.get("apns-priority", "10") in {"10", "5", "1"}, "BadPriority"),
            # a delay instead of an instant would be 1970: the true one drops such a message without a word
            (expiration == "0" or (expiration.isdigit() and int(expiration) > 1e9), "BadExpirationDate"),
            (len(headers.get("apns-collapse-id", "").encode()) <= 64, "BadCollapseId"),
            (self._uuid.fullmatch(headers.get("apns-id", "")) is not None, "BadMessageId"),
            (bool(body), "PayloadEmpty"),
            (len(body) <= 4096, "PayloadTooLarge"),
        )
        return next((reason for holds, reason in checks if not holds), None)

    def _untrusted(self, headers: Headers) -> str | None:
        token = headers.get("authorization", "").removeprefix("bearer ")
        if not token:
            return "MissingProviderToken"
        if token not in self._claims:
            try:
                self._claims[token] = jwt.decode(
                    token,
                    self._key,  # type: ignore[arg-type]
                    algorithms=["ES256"],
                    issuer=TEAM_ID,
                    options={"require": ["iat", "iss"], "verify_iat": False},
                )
            except jwt.PyJWTError:
                return "InvalidProviderToken"
            if [at for at, _ in self._newest if self._world.now() - at < 20 * 60]:
                return "TooManyProviderTokenUpdates"
            self._newest.append((self._world.now(), token))
        age = self._world.now() - float(self._claims[token]["iat"])
        return "ExpiredProviderToken" if age > 3600 or age < -60 else None


class WebPush:
    """`POST /wp/SUBSCRIPTION`; subscriptions are made by `subscribe`."""

    _topic = re.compile(r"[A-Za-z0-9_-]{1,32}")

    def __init__(self, world: World) -> None:
        self._world = world
        key: Any = load_pem_public_key(world.files.public("vapid"))
        self._key = key
        numbers = key.public_numbers()
        self._public = encode_base64url(b"\x04" + numbers.x.to_bytes(32) + numbers.y.to_bytes(32))
        self._checked: dict[str, float] = {}

    def send(self, path: str, headers: Headers, body: bytes) -> Reply:
        """One message to a subscription."""
        got: dict[str, Any] = {"token": path, **{name: headers.get(name) for name in ("ttl", "topic", "urgency")}}
        fault = self._fault(path, headers, body)
        if fault is not None:
            status, said = fault
            return Reply(status, said.encode(), (), got)
        private, secret = self._world.subscriptions[path]
        try:
            plain = http_ece.decrypt(body, private_key=private, auth_secret=secret, version="aes128gcm")
        except http_ece.ECEException as error:  # the true one cannot see it; the browser drops it
            return Reply(400, f"cannot be decrypted: {error}".encode(), (), got)
        got["message"] = json.loads(plain)
        location = f"{self._world.origin}/messages/{secrets.token_hex(8)}"
        return Reply(201, b"", (("location", location), ("ttl", headers.get("ttl", "0"))), got)

    def _fault(  # noqa: PLR0911 - a list of checks
        self, path: str, headers: Headers, body: bytes
    ) -> tuple[int, str] | None:
        if path in self._world.gone or path not in self._world.subscriptions:
            return 410, "Gone"
        if path in self._world.foreign:
            return 403, json.dumps({"reason": "VapidPkHashMismatch"})
        if not self._known(headers.get("authorization", "")):
            return 403, json.dumps({"reason": "BadJwtToken"})
        if not headers.get("ttl", "").isdigit():
            return 400, "missing or bad TTL"
        if headers.get("content-encoding") != "aes128gcm":
            return 415, "unknown content encoding"
        if headers.get("urgency", "normal") not in {"very-low", "low", "normal", "high"}:
            return 400, "bad urgency"
        if not self._topic.fullmatch(headers.get("topic", "t")):
            return 400, "bad topic"
        return (413, "too long") if len(body) > 4096 else None

    def _known(self, authorization: str) -> bool:
        if self._checked.get(authorization, 0) > self._world.now():
            return True
        found = re.fullmatch(r"vapid t=([\w.-]+), k=([\w-]+)", authorization)
        if found is None or found[2] != self._public:
            return False
        try:
            claims = jwt.decode(found[1], self._key, algorithms=["ES256"], audience=self._world.origin)
        except jwt.PyJWTError:
            return False
        now = self._world.now()
        if not now < claims["exp"] <= now + 86_400 or not str(claims.get("sub", "")).startswith(("mailto:", "https:")):
            return False
        self._checked[authorization] = claims["exp"]
        return True

    def subscribe(self, path: str, private: str, secret: str) -> None:
        """Know a subscription: the browser's private key (base64url of its number) and authentication secret."""
        number = int.from_bytes(_bytes(private))
        self._world.subscriptions[path] = (ec.derive_private_key(number, ec.SECP256R1()), _bytes(secret))


def _bytes(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


_IS_JSON = (("content-type", "application/json"),)


def _json(
    status: int, value: object, got: Mapping[str, Any] | None = None, headers: tuple[tuple[str, str], ...] = ()
) -> Reply:
    return Reply(status, json.dumps(value).encode(), (("content-type", "application/json"), *headers), got or {})


def _google(code: int, status: str, message: str, kind: str | None = None) -> Reply:
    details = [{"@type": f"type.googleapis.com/{kind}"}] if kind else []
    return _json(code, {"error": {"code": code, "message": message, "status": status, "details": details}})


def _fcm(code: int, error: str, message: str, status: str | None = None) -> Reply:
    detail = {"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": error}
    body = {"error": {"code": code, "message": message, "status": status or error, "details": [detail]}}
    return _json(code, body)
