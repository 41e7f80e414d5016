"""Two APIs, two beats and workers are killed while a shop sends: no event lost or doubled, no trigger fired twice."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pytest

from engine import clock
from engine.bench.serving import listens
from engine.campaigns.definition import Campaign
from engine.delivery.dispatch import outstanding
from engine.ingest.replay import replay
from engine.runtime import Runtime
from engine.store.bulk import copy_rows
from tests.api_server import make_key
from tests.chaos.fleet import Fleet
from tests.chaos.senders import Sender
from tests.chaos.servers import Servers
from tests.delivery_store import journal
from tests.planning_shop import create, rows, set_caps
from tests.running import wait_for

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
STEP = timedelta(minutes=15)
SENDERS, BATCH = 3, 4
CART: dict[str, Any] = {
    "name": "cart",
    "class": "marketing",
    "gateway": "log",
    "items": "event",
    "horizon": "1h",
    "cost_disturb": 0,
    "exploration": 0,
    "holdout": 0,
    "trigger": {"event": "add_to_cart", "delay": "20m", "cancel_if": ["purchase"]},
    "message": {"title": "Still thinking?", "body": "{{ item.title }}"},
}
WELCOME = {
    **CART,
    "name": "welcome",
    "items": "none",
    "trigger": {"first_event": True},
    "message": {"title": "Hi", "body": "!"},
}


@pytest.fixture
def shop(own_servers: Servers, tmp_path: Path) -> Iterator[Runtime]:
    """A shop with ten items, without users, at NOON, where a cart left alone and a first event make somebody due."""
    with own_servers.runtime(tmp_path / "home") as runtime:
        with runtime.database.begin() as connection:
            clock.start_virtual(connection, NOON)
            items = [f"i{n}" for n in range(10)]
            columns = {"external_id": pa.array(items), "title": pa.array(items), "price": np.ones(10)}
            copy_rows(connection, "items", columns)
        set_caps(runtime, quiet_hours=None)
        create(runtime, *(Campaign.model_validate(definition) for definition in (CART, WELCOME)))
        yield runtime


def visits(sender: int) -> Iterator[list[dict[str, Any]]]:
    """Batches without end: each person is made known, looks and puts something into the cart, and every second one buys
    it, at once or a batch later."""
    number, later = 0, list[dict[str, Any]]()
    while True:
        batch, later = later, []
        for _ in range(BATCH):
            number += 1
            user, item = f"{sender}-{number}", f"i{number % 10}"
            words = ("view", "add_to_cart", "purchase") if number % 2 else ("view", "add_to_cart")
            said = [
                {
                    "type": "track",
                    "messageId": uuid4().hex,
                    "userId": user,
                    "event": word,
                    "properties": {"item_id": item},
                    "timestamp": (NOON - timedelta(minutes=10) + timedelta(seconds=place)).isoformat(),
                }
                for place, word in enumerate(words)
            ]
            traits = {"timezone": "UTC", "consent": True}
            batch.append({"type": "identify", "messageId": uuid4().hex, "userId": user, "traits": traits})
            batch, later = batch + said[:2], later + said[2:] if number % 4 == 1 else later
            batch += said[2:] if number % 4 == 3 else []
        yield batch


def close_all(shop: Runtime, until: datetime, seconds: float, meanwhile: Callable[[], None]) -> None:
    """Step the clock to `until`, each step when nothing is queued, due or under way; fails after `seconds`."""
    waiting = """
        SELECT (SELECT count(*) FROM unfolded_events) AS unfolded,
               (SELECT count(*) FROM armed_triggers WHERE state = 'armed' AND due_at <= w.business_now) AS due,
               (SELECT count(*) FROM runs WHERE state NOT IN ('published', 'failed', 'cancelled')) AS runs
        FROM workspace w"""
    now, end = NOON, time.monotonic() + seconds
    quiet_since = time.monotonic()
    while True:
        meanwhile()
        under_way = (*rows(shop, waiting)[0], outstanding(shop.database, now))
        assert time.monotonic() < end, f"at {now}: unfolded, due, runs, pushes: {under_way}"
        if any(under_way):
            quiet_since = time.monotonic()
        elif time.monotonic() > quiet_since + 2.5:  # triggers are armed by a tick that comes every two seconds
            if now >= until:
                return
            now += STEP
            with shop.database.begin() as connection:
                clock.step_virtual(connection, now)
            quiet_since = time.monotonic()
        time.sleep(0.1)


def live(own_servers: Servers, shop: Runtime, seconds: float, every: float, quiet: float, seed: int) -> None:
    """Send for `seconds`, killing somebody `every` so often and until everything is closed; then check the books."""
    rng = Random(seed)
    key = make_key(shop.database, "write", rate=1_000_000)
    fleet = Fleet(own_servers, shop.settings.home, beats=2, workers=2, apis=2)
    senders = [Sender(fleet.ports, key, visits(n), seed + n) for n in range(SENDERS)]
    killed: Counter[str] = Counter()
    begun = time.monotonic()
    last = [begun]

    def chaos() -> None:
        if time.monotonic() > last[0] + every and time.monotonic() < begun + seconds + quiet:
            killed[fleet.kill(rng)[:-1]] += 1
            last[0] = time.monotonic()
        fleet.keep()

    try:
        for port in fleet.ports:
            wait_for(partial(listens, port), "the API's start", 240)
        begun = last[0] = time.monotonic()
        for sender in senders:
            sender.start()
        while time.monotonic() < begun + seconds:
            chaos()
            time.sleep(0.1)
        for sender in senders:
            sender.stop.set()
        while any(sender.is_alive() for sender in senders):
            assert time.monotonic() < begun + seconds + 120, "senders end"
            chaos()
            time.sleep(0.1)
        close_all(shop, NOON + timedelta(minutes=90), seconds + 300, chaos)
    finally:
        fleet.close()
    answers = sum((sender.answers for sender in senders), Counter[int]())
    print(f"killed {dict(killed)}, answers {dict(answers)}, over after {time.monotonic() - begun:.0f} s")
    assert killed["api"], "an API process was killed"
    check_books(shop, [message for sender in senders for message in sender.accepted])


def check_books(shop: Runtime, accepted: list[dict[str, Any]]) -> None:
    """Every accepted message is one event; profiles are what the events say; everybody got what they should, once."""
    said = (
        "SELECT u.external_id AS user, y.name AS type, i.external_id AS item, count(*) AS n FROM events e"
        " JOIN event_types y ON y.id = e.event_type JOIN users u ON u.id = e.user_id JOIN items i ON i.id = e.item_id"
        " WHERE y.name IN ('view', 'add_to_cart', 'purchase') GROUP BY 1, 2, 3"
    )
    stored = Counter({(row.user, row.type, row.item): row.n for row in rows(shop, said)})
    wanted = Counter((m["userId"], m["event"], m["properties"]["item_id"]) for m in accepted if "event" in m)
    assert wanted, "something was accepted"
    assert wanted - stored == Counter(), "lost"
    assert stored - wanted == Counter(), "doubled, or of a batch that was never accepted"
    assert replay(shop.database, rebuild=False).differing == 0, "profiles are what the events say"

    users = {message["userId"] for message in accepted}
    left = users - {message["userId"] for message in accepted if message.get("event") == "purchase"}
    triggers = (
        "SELECT c.name, u.external_id AS user, a.state FROM armed_triggers a"
        " JOIN campaigns c ON c.id = a.campaign_id JOIN users u ON u.id = a.user_id"
    )
    found = Counter((row.name, row.user, row.state) for row in rows(shop, triggers))
    fired = Counter((name, user) for name, user, state in found.elements() if state == "fired")
    assert fired == Counter([("welcome", user) for user in users] + [("cart", user) for user in left])
    off = Counter(user for name, user, state in found.elements() if (name, state) == ("cart", "cancelled"))
    assert off <= Counter(users - left), "who had bought before it was armed never is"
    lines = journal(shop.settings.journal_path)
    got = Counter((line["campaign"], line["user_id"]) for line in lines)
    assert [each for each, times in got.items() if times > 1] == []
    assert set(got) <= set(fired)
    assert {name for name, _ in got} == {"cart", "welcome"}, "both were sent"
    ledger = rows(shop, "SELECT push_id, state FROM deliveries")
    sure = {str(row.push_id) for row in ledger if row.state == "accepted"}
    maybe = {str(row.push_id) for row in ledger if row.state == "unknown"}
    assert sure <= {line["push_id"] for line in lines} <= sure | maybe
    planned = "SELECT count(*) FROM decisions WHERE reason = 0 AND revision = 0"
    decided = rows(shop, "SELECT count(*), count(DISTINCT (occurrence_id, user_id)) FROM decisions WHERE revision = 0")
    assert tuple(decided[0]) == (sum(fired.values()), sum(fired.values()))
    assert len(ledger) == rows(shop, planned)[0][0]
    ends = Counter(row.state for row in ledger)
    print(
        f"{len(accepted)} events of {len(users)} users; triggers fired {len(fired)}, called off {len(off)}; pushes"
        f" received {len(lines)}, ledger {dict(ends)}"
    )


def test_nothing_is_lost_doubled_or_fired_twice_while_anybody_is_killed(own_servers: Servers, shop: Runtime) -> None:
    live(own_servers, shop, seconds=15, every=4, quiet=5, seed=1)


@pytest.mark.soak
@pytest.mark.parametrize("seed", [2, 3])
def test_nothing_is_lost_doubled_or_fired_twice_in_minutes_of_kills(
    own_servers: Servers, shop: Runtime, seed: int
) -> None:
    live(own_servers, shop, seconds=120, every=5, quiet=60, seed=seed)
