"""What runs and how it stands, for `horae status`: looked up with short timeouts, starting and changing nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import redis
from celery import Celery
from celery.exceptions import OperationalError
from sqlalchemy import Connection, text

from engine import clock, embedded
from engine.campaigns import store as campaigns
from engine.config import QUEUES, Settings
from engine.delivery.gateways import try_gateways
from engine.errors import HoraeError, SchemaMismatch
from engine.metrics.figures import Model, read_figures
from engine.store.database import Database
from engine.supervise import one

ANSWER_SECONDS = 1.0
"""How long workers and beat get to answer."""


@dataclass(frozen=True)
class ServerStatus:
    """A server: whether it answers, where (no password), whether it is the embedded one, what is wrong."""

    running: bool
    embedded: bool
    address: str | None = None
    problem: str | None = None


@dataclass(frozen=True)
class WorkerStatus:
    """A Celery worker that answered, and the queues it serves."""

    name: str
    queues: tuple[str, ...]


@dataclass(frozen=True)
class StoreStatus:
    """What the tables say; instants are business time."""

    business_now: datetime
    virtual_clock: bool
    campaigns: dict[str, int]
    """Number of campaigns by state."""
    pushes: dict[str, int]
    """Number of hot pushes by state."""
    pushes_due: int
    """Planned pushes whose instant has come."""
    oldest_due_late_seconds: float
    """How late the oldest of these is; 0 where none is due."""
    runs: list[dict[str, Any]]
    """Runs in progress: id, state, shards_done, shards_total, users_done, users_total."""
    events_unfolded: int
    outcomes_last_day: dict[str, int]
    """Deliveries of the last 24 hours by state and, where it has one, reason: `accepted`, `suppressed: capped`, …"""
    unknown_last_day: int
    due_by_gateway: dict[str, int]
    stopped_by_horae: dict[str, str]
    """Switches that Horae itself turned off, and why."""
    paused_by_horae: dict[str, str]
    """Campaigns that Horae itself paused, and why."""
    providers: list[dict[str, Any]]
    """Every gateway that was used: gateway, state of its breaker (closed, open, probing), until (machine time), why,
    answers and failures of the present half minute, resting_until (as its provider asked)."""
    leases_expired: int
    """Pushes whose dispatcher is late or dead: upkeep takes them over."""
    lost: dict[str, int]
    """Pushes that were planned and have neither ended nor wait, by date of their occurrence: there must be none."""
    ticks: dict[str, float]
    """Seconds since each of beat's tasks last ended well."""
    model: dict[str, Any] | None
    """The champion: version, regime, as_of."""


@dataclass(frozen=True)
class Status:
    """Everything `horae status` says."""

    home: Path
    up: int | None
    """Process id of the `horae up` on this data directory."""
    postgres: ServerStatus
    redis: ServerStatus
    schema: str
    """current, behind, empty, newer, or unknown where PostgreSQL does not answer."""
    workers: list[WorkerStatus]
    beat: bool
    queues: dict[str, int]
    """Messages that wait in each queue."""
    store: StoreStatus | None
    down: list[str] = field(default_factory=list)
    """What is missing for pushes to go out."""
    alarms: list[str] = field(default_factory=list)
    """What keeps some pushes waiting until a person has looked: a channel that Horae stopped, a gateway that is not
    configured or wrongly."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        found = asdict(self)
        found["home"] = str(self.home)
        if self.store is not None:
            found["store"]["business_now"] = self.store.business_now.isoformat()
            for one in found["store"]["providers"]:
                for name in ("until", "resting_until"):
                    one[name] = one[name].isoformat() if one[name] else None
        return found


def gather(settings: Settings) -> Status:
    """Look everything up; a server that is down is said to be down, not started."""
    states = embedded.states(settings.home)
    postgres, schema_state, store = _postgres(settings, settings.database_url or states.database_url)
    redis_status, queues, workers, beat = _broker(settings, settings.redis_url or states.redis_url)
    found = Status(
        home=settings.home,
        up=one.other(settings.home),
        postgres=postgres,
        redis=redis_status,
        schema=schema_state,
        workers=workers,
        beat=beat,
        queues=queues,
        store=store,
    )
    found.down.extend(_down(found))
    found.alarms.extend(_alarms(settings, found.store))
    return found


def _down(status: Status) -> Iterator[str]:
    if not status.postgres.running:
        yield "PostgreSQL"
    elif status.schema != "current":
        yield f"schema ({status.schema})"
    if not status.redis.running:
        yield "Redis"
    served = {queue for worker in status.workers for queue in worker.queues}
    if unserved := [queue for queue in QUEUES if queue not in served]:
        yield f"workers for the queues {', '.join(unserved)}"
    if not status.beat:
        yield "beat"


def _alarms(settings: Settings, store: StoreStatus | None) -> Iterator[str]:
    files = [value for name in type(settings).model_fields if isinstance(value := getattr(settings, name), Path)]
    stamps = tuple((file, file.stat().st_mtime_ns) for file in files if file.is_file())
    configured, problems = _gateways(settings, stamps)
    for name, problem in problems.items():
        yield f"gateway {name} is configured wrongly: {problem}"
    if store is not None:
        for day, number in store.lost.items():
            yield f"{number:,} pushes of {day} were planned and have neither ended nor wait: please report this"
        for name, why in store.paused_by_horae.items():
            yield f"campaign {name} was paused: {why}; let it go on with: horae campaign resume {name}"
        for one in store.providers:
            if one["state"] != "closed":
                yield (
                    f"gateway {one['gateway']} fails ({one['why'] or 'no answer'}) and is left alone; one push tries it"
                    f" at {one['until']:%H:%M:%S} UTC, its others wait"
                )
            elif one["resting_until"]:
                yield f"gateway {one['gateway']} was asked to rest until {one['resting_until']:%H:%M:%S} UTC"
        for scope, why in store.stopped_by_horae.items():
            yield f"{scope.replace(':', ' ')} was stopped: {why}; let it go on with: horae start"
        for name, number in store.due_by_gateway.items():
            if name not in configured and name not in problems:
                yield f"{number:,} due pushes wait for the gateway {name}, which is not configured here"


@lru_cache(maxsize=2)
def _gateways(settings: Settings, stamps: tuple[tuple[Path, int], ...]) -> tuple[frozenset[str], dict[str, str]]:  # noqa: ARG001
    """The gateways that are configured, and what is wrong with others; looked at again where a setting or one of its
    files (`stamps`: when each was written) changed: building them loads keys and certificates."""
    built = try_gateways(settings)
    for gateway in built.gateways.values():
        gateway.close()
    return frozenset(built.gateways), {name: str(problem) for name, problem in built.problems.items()}


def _postgres(settings: Settings, url: str | None) -> tuple[ServerStatus, str, StoreStatus | None]:
    own = settings.database_url is None
    if url is None:
        return ServerStatus(False, own), "unknown", None
    database = Database(url)
    address = database.url.render_as_string(hide_password=True)
    try:
        schema_state = _schema_state(database)
        store = None
        if schema_state == "current":
            with database.begin() as connection:
                store = _store(connection)
        return ServerStatus(True, own, address), schema_state, store
    except HoraeError as error:
        return ServerStatus(False, own, address, error.message), "unknown", None
    finally:
        database.dispose()


def _schema_state(database: Database) -> str:
    from engine.store import schema  # noqa: PLC0415 - Alembic is slow to import

    try:
        return schema.version_state(database)
    except SchemaMismatch:
        return "newer"


def outcomes_since(connection: Connection, since: datetime) -> dict[str, int]:
    """Deliveries after `since` (business time) by state and, where it has one, reason: `suppressed: capped`."""
    return _counts(
        connection,
        "SELECT state || coalesce(': ' || reason, ''), count(*) FROM deliveries"
        " WHERE day >= :day AND at > :since AND NOT test GROUP BY 1",
        day=since.date(),
        since=since,
    )


def _store(connection: Connection) -> StoreStatus:
    now = clock.business_now(connection)
    figures = read_figures(connection, now)
    outcomes = outcomes_since(connection, now - timedelta(days=1))
    return StoreStatus(
        business_now=now,
        virtual_clock=figures.virtual,
        campaigns=dict(figures.campaigns),
        pushes=_counts(connection, "SELECT state, count(*) FROM pushes GROUP BY 1"),
        pushes_due=sum(figures.due.values()),
        oldest_due_late_seconds=figures.oldest_due_seconds,
        runs=[dict(row) for row in connection.execute(text(_RUNS)).mappings()],
        events_unfolded=figures.events_unfolded,
        outcomes_last_day=outcomes,
        unknown_last_day=figures.unknown_last_day,
        due_by_gateway=dict(figures.due),
        stopped_by_horae=dict(figures.stopped_by_horae),
        paused_by_horae=campaigns.paused_by_horae(connection),
        providers=[asdict(one) for one in figures.providers],
        leases_expired=figures.leases_expired,
        lost=dict(figures.counters.get("lost", {})),
        ticks=dict(figures.ticks),
        model=None if figures.model is None else _plain(figures.model),
    )


_RUNS = """
SELECT id, state, shards_done, shards_total, users_done, users_total FROM runs
WHERE state IN ('planning', 'settling') ORDER BY id
"""


def _counts(connection: Connection, query: str, **values: Any) -> dict[str, int]:
    return {row[0]: row[1] for row in connection.execute(text(query + " ORDER BY 1"), values)}


def _plain(model: Model) -> dict[str, Any]:
    return asdict(model) | {"as_of": model.as_of.isoformat()}


def _broker(settings: Settings, url: str | None) -> tuple[ServerStatus, dict[str, int], list[WorkerStatus], bool]:
    own = settings.redis_url is None
    url = settings.broker_url or url
    if url is None:
        return ServerStatus(False, own), {}, [], False
    address = url.rsplit("@", 1)[-1].removeprefix("redis://")
    try:
        queues = _depths(url)
        workers, beat = _answering(url)
    except (redis.RedisError, OperationalError, OSError) as error:
        return ServerStatus(False, own, address, str(error)), {}, [], False
    return ServerStatus(True, own, address), queues, workers, beat


def _depths(broker_url: str) -> dict[str, int]:
    """The number of messages that wait in each queue."""
    client = redis.Redis.from_url(broker_url, socket_timeout=5, socket_connect_timeout=2, retry=None)
    try:
        return {name: int(client.llen(name)) for name in QUEUES}
    finally:
        client.close()


def _answering(broker_url: str) -> tuple[list[WorkerStatus], bool]:
    """The workers that answer and whether a beat does."""
    client = Celery(broker=broker_url, set_as_current=False)
    try:
        with _quiet("celery", "kombu"):
            queues = client.control.inspect(timeout=ANSWER_SECONDS).active_queues() or {}
            nodes = client.control.inspect(timeout=ANSWER_SECONDS).ping() or {}
    finally:
        client.close()
    workers = [
        WorkerStatus(name, tuple(queue["name"] for queue in queues.get(name, ())))
        for name in sorted(nodes)
        if not name.startswith("celerybeat@")
    ]
    return workers, len(workers) < len(nodes)


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
