"""The demo's own data directory: servers, an empty database, and `horae up` running on it."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
from sqlalchemy import make_url, text

from engine import embedded
from engine.config import Settings, read_settings
from engine.errors import BadInput
from engine.store.database import Database
from engine.supervise import stop_other

LOG = "up.log"
"""What `horae up` says, in the demo's directory."""

STOP_SECONDS = 60.0
"""Longer than `horae up` gives its programs to end."""


@contextmanager
def only_demo(home: Path) -> Iterator[None]:
    """Be the one demo on `home`. Raises BadInput where another is running."""
    home.mkdir(parents=True, exist_ok=True)
    handle = os.open(home / "demo.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise BadInput(
            f"another demo is running on {home}", hint="wait for its end, or give this one a directory: --home"
        ) from None
    finally:
        os.close(handle)


def fresh(home: Path) -> Settings:
    """Settings of an empty workspace in `home`: servers started, database and broker emptied, journal removed.

    Whatever an earlier demo left there is thrown away; what runs on it is stopped. The environment's own servers are
    never touched.
    """
    if home.exists():
        stop_other(home)
    addresses = embedded.ensure_started(home)
    _recreate_database(addresses.database_url)
    broker = redis.Redis.from_url(addresses.redis_url)
    broker.flushall()
    broker.close()
    nowhere = dict.fromkeys(("database_url", "redis_url", "broker_url", "caps_url", "journal"))
    settings = read_settings(home=home, flower_port=0, **nowhere)
    for file in (settings.journal_path, home / LOG):
        file.unlink(missing_ok=True)
    return settings


@contextmanager
def horae_up(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """`horae up` on the demo's directory: real Celery workers and beat, restarted when they die; stopped at the end."""
    with (settings.home / LOG).open("ab") as log:
        process = subprocess.Popen(
            (sys.executable, "-m", "engine.cli", "up"),
            env=_environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C reaches the demo alone, which then stops this
        )
    try:
        yield process
    finally:
        _end(process)


def restarts(settings: Settings) -> int:
    """How often `horae up` had to start one of its programs again."""
    log = settings.home / LOG
    return log.read_text(errors="replace").count("starting it again in") if log.exists() else 0


def _recreate_database(url: str) -> None:
    target = make_url(url)
    server = Database(target.set(database="template1").render_as_string(hide_password=False))
    with server.autocommit() as connection:
        connection.execute(text(f'DROP DATABASE IF EXISTS "{target.database}" WITH (FORCE)'))
        connection.execute(text(f'CREATE DATABASE "{target.database}" TEMPLATE template0'))
    server.dispose()


def _environment(settings: Settings) -> dict[str, str]:
    """This process' environment, with the demo's settings instead of any others."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HORAE_")}
    return {**kept, "HORAE_HOME": str(settings.home), "HORAE_FLOWER_PORT": "0", "PYTHONUNBUFFERED": "1"}


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
