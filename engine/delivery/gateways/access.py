"""OAuth access tokens of a Google service account (RFC 7523): asked for once, shared by threads, renewed in time.

developers.google.com/identity/protocols/oauth2/service-account
"""

from __future__ import annotations

import math
from datetime import timedelta
from threading import Lock
from urllib.parse import urlencode

from engine import clock
from engine.delivery.gateways.answers import DETAIL, no_answer, parse_object, refused_for_now
from engine.delivery.gateways.credentials import ServiceAccount
from engine.delivery.gateways.exchange import Answer, Request
from engine.delivery.gateways.jose import sign_token
from engine.delivery.gateways.transport import Transport
from engine.delivery.messages import Kind, Outcome

LIFE = timedelta(hours=1)
RENEW_BEFORE = timedelta(minutes=5)
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"


class AccessTokens:
    """The access token of one account and scope."""

    def __init__(self, account: ServiceAccount, scope: str, transport: Transport) -> None:
        self._account = account
        self._scope = scope
        self._transport = transport
        self._lock = Lock()
        self._token: str | None = None
        self._until = -math.inf

    def token(self, start_by: float, refused: str | None = None) -> str | Outcome:
        """A token that holds for minutes more, another than `refused`; or why there is none, an outcome of every
        message that needs it: nothing of them was sent."""
        with self._lock:
            if self._token is not None and self._token != refused and clock.monotonic() < self._until:
                return self._token
            return self._renew(start_by)

    def _renew(self, start_by: float) -> str | Outcome:
        now = clock.machine_now()
        issued = int(now.timestamp())
        claims = {
            "iss": self._account.email,
            "scope": self._scope,
            "aud": self._account.token_url,
            "iat": issued,
            "exp": issued + int(LIFE.total_seconds()),
        }
        assertion = sign_token(self._account.key, claims, kid=self._account.key_id)
        body = urlencode({"grant_type": GRANT, "assertion": assertion}).encode()
        headers = {"content-type": "application/x-www-form-urlencoded"}
        asked = clock.monotonic()
        answer = self._transport.post_many([Request(self._account.token_url, headers, body)], start_by)[0]
        if not isinstance(answer, Answer):
            return Outcome(Kind.RETRY, detail=f"no access token: {no_answer(answer).detail}")
        found = parse_object(answer.body) or {}
        token, seconds = found.get("access_token"), found.get("expires_in")
        if answer.status == 200 and isinstance(token, str) and isinstance(seconds, int | float):
            self._token, self._until = token, asked + max(seconds - RENEW_BEFORE.total_seconds(), seconds / 2)
            return token
        said = f"no access token: HTTP {answer.status} {found.get('error', '')} {_described(found, answer)}".rstrip()
        if answer.status in (400, 401, 403):
            return Outcome(Kind.CREDENTIALS_REFUSED, detail=said)
        retried = refused_for_now(answer, now, said)
        return Outcome(retried.kind, retried.delay, detail=said)


def _described(found: dict[str, object], answer: Answer) -> str:
    return str(found.get("error_description", "" if found else answer.body))[:DETAIL]
