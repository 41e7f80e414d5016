"""A dispatching process for chaos tests: it works as a worker does, until it kills itself where it is told to."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random
from typing import Any

from sqlalchemy import text

from engine import clock
from engine.config import Settings
from engine.delivery.dispatch import dispatch_due
from engine.delivery.sending import Pace
from engine.delivery.upkeep import upkeep
from engine.errors import Unavailable
from engine.runtime import Runtime
from engine.store.database import Database

PACE = Pace(batch=40, group=10, in_flight=2, lease=timedelta(seconds=2), longest=timedelta(seconds=5))


SPAWN = multiprocessing.get_context("forkserver")
SPAWN.set_forkserver_preload(["tests.chaos.dispatcher"])


@dataclass(frozen=True)
class Order:
    """What one process is to do: work until nothing is left, dying at the `nth` time it passes `point`, or at any point
    with probability `chance`."""

    database_url: str
    redis_url: str
    home: Path
    seed: int = 0
    point: str = ""
    nth: int = 1
    chance: float = 0.0
    more: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the gateways it sends through; none: the log gateway."""
    pace: Pace = PACE


def start(order: Order) -> BaseProcess:
    """A process that works as ordered."""
    process = SPAWN.Process(target=work, args=(order,))
    process.start()
    return process


def work(order: Order) -> None:
    """Dispatch and keep up until no push is left, or dead."""
    settings = Settings.model_validate({"home": order.home, "database_url": order.database_url, **order.more})
    runtime = Runtime(settings, Database(order.database_url), order.redis_url, order.redis_url, order.redis_url)
    rng, at = Random(order.seed), _killer(order)
    left = True
    while left:
        try:
            with runtime.database.begin() as connection:
                now = clock.business_now(connection)
            dispatch_due(runtime, now, pace=order.pace, rng=rng, at=at)
            upkeep(runtime, now)
            left = _left(runtime) > 0
        except Unavailable:
            pass  # as a worker's tick would: the next one tries again
        time.sleep(0.05)
    runtime.close()


def _killer(order: Order) -> Callable[[str], None]:
    rng, passed = Random(order.seed), 0

    def at(point: str) -> None:
        nonlocal passed
        passed += point == order.point
        if (point == order.point and passed == order.nth) or rng.random() < order.chance:
            os.kill(os.getpid(), signal.SIGKILL)

    return at


def _left(runtime: Runtime) -> int:
    with runtime.database.begin() as connection:
        return int(connection.execute(text("SELECT count(*) FROM pushes")).scalar_one())
