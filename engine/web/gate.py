"""What every request passes: bounds on how many are inside and on what they carry together, and headers for browsers.

Who comes while the house is full is told so before anything of the request is read, so that a flood costs no memory.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from engine.web.problems import Refusal, problem

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

HEADERS = {
    b"cache-control": b"no-store",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"cross-origin-resource-policy": b"same-origin",
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
}
"""Where an answer does not say otherwise itself."""

ALWAYS_OPEN = "/healthz"

MOST_HELD = 16_000_000
"""Bytes of bodies, unpacked, that a process holds at once: read as JSON they take several times as much."""

HELD = "horae.held"
"""Where a request's scope has its Held."""

logger = logging.getLogger(__name__)


class Held:
    """What one request holds of `house`, the room for the bodies of all."""

    def __init__(self, house: Gate) -> None:
        self._house, self._bytes = house, 0

    def take(self, number: int) -> None:
        """Hold `number` bytes more. Raises Refusal (503) where there is no room for them."""
        if self._house.held + number > MOST_HELD:
            raise Refusal(503, "too much is being read at once", hint="ask again in a second", retry_after=1)
        self._bytes += number
        self._house.held += number

    def leave(self) -> None:
        """The request is over."""
        self._house.held -= self._bytes
        self._bytes = 0


class Gate:
    """ASGI middleware: at most `most` requests inside at once; those above are answered 503 with Retry-After."""

    def __init__(self, app: Application, most: int) -> None:
        self._app, self._most, self._inside = app, most, 0
        self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or one of the server's own messages."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        sending = _with_headers(send)
        if self._inside >= self._most and scope["path"] != ALWAYS_OPEN:
            full = problem(503, "too many requests at once", "ask again in a second", {"Retry-After": "1"})
            return await full(scope, receive, sending)
        if "\0" in scope["path"] or b"%00" in scope["query_string"]:  # no name has it, and the store's texts cannot
            return await problem(404, "there is nothing of that name")(scope, receive, sending)
        self._inside += 1
        held = scope[HELD] = Held(self)
        try:
            await self._app(scope, receive, sending)
        except Exception as error:  # it was answered with 500 already
            log_failure(error, scope["method"], scope["path"])
        finally:
            self._inside -= 1
            held.leave()
        return None


def log_failure(error: Exception, method: str, path: str) -> None:
    """Log where a request failed. Not the error's message: SQLAlchemy's hold values of rows."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s %s: %s\n%s", method, path, type(error).__name__, frames)


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = {name.lower() for name, _ in message["headers"]}
            added = [(name, value) for name, value in HEADERS.items() if name not in given]
            message = {**message, "headers": [*message["headers"], *added]}
        await send(message)

    return sending
