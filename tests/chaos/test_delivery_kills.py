"""Real processes, killed at each crash point: the provider's journal against the ledger."""

from __future__ import annotations

import signal
from collections import Counter
from dataclasses import replace

from engine.campaigns.policy import Cap
from engine.runtime import Runtime
from tests.chaos.books import broken_rules, counters
from tests.chaos.dispatcher import PACE, Order, start
from tests.delivery_store import DeliveryShop, journal

POINTS = {
    "after_claim": 0,
    "after_reserve": 0,
    "after_intent": PACE.group,
    "after_send": PACE.group,
    "after_record": PACE.group,
    "after_commit": 0,
}
"""The crash points, and how many pushes a kill there leaves in doubt at least; at most, all groups in flight."""


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


def sending(shop: DeliveryShop) -> int:
    """Pushes that are under way, or were when their worker died."""
    unknown = [row for row in shop.deliveries() if row["state"] == "unknown"]
    return len(unknown) + len([row for row in shop.hot() if row["state"] == "sending"])
