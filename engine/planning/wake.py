"""Waking tasks by name. A wake-up carries ids only: losing one costs time until the next tick, never work.

A wake-up without ids says "look": one that waits is as good as many. So whoever sends one leaves a mark in the Redis of
the broker, and whoever finds the mark sends nothing; the worker takes it away as the task begins, before it looks. What
is committed while a mark is there is seen by the look that is still to come. This holds for all processes together, so
that no burst becomes a queue of looks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import redis
from celery import Celery
from celery.exceptions import OperationalError
from redis.backoff import NoBackoff
from redis.retry import Retry

from engine.clock import monotonic

SECONDS = 2.0
"""How long a broker gets to answer."""
SILENT_SECONDS = 10.0

MARK_SECONDS = 2.0
"""After so long a mark goes by itself: its message may have been lost with its worker."""

EXPIRES_SECONDS = 60.0
"""A wake-up that no worker got to by then vanishes: ticks wake again what still waits, every few seconds."""

QUEUES = {
    "horae.tick_campaigns": "plan",
    "horae.tick_triggers": "plan",
    "horae.plan_shard": "plan",
    "horae.settle": "plan",
    "horae.refresh": "refresh",
    "horae.dispatch_due": "dispatch",
    "horae.fold": "ingest",
    "horae.train": "train",
    "horae.warm_update": "train",
    "horae.upkeep": "upkeep",
}
"""The queue of every task, the same as the workers' own routes: a message in any other queue would reach nobody."""


class Wake(Protocol):
    """Asks some worker to run `task` with `ids` soon. Called after commit; may be lost, may arrive twice."""

    def __call__(self, task: str, *ids: int) -> None:
        """Ask for it."""


def ignore(task: str, *ids: int) -> None:
    """A wake-up that goes nowhere: the next tick finds the work in the tables."""


class Marks:
    """The marks of wake-ups that wait, in the Redis at `broker_url`; without one (memory://), every wake-up is sent.
    May raise redis.RedisError."""

    def __init__(self, broker_url: str) -> None:
        self._redis = None
        if not broker_url.startswith("memory:"):  # a bench's: nobody is woken
            self._redis = redis.Redis.from_url(
                broker_url, socket_timeout=SECONDS, socket_connect_timeout=SECONDS, retry=Retry(NoBackoff(), 1)
            )

    def once(self, task: str, send: Callable[[], object]) -> None:
        """`send()`, unless a wake-up of `task` waits already."""
        if self._redis is None:
            send()
            return
        if not self._redis.set(_mark(task), b"", nx=True, px=int(1000 * MARK_SECONDS)):
            return
        try:
            send()
        except BaseException:
            self._redis.delete(_mark(task))
            raise

    def begun(self, task: str) -> None:
        """The task begins: what comes from now on is asked for anew."""
        if self._redis is not None:
            self._redis.delete(_mark(task))

    def ping(self) -> None:
        """Return if the Redis answers."""
        if self._redis is not None:
            self._redis.ping()

    def close(self) -> None:
        """Close the connections."""
        if self._redis is not None:
            self._redis.close()


def _mark(task: str) -> str:
    return f"horae.woken.{task}"


class BrokerWake:
    """Wakes workers through the broker at `broker_url`; where it does not answer, the tick will find the work.

    A broker that was silent is not asked again for a while: who waits for this is a person, or a driver.
    """

    def __init__(self, broker_url: str) -> None:
        self._client = Celery(broker=broker_url, set_as_current=False)
        self._client.conf.update(
            task_ignore_result=True,
            broker_transport_options={"socket_connect_timeout": SECONDS, "socket_timeout": SECONDS, "max_retries": 0},
            broker_connection_retry=False,
        )
        self._marks = Marks(broker_url)
        self._silent_until = 0.0
        self.lost = False
        """Whether nobody was woken."""

    def __call__(self, task: str, *ids: int) -> None:
        """Ask for it."""
        if monotonic() < self._silent_until:
            return
        try:  # the marks' Redis first: Celery needs half a minute to give up a server that accepts and says nothing
            if ids:
                self._marks.ping()
                self._send(task, ids)
            else:
                self._marks.once(task, lambda: self._send(task, ()))
        except (redis.RedisError, OperationalError, OSError):
            self.lost, self._silent_until = True, monotonic() + SILENT_SECONDS

    def close(self) -> None:
        """Close the connections."""
        self._marks.close()

    def _send(self, task: str, ids: tuple[int, ...]) -> None:
        self._client.send_task(
            task, args=ids, queue=QUEUES[task], retry=False, ignore_result=True, expires=EXPIRES_SECONDS
        )
