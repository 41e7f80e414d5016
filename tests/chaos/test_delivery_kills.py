"""Real processes, really killed: the provider's journal against the ledger.

Counted as by Jepsen's total-queue: attempts (lines of the journal), accepted, unknown, lost (pushes without an end),
duplicated (marketing received twice).
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random

import pytest
import redis

from engine import embedded
from engine.campaigns.policy import Cap, Journalled, Policy, Violation, check_journal
from engine.embedded.valkey import Valkey
from engine.localtime import zone
from engine.runtime import Runtime
from tests.chaos.dispatcher import PACE, Order, work
from tests.delivery_store import DeliveryShop, journal, received

POINTS = {
    "after_claim": 0,
    "after_reserve": 0,
    "after_intent": PACE.group,
    "after_send": PACE.group,
    "after_record": PACE.group,
    "after_commit": 0,
}
"""The crash points, and how many pushes a kill there leaves in doubt at least; at most, all groups in flight."""

SPAWN = multiprocessing.get_context("forkserver")
SPAWN.set_forkserver_preload(["tests.chaos.dispatcher"])


@dataclass(frozen=True)
class Counters:
    """What the journal and the ledger say together."""

    attempts: int
    accepted: int
    unknown: int
    other: int
    lost: int
    duplicated: int


@pytest.fixture
def shop(runtime: Runtime) -> DeliveryShop:
    return DeliveryShop(runtime.database)


@pytest.fixture
def own_valkey() -> Iterator[Path]:
    """The home of a Valkey that may be killed."""
    home = Path(tempfile.mkdtemp(prefix="horae-chaos-"))
    yield home
    embedded.stop(home)
    shutil.rmtree(home, ignore_errors=True)


def start(order: Order) -> BaseProcess:
    process = SPAWN.Process(target=work, args=(order,))
    process.start()
    return process


def counters(shop: DeliveryShop, path: Path, transactional: frozenset[int] = frozenset()) -> Counters:
    states = Counter(row["state"] for row in shop.deliveries())
    twice = {key for key, times in received(path).items() if times > 1 and key[0] not in transactional}
    rest = sum(states.values()) - states["accepted"] - states["unknown"]
    return Counters(len(journal(path)), states["accepted"], states["unknown"], rest, len(shop.hot()), len(twice))


def test_a_kill_at_any_point_loses_nothing_and_sends_nothing_twice(
    runtime: Runtime, shop: DeliveryShop, redis_url: str
) -> None:
    policy = shop.policy(Cap(id="daily", limit=1, window="local_day"))
    users, path = [f"u{n}" for n in range(200)], runtime.settings.journal_path
    for campaign in ("a", "b"):
        shop.campaign(campaign)
        shop.pushes(users, campaign)
    order = Order(runtime.database.libpq_url, redis_url, runtime.settings.home)

    doubted = 0
    for point, doubt in POINTS.items():
        before = sending(shop)
        dying = start(replace(order, point=point, nth=2))
        dying.join(60)
        assert dying.exitcode == -signal.SIGKILL
        left = sending(shop) - before
        assert doubt <= left <= PACE.in_flight * PACE.group, point
        doubted += left
    survivor = start(order)
    survivor.join(60)

    found, per_user = counters(shop, path), Counter(line["user_id"] for line in journal(path))
    assert survivor.exitcode == 0
    assert (found.lost, found.duplicated) == (0, 0)
    assert found.accepted + found.unknown + found.other == 400
    assert found.unknown == doubted
    assert found.accepted <= found.attempts <= found.accepted + found.unknown, "kills came before requests, too"
    assert broken_rules(policy, path) == []
    assert max(per_user.values()) == 1
    assert found.accepted + found.unknown == 200, "every user has used their place"


def broken_rules(policy: Policy, path: Path, transactional: frozenset[int] = frozenset()) -> list[Violation]:
    """Caps and gaps that the provider saw broken, by the pure function alone."""
    lines = [line for line in journal(path) if line["occurrence_id"] not in transactional]
    sends = [
        Journalled(
            user=line["user_id"],
            at=datetime.fromisoformat(line["at"]),
            scopes=frozenset({"channel:log", f"campaign:{line['campaign']}"}),
            tz=zone("UTC"),
        )
        for line in lines
    ]
    return check_journal(policy, sends)


def sending(shop: DeliveryShop) -> int:
    """Pushes that are under way, or were when their worker died."""
    unknown = [row for row in shop.deliveries() if row["state"] == "unknown"]
    return len(unknown) + len([row for row in shop.hot() if row["state"] == "sending"])


def storm(runtime: Runtime, shop: DeliveryShop, home: Path, users: int, seconds: float) -> None:
    """Workers killed at random while Valkey is flushed, killed and started again; then the books are compared."""
    policy = shop.policy(
        Cap(id="daily", limit=2, window="local_day"), Cap(id="own", scope="campaign:a", limit=1, window="rolling:PT24H")
    )
    names = [f"u{n}" for n in range(users)]
    for campaign in "abcd":
        shop.campaign(campaign)
        shop.pushes(names, campaign)
    shop.campaign("code", **{"class": "transactional"})
    shop.pushes(names, "code")
    url = embedded.ensure_valkey(home)
    killed = rage(Order(runtime.database.libpq_url, url, runtime.settings.home), shop, home, seconds)

    path, transactional = runtime.settings.journal_path, frozenset({shop.occurrences["code"]})
    found = counters(shop, path, transactional)
    marketing = [line for line in journal(path) if line["occurrence_id"] not in transactional]
    per_user = Counter(line["user_id"] for line in marketing)
    print(f"killed {killed}, {found}, most per user {max(per_user.values())}")
    assert killed > 1
    assert (found.lost, found.duplicated) == (0, 0)
    assert found.accepted + found.unknown + found.other == 5 * users
    assert broken_rules(policy, path, transactional) == []
    accepted = {str(row["push_id"]) for row in shop.deliveries() if row["state"] == "accepted"}
    maybe = {str(row["push_id"]) for row in shop.deliveries() if row["state"] == "unknown"}
    in_journal = {line["push_id"] for line in journal(path)}
    assert accepted <= in_journal <= accepted | maybe


def rage(base: Order, shop: DeliveryShop, home: Path, seconds: float) -> int:
    """Keep three workers alive that die at random, hurt Valkey at every second death, then let one worker finish; how
    many were killed."""
    rng, killed, hurts, began = Random(3), 0, 0, time.monotonic()
    workers: list[BaseProcess] = []
    while shop.hot() and time.monotonic() < began + seconds:
        killed += sum(worker.exitcode == -signal.SIGKILL for worker in workers)
        workers = [worker for worker in workers if worker.exitcode is None]
        while len(workers) < 3:
            workers.append(start(replace(base, seed=rng.randrange(2**32), chance=0.12)))
        if killed >= 2 * (hurts + 1):
            hurt(home, ("flush", "kill")[hurts % 2])
            hurts += 1
        time.sleep(0.05)
    for worker in workers:
        worker.kill()
        worker.join()
    last = start(base)
    last.join(300)
    assert last.exitcode == 0
    return killed


def hurt(home: Path, how: str) -> None:
    """Empty Valkey, or kill it (its last second is lost) and start it again."""
    if how == "flush":
        client = redis.Redis.from_url(Valkey(home).url())
        client.flushall()
        client.close()
        return
    pid = Valkey(home).pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    embedded.ensure_valkey(home)


def test_a_storm_of_kills_and_losses_breaks_no_cap_and_no_book(
    runtime: Runtime, shop: DeliveryShop, own_valkey: Path
) -> None:
    storm(runtime, shop, own_valkey, users=24, seconds=12)


@pytest.mark.soak
def test_a_long_storm_of_kills_and_losses_breaks_no_cap_and_no_book(
    runtime: Runtime, shop: DeliveryShop, own_valkey: Path
) -> None:
    storm(runtime, shop, own_valkey, users=2000, seconds=240)
