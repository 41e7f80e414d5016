"""Logs that can be read: a line for what a task did or why it could not, none for ticks that found nothing to do."""

from __future__ import annotations

import logging
from contextlib import suppress

from celery import Task

from engine import clock
from engine.errors import HoraeError
from engine.store import ticks
from tasks.runtime import worker_runtime

logger = logging.getLogger("horae")

ROUTINE = (
    "celery.beat",
    "celery.worker.strategy",
    "celery.worker.request",
    "celery.app.trace",
    "multiprocessing",
    "alembic",
)
"""Loggers that have a line for every tick sent, received and done, for every child and for every look at the schema."""


NOTE_SECONDS = 1.0
"""Between two notes of a process about one task, which is woken many times a second where events come all the time."""

_noted: dict[str, float] = {}

BEATEN = frozenset(f"horae.{name}" for name in ("tick_campaigns", "refresh", "dispatch_due", "fold", "upkeep"))
"""Tasks that beat asks for every minute or more often."""


def quiet_routine(loglevel: int | None = None, **_signal: object) -> None:
    """Keep routine lines out of the log, unless it is to show everything (-l DEBUG)."""
    if loglevel is not None and loglevel > logging.DEBUG:
        for name in ROUTINE:
            logging.getLogger(name).setLevel(logging.WARNING)


def say_succeeded(sender: Task, result: object = None, **_signal: object) -> None:
    """Log the counts of a task that did something; a tick that found nothing says nothing."""
    if isinstance(result, dict) and (done := {name: value for name, value in result.items() if value}):
        logger.info(
            "%s: %s",
            sender.name,
            ", ".join(f"{name} {value}" for name, value in done.items()),
            extra={"action": "task"},
        )


def note_tick(sender: Task, **_signal: object) -> None:
    """Note when a task of beat's last ended well: how old that is, metrics say. A store that is away is not this
    task's failure."""
    if sender.name in BEATEN and clock.monotonic() >= _noted.get(sender.name, 0.0) + NOTE_SECONDS:
        _noted[sender.name] = clock.monotonic()
        with suppress(HoraeError), worker_runtime() as runtime:
            ticks.mark(runtime.database, sender.name.removeprefix("horae."))


def say_failed(sender: Task, exception: BaseException | None = None, **_signal: object) -> None:
    """Log an error of ours in one line; what is not ours is logged by Celery, with its traceback."""
    if isinstance(exception, HoraeError):
        logger.error("%s: %s", sender.name, exception, extra={"action": "task_failed"})
