"""`python -m engine.bench.provider FOLDER PORT ROUGH_PORT`: serve until the end of standard input."""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop
from granian.constants import Interfaces
from granian.http import HTTP2Settings
from granian.log import LogLevels
from granian.server.embed import Server

from engine import clock
from engine.bench.provider.authority import make_files
from engine.bench.provider.desk import Desk
from engine.bench.provider.protocols import World
from engine.bench.provider.rough import rough_protocol
from engine.runtime import spare_collector

TICK = 0.002
"""Seconds: requests that are due within one are answered together, at its end."""


class Ticks:
    """Waits that end at whole ticks: one timer for all that end together. `before` is called at each end."""

    def __init__(self, before: Callable[[], None]) -> None:
        self._before = before
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, asyncio.Future[None]] = {}

    def wait(self, seconds: float) -> asyncio.Future[None]:
        """Ends at the first tick at which `seconds` have passed."""
        tick = -int(-(self._loop.time() + seconds) // TICK)
        if (found := self._waiting.get(tick)) is None:
            found = self._waiting[tick] = self._loop.create_future()
            self._loop.call_at(tick * TICK, self._end, tick)
        return found

    def _end(self, tick: int) -> None:
        self._before()
        self._waiting.pop(tick).set_result(None)


def application(desk: Desk) -> Any:
    """The provider as an RSGI application."""
    ticks = Ticks(desk.flush)

    async def serve(scope: Any, protocol: Any) -> None:
        path, body = scope.path, await protocol()
        fault = desk.fault(path, body)
        reply = desk.answer(path, scope.headers, body, fault)
        if delay := desk.latency(path, fault):
            await ticks.wait(delay)
        else:
            desk.flush()
        protocol.response_bytes(reply.status, [*reply.headers], reply.body)

    return serve


async def serve(folder: Path, port: int, rough_port: int) -> None:
    """Serve until standard input ends: whoever started this process has gone, or asks for it."""
    files = make_files(folder, port, clock.machine_now())
    spare_collector()
    world = World(files, f"https://localhost:{port}", lambda: clock.machine_now().timestamp())
    desk = Desk(world, folder / "journal.jsonl")
    server = Server(
        application(desk),
        port=port,
        interface=Interfaces.RSGI,
        websockets=False,
        http2_settings=HTTP2Settings(max_concurrent_streams=200),
        log_level=LogLevels.error,
        ssl_cert=files.certificate,
        ssl_key=files.server_key,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.server_key)
    context.set_alpn_protocols(["h2"])
    loop = asyncio.get_running_loop()
    rough = await loop.create_server(rough_protocol(desk), "127.0.0.1", rough_port, ssl=context)
    serving = asyncio.create_task(server.serve())
    (folder / "ready").touch()
    await loop.run_in_executor(None, sys.stdin.read)
    rough.close()
    server.stop()  # type: ignore[no-untyped-call]
    await serving


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
