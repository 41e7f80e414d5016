"""The API over real sockets: in a thread of the test, or as the process that `horae api` is."""

from __future__ import annotations

import json
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

from engine.access import keys
from engine.bench.serving import free_port, listens
from engine.config import Settings
from engine.runtime import Runtime
from engine.store.database import Database
from engine.web.server import server
from tests.running import HORAE, start, wait_for


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    headers: Message
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Api:
    """A running API."""

    url: str
    runtime: Runtime

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def ask(
        self,
        path: str,
        body: Any = None,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        method: str | None = None,
    ) -> Reply:
        """Ask for `path`; a body that is not bytes is sent as JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        given = {"Content-Type": "application/json"} if data is not None else {}
        given |= {"Authorization": f"Bearer {key}"} if key else {}
        request = urllib.request.Request(self.url + path, data, {**given, **(headers or {})}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return Reply(response.status, response.headers, response.read())
        except urllib.error.HTTPError as error:
            with error:
                return Reply(error.code, error.headers, error.read())


def make_key(database: Database, *scopes: str, **more: Any) -> str:
    """A new key."""
    with database.begin() as connection:
        return keys.create_key(connection, "test", scopes or ("write",), author="tests", **more)


@contextmanager
def serving(runtime: Runtime, *, development: bool = False) -> Iterator[Api]:
    """The API of `runtime`, in a thread."""
    running = server(runtime, "127.0.0.1", free_port(), development=development)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    wait_for(lambda: running.started, "the API's start", 20)
    try:
        yield Api(f"http://127.0.0.1:{running.config.port}", runtime)
    finally:
        running.should_exit = True
        thread.join(20)


def module_runtime(database: Database, redis_url: str, home: Path, **settings: Any) -> Runtime:
    """A runtime for all tests of a module."""
    made = Settings(home=home, database_url=database.libpq_url, redis_url=redis_url, **settings)
    made.home.mkdir(exist_ok=True)
    return Runtime(made, database, redis_url, redis_url, redis_url)


@contextmanager
def process(
    database_url: str, redis_url: str, home: Path, **more: str
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`horae api` as a process, with `more` settings, and its address; it is killed at the end."""
    port = free_port()
    servers = {"HORAE_DATABASE_URL": database_url, "HORAE_REDIS_URL": redis_url, **more}
    running = start(*HORAE, "api", "--port", str(port), home=home, log=home / "api.log", **servers)
    try:
        wait_for(lambda: running.poll() is not None or listens(port), f"the API's start, see {home / 'api.log'}", 180)
        yield running, f"http://127.0.0.1:{port}"
    finally:
        if running.poll() is None:
            running.kill()
        running.wait(20)
