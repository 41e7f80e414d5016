"""Waking tasks by name. A wake-up carries ids only: losing one costs time until the next tick, never work."""

from __future__ import annotations

from typing import Protocol

from celery import Celery
from celery.exceptions import OperationalError

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


def broker_wake(broker_url: str) -> Wake:
    """Wakes workers through the broker at `broker_url`; where it does not answer, the tick will find the work."""
    client = Celery(broker=broker_url, set_as_current=False)
    client.conf.update(task_ignore_result=True, broker_transport_options={"socket_connect_timeout": 5})

    def wake(task: str, *ids: int) -> None:
        try:
            client.send_task(task, args=ids, queue=QUEUES[task], retry=False, ignore_result=True)
        except (OperationalError, OSError):
            return

    return wake
