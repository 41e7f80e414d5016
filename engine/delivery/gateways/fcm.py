"""Firebase Cloud Messaging, HTTP v1: Android, and iOS and browsers where they are registered with Firebase.

One request a message; the batch endpoint is gone. A message carries what each platform reads: TTL, collapse key and tag
for Android, expiry and collapse id for APNs behind FCM, TTL, topic and urgency for browsers.
Sources: firebase.google.com/docs/reference/fcm/rest/v1/projects.messages and …/ErrorCode.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from engine import clock
from engine.config import Settings
from engine.delivery.gateways import Kind, Outcome, Outgoing
from engine.delivery.gateways.access import AccessTokens
from engine.delivery.gateways.answers import DETAIL, no_answer, parse_object, refused_for_now
from engine.delivery.gateways.credentials import ServiceAccount, read_service_account
from engine.delivery.gateways.exchange import Answer, Request, Result
from engine.delivery.gateways.transport import Transport, Wire

MOST_BYTES = 4096
LONGEST_TTL = timedelta(days=28)
TIMEOUT = timedelta(seconds=15)
"""FCM asks for at least 10 seconds."""

SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
URL = "https://fcm.googleapis.com"


@dataclass(frozen=True)
class FcmOptions:
    """url: of the service · validate_only: FCM checks messages and delivers none · authority: of a test's server."""

    url: str = URL
    validate_only: bool = False
    authority: Path | None = None
    timeout: timedelta = TIMEOUT


class FcmGateway:
    """Sends to registration tokens of one Firebase project."""

    name = "fcm"
    needs_device = True

    def __init__(self, account: ServiceAccount, options: FcmOptions = FcmOptions()) -> None:
        self.timeout = options.timeout
        self._account = account
        self._options = options
        self._url = f"{options.url.rstrip('/')}/v1/projects/{account.project}/messages:send"
        self._wire = Wire(
            options.timeout, concurrency=800, http2=True, connections=4, authority=options.authority, whole=True
        )
        self._transport = Transport(self._wire)
        self._access = AccessTokens(account, SCOPE, self._transport)

    def send_many(self, messages: Sequence[Outgoing], start_by: float = math.inf) -> list[Outcome]:
        """Send each message to its device; see Gateway.send_many."""
        now = clock.machine_now()
        bodies = [body_of(message, now, validate_only=self._options.validate_only) for message in messages]
        outcomes = [Outcome(Kind.PAYLOAD_REFUSED, detail=f"the payload is longer than {MOST_BYTES} bytes")] * len(
            bodies
        )
        fitting = [i for i, body in enumerate(bodies) if body is not None]
        access = self._access.token(start_by)
        if isinstance(access, Outcome):
            return [access if body is not None else outcomes[i] for i, body in enumerate(bodies)]
        results = self._post([bodies[i] or b"" for i in fitting], access, start_by)
        late = [n for n, result in enumerate(results) if _expired(result)]
        if late and not isinstance(again := self._access.token(start_by, refused=access), Outcome):
            # The token was refused, so none of these was looked at. Whoever had the newer one already is not asked.
            tried = self._post([bodies[fitting[n]] or b"" for n in late], again, start_by)
            for n, result in zip(late, tried, strict=True):
                results[n] = result
        for i, result in zip(fitting, results, strict=True):
            outcomes[i] = classify(result, now)
        return outcomes

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()
        self._transport = Transport(self._wire)
        self._access = AccessTokens(self._account, SCOPE, self._transport)

    def _post(self, bodies: Sequence[bytes], token: str, start_by: float) -> list[Result]:
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        return self._transport.post_many([Request(self._url, headers, body) for body in bodies], start_by)


def build(settings: Settings) -> FcmGateway | None:
    """The FCM gateway, or None where HORAE_FCM_CREDENTIALS is not set. Raises BadInput for a wrong file."""
    if settings.fcm_credentials is None:
        return None
    account = read_service_account(settings.fcm_credentials, "HORAE_FCM_CREDENTIALS")
    return FcmGateway(account, FcmOptions(settings.fcm_url, settings.fcm_validate_only, settings.provider_ca))


# --- pure ------------------------------------------------------------------------------------------------------------


def body_of(message: Outgoing, now: datetime, *, validate_only: bool = False) -> bytes | None:
    """The request's JSON at machine time `now`, or None where what the phone gets is longer than FCM takes."""
    if message.device is None:
        raise ValueError("FCM sends to devices")
    notification = {"title": message.title, "body": message.body}
    data = {key: str(value) for key, value in message.data.items()}
    data |= {"push_id": str(message.push_id), "callback_token": message.callback_token}
    ttl, expires = _lasting(message.ttl, now)
    content: dict[str, Any] = {
        "token": message.device.token,
        "notification": notification,
        "data": data,
        "android": {
            "ttl": ttl + "s",
            "priority": "HIGH",  # it is shown at an hour that was chosen for it: not when the phone next wakes
            "collapse_key": message.collapse_id,
            "notification": {"tag": message.collapse_id},
        },
        "apns": {
            "headers": {
                "apns-expiration": expires,
                "apns-priority": "10",
                "apns-collapse-id": message.collapse_id,
            }
        },
        "webpush": {
            "headers": {
                "TTL": ttl,
                "Topic": message.collapse_id,
                "Urgency": "high" if message.urgent else "normal",
            }
        },
    }
    body = to_json({"message": content, "validate_only": True} if validate_only else {"message": content})
    # What the phone gets is a part of it: mostly the whole is short enough, and the part need not be looked at.
    if len(body) > MOST_BYTES and len(to_json({"notification": notification, "data": data})) > MOST_BYTES:
        return None
    return body


@lru_cache(1024)
def _lasting(ttl: timedelta, now: datetime) -> tuple[str, str]:
    """The seconds that a message may be kept, and the epoch second at which it ends: the same for much of a group."""
    return str(int(min(ttl, LONGEST_TTL).total_seconds())), str(int((now + ttl).timestamp()))


def classify(result: Result, now: datetime) -> Outcome:
    """What FCM's answer means. `now` is machine time, for a Retry-After that is a date.

    By its error code where there is one (google.firebase.fcm.v1.FcmError), else by the HTTP status.
    """
    if not isinstance(result, Answer):
        return no_answer(result)
    if result.status == 200:
        name = (parse_object(result.body) or {}).get("name")
        if isinstance(name, str):
            return Outcome(Kind.ACCEPTED, provider_id=name)
        return Outcome(Kind.UNKNOWN, detail=f"HTTP 200 without a message's name: {result.body[:DETAIL]}")
    code, said = _error(result)
    detail = f"HTTP {result.status} {code or ''}: {said}"
    if result.status in (429, 503):
        return refused_for_now(result, now, detail)
    return Outcome(_refusal(result.status, code, said), detail=detail)


def _refusal(status: int, code: str | None, said: str) -> Kind:
    if code == "INVALID_ARGUMENT" or status == 400:
        # The one code stands for a token that is none and for a message that is wrong; only the text tells them apart.
        return Kind.DEAD_DEVICE if "registration token" in said else Kind.PAYLOAD_REFUSED
    if code in ("UNREGISTERED", "SENDER_ID_MISMATCH"):
        return Kind.DEAD_DEVICE  # of another project: this token is none of ours
    if status in (401, 403, 404):
        return Kind.CREDENTIALS_REFUSED  # 404 without UNREGISTERED: there is no such project
    if 400 <= status < 500:
        return Kind.PAYLOAD_REFUSED
    return Kind.UNKNOWN  # INTERNAL, or no FCM at all: it may have been taken


def _error(answer: Answer) -> tuple[str | None, str]:
    """FCM's own code of the error, if it names one, and what it says."""
    error = (parse_object(answer.body) or {}).get("error")
    if not isinstance(error, dict):
        return None, answer.body[:DETAIL]
    details = error.get("details")
    codes = [each.get("errorCode") for each in details if isinstance(each, dict)] if isinstance(details, list) else []
    code = next((str(each) for each in codes if each), None)
    return code or _text(error.get("status")), str(error.get("message", ""))[:DETAIL]


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _expired(result: Result) -> bool:
    """Whether the access token was refused: a code of FCM's own would mean something else (THIRD_PARTY_AUTH_ERROR)."""
    return isinstance(result, Answer) and result.status == 401 and _error(result)[0] in (None, "UNAUTHENTICATED")
