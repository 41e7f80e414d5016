"""Connections that keep to limits which uvicorn itself does not have: how many, how long a head, how slow a request.

Whoever connects needs no key for any of this, so it is bounded before a request exists: what a head may hold in memory,
and how long somebody may hold a connection without having asked anything.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_CONNECTIONS = 1_000

LARGEST_HEAD = 65_536
"""Bytes of a request's line and headers; what is read at once beyond it is up to one buffer more."""

ARRIVAL_SECONDS = 30.0
"""A request that has not come whole by then, from its first byte or from the connection's start, is not waited for."""

CLOSING_SECONDS = 2.0
"""And so long once the server is asked to stop: what has not come whole was not answered, and is sent again."""


class Bounded(HttpToolsProtocol):
    """One connection."""

    most, largest_head, arrival = MOST_CONNECTIONS, LARGEST_HEAD, ARRIVAL_SECONDS

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._head: int | None = 0
        """Bytes of the head that is being read, None while none is."""
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Let it in, or say that there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE)
        else:
            self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._arrived()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read what came."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._head is not None and not self.transport.is_closing():
            self._head += len(data)
            if self._head > self.largest_head:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._head = 0
        if self._late is None:
            self._expect()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; not those that follow a body, which nobody reads."""
        if self._head is not None:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._head = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._arrived()
        super().on_message_complete()

    def shutdown(self) -> None:
        """The server is about to stop: what has come whole is answered first."""
        super().shutdown()
        if self._late is not None and not self.transport.is_closing():
            self._late.cancel()
            self._expect(CLOSING_SECONDS)

    def _expect(self, seconds: float | None = None) -> None:
        self._late = self.loop.call_later(seconds or self.arrival, self.timeout_keep_alive_handler)

    def _arrived(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _refuse(self, status: HTTPStatus) -> None:
        """Answer by hand: there is no request that could be answered."""
        again = "retry-after: 1\r\n" if status is HTTPStatus.SERVICE_UNAVAILABLE else ""
        head = f"HTTP/1.1 {status} {status.phrase}\r\n{again}content-length: 0\r\nconnection: close\r\n\r\n"
        self.transport.write(head.encode("ascii"))
        self.transport.close()
