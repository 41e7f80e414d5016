"""One request at the provider: told faults first, else what the protocol says; everything received is journalled."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pydantic_core import to_json

from engine.bench.provider.protocols import Apns, Fcm, Headers, Reply, WebPush, World

LATENCY = 0.03
"""Seconds until an answer: a push service far away."""


@dataclass(frozen=True)
class Fault:
    """How the provider was told to misbehave.

    status, headers, body: an answer instead of its own (the message is not taken) · delay: seconds before any answer ·
    wire: what happens to the stream or the connection instead of an answer, on the rough port: `drop` (taken, then the
    connection is cut), `reset` (taken, then the stream is reset), `refuse` (REFUSED_STREAM, not looked at), `goaway`
    (GOAWAY before it was looked at), `noise` (no HTTP/2 at all) · times: how often; then it behaves again.
    """

    status: int = 0
    headers: Mapping[str, str] | None = None
    body: str = ""
    delay: float = 0.0
    wire: str = ""
    times: int = 1_000_000_000


class Desk:
    """Answers requests; `journal` gets one JSON line for each, with `told` where the answer was a fault's own: then the
    message was not taken. Lines are written by `flush`, many at once: before any of their answers leaves."""

    def __init__(self, world: World, journal: Path, latency: float = LATENCY) -> None:
        self._world = world
        self._journal: BinaryIO = journal.open("ab", buffering=0)
        self._replies: list[tuple[str, float, Reply]] = []
        self._latency = latency
        self._faults: dict[str, Fault] = {}
        self._fcm, self._apns, self._web = Fcm(world), Apns(world), WebPush(world)

    def fault(self, path: str, body: bytes) -> Fault | None:
        """The fault that this request is to meet, counted down."""
        if not self._faults or path == "/control":
            return None
        for name in self._faults:
            if name == "*" or name in path or name.encode() in body:
                found = self._faults[name]
                if found.times <= 1:
                    del self._faults[name]
                else:
                    self._faults[name] = Fault(**{**asdict(found), "times": found.times - 1})
                return found
        return None

    def latency(self, path: str, fault: Fault | None) -> float:
        """Seconds to wait before the answer."""
        return 0.0 if path == "/control" else self._latency + (fault.delay if fault else 0.0)

    def answer(self, path: str, headers: Headers, body: bytes, fault: Fault | None = None) -> Reply:
        """What it answers."""
        if path == "/control":
            return self._control(json.loads(body))
        reply, vendor = self._reply(path, headers, body, fault)
        self._replies.append((vendor, self._world.now(), reply))
        return reply

    def flush(self) -> None:
        """Journal what was answered."""
        if self._replies:
            replies, self._replies = self._replies, []
            self._journal.write(b"".join([_line(vendor, at, reply) for vendor, at, reply in replies]))

    def _reply(self, path: str, headers: Headers, body: bytes, fault: Fault | None) -> tuple[Reply, str]:
        vendor, answer = self._route(path)
        if fault is not None and fault.status:
            told = tuple((fault.headers or {}).items())
            sent = body if vendor == "fcm" else b""  # its paths do not say whom it is for
            return Reply(fault.status, fault.body.encode(), told, {"token": path, "told": True}, sent), vendor
        return answer(path, headers, body), vendor

    def _route(self, path: str) -> tuple[str, Callable[[str, Headers, bytes], Reply]]:
        if path.startswith("/v1/"):
            return "fcm", self._fcm.send
        if path == "/token":
            return "oauth", lambda _path, _headers, body: self._fcm.exchange(body)
        if path.startswith("/3/"):
            return "apns", self._apns.send
        if path.startswith("/wp/"):
            return "webpush", self._web.send
        return "nobody", lambda *_: Reply(404, b"not found")

    def _control(self, asked: Mapping[str, Any]) -> Reply:
        """Be told: `faults` {token, path or *: Fault}, `gone` {token: ms}, `foreign` [token], `expired` true,
        `subscriptions` {path: [private, secret]}, `latency` seconds. What is told replaces what was told before."""
        if "faults" in asked:
            self._faults = {name: Fault(**fault) for name, fault in asked["faults"].items()}
        self._world.gone = dict(asked.get("gone", self._world.gone))
        self._world.foreign = set(asked.get("foreign", self._world.foreign))
        if asked.get("expired"):
            self._fcm.forget()
        for path, (private, secret) in asked.get("subscriptions", {}).items():
            self._web.subscribe(path, private, secret)
        self._latency = float(asked.get("latency", self._latency))
        return Reply(200, b"{}", (("content-type", "application/json"),))


def _line(vendor: str, at: float, reply: Reply) -> bytes:
    """A line of the journal."""
    got = to_json(reply.got)[1:-1]
    request = b'"request":' + reply.raw.replace(b"\n", b" ") if reply.raw else b""
    more = b",".join([part for part in (got, request) if part])
    return b'{"vendor":"%b","status":%d,"at":%.6f%b%b}\n' % (vendor.encode(), reply.status, at, b"," * bool(more), more)
