"""PostgreSQL and Valkey from wheels: one of each per data directory, shared by every process that uses it.

Layout of a data directory (`HORAE_HOME`):

    servers.lock            held while somebody starts or stops the servers
    postgres/               PostgreSQL's data, owned by the user it runs as
    postgres.lock|log|socket
    valkey/                 Valkey's data, configuration, port and password (readable by its owner alone)
    valkey.lock|log

Nobody owns the servers: whoever needs them calls `ensure_started`, and they stay up until `stop`. A server inherits an
flock on its own lock file, so the kernel itself says whether any process of it still lives: no process id is trusted,
none can be stale, and a `kill -9` of whoever started them, or of the servers, needs no clean-up but the next start.
An address is only believed if the server behind it proves to be this directory's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.embedded.home import servers_lock, usable_home
from engine.embedded.postgres import Postgres
from engine.embedded.process import Server, alive, answers, shut_down, start
from engine.embedded.valkey import Valkey

__all__ = ["Addresses", "States", "ensure_postgres", "ensure_started", "ensure_valkey", "running", "states", "stop"]


@dataclass(frozen=True)
class Addresses:
    """Where the servers of a data directory listen; both URLs carry what is needed to get in."""

    database_url: str
    redis_url: str


@dataclass(frozen=True)
class States:
    """The address of each server that answers; None where it is down."""

    database_url: str | None
    redis_url: str | None


def ensure_started(home: Path) -> Addresses:
    """Start what is not running in `home` and wait until both servers answer; milliseconds where they already do.

    Safe to call from many processes at once. Raises Unavailable (DiskFull, StoreUnavailable, RedisUnavailable) or
    BadInput with what to do: the extra is not installed, the directory is not usable, a server does not come up.
    """
    return Addresses(ensure_postgres(home), ensure_valkey(home))


def ensure_postgres(home: Path) -> str:
    """The URL of `home`'s PostgreSQL, started where it is not running; see ensure_started."""
    return _ensure(home, Postgres(home.absolute()))


def ensure_valkey(home: Path) -> str:
    """The URL of `home`'s Valkey, started where it is not running; see ensure_started."""
    return _ensure(home, Valkey(home.absolute()))


def _ensure(home: Path, server: Postgres | Valkey) -> str:
    if not answers(server):
        with servers_lock(usable_home(home)):
            start(server)
    return server.url()


def stop(home: Path) -> list[str]:
    """Stop the servers of `home` cleanly; the names of those that were running, `[]` where nothing was.

    Raises Unavailable where one refuses to end.
    """
    home = home.absolute()
    if not home.is_dir():
        return []
    servers: tuple[Server, ...] = (Valkey(home), Postgres(home))
    if not any(alive(server) for server in servers):
        return []
    with servers_lock(home):
        return [server.name for server in servers if shut_down(server)]


def running(home: Path) -> Addresses | None:
    """The addresses of `home`'s servers, None unless both answer. Starts nothing and makes nothing."""
    found = states(home)
    if found.database_url is None or found.redis_url is None:
        return None
    return Addresses(found.database_url, found.redis_url)


def states(home: Path) -> States:
    """Which of `home`'s servers answer. Starts nothing and makes nothing."""
    home = home.absolute()
    postgres, valkey = Postgres(home), Valkey(home)
    return States(
        postgres.url() if answers(postgres) else None,
        valkey.url() if answers(valkey) else None,
    )
