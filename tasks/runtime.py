"""What tasks share: this process' runtime, opened at the first task, and the wake-ups that the engine is handed."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from celery import Task, current_app
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from engine import clock
from engine.config import read_settings
from engine.errors import Unavailable
from engine.planning.wake import EXPIRES_SECONDS, Marks

if TYPE_CHECKING:
    from engine.runtime import Runtime

logger = logging.getLogger(__name__)


class _Process:
    """This process' runtime and marks of wake-ups; a pool child keeps them from task to task."""

    runtime: Runtime | None = None
    marks: Marks | None = None


@contextmanager
def worker_runtime() -> Iterator[Runtime]:
    """This process' runtime, opened when first needed and opened anew after a server was lost.

    The schema is brought up to date only where the servers are embedded; elsewhere `horae migrate` does it, before
    workers of a new version start. Raises SchemaMismatch, StoreUnavailable, RedisUnavailable.
    """
    if _Process.runtime is None:
        from engine.runtime import open_runtime, spare_collector

        settings = read_settings()
        _Process.runtime = open_runtime(settings, migrate=settings.database_url is None)
        spare_collector()
    try:
        yield _Process.runtime
    except Unavailable:
        close_runtime()  # the next task starts embedded servers again, and reconnects
        raise


def business_now(runtime: Runtime) -> datetime:
    """Business time, read once at this edge."""
    with runtime.database.begin() as connection:
        return clock.business_now(connection)


def close_runtime(**_signal: object) -> None:
    """Close this process' runtime, if it has one."""
    runtime, _Process.runtime = _Process.runtime, None
    if runtime is not None:
        runtime.close()
    marks, _Process.marks = _Process.marks, None
    if marks is not None:
        marks.close()


def _marks() -> Marks:
    if _Process.marks is None:
        _Process.marks = Marks(current_app.conf.broker_url)
    return _Process.marks


def begun(sender: Task, args: Sequence[object] = (), **_signal: object) -> None:
    """Celery's signal before a task: from now on what is committed asks for it anew."""
    if not args:
        with suppress(RedisError, OSError):  # the mark goes by itself
            _marks().begun(sender.name)


def wake(task: str, *ids: int) -> None:
    """Ask some worker to run `task` with `ids` (an engine.planning.wake.Wake).

    A broker that does not answer costs no work, only the time until the next tick finds it in the tables.
    """

    def send() -> None:
        current_app.send_task(task, args=ids, expires=EXPIRES_SECONDS)

    try:
        send() if ids else _marks().once(task, send)
    except (OperationalError, RedisError, OSError) as error:
        logger.warning("%s%r was not announced: %s", task, ids, error, extra={"action": "wake_lost"})


def prepare_pool(**_signal: object) -> None:
    """What the pool's children inherit from the worker that spawns them."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # parallelism comes from processes
    project = str(Path(__file__).resolve().parents[1])
    if project not in sys.path:  # a checkout that is not installed: `celery -A` finds it, its children would not
        sys.path.append(project)
