"""Waking tasks by name. A wake-up carries ids only: losing one costs time until the next tick, never work."""

from __future__ import annotations

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

QUEUES = {
    "horae.tick_campaigns": "plan",
    "horae.tick_triggers": "plan",
    "horae.plan_shard": "plan",
    "horae.settle": "plan",
    "horae.refresh": "plan",
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
        self._redis = None
        if not broker_url.startswith("memory:"):  # a bench's: nobody is woken
            self._redis = redis.Redis.from_url(
                broker_url, socket_timeout=SECONDS, socket_connect_timeout=SECONDS, retry=Retry(NoBackoff(), 0)
            )
        self._silent_until = 0.0
        self.lost = False
        """Whether nobody was woken."""

    def __call__(self, task: str, *ids: int) -> None:
        """Ask for it."""
        if monotonic() < self._silent_until:
            return
        try:
            if self._redis is not None:
                self._redis.ping()  # Celery needs half a minute to give up a server that accepts and says nothing
            self._client.send_task(task, args=ids, queue=QUEUES[task], retry=False, ignore_result=True)
        except (redis.RedisError, OperationalError, OSError):
            self.lost, self._silent_until = True, monotonic() + SILENT_SECONDS
