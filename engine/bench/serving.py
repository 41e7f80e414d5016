"""The API as a process of its own, for benches."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from engine.clock import monotonic
from engine.config import read_settings
from engine.errors import Unavailable
from engine.runtime import open_runtime
from engine.web import serve

START_SECONDS = 60.0


@contextmanager
def served(database_url: str, redis: str, broker: str = "memory://") -> Iterator[int]:
    """A server process on this database and Redis, and its port. broker: unless told, the wake-ups stay in the process'
    memory, as nobody is to be woken. Raises Unavailable where it does not start."""
    port = free_port()
    given = (database_url, redis, broker, port)
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=given, daemon=True)
    process.start()
    try:
        until = monotonic() + START_SECONDS
        while not listens(port):
            if monotonic() > until or not process.is_alive():
                raise Unavailable("the API's process did not start")
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.join(30)


def _serve(database_url: str, redis: str, broker: str, port: int) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as `horae api` does
    settings = read_settings(database_url=database_url, redis_url=redis, broker_url=broker, log_level="WARNING")
    runtime = open_runtime(settings, migrate=False)
    try:
        serve(runtime, "127.0.0.1", port)
    finally:
        runtime.close()


def free_port() -> int:
    """A port of this machine that nothing listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def listens(port: int) -> bool:
    """Whether something listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
