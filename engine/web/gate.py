"""What every request passes: a bound on how many are inside, and headers for browsers.

Who comes while the house is full is told so before anything of the request is read, so that a flood costs no memory.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from engine.web.problems import problem

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

logger = logging.getLogger(__name__)


class Gate:
    """ASGI middleware: at most `most` requests inside at once; those above are answered 503 with Retry-After."""

    def __init__(self, app: Application, most: int) -> None:
        self._app, self._most, self._inside = app, most, 0

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
        try:
            await self._app(scope, receive, sending)
        except Exception as error:  # it was answered with 500 already
            log_failure(error, scope["method"], scope["path"])
        finally:
            self._inside -= 1
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
