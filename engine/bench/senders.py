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
from typing import Any, Self

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
    """What a dispatch process works with."""

    database_url: str
    caps_url: str
    settings: Mapping[str, Any]


@dataclass
class Sent:
    """What became of the pushes, the seconds that it took, and the processors' seconds in all processes together: of
    the threads that dispatch, and of those that speak to the provider."""

    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    dispatching: float = 0.0
    speaking: float = 0.0


class Senders:
    """Processes that dispatch whenever `run` lets them; they live as long as this context."""

    def __init__(self, order: Order, processes: int) -> None:
        self._together = _SPAWN.Barrier(processes + 1)
        self._orders, self._results = _SPAWN.SimpleQueue(), _SPAWN.SimpleQueue()
        self._processes = [
            _SPAWN.Process(target=_work, args=(order, number, self._together, self._orders, self._results), daemon=True)
            for number in range(processes)
        ]
        for process in self._processes:
            process.start()
        self._together.wait(60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for _process in self._processes:
            self._orders.put(None)
        for process in self._processes:
            process.join(30)

    def run(self, seconds: float = 0.0) -> Sent:
        """Dispatch until nothing is due, or for `seconds`."""
        for _process in self._processes:
            self._orders.put(seconds)
        self._together.wait(60)
        begun, sent = clock.monotonic(), Sent()
        for _process in self._processes:
            counts, dispatching, speaking = self._results.get()
            sent.counts.update(counts)
            sent.dispatching += dispatching
            sent.speaking += speaking
        sent.seconds = clock.monotonic() - begun
        return sent


def _work(order: Order, number: int, together: Any, orders: Any, results: Any) -> None:
    settings = Settings.model_validate({**order.settings, "home": Path(order.settings["home"])})
    database = Database(order.database_url)
    runtime = Runtime(settings, database, order.caps_url, order.caps_url, order.caps_url)
    spare_collector()
    try:
        _warm_up(runtime)
        together.wait(60)
        while (seconds := orders.get()) is not None:
            together.wait(60)
            results.put(_dispatch(runtime, seconds, Random(number)))
    finally:
        together.abort()  # nobody waits for this one any more
        runtime.close()


def _dispatch(runtime: Runtime, seconds: float, rng: Random) -> tuple[dict[str, int], float, float]:
    """Pass after pass, as beat wakes a worker: counts, processor seconds of this thread, of the others."""
    counts: Counter[str] = Counter()
    begun, own, whole = clock.monotonic(), thread_time(), process_time()
    while True:
        counts.update(dispatch_due(runtime, clock.machine_now(), rng=rng))
        left = begun + seconds - clock.monotonic()
        if left <= 0:
            break
        sleep(min(TICK, left))
    own, whole = thread_time() - own, process_time() - whole
    return dict(counts), own, whole - own


def _warm_up(runtime: Runtime) -> None:
    """Connect to everything, and compile what a first pass compiles: nothing is due at that instant."""
    dispatch_due(runtime, clock.machine_now() - timedelta(days=300))
    for gateway in runtime.gateways.values():
        gateway.send_many([])
