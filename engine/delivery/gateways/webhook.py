"""The webhook gateway: posts each push to HORAE_WEBHOOK_URL, signed as Standard Webhooks.

`webhook-id` is the push's own id at every attempt: a receiver that has seen it drops the repeat. The receiver's answer
counts as its word: where it says that it did not take a message, it did not.
"""

from __future__ import annotations

import binascii
import json
import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from threading import Lock
from urllib.parse import SplitResult, urlsplit

from standardwebhooks import Webhook

from engine import clock
from engine.config import Settings
from engine.delivery.gateways import Kind, Outcome, Outgoing
from engine.delivery.gateways.addresses import resolve_pinned
from engine.delivery.gateways.exchange import Answer, NotSent, Request, Result
from engine.delivery.gateways.retry_after import read_retry_after
from engine.delivery.gateways.transport import Pin, Transport, Wire
from engine.errors import BadInput

LONGEST_BODY = 20_000
"""Standard Webhooks: "payloads should be kept under 20kb"."""

TIMEOUT = timedelta(seconds=15)
"""Standard Webhooks: "15-30s"."""

RESOLVE_AGAIN = timedelta(minutes=1)
SHORTEST_SECRET = 24
MOST_OF_A_DETAIL = 200

_BUSY = frozenset({502, 503, 504})
_GONE = frozenset({404, 410})
_UNAUTHORISED = frozenset({401, 403})


class WebhookGateway:
    """Posts to one address of the shop's own."""

    name = "webhook"
    needs_device = False

    def __init__(self, url: str, secret: str, *, allow_private: bool = False, timeout: timedelta = TIMEOUT) -> None:
        self.timeout = timeout
        self._url = url
        self._host, self._port = _checked_address(url, allow_private)
        self._allow_private = allow_private
        self._webhook = _signer(secret)
        self._pin: Pin | None = None
        self._pinned_at = -math.inf
        self._transport: Transport | None = None
        self._choosing = Lock()

    def send_many(self, messages: Sequence[Outgoing], start_by: float = math.inf) -> list[Outcome]:
        """Post `messages`, at most 64 at a time; see Gateway.send_many."""
        bodies = [_body(message) for message in messages]
        fitting = [i for i, body in enumerate(bodies) if len(body) < LONGEST_BODY]
        outcomes = [Outcome(Kind.PAYLOAD_REFUSED, detail=f"the body is longer than {LONGEST_BODY} bytes")] * len(bodies)
        now = clock.machine_now()
        requests = [self._request(messages[i], bodies[i], now) for i in fitting]
        for i, result in zip(fitting, self._post(requests, start_by), strict=True):
            outcomes[i] = classify(result, now)
        return outcomes

    def close(self) -> None:
        """Close the connections."""
        with self._choosing:
            self._drop()

    def _drop(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def _request(self, message: Outgoing, body: bytes, now: datetime) -> Request:
        push_id = str(message.push_id)
        headers = {
            "content-type": "application/json",
            "webhook-id": push_id,
            "webhook-timestamp": str(math.floor(now.timestamp())),
            "webhook-signature": self._webhook.sign(push_id, now, body.decode()),
        }
        return Request(self._url, headers, body)

    def _post(self, requests: Sequence[Request], start_by: float) -> Sequence[Result]:
        try:
            with self._choosing:
                transport = self._pinned_transport()
        except OSError as error:
            return [NotSent(f"{self._host} does not resolve: {error}")] * len(requests)
        except BadInput as error:
            return [NotSent(str(error))] * len(requests)
        return transport.post_many(requests, start_by)

    def _pinned_transport(self) -> Transport:
        """The transport to the address that was checked last; a name is resolved and checked again every minute."""
        if self._transport is None or clock.monotonic() > self._pinned_at + RESOLVE_AGAIN.total_seconds():
            address = resolve_pinned(self._host, self._port, allow_private=self._allow_private)
            pin = Pin(self._host, address, self._port)
            if pin != self._pin or self._transport is None:
                self._drop()
                self._transport = Transport(Wire(self.timeout, pin=pin))
            self._pin, self._pinned_at = pin, clock.monotonic()
        return self._transport


def build(settings: Settings) -> WebhookGateway | None:
    """The webhook gateway, or None where no URL is set. Raises BadInput for a wrong URL or secret."""
    if settings.webhook_url is None:
        return None
    if settings.webhook_secret is None:
        raise BadInput("HORAE_WEBHOOK_URL is set but HORAE_WEBHOOK_SECRET is not", hint="a secret is whsec_ and base64")
    secret = settings.webhook_secret.get_secret_value()
    return WebhookGateway(settings.webhook_url, secret, allow_private=settings.webhook_allow_private)


def classify(result: Result, now: datetime) -> Outcome:
    """What a webhook receiver's answer means (pure). `now` is machine time, for a Retry-After that is a date."""
    if isinstance(result, NotSent):
        return Outcome(Kind.RETRY, detail=result.why)
    if not isinstance(result, Answer):
        return Outcome(Kind.UNKNOWN, detail=result.why)
    detail = f"HTTP {result.status} {result.body[:MOST_OF_A_DETAIL]}".strip()
    if 200 <= result.status < 300:
        return Outcome(Kind.ACCEPTED)
    if result.status == 429 or result.status in _BUSY:
        kind = Kind.THROTTLED if result.status == 429 else Kind.RETRY
        return Outcome(kind, read_retry_after(result.retry_after, now), detail=detail)
    return Outcome(_refusal(result.status), detail=detail)


def _refusal(status: int) -> Kind:
    if status in _GONE or 300 <= status < 400:
        return Kind.DEAD_DEVICE  # redirects are not followed: the address is not where it should be
    if status in _UNAUTHORISED:
        return Kind.CREDENTIALS_REFUSED
    if 400 <= status < 500:
        return Kind.PAYLOAD_REFUSED
    return Kind.UNKNOWN  # it broke while it had the message (500), or speaks no HTTP we know


def _body(message: Outgoing) -> bytes:
    data = {
        "push_id": str(message.push_id),
        "callback_token": message.callback_token,
        "occurrence_id": message.occurrence_id,
        "campaign": message.campaign,
        "user_id": message.user_id,
        "item_id": message.item_id,
        "title": message.title,
        "body": message.body,
        "data": dict(message.data),
        "collapse_id": message.collapse_id,
        "expires_at": (message.at + message.ttl).isoformat(),
        "test": message.test,
    }
    payload = {"type": "push", "timestamp": message.at.isoformat(), "data": data}
    return json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()


def _checked_address(url: str, allow_private: bool) -> tuple[str, int]:
    try:
        parts: SplitResult = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise BadInput(f"HORAE_WEBHOOK_URL is not a URL: {error}") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise BadInput("HORAE_WEBHOOK_URL is not an http(s) URL", hint="https://shop.example/hook")
    if parts.username is not None:
        raise BadInput(
            "HORAE_WEBHOOK_URL holds a user name or password",
            hint="leave them out: HORAE_WEBHOOK_SECRET signs each message, and a URL ends up in logs",
        )
    if parts.scheme == "http" and not allow_private:
        raise BadInput(
            "HORAE_WEBHOOK_URL must be https",
            hint="a receiver in your own network may use http with HORAE_WEBHOOK_ALLOW_PRIVATE=1",
        )
    return parts.hostname, port or (443 if parts.scheme == "https" else 80)


def _signer(secret: str) -> Webhook:
    try:
        key = binascii.a2b_base64(secret.removeprefix("whsec_") + "==")
    except (binascii.Error, ValueError) as error:
        raise BadInput(f"HORAE_WEBHOOK_SECRET is not whsec_ and base64: {error}") from error
    if len(key) < SHORTEST_SECRET:
        raise BadInput(f"HORAE_WEBHOOK_SECRET has {len(key)} bytes; Standard Webhooks asks for {SHORTEST_SECRET} to 64")
    return Webhook(key)
