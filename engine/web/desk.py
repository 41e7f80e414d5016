"""The desk at which requests are served: who asks is looked up, and the store is asked in a few threads of its own.

Nobody is let in without a key, but for phones' answers, which a push' own token proves, and in development mode
(`horae up`): while neither a key nor a user of the console has been made, from this machine itself, and not through a
browser's page or a proxy. The first of either ends that.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import cached_property
from typing import Any, TypeVar

from fastapi import Depends
from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase
from sqlalchemy import Connection
from starlette.requests import Request

from engine import clock
from engine.access.keys import any_live, find_grant
from engine.access.rate import Buckets
from engine.access.roles import SCOPES, Grant, least_role
from engine.access.users import any_enabled
from engine.planning.recommending import Recommender
from engine.planning.wake import BrokerWake
from engine.runtime import Runtime, redis_client
from engine.web.addresses import networks
from engine.web.problems import Refusal

THREADS = 8
"""Requests that ask the store at the same time: more would wait for the same two or three cores."""

LONG_THREADS = 1
"""Of what takes seconds (previews, reports, test pushes): one after the other, beside everything else."""

LONG_WAITING = 8
"""So many may wait for that; more are told to come again."""

OWN_NAMES = {"localhost", "127.0.0.1", "[::1]"}
PROXIED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
"""Headers of requests that another party passed on."""

LOCAL = Grant("development mode", frozenset(SCOPES))

T = TypeVar("T")


class Desk:
    """Serves requests on one runtime; `development`: see the module."""

    def __init__(self, runtime: Runtime, *, development: bool) -> None:
        self.runtime = runtime
        self.proxies = networks(runtime.settings.api_proxies)
        self.development = development
        self._redis = redis_client(runtime.redis_url)
        self.buckets = Buckets(self._redis)
        self._threads = ThreadPoolExecutor(THREADS, "horae-web")
        self._long = ThreadPoolExecutor(LONG_THREADS, "horae-web-long")
        self._waiting = 0
        self._wake = BrokerWake(runtime.broker_url)
        self._waker = ThreadPoolExecutor(1, "horae-wake")
        self._waking: set[str] = set()
        self._lock = threading.Lock()

    @cached_property
    def recommender(self) -> Recommender:
        """Recommendations, from a shop that is kept warm from the first request on."""
        return Recommender(self.runtime.database)

    async def do(self, work: Callable[[], T]) -> T:
        """`work()` in one of the threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def do_long(self, work: Callable[[], T]) -> T:
        """`work()`, which takes seconds, after those asked for before. Raises Refusal: 503 where too many wait."""
        if self._waiting >= LONG_WAITING:
            raise Refusal(503, "too many previews and reports wait already", retry_after=5)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._long, work)
        finally:
            self._waiting -= 1

    async def transact(self, work: Callable[[Connection, datetime], T]) -> T:
        """`work(connection, now)` in one of the threads, in a transaction; now: business time."""

        def transaction() -> T:
            with self.runtime.database.begin() as connection:
                return work(connection, clock.business_now(connection))

        return await self.do(transaction)

    def now(self) -> datetime:
        """Business time. From any thread but the event loop's."""
        with self.runtime.database.begin() as connection:
            return clock.business_now(connection)

    def needs(self, scope: str) -> Any:
        """What a route that needs `scope` depends on: its value is the Grant of who asks."""
        return Depends(Needs(self, scope))

    async def admit(self, request: Request, scope: str) -> Grant:
        """Who asks, where they may do what needs `scope`. Raises Refusal: 401, 403 or 429."""
        key = _key_of(request)
        local = key is None and self.development and is_this_machine(request)
        return await self.do(lambda: self._admit(key, local, scope))

    async def admit_phone(self) -> None:
        """Let in somebody without a key whose request proves itself, as long as all of them do not send too much: they
        share one bucket. Raises Refusal: 429."""
        rate = self.runtime.settings.api_rate
        wait = await self.do(lambda: self.buckets.enter("phones", rate))
        if wait:
            raise Refusal(429, "too many answers at once", retry_after=wait)

    def charge(self, grant: Grant, messages: int) -> None:
        """Charge what a request carried beyond its first message."""
        if grant.key_id is not None:
            self.buckets.charge(grant.key_id, self._rate(grant), messages - 1)

    def wake(self, task: str, *ids: int) -> None:
        """Ask a worker to run `task` soon; without ids, what is about to be asked for is asked once. From any thread,
        the event loop's too: the broker is spoken to by one of its own."""
        if ids:
            self._waker.submit(self._wake, task, *ids)
            return
        with self._lock:
            if task in self._waking:
                return
            self._waking.add(task)
        self._waker.submit(self._send, task)

    def close(self) -> None:
        """Let what is under way end, then close."""
        self._threads.shutdown()
        if "recommender" in self.__dict__:
            self.recommender.close()
        self._long.shutdown(cancel_futures=True)
        self._waker.shutdown()
        self._wake.close()
        self._redis.close()

    def _send(self, task: str) -> None:
        with self._lock:
            self._waking.discard(task)  # before it is sent: what is committed from now on is asked for anew
        self._wake(task)

    def _admit(self, key: str | None, local: bool, scope: str) -> Grant:
        now = clock.machine_now()
        with self.runtime.database.apart() as connection:
            grant = find_grant(connection, key, now) if key is not None else None
            if grant is None and local and is_open(connection, now):
                grant = LOCAL
        if grant is None:
            said = "a key is needed" if key is None else "the key is unknown or has ended"
            raise Refusal(401, said, hint="horae admin create-key NAME --scope write; give it as Bearer or Basic user")
        if not grant.may(scope):
            hint = f"horae admin create-key NAME --scope {scope}, or --role {least_role(scope)}"
            raise Refusal(403, f"{grant.actor} may not do that: it needs the scope {scope}", hint=hint)
        if grant.key_id is not None:
            wait = self.buckets.enter(grant.key_id, self._rate(grant))
            if wait:
                hint = f"at most {self._rate(grant):,} messages a second in the long run"
                raise Refusal(429, "this key sends too much", hint=hint, retry_after=wait)
        return grant

    def _rate(self, grant: Grant) -> int:
        return grant.rate or self.runtime.settings.api_rate


class Needs(SecurityBase):
    """A route's need of a scope: asked before anything else of a request is read, and told in the OpenAPI document."""

    def __init__(self, desk: Desk, scope: str) -> None:
        self.model = HTTPBearer(description="A key, or Basic with the key as user name: horae admin create-key")
        self.scheme_name = "key"
        self.scope = scope
        self._desk = desk

    async def __call__(self, request: Request) -> Grant:
        """Who asks. Raises Refusal: 401, 403 or 429."""
        return await self._desk.admit(request, self.scope)


def _key_of(request: Request) -> str | None:
    """The key of a request: Bearer, or the user name of Basic, as Segment's clients send it."""
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    given = given.strip()
    if kind.lower() == "bearer" and given:
        return given
    if kind.lower() == "basic":
        try:
            return base64.b64decode(given, validate=True).decode().partition(":")[0]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return "" if kind else None


def is_open(connection: Connection, now: datetime) -> bool:
    """Whether nobody has been given access yet: then development mode lets in whoever works on this machine."""
    return not any_live(connection, now) and not any_enabled(connection)


def is_this_machine(request: Request, *, own_pages: bool = False) -> bool:
    """Whether a request comes from this machine itself, not through a proxy, and not from a page in a browser, but for
    pages of this very address where `own_pages`."""
    try:
        loopback = request.client is not None and ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False
    host = request.headers.get("host", "").lower()
    name = host[: host.rindex(":")] if ":" in host and not host.endswith("]") else host
    origin = request.headers.get("origin")
    foreign = origin is not None and not (own_pages and origin.lower() == f"http://{host}")
    return loopback and name in OWN_NAMES and not foreign and not any(header in request.headers for header in PROXIED)
