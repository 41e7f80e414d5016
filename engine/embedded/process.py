"""Start, watch and stop a server that outlives whoever started it.

The server inherits an open, flocked handle of its lock file, and so do the processes it forks. While the lock is held,
some process of the server lives; once it can be taken, none does, whatever a process-id file says.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal, Protocol

from engine import clock
from engine.embedded.home import OWN_SERVERS
from engine.errors import DiskFull, Unavailable

COME_UP_SECONDS = 300.0
"""How long a server may take to answer: PostgreSQL replays its log after a crash."""
SILENT_SECONDS = 60.0
"""How long a living server may stay silent without saying that it is starting."""
END_SECONDS = 60.0
POLL_SECONDS = 0.02

Answer = Literal["ours", "starting", "silent"]
"""What a server says to a knock: it is this directory's own, it is busy starting, or nothing."""


class Server(Protocol):
    """One server of a data directory."""

    name: str
    program: str
    lock_file: Path
    log_file: Path

    def answer(self) -> Answer:
        """Knock at its address, and make sure that it is not somebody else's."""
        ...

    def unreachable(self) -> bool:
        """Whether it has lost its address and will never answer, however long it lives."""
        ...

    def prepare(self) -> Launch:
        """Write what it needs before a start; called with no process of it alive."""
        ...

    def pid(self) -> int | None:
        """The main process's id as its file has it; may be stale."""
        ...

    def refused(self, log: str) -> bool:
        """Whether a start that ended with this log may simply be tried again (a port was taken meanwhile)."""
        ...

    def clean(self) -> None:
        """Remove what is of use to a running server only; called after it has been stopped."""
        ...


class Launch:
    """How to run a server: the command, its working directory, and as whom (uid, gid; None: as ourselves)."""

    def __init__(self, command: tuple[str, ...], directory: Path, owner: tuple[int, int] | None = None) -> None:
        self.command, self.directory, self.owner = command, directory, owner


def alive(server: Server) -> bool:
    """Whether any process of `server` lives."""
    try:
        handle = os.open(server.lock_file, os.O_RDWR)
    except OSError:  # never started, or by another user: then it is not ours to talk to
        return False
    try:
        # Shared, so that two who look at the same time do not see each other.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def answers(server: Server) -> bool:
    """Whether `server` lives and lets us in."""
    return alive(server) and server.answer() == "ours"


def start(server: Server) -> None:
    """Bring `server` up unless it already answers; called under `servers_lock`.

    Raises Unavailable or DiskFull with the end of its log where it does not come up. A server that lives but stays
    silent is not ended for that: others may be at work in it.
    """
    if alive(server):
        if _comes_up(server):
            return
        if alive(server) and not server.unreachable():
            raise Unavailable(
                f"{server.name} lives (process {server.pid()}) but does not answer",
                hint=f"see {server.log_file}; to end it: horae down",
            )
        shut_down(server)
    for _ in range(5):
        log_start = _launch(server)
        if _comes_up(server):
            return
        log = _log_since(server, log_start)
        if not server.refused(log):
            break
    raise _did_not_come_up(server, log)


def shut_down(server: Server) -> bool:
    """Stop `server`: asked first, then forced. Returns whether it ran. Raises Unavailable where it does not end."""
    if not alive(server):
        return False
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        _signal(server, number)
        if _wait(lambda: not alive(server), END_SECONDS if number == signal.SIGINT else 10.0):
            with suppress(OSError):  # tidiness only
                server.clean()
            return True
    raise Unavailable(f"{server.name} does not end", hint=f"see {server.log_file}; its process id is {server.pid()}")


def _comes_up(server: Server) -> bool:
    """Wait until `server` answers (True), has ended, is unreachable, or has been silent for too long (False)."""
    began = heard = clock.monotonic()
    while alive(server) and not server.unreachable():
        answer, now = server.answer(), clock.monotonic()
        if answer == "ours":
            return True
        heard = now if answer == "starting" else heard
        if now > heard + SILENT_SECONDS or now > began + COME_UP_SECONDS:
            return False
        _pause()
    return False


def _pause() -> None:
    threading.Event().wait(POLL_SECONDS)  # nothing to select on: it is another process that gets ready


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
    until = clock.monotonic() + seconds
    while not condition():
        if clock.monotonic() > until:
            return False
        _pause()
    return True


def _launch(server: Server) -> int:
    """Start the server's process, detached; the size of its log before."""
    launch = server.prepare()
    lock = os.open(server.lock_file, os.O_RDWR | os.O_CREAT, 0o600)
    log = os.open(server.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        user, group = launch.owner or (None, None)
        # The shell leaves at once, so the server is init's child and never our zombie.
        subprocess.run(
            ("/bin/sh", "-c", '"$@" &', "sh", *launch.command),
            check=True,
            cwd=launch.directory,
            env={name: value for name, value in os.environ.items() if not name.startswith("PG")},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(lock,),
            start_new_session=True,
            user=user,
            group=group,
            extra_groups=None if user is None else [],
        )
        return os.fstat(log).st_size
    finally:
        os.close(lock)
        os.close(log)


def _signal(server: Server, number: signal.Signals) -> None:
    import psutil  # noqa: PLC0415 - of the extra; whoever stops a server has it, whoever imports this may not

    pid = server.pid()
    if pid is None:
        return
    try:
        process = psutil.Process(pid)
        # A number may have been given to somebody else since the file was written.
        if process.name() == server.program:
            process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def _log_since(server: Server, size: int) -> str:
    with server.log_file.open("rb") as log:
        log.seek(size)
        return log.read().decode(errors="replace")


def _did_not_come_up(server: Server, log: str) -> Unavailable:
    last = " / ".join(log.strip().splitlines()[-3:]) or "it left no log"
    if "No space left on device" in log:
        return DiskFull(f"no disk space is left for {server.name}", hint=f"free some; its log: {server.log_file}")
    return Unavailable(f"{server.name} does not come up: {last}", hint=f"its log: {server.log_file}; {OWN_SERVERS}")
