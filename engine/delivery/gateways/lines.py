"""Posting many small messages to one HTTP/2 server: a connection for each thread that sends, no event loop.

A group of pushes is one burst: its requests are written together and their answers read as they come, by the thread
that waits for them anyway. Next to a client with a future per request that is a quarter of the processor's time, and
nothing has to take the interpreter's lock once per answer. Connections are kept between bursts; before one is used
again after a rest it is asked whether it is still there (PING), so that a server that went without a word costs a new
connection, not a push in doubt. Certificates are always verified, redirects never followed and proxies of the
environment never used.
"""

from __future__ import annotations

import select
import socket
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from threading import Lock
from urllib.parse import urlsplit

from engine.clock import monotonic
from engine.delivery.gateways.exchange import NO_TIME, NotSent, Request, Result
from engine.delivery.gateways.streams import Broken, Session
from engine.errors import BadInput

CONNECT_TIMEOUT = 5.0
"""Seconds, for the connection, TLS and the first settings each."""
REST = 5.0
"""Seconds after which a connection is asked whether it is still there."""
KEPT = 8
"""Connections to one server that are kept while nobody uses them."""
_CONNECTIONS = 3
"""New connections that one burst tries for what was never begun."""
_READ = 1 << 16

Origin = tuple[str, int]


class Lines:
    """Connections to HTTP/2 servers. Any thread may use it: while it posts, it has a connection of its own."""

    def __init__(self, timeout: timedelta, authority: Path | None = None) -> None:
        self._timeout = timeout.total_seconds()
        self._context = ssl.create_default_context()
        self._context.set_alpn_protocols(["h2"])
        if authority is not None:
            _trust(self._context, authority)
        self._idle: dict[Origin, list[_Line]] = {}
        self._lock = Lock()

    def post_many(self, requests: Sequence[Request], start_by: float) -> list[Result]:
        """Post `requests`, each to the same server; results in their order. None starts after `start_by`
        (clock.monotonic)."""
        burst = _Burst([NotSent("")] * len(requests), deque(enumerate(requests)), start_by, self._timeout)
        if not requests:
            return []
        try:
            origin = _origin(requests[0].url)
        except ValueError as error:
            return [NotSent(f"the request cannot be made: {error}")] * len(requests)
        for _ in range(_CONNECTIONS):
            if not burst.todo:
                break
            try:
                line = self._take(origin)
            except (OSError, Broken) as error:
                burst.leave(f"no connection to {origin[0]}: {error}")
                break
            try:
                burst.run(line)
            finally:
                self._give_back(origin, line)
        burst.leave("the provider takes no requests")
        return burst.results

    def close(self) -> None:
        """Close the connections that nobody uses."""
        with self._lock:
            lines = [line for kept in self._idle.values() for line in kept]
            self._idle = {}
        for line in lines:
            line.close()

    def _take(self, origin: Origin) -> _Line:
        while True:
            with self._lock:
                kept = self._idle.get(origin)
                line = kept.pop() if kept else None
            if line is None:
                return _Line(self._context, origin)
            if line.alive():
                return line
            line.close()

    def _give_back(self, origin: Origin, line: _Line) -> None:
        with self._lock:
            kept = self._idle.setdefault(origin, [])
            if not line.session.leaving and line.session.open == 0 and len(kept) < KEPT:
                kept.append(line)
                return
        line.close()


@dataclass
class _Burst:
    """Some requests on their way; `results` fills up, `todo` is what was not begun."""

    results: list[Result]
    todo: deque[tuple[int, Request]]
    start_by: float
    timeout: float

    def run(self, line: _Line) -> None:
        """Post what is to do, until everything begun has ended or the connection can do no more."""
        session = line.session
        try:
            while True:
                self._begin(session)
                oldest = session.oldest()
                if oldest is None:
                    break
                line.pump(max(oldest + self.timeout - monotonic(), 0.0))
                session.give_up(monotonic() - self.timeout, f"no answer within {self.timeout:.0f} s")
                self._collect(session)
        except (OSError, Broken) as error:
            session.close(f"the connection broke: {error}")
        self._collect(session)

    def leave(self, why: str) -> None:
        """What is left to do is not sent."""
        while self.todo:
            self.results[self.todo.popleft()[0]] = NotSent(why)

    def _begin(self, session: Session) -> None:
        for _ in range(min(session.room, len(self.todo))):
            now = monotonic()
            if now > self.start_by:
                self.leave(NO_TIME)
                return
            place, request = self.todo.popleft()
            try:
                session.begin(place, request, now)
            except ValueError as error:
                self.results[place] = NotSent(f"the request cannot be made: {error}")

    def _collect(self, session: Session) -> None:
        for place, result in session.done:
            self.results[place] = result
        session.done.clear()


class _Line:
    """A connection. Raises OSError and Broken where it is none (any more)."""

    def __init__(self, context: ssl.SSLContext, origin: Origin) -> None:
        self.session = Session()
        self._unsent = b""
        self._used = monotonic()
        plain = socket.create_connection(origin, CONNECT_TIMEOUT)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket = context.wrap_socket(plain, server_hostname=origin[0])
            if self._socket.selected_alpn_protocol() != "h2":
                raise Broken("it does not speak HTTP/2")
            self._socket.setblocking(False)
            self._poll = select.poll()
            self._wait_for(lambda: self.session.ready)
        except BaseException:
            plain.close()
            raise

    def alive(self) -> bool:
        """Whether it may be used again."""
        try:
            self._read()
            if not self.session.leaving and monotonic() - self._used > REST:
                answered = self.session.answered
                self.session.ping()
                self._wait_for(lambda: self.session.answered > answered)
        except (OSError, Broken):
            return False
        return not self.session.leaving

    def pump(self, longest: float) -> None:
        """Write what there is to write, wait `longest` seconds for something to read, read it."""
        self._write()
        self._poll.register(self._socket, select.POLLIN | (select.POLLOUT if self._unsent else 0))
        self._poll.poll(longest * 1000)
        self._read()
        self._write()
        self._used = monotonic()

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def _wait_for(self, condition: Callable[[], bool]) -> None:
        until = monotonic() + CONNECT_TIMEOUT
        while not condition():
            left = until - monotonic()
            if left <= 0:
                raise TimeoutError("it says nothing")
            self.pump(left)

    def _write(self) -> None:
        out = self.session.out
        if out:
            self._unsent += b"".join(out)
            out.clear()
        try:
            while self._unsent:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return

    def _read(self) -> None:
        try:
            while data := self._socket.recv(_READ):
                self.session.receive(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        raise ConnectionResetError("the provider closed the connection")


def _origin(url: str) -> Origin:
    parts = urlsplit(url)
    if not parts.hostname:
        raise ValueError(f"{url} names no server")
    return parts.hostname, parts.port or 443


def _trust(context: ssl.SSLContext, authority: Path) -> None:
    try:
        context.load_verify_locations(authority)
    except FileNotFoundError as error:
        raise BadInput(f"the file of certificates {authority} cannot be read: {error.strerror}") from error
    except ssl.SSLError as error:
        raise BadInput(f"{authority} holds no PEM certificate") from error
