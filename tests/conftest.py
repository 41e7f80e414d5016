"""Real servers for every test: one PostgreSQL and Valkey a session, one database a test from a migrated template."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import redis as redis_client
from sqlalchemy import text

from engine import embedded
from engine.bench.provider.launch import Provider
from engine.config import Settings
from engine.ingest.replay import require_current_profiles
from engine.runtime import Runtime
from engine.store import schema
from engine.store.database import Database
from tests.delivery_store import DeliveryShop

_numbers = itertools.count()

# No deadline: a busy machine is not a failure. On CI the same examples each time: a new counterexample is found, and
# mended, by whoever works on the code, and does not stop somebody else's change.
hypothesis.settings.register_profile("horae", deadline=None, derandomize=bool(os.environ.get("CI")))
hypothesis.settings.load_profile("horae")

for _name in [name for name in os.environ if name.startswith("HORAE_")]:
    del os.environ[_name]
for _name in ("COLUMNS", "LINES"):  # readline, which pytest imports, hands workers a size that no terminal has
    os.environ.pop(_name, None)


MOST_WORKERS = 4
"""Each has servers of its own."""

LONGEST = (
    *("test_demo.py", "test_servers_cli.py", "test_learning_methods.py", "test_api_fleet.py", "test_beats.py"),
    *("test_celery.py", "test_delivery_misbehaviour.py", "test_ingest_killed.py", "test_api_storm.py"),
    *("test_openapi.py", "test_event_api.py", "test_architecture.py", "test_metrics.py", "test_redis_down.py"),
    *("test_embedded.py", "test_planning_together.py", "test_localtime_zones.py", "test_explaining.py"),
)
"""Files that take longest, longest first."""


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One worker more than cores for the whole suite, which waits as much as it computes; none for whoever chose tests:
    they should not wait for workers."""
    files = any(Path(argument.partition("::")[0]).is_file() for argument in config.args)
    chosen = files or any(argument.startswith(("-k", "-m")) for argument in config.invocation_params.args)
    return 0 if chosen else min((os.cpu_count() or 1) + 1, MOST_WORKERS)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let workers begin with the longest files, so that all end together: xdist hands files out in this order."""
    if hasattr(config, "workerinput"):
        places = {name: place for place, name in enumerate(LONGEST)}
        items.sort(key=lambda item: places.get(item.path.name, len(LONGEST)))


@pytest.fixture(scope="session")
def servers() -> Iterator[embedded.Addresses]:
    """A PostgreSQL and a Valkey of this session's own."""
    home = Path(tempfile.mkdtemp(prefix="horae-tests-"))
    home.chmod(0o755)
    try:
        addresses = embedded.ensure_started(home)
        _without_disk_waits(addresses.database_url)
        yield addresses
    finally:
        embedded.stop(home)
        shutil.rmtree(home, ignore_errors=True)


def _without_disk_waits(url: str) -> None:
    """These databases need not outlive the machine: killed processes are tested, power cuts are not."""
    admin = Database(url)
    with admin.autocommit() as connection:
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            connection.execute(text(f"ALTER SYSTEM SET {setting} = off"))
        connection.execute(text("SELECT pg_reload_conf()"))
    admin.dispose()


@pytest.fixture(scope="session")
def template(servers: embedded.Addresses) -> str:
    """The name of a migrated database that test databases are copied from."""
    admin = Database(servers.database_url)
    with admin.autocommit() as connection:
        connection.execute(text("CREATE DATABASE template_horae"))
    migrated = Database(str(admin.url.set(database="template_horae").render_as_string(hide_password=False)))
    schema.upgrade(migrated)
    require_current_profiles(migrated)  # notes how they will be computed
    migrated.dispose()
    admin.dispose()
    return "template_horae"


@pytest.fixture
def empty_database(servers: embedded.Addresses) -> Iterator[Database]:
    """A database without a schema."""
    yield from _new_database(servers, "template0")


@pytest.fixture
def database(servers: embedded.Addresses, template: str) -> Iterator[Database]:
    """A migrated, empty database of this test's own."""
    yield from _new_database(servers, template)


@pytest.fixture(scope="module")
def shared_database(servers: embedded.Addresses, template: str) -> Iterator[Database]:
    """A migrated database for all tests of a module, which fill it once and then only read it."""
    yield from _new_database(servers, template)


@pytest.fixture
def redis_url(servers: embedded.Addresses) -> Iterator[str]:
    """A Redis database of this test's own, emptied before and after."""
    url = servers.redis_url.rsplit("/", 1)[0] + "/7"
    client = redis_client.Redis.from_url(url)
    client.flushdb()
    yield url
    client.flushdb()
    client.close()


@pytest.fixture
def runtime(database: Database, redis_url: str, tmp_path: Path) -> Iterator[Runtime]:
    """A runtime on this test's own database and Redis."""
    settings = Settings(home=tmp_path / "home", database_url=database.libpq_url, redis_url=redis_url)
    settings.home.mkdir()
    opened = Runtime(settings, database, redis_url, redis_url, redis_url)
    yield opened
    for gateway in opened.__dict__.get("gateways", {}).values():
        gateway.close()


@pytest.fixture
def shop(runtime: Runtime) -> DeliveryShop:
    """A shop with planned pushes, for tests of delivery; others have shops of their own."""
    return DeliveryShop(runtime.database)


@pytest.fixture(scope="session")
def running_provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    """A local push provider of this session's own."""
    provider = Provider(tmp_path_factory.mktemp("provider"))
    yield provider
    provider.close()


@pytest.fixture
def provider(running_provider: Provider) -> Provider:
    """The session's push provider, answering at once and behaving as it should."""
    running_provider.tell(faults={}, gone={}, foreign=[], latency=0)
    return running_provider


def _new_database(servers: embedded.Addresses, source: str) -> Iterator[Database]:
    admin = Database(servers.database_url)
    name = f"test_{next(_numbers)}"
    with admin.autocommit() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {source} STRATEGY file_copy"))
    database = Database(admin.url.set(database=name).render_as_string(hide_password=False))
    try:
        yield database
    finally:
        database.dispose()
        with admin.autocommit() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        admin.dispose()
