"""Dispatch processes, as `horae up` runs them: each its own gateways and connections; they start together."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from random import Random
from time import process_time, sleep, thread_time
from typing import Any

from engine import clock
from engine.config import Settings
from engine.delivery.dispatch import dispatch_due
from engine.runtime import Runtime, spare_collector
from engine.store.database import Database

TICK = 1.0
"""Seconds between wake-ups, as beat gives them."""

_SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Order:
    """What a dispatch process works with, and how long: until nothing is due, or for `seconds`."""

    database_url: str
    caps_url: str
    settings: Mapping[str, Any]
    seconds: float = 0.0


@dataclass
class Sent:
    """What became of the pushes, the seconds that it took, and the processors' seconds in all processes together: of
    the threads that dispatch, and of those that speak to the provider."""

    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    dispatching: float = 0.0
    speaking: float = 0.0


class Senders:
    """Processes that are ready to dispatch; `run` lets them, once, and ends them."""

    def __init__(self, order: Order, processes: int) -> None:
        self._ready = _SPAWN.Barrier(processes + 1)
        self._results = _SPAWN.SimpleQueue()
        self._processes = [
            _SPAWN.Process(target=_work, args=(order, number, self._ready, self._results))
            for number in range(processes)
        ]
        for process in self._processes:
            process.start()
        self._ready.wait(60)

    def run(self) -> Sent:
        """Dispatch."""
        begun, sent = clock.monotonic(), Sent()
        self._ready.wait(60)
        for _ in self._processes:
            counts, dispatching, speaking = self._results.get()
            sent.counts.update(counts)
            sent.dispatching += dispatching
            sent.speaking += speaking
        sent.seconds = clock.monotonic() - begun
        for process in self._processes:
            process.join(30)
        return sent


def _work(order: Order, number: int, ready: Any, results: Any) -> None:
    settings = Settings.model_validate({**order.settings, "home": Path(order.settings["home"])})
    database = Database(order.database_url)
    runtime = Runtime(settings, database, order.caps_url, order.caps_url, order.caps_url)
    spare_collector()
    counts: Counter[str] = Counter()
    try:
        _warm_up(runtime)
        ready.wait(60)
        ready.wait(60)
        begun, own, whole = clock.monotonic(), thread_time(), process_time()
        while True:
            now = clock.machine_now()
            counts.update(dispatch_due(runtime, now, rng=Random(number)))
            left = begun + order.seconds - clock.monotonic()
            if left <= 0:
                break
            sleep(min(TICK, left))
        own, whole = thread_time() - own, process_time() - whole
        results.put((dict(counts), own, whole - own))
    except BaseException:
        results.put(({}, 0.0, 0.0))
        raise
    finally:
        runtime.close()


def _warm_up(runtime: Runtime) -> None:
    """Connect to everything, and compile what a first pass compiles: nothing is due at that instant."""
    dispatch_due(runtime, clock.machine_now() - timedelta(days=300))
    for gateway in runtime.gateways.values():
        gateway.send_many([])
