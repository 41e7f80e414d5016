"""One `horae up` per data directory: an flock that ends with its holder, whatever ends it."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import BadInput


@contextmanager
def only_one(home: Path) -> Iterator[None]:
    """Be the one `horae up` of `home`. Raises BadInput where another is running."""
    handle = os.open(home / "up.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(
                f"horae up is already running on {home} (process {_read(handle)})",
                hint="stop it with Ctrl-C or horae down, or set HORAE_HOME to another directory",
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
        os.ftruncate(handle, 0)
    finally:
        os.close(handle)


def other(home: Path) -> int | None:
    """The process id of the `horae up` that runs on `home`, None where none does."""
    try:
        handle = os.open(home / "up.lock", os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(_read(handle) or 0) or None
    finally:
        os.close(handle)
    return None


def stop_other(home: Path) -> int | None:
    """Stop the `horae up` that runs on `home` and wait for its end; its process id, None where none runs."""
    pid = other(home)
    if pid is None:
        return None
    os.kill(pid, signal.SIGTERM)
    handle = os.open(home / "up.lock", os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)  # until its holder is gone
    finally:
        os.close(handle)
    return pid


def _read(handle: int) -> str:
    return os.pread(handle, 32, 0).decode().strip()
