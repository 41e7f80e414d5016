"""Two real beats and real workers plan and send a shop's day: nothing is planned, sent or counted twice."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

import pytest

from engine import clock
from engine.campaigns.policy import Cap, check_journal
from engine.campaigns.policy_store import current_policy
from engine.delivery.dispatch import outstanding
from engine.runtime import Runtime
from tests.chaos.books import fullest, sends
from tests.chaos.fleet import Fleet
from tests.chaos.servers import HURTS, Servers
from tests.delivery_store import journal, received
from tests.planning_shop import NOW, USERS, create, daily, fill_shop, rows, set_caps
from tests.running import wait_for

STEP = timedelta(minutes=15)
DAILY = Cap(id="daily", scope="all", limit=2, window="local_day")
HUNG, CHAOS = 15.0, 200.0
"""Seconds after which what hangs on a cut connection is killed; seconds of chaos."""
SOON = {"schedule": {"once": "2026-03-02T06:00", "zone": "local"}, "horizon": "3h"}


@pytest.fixture
def shop(own_servers: Servers, tmp_path: Path) -> Iterator[Runtime]:
    """A shop on these servers, reached without their proxies."""
    with own_servers.runtime(tmp_path / "home") as runtime:
        yield fill_shop(runtime)


def drive(shop: Runtime, until: datetime, seconds: float, meanwhile: Callable[[], None]) -> None:
    """Step the virtual clock to `until`, each step once nothing is due or under way; fails after `seconds`."""
    now, end = NOW, time.monotonic() + seconds
    while now < until or outstanding(shop.database, now):
        assert time.monotonic() < end, f"at {now}: {rows(shop, 'SELECT state, count(*) FROM pushes GROUP BY 1')}"
        meanwhile()
        if outstanding(shop.database, now) or now >= until:
            time.sleep(0.1)
            continue
        now += STEP
        with shop.database.begin() as connection:
            clock.step_virtual(connection, now)


def check_books(shop: Runtime, campaigns: int) -> None:
    """The journal, the ledger and the decisions agree; every user has one decision of each campaign."""
    path = shop.settings.journal_path
    zones = {row.external_id: row.timezone or "UTC" for row in rows(shop, "SELECT external_id, timezone FROM users")}
    with shop.database.begin() as connection:
        _, policy = current_policy(connection)
    ledger = rows(shop, "SELECT push_id, state, reason FROM deliveries")
    sent = sends(journal(path), zones)
    print(f"received {len(sent)}, {Counter(row.state for row in ledger)}, fullest windows {fullest(policy, sent)}")

    assert [key for key, times in received(path).items() if times > 1] == []
    assert [str(broken) for broken in check_journal(policy, sent)] == []
    accepted = {str(row.push_id) for row in ledger if row.state == "accepted"}
    maybe = {str(row.push_id) for row in ledger if row.state == "unknown"}
    assert accepted <= {line["push_id"] for line in journal(path)} <= accepted | maybe
    assert rows(shop, "SELECT count(*) FROM pushes")[0][0] == 0
    assert rows(shop, "SELECT count(*) FROM occurrences")[0][0] == campaigns
    first = rows(shop, "SELECT count(*), count(DISTINCT (occurrence_id, user_id)) FROM decisions WHERE revision = 0")[0]
    assert tuple(first) == (campaigns * USERS, campaigns * USERS)
    planned = "SELECT count(DISTINCT (occurrence_id, user_id)) FROM decisions WHERE reason = 0"
    assert len(ledger) == rows(shop, planned)[0][0]


def published(shop: Runtime) -> bool:
    found = [row.state for row in rows(shop, "SELECT state FROM runs")]
    return bool(found) and set(found) == {"published"}


def test_two_beats_and_two_workers_do_everything_once(own_servers: Servers, shop: Runtime) -> None:
    set_caps(shop, DAILY)
    with shop.database.begin() as connection:
        connection.exec_driver_sql("UPDATE users SET timezone = 'UTC'")
    create(shop, daily(**SOON), daily(name="second", **SOON))
    fleet = Fleet(own_servers, shop.settings.home, beats=2, workers=2)
    try:
        wait_for(lambda: published(shop), "planning")
        drive(shop, NOW + timedelta(hours=4), 90, lambda: None)
    finally:
        fleet.close()

    check_books(shop, campaigns=2)
    assert received(shop.settings.journal_path)
    assert rows(shop, "SELECT count(*) FROM runs")[0][0] == 1, "two beats asked, one run was opened"
    for beat in ("beat0", "beat1"):
        assert "horae.tick_campaigns" in fleet.log(beat)


@pytest.mark.soak
def test_two_beats_and_three_workers_outlive_kills_losses_and_cuts(own_servers: Servers, shop: Runtime) -> None:
    """Beats and workers are killed, servers are lost, connections are cut: what was cut hangs, and is killed a little
    later. After CHAOS seconds everybody is left alone."""
    set_caps(shop, DAILY)
    create(shop, *(daily(name=f"c{n}", horizon="9h") for n in range(4)))
    fleet, rng = Fleet(own_servers, shop.settings.home, beats=2, workers=3), Random(5)
    begun = time.monotonic()
    kills, hurts, cuts = [begun], [(begun, "")], [begun]

    def chaos() -> None:
        now = time.monotonic()
        if cuts and now > cuts[-1] + HUNG and len(cuts) > 1:
            fleet.kill_older(cuts.pop())
        if now < begun + CHAOS:
            if now > kills[-1] + 20:
                kills.append(now)
                fleet.kill(rng)
            if now > hurts[-1][0] + 25:
                how = HURTS[(len(hurts) - 1) % len(HURTS)]
                own_servers.hurt(how)
                hurts.append((time.monotonic(), how))
                if how == "cut":
                    cuts.append(hurts[-1][0])
        fleet.keep()

    try:
        until = begun + CHAOS + 300
        while not published(shop):
            assert time.monotonic() < until, "the run is planned in the end"
            chaos()
            time.sleep(0.2)
        print(f"planned after {time.monotonic() - begun:.0f} s")
        drive(shop, NOW + timedelta(hours=36), CHAOS + 900, chaos)
    finally:
        fleet.close()

    told = ", ".join(how for _, how in hurts[1:])
    print(f"killed {fleet.killed}, hurt by {told}; over after {time.monotonic() - begun:.0f} s")
    check_books(shop, campaigns=4)
