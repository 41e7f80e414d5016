"""Campaigns compete over the whole inbox, and over what is scarce: planned pushes give way to better ones, or stand."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

from engine.campaigns.policy import Cap, GatewayRule, Policy
from engine.campaigns.policy_store import save_policy
from engine.learning.scoring import Baseline
from engine.planning import run, shards
from engine.planning.preview import preview
from engine.planning.runspec import read_run
from engine.runtime import Runtime
from engine.store.tables import DECISION_REASONS
from tests.planning_shop import NOW, Workers, create, daily, fill_shop, reasons, rows, set_caps

DAY_CAP = Cap(scope="all", limit=1, window="local_day")
LATER = NOW + timedelta(minutes=15)


@pytest.fixture
def shop(runtime: Runtime) -> Runtime:
    return fill_shop(runtime)


def sale(**changes: Any) -> Any:
    """A campaign that is due a quarter of an hour after `daily`, worth ten times as much."""
    return daily(name="sale", schedule={"once": "2026-03-02T08:01", "zone": "local"}, priority=10, **changes)


def latest(runtime: Runtime, campaign: str) -> Counter[str]:
    found = rows(
        runtime,
        "SELECT DISTINCT ON (d.occurrence_id, d.user_id) d.reason FROM decisions d JOIN occurrences o"
        f" ON o.id = d.occurrence_id JOIN campaigns c ON c.id = o.campaign_id AND c.name = '{campaign}'"
        " ORDER BY d.occurrence_id, d.user_id, d.revision DESC",
    )
    return Counter(DECISION_REASONS[row.reason] for row in found)


def by_campaign(runtime: Runtime) -> Counter[str]:
    pushes = "SELECT c.name FROM pushes p JOIN campaigns c ON c.id = p.campaign_id WHERE p.state = 'planned'"
    return Counter(row.name for row in rows(runtime, pushes))


def test_a_better_offer_takes_the_place_of_a_planned_push_and_the_counts_add_up(shop):
    set_caps(shop, DAY_CAP)
    create(shop, daily(horizon="16h"))
    workers = Workers(shop)
    workers.tick()
    first = latest(shop, "daily")
    explored = rows(shop, "SELECT count(*) FROM pushes WHERE explored")[0][0]
    create(shop, sale(horizon="16h"))
    workers.tick()

    gone = latest(shop, "daily")["displaced"]
    assert gone > first["planned"] / 2
    assert latest(shop, "daily")["planned"] + gone == first["planned"]
    assert rows(shop, "SELECT state, reason, count(*) FROM deliveries GROUP BY 1, 2") == [
        ("displaced", "worth_less", gone)
    ]
    assert by_campaign(shop) == {
        "daily": first["planned"] - gone,
        "sale": latest(shop, "sale")["planned"],
    }
    days = rows(
        shop,
        "SELECT p.user_id, (p.send_at AT TIME ZONE coalesce(u.timezone, 'UTC'))::date AS day, count(*) AS n"
        " FROM pushes p JOIN users u ON u.id = p.user_id GROUP BY 1, 2",
    )
    assert max(day.n for day in days) == 1
    assert rows(shop, "SELECT count(*) FROM pushes p WHERE explored AND run_id = 1")[0][0] == explored > 0
    assert rows(shop, "SELECT count(*) FROM displacements")[0][0] == 0


def test_what_is_worth_less_or_may_not_displace_finds_the_inbox_full(shop):
    set_caps(shop, DAY_CAP)
    create(shop, daily(horizon="16h", exploration=0))
    workers = Workers(shop)
    workers.tick()
    before = by_campaign(shop)["daily"]
    create(
        shop,
        sale(horizon="16h", overflow="best_window", exploration=0),
        daily(name="small", horizon="16h", priority=0.1, exploration=0),
    )
    workers.tick()

    assert by_campaign(shop)["daily"] == before
    assert latest(shop, "sale")["capped"] > before / 2
    assert latest(shop, "small")["capped"] > before / 2
    assert rows(shop, "SELECT count(*) FROM deliveries")[0][0] == 0


def test_a_push_that_dispatch_has_taken_stands_and_its_successor_is_too_late(shop):
    set_caps(shop, DAY_CAP)
    create(shop, daily(horizon="16h"))
    workers = Workers(shop)
    workers.tick()
    create(shop, sale(horizon="16h"))
    opened = run.tick_campaigns(shop, NOW, workers.wake)["run"]
    while workers.queue and workers.queue[0][0] == "horae.plan_shard":
        _, (run_id, shard) = workers.queue.popleft()
        run.plan_shard(shop, run_id, shard, workers.wake)
    wanted = rows(shop, "SELECT DISTINCT rival_id, user_id FROM displacements ORDER BY user_id")
    with shop.database.begin() as connection:
        taken = "UPDATE pushes SET state = 'claimed' WHERE occurrence_id = :rival AND user_id = :user"
        for row in wanted[:10]:
            connection.execute(text(taken), {"rival": row.rival_id, "user": row.user_id})
    settled = run.settle(shop, opened, workers.wake)

    assert (settled["displaced"], settled["too_late"]) == (len(wanted) - 10, 10)
    assert latest(shop, "sale")["too_late"] == 10
    assert rows(shop, "SELECT count(*) FROM pushes WHERE state = 'claimed'")[0][0] == 10


def test_a_preview_knows_the_inbox_and_the_scarce_as_the_plan_does(shop):
    set_caps(shop, DAY_CAP)
    with shop.database.begin() as connection:
        rule = GatewayRule(gateway="log", per_quarter=8)
        save_policy(connection, lambda policy: policy.model_copy(update={"gateways": (rule,)}))
        connection.execute(text("UPDATE items SET stock = 1 WHERE id % 2 = 0"))
    create(shop, daily(horizon="16h"))
    workers = Workers(shop)
    workers.tick()
    create(shop, sale(horizon="16h", budget=150))
    opened = run.tick_campaigns(shop, NOW, workers.wake)["run"]
    with shop.database.begin() as connection:
        spec = replace(read_run(connection, opened), run_id=0)
    expected = preview(shop.database, shop.gateways, spec)
    workers.drain()

    assert dict(latest(shop, "sale")) == expected.reasons
    assert expected.reasons["budget"] > 0
    assert 0 < expected.planned <= 150
    quarters = "SELECT floor(extract(epoch FROM send_at) / 900) AS quarter, count(*) AS n FROM pushes GROUP BY 1"
    assert max(row.n for row in rows(shop, quarters)) == 8
    about = "SELECT i.stock, count(*) AS n FROM pushes p JOIN items i ON i.id = p.item_id GROUP BY i.id, i.stock"
    assert max(row.n for row in rows(shop, about) if row.stock == 1) <= 10


def test_full_quarters_go_to_the_dearer_push_and_drop_keeps_to_its_best_window(shop):
    with shop.database.begin() as connection:
        rule = GatewayRule(gateway="log", per_quarter=2)
        save_policy(connection, lambda policy: policy.model_copy(update={"gateways": (rule,)}))
    create(shop, daily(horizon="16h", exploration=0, hours="12:00-14:00"))
    workers = Workers(shop)
    workers.tick()
    assert by_campaign(shop)["daily"] > 20
    create(shop, sale(horizon="16h", exploration=0, hours="12:00-14:00", overflow="drop"))
    workers.tick()
    assert by_campaign(shop)["sale"] == 0
    create(shop, replace_name(sale(horizon="16h", exploration=0, hours="12:00-14:00"), "dear"))
    workers.tick()

    assert by_campaign(shop)["dear"] > 20
    assert latest(shop, "daily")["displaced"] > 20
    quarters = "SELECT floor(extract(epoch FROM send_at) / 900) AS quarter, count(*) AS n FROM pushes GROUP BY 1"
    assert max(row.n for row in rows(shop, quarters)) == 2
    assert sum(reasons(shop).values()) == 3 * rows(shop, "SELECT count(*) FROM users")[0][0]


def replace_name(campaign: Any, name: str) -> Any:
    return campaign.model_copy(update={"name": name})


def test_a_place_that_the_inbox_and_a_full_quarter_both_ask_for_is_taken_once(shop):
    set_caps(shop, DAY_CAP)
    with shop.database.begin() as connection:
        rule = GatewayRule(gateway="log", per_quarter=4)
        save_policy(connection, lambda policy: policy.model_copy(update={"gateways": (rule,)}))
    four = {"field": "user_id", "in": ["u0", "u4", "u8", "u12"]}
    narrow = {"horizon": "16h", "hours": "12:00-12:20", "exploration": 0, "audience": four}
    create(shop, daily(**narrow))
    workers = Workers(shop)
    workers.tick()
    assert by_campaign(shop) == {"daily": 4}
    create(shop, sale(**narrow))
    workers.tick()

    assert by_campaign(shop) == {"sale": 4}
    assert latest(shop, "daily") == {"displaced": 4}
    assert rows(shop, "SELECT count(*) FROM deliveries")[0][0] == 4


def test_a_providers_daily_quota_holds_for_campaigns_that_obey_no_caps(shop):
    with shop.database.begin() as connection:
        rule = GatewayRule(gateway="log", per_device_day=1)
        save_policy(connection, lambda policy: policy.model_copy(update={"gateways": (rule,)}))
    assert Policy(gateways=(rule,)).quotas()[0].limit == 1
    create(shop, daily(horizon="16h"), sale(horizon="16h", obeys_caps=False))
    Workers(shop).tick()

    days = rows(
        shop,
        "SELECT p.user_id, (p.send_at AT TIME ZONE coalesce(u.timezone, 'UTC'))::date AS day, count(*) AS n"
        " FROM pushes p JOIN users u ON u.id = p.user_id GROUP BY 1, 2",
    )
    assert max(day.n for day in days) == 1


def test_a_model_that_is_refused_and_scores_that_are_no_numbers_end_in_a_reason(shop, monkeypatch):
    create(shop, daily(exploration=0))
    with monkeypatch.context() as patched:
        patched.setattr(
            Baseline, "goal", lambda self, state, user, item, related=None: np.full(len(user), np.nan, "f4")
        )
        Workers(shop).tick()
    assert {"failed_input", "no_consent", "not_eligible"} == set(latest(shop, "daily"))
    with shop.database.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO models (state, regime, artifact, sha256, feature_schema, metrics, libraries, as_of)"
                " VALUES ('champion', 'goal', 'x', 'y', '[]', '{}', '{}', :now)"
            ),
            {"now": NOW},
        )
    create(shop, sale())
    Workers(shop).tick()

    assert {"failed_input", "no_consent", "not_eligible"} == set(latest(shop, "sale"))
    assert "nobody was planned" in rows(shop, "SELECT error FROM runs ORDER BY id DESC")[0].error


def test_nobody_one_user_no_items_and_an_item_that_goes_in_the_middle_end_in_reasons(shop):
    create(
        shop,
        daily(name="nobody", audience={"field": "user_id", "in": ["none such"]}),
        daily(name="one", audience={"field": "user_id", "in": ["u1"]}),
        daily(name="empty", items={"kind": "personalised", "where": {"field": "category", "in": ["none such"]}}),
        daily(name="gone", items={"kind": "fixed", "ids": ["i3"]}, cost_disturb=0),
    )
    opened = run.tick_campaigns(shop, NOW, lambda *_: None)["run"]
    run.plan_shard(shop, opened, 0, lambda *_: None)
    with shop.database.begin() as connection:
        connection.execute(text("UPDATE items SET stub = true WHERE external_id = 'i3'"))
    shards._kept.clear()  # another worker
    Workers(shop).recover()

    assert latest(shop, "nobody") == {}
    assert sum(latest(shop, "one").values()) == 1
    assert {"no_candidate", "no_consent", "not_eligible"} == set(latest(shop, "empty"))
    assert {"planned", "no_candidate"} < set(latest(shop, "gone"))
    assert rows(shop, "SELECT state, error FROM runs") == [("published", None)]
