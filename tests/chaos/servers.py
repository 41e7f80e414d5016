"""A PostgreSQL and a Valkey of a test's own, reached through proxies, and the ways in which they may be hurt."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import redis

from engine import embedded
from engine.config import Settings
from engine.embedded.postgres import Postgres
from engine.embedded.valkey import Valkey
from engine.ingest.replay import require_current_profiles
from engine.runtime import Runtime
from engine.store import schema
from engine.store.database import Database
from tests.chaos.halfopen import HalfOpen

HURTS = ("flush", "valkey", "cut", "postgres")


class Servers:
    """Own servers with a migrated database. `database_url` and `redis_url` lead through the proxies; `home` starts them
    directly."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="horae-chaos-"))
        self.home.chmod(0o755)
        self.direct = embedded.ensure_started(self.home)
        database = Database(self.direct.database_url)
        schema.upgrade(database)
        database.dispose()
        self._proxies = (HalfOpen(self._postgres), HalfOpen(self._valkey))

    @property
    def database_url(self) -> str:
        """PostgreSQL behind its proxy."""
        return f"postgresql://postgres@127.0.0.1:{self._proxies[0].port}/postgres"

    @property
    def redis_url(self) -> str:
        """Valkey behind its proxy."""
        password = urlsplit(self.direct.redis_url).password
        return f"redis://:{password}@127.0.0.1:{self._proxies[1].port}/0"

    def hurt(self, how: str) -> None:
        """`flush`: Valkey forgets everything · `valkey`: it is killed, its last second lost, and started · `postgres`:
        every process of it is killed, and it is started · `cut`: connections of now stay open and carry nothing."""
        match how:
            case "flush":
                client = redis.Redis.from_url(self.direct.redis_url)
                client.flushall()
                client.close()
            case "valkey":
                _kill(Valkey(self.home).pid())
                embedded.ensure_valkey(self.home)
            case "postgres":
                _kill(Postgres(self.home).pid())
                embedded.ensure_postgres(self.home)
            case "cut":
                for proxy in self._proxies:
                    proxy.cut()

    @contextmanager
    def runtime(self, home: Path) -> Iterator[Runtime]:
        """A runtime on these servers, reached without their proxies."""
        direct = self.direct
        settings = Settings(home=home, database_url=direct.database_url, redis_url=direct.redis_url)
        database = Database(direct.database_url)
        require_current_profiles(database)
        yield Runtime(settings, database, direct.redis_url, direct.redis_url, direct.redis_url)
        database.dispose()

    def close(self) -> None:
        """Stop and remove everything."""
        for proxy in self._proxies:
            proxy.close()
        embedded.stop(self.home)
        shutil.rmtree(self.home, ignore_errors=True)

    def _postgres(self) -> str:
        return f"{Postgres(self.home).socket_file.read_text()}/.s.PGSQL.5432"

    def _valkey(self) -> tuple[str, int]:
        return "127.0.0.1", urlsplit(Valkey(self.home).url()).port or 0


def _kill(pid: int | None) -> None:
    """Kill a process and wait until nothing of it is left: PostgreSQL does not start while its number is taken."""
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + 30
    while psutil.pid_exists(pid):
        assert time.monotonic() < until, f"process {pid} does not go"
        time.sleep(0.01)
