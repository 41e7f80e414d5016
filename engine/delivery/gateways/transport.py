"""One HTTP transport for every gateway that speaks HTTP: pooled connections, bounded concurrency, honest outcomes.

pyreqwest runs on its own threads; requests of one batch are awaited together in one event loop that lives as long as
the transport. A request ends as one of three things: `Answer` (the provider spoke), `NotSent` (it certainly did not
leave), `Uncertain` (it may have arrived). Redirects are never followed and proxies of the environment never used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import RequestError

from engine.clock import monotonic

CONNECT_TIMEOUT = timedelta(seconds=5)
MOST_OF_A_BODY = 2_000
NEVER_CONNECTED = "client error (Connect)"


@dataclass(frozen=True, slots=True)
class Request:
    """A POST: where, with which headers, what."""

    url: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """The provider answered. `body` is its beginning, for the record."""

    status: int
    retry_after: str | None
    body: str


@dataclass(frozen=True, slots=True)
class NotSent:
    """The request certainly did not leave."""

    why: str


@dataclass(frozen=True, slots=True)
class Uncertain:
    """The request may have arrived."""

    why: str


Result = Answer | NotSent | Uncertain


@dataclass(frozen=True, slots=True)
class Pin:
    """A host's checked address: Host and SNI keep the name, the socket gets the address."""

    host: str
    address: str
    port: int


class Transport:
    """A pool of connections. One thread uses it at a time."""

    def __init__(
        self, *, timeout: timedelta, concurrency: int = 64, http2: bool = False, pin: Pin | None = None
    ) -> None:
        self.timeout = timeout
        self._concurrency = concurrency
        self._runner = asyncio.Runner()
        self._client = _client(timeout, concurrency, http2, pin)

    def post_many(self, requests: Sequence[Request], start_by: float) -> list[Result]:
        """Post `requests` concurrently; results in their order. None starts after `start_by` (clock.monotonic)."""
        return self._runner.run(self._post_many(requests, start_by))

    def close(self) -> None:
        """Close the connections."""
        self._runner.run(self._client.close())
        self._runner.close()

    async def _post_many(self, requests: Sequence[Request], start_by: float) -> list[Result]:
        slots = asyncio.Semaphore(self._concurrency)
        return await asyncio.gather(*(self._in_turn(slots, request, start_by) for request in requests))

    async def _in_turn(self, slots: asyncio.Semaphore, request: Request, start_by: float) -> Result:
        async with slots:
            if monotonic() > start_by:
                return NotSent("no time left before the lease ends")
            return await self._post(request)

    async def _post(self, request: Request) -> Result:
        answer: Answer | None = None
        try:
            posted = self._client.post(request.url).headers(dict(request.headers)).body_bytes(request.body)
            async with posted.streamed_read_buffer_limit(0).build_streamed() as response:
                answer = Answer(response.status, response.get_header("retry-after"), "")
                body = await response.body_reader.read(MOST_OF_A_BODY)
                return replace(answer, body=bytes(body or b"").decode(errors="replace"))
        except RequestError as error:
            return answer or _without_answer(error)  # a status is an answer, whatever became of the rest
        except ValueError as error:
            return NotSent(f"the request cannot be made: {error}")


def _without_answer(error: RequestError) -> Result:
    """What an error without a status means. pyreqwest calls it ConnectError and ConnectTimeoutError also where the
    request had been written (0.15.1); the only proof that it had not is hyper's own word in the chain of causes, and
    anything else is doubt."""
    causes = [cause["message"] for cause in error.details.get("causes") or []]
    said = ": ".join(dict.fromkeys([error.message, *causes]))
    return NotSent(said) if NEVER_CONNECTED in causes else Uncertain(said)


def _client(timeout: timedelta, concurrency: int, http2: bool, pin: Pin | None) -> Client:
    builder = (
        ClientBuilder()
        .http2(http2)
        .timeout(timeout)
        .connect_timeout(min(CONNECT_TIMEOUT, timeout))
        .follow_redirects(False)
        .no_proxy()
        .pool_max_idle_per_host(concurrency)
        .user_agent("horae")
    )
    if pin is not None:
        builder = builder.resolve(pin.host, pin.address, pin.port)
    return builder.build()
