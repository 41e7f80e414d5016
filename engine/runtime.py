"""Builds what runs from Settings: the only place that names concrete classes."""

from __future__ import annotations

import gc
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from engine.config import Settings, read_settings
from engine.errors import RedisUnavailable
from engine.store.database import Database

if TYPE_CHECKING:
    from engine.delivery.gateways import Gateway


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Runtime:
    """A database, a Redis for caps and the gateways of one deployment; opened once per process."""

    settings: Settings
    database: Database
    redis_url: str
    broker_url: str
    caps_url: str

    @cached_property
    def caps(self) -> redis.Redis:
        """The Redis that holds the caps' reservations."""
        return redis_client(self.caps_url, retries=1)

    @cached_property
    def gateways(self) -> Mapping[str, Gateway]:
        """The gateways that are configured, by name. One that is configured wrongly is left out, and said so once: its
        pushes wait, the others' leave."""
        from engine.delivery.gateways import try_gateways  # noqa: PLC0415 - they import their vendors' libraries

        built = try_gateways(self.settings)
        for name, problem in built.problems.items():
            logger.error("gateway %s sends nothing: %s", name, problem, extra={"action": "gateway_misconfigured"})
        return built.gateways

    def close(self) -> None:
        """Close what was opened."""
        self.database.dispose()
        for gateway in self.__dict__.get("gateways", {}).values():
            gateway.close()


def spare_collector() -> None:
    """Let Python's collector of cycles look less often, and never again at what is loaded by now: workers and the API
    make rows by the thousand and hardly a cycle, and it took a tenth of the workers' time, half of reading a batch."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def database_url(settings: Settings) -> str:
    """The database's URL; starts the embedded PostgreSQL where none is configured."""
    if settings.database_url is not None:
        return settings.database_url
    from engine import embedded  # noqa: PLC0415 - an extra: production has servers of its own

    return embedded.ensure_postgres(settings.home)


def redis_url(settings: Settings) -> str:
    """Redis' URL; starts the embedded Valkey where none is configured."""
    if settings.redis_url is not None:
        return settings.redis_url
    from engine import embedded  # noqa: PLC0415 - an extra: production has servers of its own

    return embedded.ensure_valkey(settings.home)


def broker_url(settings: Settings) -> str:
    """The URL of Celery's broker; starts the embedded Valkey where none is configured."""
    return settings.broker_url or redis_url(settings)


def open_runtime(settings: Settings | None = None, *, migrate: bool = True) -> Runtime:
    """The runtime of this process: servers started where embedded, schema brought up to date (`migrate`) or checked.

    Raises StoreUnavailable, RedisUnavailable, SchemaMismatch.
    """
    settings = settings or read_settings()
    if settings.redis_url is not None:
        require_redis(settings.redis_url)  # first: it takes no time, and what follows does
    # Alembic and numpy are slow to import; who only asks for addresses needs neither.
    from engine.ingest.replay import require_current_profiles  # noqa: PLC0415
    from engine.store import schema  # noqa: PLC0415

    database = Database(database_url(settings))
    try:
        (schema.upgrade if migrate else schema.require_current)(database)
        require_current_profiles(database)
    except BaseException:
        database.dispose()
        raise
    address = redis_url(settings)
    runtime = Runtime(settings, database, address, settings.broker_url or address, settings.caps_url or address)
    require_redis(runtime.redis_url)
    return runtime


def require_redis(url: str) -> None:
    """Raise RedisUnavailable unless a Redis answers at `url`."""
    client = redis_client(url)
    try:
        client.ping()
    except (redis.RedisError, OSError) as error:
        raise RedisUnavailable(
            f"Redis at {url.rsplit('@', 1)[-1]} does not answer: {error}",
            hint="is it running, and is HORAE_REDIS_URL right?",
        ) from error
    finally:
        client.close()


def redis_client(url: str, *, retries: int = 0) -> redis.Redis:
    """A client that gives up soon: redis-py's own default tries on for up to 45 seconds, where callers have their own
    ways to wait and people want to be told. One retry, at once, takes a dropped connection anew."""
    return redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=2, retry=Retry(NoBackoff(), retries))


def revive(settings: Settings) -> None:
    """Start embedded servers that have died; nothing where they are running or not embedded."""
    database_url(settings)
    redis_url(settings)
