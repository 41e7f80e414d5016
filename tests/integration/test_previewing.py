"""Previews on a real store: what they say of the plan, what constraints cost, and that nothing is written."""

from __future__ import annotations

from datetime import time, timedelta
from typing import Any

import pytest

from engine.campaigns.policy import Cap
from engine.planning import run
from engine.planning import trigger as triggers
from engine.planning.preview import Preview, preview
from engine.planning.trigger import Request
from engine.runtime import Runtime
from tests.planning_shop import NOW, USERS, Workers, create, daily, fill_shop, reasons, rows, set_caps

RULES: dict[str, dict[str, Any]] = {
    "cap-1: at most 1 a local day": {"caps": (Cap(id="cap-1", scope="all", limit=1, window="local_day"),)},
    "minimum gap": {"min_gap": timedelta(hours=20)},
    "quiet hours": {"quiet_hours": (time(22), time(10))},
    "holdout": {"holdout": 0.2},
}
NONE: dict[str, Any] = {"caps": (), "min_gap": None, "quiet_hours": None, "holdout": 0.0}

NEXT = daily(name="next", schedule=None, exploration=0, horizon="12h", overflow="best_window")


@pytest.fixture
def shop(runtime: Runtime) -> Runtime:
    """Everybody is planned a push this morning; another campaign waits to be triggered in the afternoon."""
    filled = fill_shop(runtime)
    set_caps(filled, **NONE)
    create(filled, daily(exploration=0, horizon="6h"), NEXT)
    Workers(filled).tick()
    return filled


def previewed(shop: Runtime, sample: int | None = None, campaign: str = "next") -> Preview:
    spec = triggers.spec_of(shop.database, NOW, campaign, Request())
    return preview(shop.database, shop.gateways, spec, None, sample)


def test_what_a_constraint_costs_is_what_the_plan_is_worth_more_without_it(shop: Runtime) -> None:
    free = previewed(shop)
    assert free.costs == ()
    for name, rules in RULES.items():
        set_caps(shop, **{**NONE, **rules})
        found = previewed(shop)

        (cost,) = found.costs
        assert cost.constraint == name
        assert cost.value == pytest.approx(free.value - found.value)
        assert cost.left_out == free.planned - found.planned
        assert found.cost_users == USERS


def test_capacity_and_exploration_cost_what_they_turn_away(shop: Runtime) -> None:
    create(shop, daily(name="scarce", schedule=None, exploration=0, horizon="6h", capacity_per_quarter=2))
    create(shop, daily(name="bold", schedule=None, exploration=0.4, horizon="6h"))

    scarce, bold = previewed(shop, campaign="scarce"), previewed(shop, campaign="bold")

    assert [cost.constraint for cost in scarce.costs] == ["capacity"]
    assert scarce.costs[0].value > 0.5 * scarce.value
    assert [cost.constraint for cost in bold.costs] == ["exploration"]
    assert 0 < bold.costs[0].value < bold.value


def test_the_plan_that_follows_a_preview_is_the_one_it_showed(shop: Runtime) -> None:
    set_caps(shop, **{**NONE, **RULES["minimum gap"], "holdout": 0.1})
    shown = previewed(shop)
    earlier = reasons(shop)

    made = triggers.trigger(shop.database, NOW, "next", Request())
    workers = Workers(shop)
    run.wake_shards(shop.database, run.open_runs(shop, NOW, NOW, only=made.occurrence_id) or 0, workers.wake)
    workers.drain()

    assert dict(reasons(shop) - earlier) == shown.reasons
    planned = rows(
        shop,
        "SELECT u.external_id AS user, i.external_id AS item, d.value, d.score FROM decisions d"
        " JOIN users u ON u.id = d.user_id JOIN items i ON i.id = d.item_id"
        f" WHERE d.occurrence_id = {made.occurrence_id:d} AND d.send_at IS NOT NULL",
    )
    assert shown.value == pytest.approx(sum(row.value for row in planned), rel=1e-12)
    assert shown.expected == pytest.approx(sum(row.score for row in planned), rel=1e-6)
    assert {(one.user, one.item, one.value) for one in shown.examples} <= {
        (row.user, row.item, row.value) for row in planned
    }


def test_a_sample_is_of_about_so_many_users_and_says_so(shop: Runtime) -> None:
    found = previewed(shop, sample=100)

    assert found.sample is not None
    assert found.sample[1] == USERS
    assert 100 <= found.sample[0] < 130
    assert found.asked == found.sample[0] == sum(found.reasons.values())
    assert previewed(shop, sample=10_000).asked == USERS
