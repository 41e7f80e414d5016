"""Workers killed at random while Valkey is flushed and killed, PostgreSQL is killed and connections are cut half-open:
then the provider's journal is compared with the ledger."""

from __future__ import annotations

import signal
import statistics
import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import text

from engine.campaigns.policy import Cap
from engine.delivery.gates import RETRY_PAUSE
from engine.delivery.retry import FIRST_WAIT
from engine.store.database import Database
from tests.chaos.books import broken_rules, counters, fullest, sends
from tests.chaos.dispatcher import Order, start
from tests.chaos.servers import HURTS, Servers
from tests.delivery_store import DeliveryShop, journal

AFTER_LEASE = FIRST_WAIT + RETRY_PAUSE
"""How long a push of a dead worker may wait from the end of its lease until it leaves, at most and with some luck: the
wait of a rescued row, and the rest of one that the retry budget held back."""

SLACK = 3.0
"""So many times as long as three dying workers needed for as many pushes: one is alone, on a machine that does other
work too."""

HUNG = 4.0
"""Seconds after which workers whose connections were cut are killed, as Celery's time limit does: longer than a lease,
so that others have taken their work over."""


@dataclass
class Pulse:
    """How far the journal had grown, and when: what the rate is read from."""

    path: Path
    seen: list[tuple[float, int]] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        """Look ten times a second until told that it is over."""
        while not self._over.wait(0.1):
            size = self.path.stat().st_size if self.path.exists() else 0
            self.seen.append((time.monotonic(), size))

    def stop(self) -> None:
        """It is over."""
        self._over.set()

    def rate(self, begin: float, end: float) -> float:
        """Bytes a second in a stretch of time."""
        inside = [size for at, size in self.seen if begin <= at <= end]
        return (inside[-1] - inside[0]) / (end - begin) if len(inside) > 1 else 0.0

    def recovery(self, hurt: float, full: float) -> float | None:
        """Seconds from `hurt` to the end of the first second at four fifths of the `full` rate; None: never again."""
        later = (at for at, _ in self.seen if at >= hurt + 1)
        return next((at - hurt for at in later if self.rate(at - 1, at) >= 0.8 * full), None)


@dataclass
class Storm:
    """Three workers that die at random and are replaced, and servers that are hurt in turn."""

    base: Order
    shop: DeliveryShop
    servers: Servers
    every: int
    """Deaths between two hurts."""
    rounds: int
    """How often each hurt is done."""
    chance: float
    rng: Random = field(default_factory=lambda: Random(3))
    killed: int = 0
    hurts: list[tuple[float, str]] = field(default_factory=list)
    quiet: str = ""
    """How the last worker did, for the record."""
    _workers: list[BaseProcess] = field(default_factory=list)
    _cut: list[BaseProcess] = field(default_factory=list)
    _cut_until: float = 0.0

    def rage(self, seconds: float) -> None:
        """Go on until every push has ended and every hurt was done, or `seconds` have passed; then one worker finishes
        undisturbed, as soon as what the dead held is free again and no more slowly than the three that died."""
        begun, planned = time.monotonic(), self.shop.left()
        left = planned
        try:
            while time.monotonic() < begun + seconds and (left or len(self.hurts) < len(HURTS)):
                self._replace_the_dead()
                done = len(self.hurts)
                if (self.killed >= self.every * (done + 1) or not left) and done < self.rounds * len(HURTS):
                    self._hurt(HURTS[done % len(HURTS)])
                time.sleep(0.1)
                left = self.shop.left()
        finally:
            for worker in (*self._workers, *self._cut):
                worker.kill()
                worker.join()
        calm, left = time.monotonic(), self.shop.left()
        pace = (planned - left) / (calm - begun)
        most = (self.base.pace.lease + AFTER_LEASE).total_seconds() + SLACK * left / max(pace, 1.0)
        last = start(self.base)
        last.join(most)
        took = time.monotonic() - calm
        last.kill()
        last.join()
        self.quiet = f"{planned - left} pushes in {calm - begun:.0f} s of storm, the last {left} in {took:.1f} s"
        assert last.exitcode == 0, (
            f"one worker finishes what is left within {most:.0f} s; {self.quiet}: {self._stuck()}"
        )

    def _stuck(self) -> list[tuple[Any, ...]]:
        with self.shop.database.begin() as connection:
            waiting = (
                "SELECT state, attempts, in_doubt, failed_before, count(*), max(not_before - clock_timestamp())::text"
                " FROM pushes GROUP BY 1, 2, 3, 4 ORDER BY 5 DESC"
            )
            return [tuple(row) for row in connection.execute(text(waiting))]

    def _replace_the_dead(self) -> None:
        for worker in self._workers:
            assert worker.exitcode in (None, 0, -signal.SIGKILL), "a worker ends by being killed, or with its work"
            self.killed += worker.exitcode == -signal.SIGKILL
        self._workers = [worker for worker in self._workers if worker.exitcode is None]
        while len(self._workers) < 3:
            self._workers.append(start(replace(self.base, seed=self.rng.randrange(2**32), chance=self.chance)))
        if self._cut and time.monotonic() > self._cut_until:
            for worker in self._cut:
                worker.kill()
                worker.join()
            self.killed += len(self._cut)
            self._cut = []

    def _hurt(self, how: str) -> None:
        self.hurts.append((time.monotonic(), how))
        if how == "cut":  # they hang beside those that do their work from now on
            self._cut, self._workers = [*self._cut, *self._workers], []
            self._cut_until = time.monotonic() + HUNG
        self.servers.hurt(how)


def storm(servers: Servers, home: Path, users: int, seconds: float, **force: Any) -> None:
    """Let it rage with this `force` (every, rounds, chance: see Storm), then compare the books."""
    home.mkdir()
    database = Database(servers.direct.database_url)
    shop = DeliveryShop(database)
    policy = shop.policy(
        Cap(id="daily", limit=2, window="local_day"), Cap(id="own", scope="campaign:a", limit=1, window="rolling:PT24H")
    )
    names = [f"u{n}" for n in range(users)]
    for campaign in "abcd":
        shop.campaign(campaign)
        shop.pushes(names, campaign)
    shop.campaign("code", **{"class": "transactional"})
    shop.pushes(names, "code")
    raging = Storm(Order(servers.database_url, servers.redis_url, home), shop, servers, **force)
    path, transactional = home / "journal.jsonl", frozenset({shop.occurrences["code"]})
    pulse = Pulse(path)
    watching = threading.Thread(target=pulse.watch)
    watching.start()
    try:
        raging.rage(seconds)
    finally:
        pulse.stop()
        watching.join()

    found = counters(shop, path, transactional)
    marketing = [line for line in journal(path) if line["occurrence_id"] not in transactional]
    per_user = Counter(line["user_id"] for line in marketing)
    print(f"killed {raging.killed}, {found}, fullest windows {fullest(policy, sends(marketing))}; {raging.quiet}")
    _tell_recovery(pulse, raging)
    assert raging.killed > 1
    assert {how for _, how in raging.hurts} == set(HURTS)
    assert (found.lost, found.duplicated) == (0, 0)
    assert found.accepted + found.unknown + found.other == 5 * users
    assert broken_rules(policy, path, transactional) == []
    assert max(per_user.values()) <= 2
    accepted = {str(row["push_id"]) for row in shop.deliveries() if row["state"] == "accepted"}
    maybe = {str(row["push_id"]) for row in shop.deliveries() if row["state"] == "unknown"}
    in_journal = {line["push_id"] for line in journal(path)}
    assert accepted <= in_journal <= accepted | maybe
    database.dispose()


def _tell_recovery(pulse: Pulse, raging: Storm) -> None:
    """For the record: how long after each hurt the rate was again what it usually is."""
    if not pulse.seen:
        return
    seconds = range(int(pulse.seen[-1][0] - pulse.seen[0][0]))
    rates = [pulse.rate(pulse.seen[0][0] + n, pulse.seen[0][0] + n + 1) for n in seconds]
    if busy := [rate for rate in rates if rate > 0]:
        full = statistics.median(busy)
        again = [(how, pulse.recovery(at, full)) for at, how in raging.hurts]
        for kind in dict.fromkeys(how for how, _ in again):
            times = [after for how, after in again if how == kind]
            told = ", ".join("not again" if after is None else f"{after:.1f}" for after in times)
            print(f"seconds to full rate after {kind}: {told}")


def test_a_storm_of_kills_losses_and_cuts_breaks_no_cap_and_no_book(own_servers: Servers, tmp_path: Path) -> None:
    storm(own_servers, tmp_path / "home", users=30, seconds=40, every=1, rounds=1, chance=0.08)


@pytest.mark.soak
def test_a_long_storm_of_kills_losses_and_cuts_breaks_no_cap_and_no_book(own_servers: Servers, tmp_path: Path) -> None:
    storm(own_servers, tmp_path / "home", users=5000, seconds=300, every=4, rounds=6, chance=0.02)
