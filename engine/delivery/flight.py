"""Groups that are with their providers: some at once, each on a thread of its own, recorded when they are back.

Everything but the waiting for answers stays with the thread that dispatches: checks, reservations, intents, records.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from engine.delivery.messages import Outcome
from engine.delivery.recording import record
from engine.delivery.sending import Desk, Leaving


class Flight:
    """The groups under way, oldest first. Leaving it waits for all of them and records them."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._pool = ThreadPoolExecutor(desk.pace.in_flight, "flight")
        self._aloft: deque[tuple[Leaving, Future[list[list[Outcome]]]]] = deque()

    def make_room(self) -> None:
        """Wait until another group may leave."""
        if len(self._aloft) >= self._desk.pace.in_flight:
            self._land(wait=1)

    def launch(self, leaving: Leaving) -> None:
        """Send a group."""
        self._aloft.append((leaving, self._pool.submit(leaving.send)))

    def land_all(self) -> int:
        """Wait for every group under way and record it; their number."""
        return self._land(wait=len(self._aloft))

    def _land(self, wait: int) -> int:
        """Record the oldest `wait` groups, and those behind them that are back already, in one transaction."""
        landed: list[tuple[Leaving, Sequence[Sequence[Outcome]]]] = []
        try:
            while self._aloft and (wait > 0 or self._aloft[0][1].done()):
                leaving, future = self._aloft.popleft()
                wait -= 1
                landed.append((leaving, future.result()))
        finally:
            if landed:
                self._desk.at("after_send")
                record(self._desk, landed)
        return len(landed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        failed: BaseException | None = None
        while self._aloft:
            try:
                self.land_all()
            except Exception as now:  # the groups behind it are recorded all the same
                failed = failed or now
        self._pool.shutdown()
        if failed is not None and error is None:
            raise failed
