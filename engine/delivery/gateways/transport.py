"""One HTTP transport for every gateway that speaks HTTP: pooled connections, bounded concurrency, honest outcomes.

Each transport has an event loop (uvloop) on a thread of its own, so that several groups may be under way at once over
the same connections: any thread may post. A request ends as one of three things: `Answer` (the provider spoke),
`NotSent` (it certainly did not leave, or was certainly not looked at), `Uncertain` (it may have arrived). Certificates
are always verified, redirects never followed and proxies of the environment never used.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from threading import Lock, Thread

import uvloop
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import RequestError
from pyreqwest.response import Response

from engine.clock import monotonic
from engine.delivery.gateways.exchange import NO_TIME, Answer, NotSent, Request, Result, Uncertain
from engine.errors import BadInput

CONNECT_TIMEOUT = timedelta(seconds=5)
MOST_OF_A_BODY = 8_000
"""What is read of an answer: an access token of Google may be 2,048 bytes long."""

NEVER_CONNECTED = "client error (Connect)"
NOT_LOOKED_AT = "refused stream"
"""h2's word for REFUSED_STREAM: the server says that it did no processing (RFC 9113, section 8.7)."""


@dataclass(frozen=True, slots=True)
class Pin:
    """A host's checked address: Host and SNI keep the name, the socket gets the address."""

    host: str
    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Wire:
    """How to speak to a provider.

    concurrency: requests under way at once, over `connections` connections to each host (HTTP/2: one connection takes
    as many streams as the server allows, often 100) · authority: a PEM file trusted beside the system's own · whole: an
    answer says something only as a whole, so its beginning is waited for with its status: that is one wake-up of Python
    a request instead of two, and where the rest is missing the status is not known either.
    """

    timeout: timedelta
    concurrency: int = 64
    http2: bool = False
    connections: int = 1
    pin: Pin | None = None
    authority: Path | None = None
    whole: bool = False


class Transport:
    """A pool of connections. Any thread may use it."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._clients = [_client(wire) for _ in range(wire.connections)]
        self._turn = itertools.cycle(self._clients)
        self._read_ahead = MOST_OF_A_BODY if wire.whole else 0
        self._starting = Lock()
        self._thread: Thread | None = None

    def post_many(self, requests: Sequence[Request], start_by: float) -> list[Result]:
        """Post `requests` concurrently; results in their order. None starts after `start_by` (clock.monotonic)."""
        if not requests:
            return []
        with self._starting:
            if self._thread is None:
                self._thread = Thread(target=self._loop.run_forever, name="gateway", daemon=True)
                self._thread.start()
        return asyncio.run_coroutine_threadsafe(self._post_many(requests, start_by), self._loop).result()

    def close(self) -> None:
        """Close the connections."""
        with self._starting:
            thread, self._thread = self._thread, None
        if thread is not None:
            asyncio.run_coroutine_threadsafe(self._close_clients(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()
            self._loop.close()

    @cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return uvloop.new_event_loop()

    @cached_property
    def _slots(self) -> asyncio.Semaphore:
        return asyncio.Semaphore(self._wire.concurrency)

    async def _close_clients(self) -> None:
        for client in self._clients:
            await client.close()

    async def _post_many(self, requests: Sequence[Request], start_by: float) -> list[Result]:
        return await asyncio.gather(*(self._in_turn(request, start_by) for request in requests))

    async def _in_turn(self, request: Request, start_by: float) -> Result:
        async with self._slots:
            if monotonic() > start_by:
                return NotSent(NO_TIME)
            return await self._post(request)

    async def _post(self, request: Request) -> Result:
        status = 0
        try:
            built = next(self._turn).post(request.url).headers(request.headers).body_bytes(request.body)
            async with built.streamed_read_buffer_limit(self._read_ahead).build_streamed() as response:
                status = response.status
                return await _read(response)
        except RequestError as error:
            return Answer(status, None, "") if status else _without_answer(error)  # a status is an answer
        except ValueError as error:
            return NotSent(f"the request cannot be made: {error}")


async def _read(response: Response) -> Answer:
    header = response.get_header
    length, body = header("content-length"), b""
    most = min(int(length), MOST_OF_A_BODY) if length is not None and length.isdigit() else MOST_OF_A_BODY
    while len(body) < most and (chunk := await response.body_reader.read(most - len(body))) is not None:
        body += bytes(chunk)
    named = header("apns-id") or header("location")
    return Answer(response.status, header("retry-after"), _text(body), named)


def _text(body: bytes) -> str:
    """An answer's beginning as text that PostgreSQL can keep: without NUL, also where JSON only names it. Else a
    provider's garbage would keep a whole group from being recorded."""
    return body.decode(errors="replace").replace("\x00", "\ufffd").replace("\\u0000", "\\ufffd")


def _without_answer(error: RequestError) -> Result:
    """What an error without a status means. pyreqwest calls it ConnectError and ConnectTimeoutError also where the
    request had been written (0.15.1); the only proofs that it was not taken are hyper's own word in the chain of causes
    and the server's REFUSED_STREAM; anything else is doubt."""
    causes = [cause["message"] for cause in error.details.get("causes") or []]
    said = ": ".join(dict.fromkeys([error.message, *causes]))
    certain = NEVER_CONNECTED in causes or any(NOT_LOOKED_AT in cause for cause in causes)
    return NotSent(said) if certain else Uncertain(said)


def _client(wire: Wire) -> Client:
    builder = (
        ClientBuilder()
        .http2(wire.http2)
        .timeout(wire.timeout)
        .connect_timeout(min(CONNECT_TIMEOUT, wire.timeout))
        .follow_redirects(False)
        .no_proxy()
        .pool_max_idle_per_host(wire.concurrency)
        .user_agent("horae")
    )
    if wire.http2:  # a connection that died without a word is noticed between two batches, not by a push in doubt
        builder = (
            builder.http2_keep_alive_interval(timedelta(seconds=20))
            .http2_keep_alive_timeout(timedelta(seconds=10))
            .http2_keep_alive_while_idle(True)
        )
    if wire.pin is not None:
        builder = builder.resolve(wire.pin.host, wire.pin.address, wire.pin.port)
    if wire.authority is not None:
        builder = builder.add_root_certificate_pem(_pem(wire.authority))
    return builder.build()


def _pem(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(f"the file of certificates {path} cannot be read: {error.strerror}") from error
    if b"-----BEGIN CERTIFICATE-----" not in content:
        raise BadInput(f"{path} holds no PEM certificate")
    return content
