"""A provider that misbehaves in every way at once, two workers that send to it: its journal against the ledger."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from typing import Any

from engine.bench.provider.launch import Provider, fcm_token
from engine.delivery.sending import Pace
from engine.runtime import Runtime
from tests.chaos.dispatcher import Order, start
from tests.delivery_store import DeliveryShop

FAULTS: dict[str, dict[str, Any]] = {
    "throttled": {"status": 429, "headers": {"retry-after": "1"}},
    "away": {"status": 503, "headers": {"retry-after": "1"}},
    "garbage": {"status": 200, "body": "<html>\x00 not JSON"},
    "failing": {"status": 500, "body": r'{"error": {"message": "\u0000"}}'},
    "slow": {"delay": 0.5},
    "reset": {"wire": "reset"},
    "dropped": {"wire": "drop"},
    "refused": {"wire": "refuse"},
    "goaway": {"wire": "goaway"},
    "noise": {"wire": "noise"},
}
"""What happens to the first attempt at each of some pushes. `dropped` is accepted, then the connection is gone."""
EACH, FINE = 3, 90
SURELY_NOT_TAKEN = ("throttled", "away")
SURELY_IN_DOUBT = ("garbage", "failing", "reset", "dropped")
LONGEST = 100.0
PACE = Pace(batch=40, group=10, in_flight=2)
"""The usual lease: it must leave room for the gateway's timeout."""


def test_a_provider_that_misbehaves_in_every_way_gets_nothing_twice_and_loses_nothing(
    runtime: Runtime, provider: Provider, redis_url: str
) -> None:
    shop = DeliveryShop(runtime.database)
    shop.campaign("news", gateway="fcm")
    shop.campaign("code", gateway="fcm", **{"class": "transactional"})
    users = {f"{fault}{n}": fault for fault in FAULTS for n in range(EACH)} | {f"fine{n}": "" for n in range(FINE)}
    for user in users:
        shop.device(user, fcm_token(user), "fcm")
    since = len(provider.received())
    ledger: dict[str, dict[int, dict[str, Any]]] = {}
    for campaign, occurrence in shop.occurrences.items():
        faults = {fcm_token(user): {**FAULTS[way], "times": 1} for user, way in users.items() if way}
        provider.tell(latency=0.01, faults=faults)
        shop.pushes(list(users), campaign)
        work(runtime, shop, provider, redis_url)
        rows = [row for row in shop.deliveries() if row["occurrence_id"] == occurrence]
        ledger[campaign] = {row["user_id"]: dict(row) for row in rows}
        assert len(rows) == len(ledger[campaign]) == len(users), "each has ended, once"

    received = taken(provider, since)
    states = {campaign: Counter(row["state"] for row in rows.values()) for campaign, rows in ledger.items()}
    print(f"asked {len(requests(provider, since))} times, took {sum(map(len, received.values()))}; {states}")
    assert shop.hot() == []
    news_ids = {str(row["push_id"]) for row in ledger["news"].values()}
    assert impatient(requests(provider, since), news_ids) == [], "Retry-After is kept"
    for user, way in users.items():
        news, code = (ledger[campaign][shop.user(user)] for campaign in ("news", "code"))
        times = received[str(news["push_id"])]
        assert len(times) <= 1, f"{user}: marketing twice"
        assert (news["state"] == "accepted" and times) or news["state"] == "unknown", user
        assert way not in SURELY_IN_DOUBT or news["state"] == "unknown", user
        assert way not in SURELY_NOT_TAKEN or news["attempts"] > 1 or not times, user
        assert code["state"] == "accepted", f"{user}: a code is sent until it was taken"
        assert len(set(received[str(code["push_id"])])) == 1, "the same collapse id at each attempt"
    fine = Counter(ledger["news"][shop.user(user)]["state"] for user in users if not users[user])
    assert fine["accepted"] > FINE / 3, "those beside the trouble get through"


def work(runtime: Runtime, shop: DeliveryShop, provider: Provider, redis_url: str) -> None:
    """Two workers until every push has ended. What Horae itself paused or stopped meanwhile, a person lets go on."""
    more = {**provider.settings(), "fcm_url": provider.rough}
    order = Order(runtime.database.libpq_url, redis_url, runtime.settings.home, more=more, pace=PACE)
    workers = [start(order) for _ in range(2)]
    until = time.monotonic() + LONGEST
    try:
        while any(worker.exitcode is None for worker in workers) and time.monotonic() < until:
            shop.sql("UPDATE campaigns SET state = 'running' WHERE state = 'paused'")
            shop.sql("DELETE FROM switches")
            time.sleep(0.2)
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]


def requests(provider: Provider, since: int) -> list[dict[str, Any]]:
    """What the provider was asked to send, oldest first."""
    return [line for line in provider.received(since) if line["vendor"] == "fcm" and "request" in line]


def taken(provider: Provider, since: int) -> dict[str, list[str]]:
    """The collapse ids under which the provider took each push."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in requests(provider, since):
        if line["status"] == 200 and "told" not in line:
            message = line["request"]["message"]
            found[message["data"]["push_id"]].append(message["android"]["collapse_key"])
    return found


def impatient(lines: list[dict[str, Any]], marketing: set[str]) -> list[str]:
    """Pushes for which the provider was asked again within the second for which it had asked to be left alone.

    Of marketing: where another fault cut the connection first, the wish was never heard; marketing then ends in doubt.
    """
    asked: dict[str, float] = {}
    found = []
    for line in lines:
        push, at = line["request"]["message"]["data"]["push_id"], line["at"]
        if push in marketing and at < asked.get(push, 0.0):
            found.append(push)
        if line["status"] in (429, 503):
            asked[push] = at + 1.0
    return found
