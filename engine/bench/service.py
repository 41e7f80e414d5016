"""`horae up` and `horae ingest` as processes of their own, for benches: the commands that a person would type."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from engine import embedded
from engine.bench.serving import free_port, listens
from engine.clock import monotonic
from engine.errors import Unavailable
from engine.store.database import Database

START_SECONDS = 240.0
STOP_SECONDS = 60.0


@contextmanager
def running_service(home: Path, database: Database) -> Iterator[int]:
    """`horae up` on the database, with a Valkey of its own in `home`; the API's port. Raises Unavailable where the API
    does not come up."""
    port = free_port()
    ports = {"HORAE_API_PORT": str(port), "HORAE_FLOWER_PORT": "0"}
    log = home / "up.log"
    with log.open("wb") as told:
        service = _start(["up"], _environment(home, database) | ports, told)
        try:
            wait_for(lambda: listens(port), START_SECONDS, lambda: f"horae up does not come up: {_tail(log)}")
            yield port
        finally:
            _stop(service)
            embedded.stop(home)


class Ingesting:
    """`horae ingest events`, one file after the other, until the end of `with`; `write(number)` makes the file."""

    def __init__(self, home: Path, database: Database, write: Callable[[int], Path]) -> None:
        self._home, self._environment, self._write = home, _environment(home, database), write
        self._ended = threading.Event()
        self._running: subprocess.Popen[bytes] | None = None
        self._problem = ""
        self._thread = threading.Thread(target=self._feed, name="bench-files", daemon=True)

    def __enter__(self) -> Ingesting:
        self._thread.start()
        wait_for(lambda: self._running is not None, START_SECONDS, lambda: "the first file was not written")
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._running is not None:
            _stop(self._running)
        self._thread.join(STOP_SECONDS)

    def check(self) -> None:
        """Raise Unavailable where a file was not taken."""
        if self._problem:
            raise Unavailable(f"horae ingest failed: {self._problem}")

    def _feed(self) -> None:
        number = 0
        while not self._ended.is_set():
            file, log = self._write(number), self._home / "ingest.log"
            with log.open("ab") as told:
                self._running = _start(["ingest", "events", str(file)], self._environment, told)
            if self._running.wait() and not self._ended.is_set():
                self._problem = _tail(log)
                return
            file.unlink()
            number += 1


def wait_for(done: Callable[[], bool], seconds: float, told: Callable[[], str]) -> None:
    """Return when `done()`; raises Unavailable with what `told()` says after `seconds`."""
    until = monotonic() + seconds
    while not done():
        if monotonic() > until:
            raise Unavailable(f"after {seconds:.0f} s {told()}")
        time.sleep(0.1)


def _environment(home: Path, database: Database) -> dict[str, str]:
    ours = {"HORAE_HOME": str(home), "HORAE_DATABASE_URL": database.libpq_url, "HORAE_LOG_LEVEL": "WARNING"}
    return {name: value for name, value in os.environ.items() if not name.startswith("HORAE_")} | ours


def _start(arguments: Sequence[str], environment: Mapping[str, str], log: BinaryIO) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - our own commands
        [sys.executable, "-m", "engine.cli", *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-1_000:]
