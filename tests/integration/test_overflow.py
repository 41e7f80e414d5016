"""What becomes of pushes that cannot leave in their window, and of those whose item is no longer what it was."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from random import Random
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

from engine.campaigns import store as campaigns
from engine.campaigns.policy import Cap
from engine.delivery import switches
from engine.delivery.dispatch import dispatch_due
from engine.delivery.moving import move_late
from engine.features import logged
from engine.planning import receipt
from engine.planning.explain import explain
from engine.runtime import Runtime
from engine.store.partitions import ensure_partitions
from tests import planning_shop
from tests.delivery_store import NOON, DeliveryShop, journal

HOUR = timedelta(hours=1)
DAILY = Cap(id="daily", limit=1, window="local_day")
GAP = {"min_gap": "2h"}


@pytest.fixture
def shop(runtime: Runtime) -> DeliveryShop:
    ensure_partitions(runtime.database, "decisions", NOON.date(), NOON.date())
    return DeliveryShop(runtime.database)


def dispatch(runtime: Runtime, now: datetime = NOON) -> dict[str, int]:
    return dispatch_due(runtime, now, rng=Random(1))


def remember(
    shop: DeliveryShop, push_id: Any, *alternatives: dict[str, Any], as_of: datetime = NOON - 6 * HOUR
) -> None:
    """The decision of a push, whose receipt has these alternatives: hours from noon, value, code and item."""
    rows = np.zeros((1, receipt.MOST_ALTERNATIVES), receipt.ALTERNATIVE)
    rows["slot"] = np.nan
    for n, one in enumerate(alternatives):
        start = NOON + one["hours"] * HOUR
        rows[0, n] = (
            *(one.get("item", -1), start.timestamp(), start.timestamp(), (start + 3 * HOUR).timestamp()),
            *(one.get("value", 1.0), one.get("price", 0.0), one.get("code", receipt.FREE), 0.01),
        )
    head = receipt.headers(1, alternatives=len(alternatives), as_of=as_of.timestamp())
    nothing = np.zeros((1, 0), np.float32)
    stored = receipt.encode(head, nothing, np.zeros(1, bool), rows)[0].as_py()
    shop.sql(
        "INSERT INTO decisions (date, occurrence_id, user_id, revision, run_id, shard, arm, reason, push_id, item_id,"
        " window_start, send_at, value, price, propensity, receipt)"
        " SELECT date, occurrence_id, user_id, revision, run_id, 0, 0, 0, id, item_id, window_start, send_at, value,"
        " price, 0.5, :receipt FROM pushes WHERE id = :id",
        id=push_id,
        receipt=stored,
    )


def decisions(shop: DeliveryShop) -> list[Any]:
    with shop.database.begin() as connection:
        query = "SELECT revision, send_at, value, propensity, push_id FROM decisions ORDER BY occurrence_id, revision"
        return list(connection.execute(text(query)))


def capped_at_noon(runtime: Runtime, shop: DeliveryShop, **campaign: Any) -> Any:
    """A push of the campaign `news` that the gap to another one, sent at noon, holds back."""
    shop.policy(**GAP)
    shop.campaign("first")
    shop.campaign("news", **campaign)
    shop.push("u1", "first")
    assert dispatch(runtime) == {"accepted": 1}
    return shop.push("u1", "news")


def test_a_push_that_caps_hold_back_goes_to_the_best_window_that_they_leave(
    runtime: Runtime, shop: DeliveryShop
) -> None:
    push = capped_at_noon(runtime, shop)
    remember(
        shop,
        push,
        {"hours": 1, "value": 9.0},  # still within the gap
        {"hours": 5, "value": 2.0},
        {"hours": 4, "value": 3.0, "price": 0.5},
        {"hours": 6, "value": 8.0, "code": receipt.BESIDE},
        {"hours": -1, "value": 7.0},
    )

    assert dispatch(runtime) == {"moved": 1}

    [row] = shop.hot()
    assert (row["state"], row["send_at"], row["window_end"]) == ("planned", NOON + 4 * HOUR, NOON + 7 * HOUR)
    assert (row["attempts"], row["revision"], row["value"]) == (0, 1, 3.0)
    assert [(one.revision, one.send_at, one.propensity, one.push_id) for one in decisions(shop)] == [
        (0, NOON, 0.5, push),
        (1, NOON + 4 * HOUR, 0.5, push),
    ]
    assert dispatch(runtime, NOON + 4 * HOUR) == {"accepted": 1}
    assert len(journal(runtime.settings.journal_path)) == 2


@pytest.mark.parametrize(
    ("campaign", "columns", "hours"),
    [
        ({"overflow": "drop"}, {}, 4),
        ({}, {"explored": True}, 4),
        ({}, {"in_doubt": True}, 4),
        ({}, {}, 1),  # nothing is left that the gap allows
    ],
)
def test_without_another_window_it_ends_for_its_reason(
    runtime: Runtime, shop: DeliveryShop, campaign: dict[str, Any], columns: dict[str, Any], hours: int
) -> None:
    push = capped_at_noon(runtime, shop, **campaign)
    remember(shop, push, {"hours": hours})
    for name, value in columns.items():
        shop.sql(f"UPDATE pushes SET {name} = :value WHERE id = :id", value=value, id=push)

    counts = dispatch(runtime)

    assert counts in ({"suppressed.gap": 1}, {"unknown.no_answer": 1})
    assert shop.hot() == []


def test_a_window_that_is_full_is_not_overfilled(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.policy(**GAP)
    shop.campaign("first")
    shop.campaign("news", capacity_per_quarter=2)
    names = [f"u{n}" for n in range(4)]
    shop.pushes(names, "first")
    dispatch(runtime)
    for push in shop.pushes(names, "news"):
        remember(shop, push, {"hours": 4, "value": 5.0}, {"hours": 7, "value": 1.0})

    assert dispatch(runtime) == {"moved": 4}
    assert sorted(row["send_at"] for row in shop.hot()) == [NOON + 4 * HOUR] * 2 + [NOON + 7 * HOUR] * 2


def test_a_push_whose_window_passed_while_it_waited_goes_to_the_next_one(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.campaign("kept")
    shop.campaign("dropped", overflow="drop")
    for name in ("kept", "dropped"):
        push = shop.push("u1", name, send_at=NOON - 2 * HOUR, window_end=NOON - HOUR)
        remember(shop, push, {"hours": 3}, {"hours": 2, "value": 0.5})

    assert dispatch(runtime) == {"expired.expired": 1, "moved": 1}

    [row] = shop.hot()
    assert (row["campaign_id"], row["send_at"]) == (1, NOON + 3 * HOUR)
    assert dispatch(runtime, NOON + 3 * HOUR) == {"accepted": 1}


def test_what_somebody_stopped_does_not_come_later_by_itself(runtime: Runtime, shop: DeliveryShop) -> None:
    for name in ("paused", "stopped"):
        shop.campaign(name)
        push = shop.push("u1", name, send_at=NOON - 2 * HOUR, window_end=NOON - HOUR)
        remember(shop, push, {"hours": 3})
    with runtime.database.begin() as connection:
        campaigns.set_state(connection, "paused", "paused")
        switches.stop(connection, switches.scope_of(connection, campaign="stopped"))

    assert dispatch(runtime) == {"expired.expired": 2}


def test_a_push_moved_again_and_again_ends_when_no_window_is_left(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.policy(Cap(id="never", limit=0, window="rolling:PT1H", scope="campaign:news"))
    shop.campaign("news")
    remember(shop, shop.push("u1", "news"), {"hours": 3})

    assert dispatch(runtime) == {"suppressed.capped": 1}


def test_what_the_planner_planned_is_moved_to_windows_it_had_weighed_and_its_explanation_still_agrees(
    runtime: Runtime,
) -> None:
    planned = planning_shop.fill_shop(runtime)
    planning_shop.create(planned, planning_shop.daily())
    planning_shop.Workers(planned).tick()
    late = planning_shop.NOW + 9 * HOUR  # nothing was sent for nine hours

    moved = move_late(planned.database, late)

    rows = planning_shop.rows(
        planned,
        "SELECT u.external_id, p.send_at, p.window_start, p.window_end, o.ends_at, d.send_at AS decided FROM pushes p"
        " JOIN users u ON u.id = p.user_id JOIN occurrences o ON o.id = p.occurrence_id JOIN decisions d ON"
        " d.occurrence_id = p.occurrence_id AND d.user_id = p.user_id AND d.revision = p.revision"
        " WHERE p.revision = 1",
    )
    assert moved == len(rows) > 50
    assert all(late < row.send_at == row.decided < row.window_end <= row.ends_at for row in rows)
    kept = [
        bytes(row.receipt) for row in planning_shop.rows(planned, "SELECT receipt FROM decisions WHERE revision = 1")
    ]
    assert not logged.rows_of(kept)[1].any()  # the feature row was the other choice's
    assert sum(len(receipt.decode(one).alternatives) for one in kept) > len(kept)  # it may be moved once more
    told = [one for row in rows[:20] for one in explain(planned.database, planned.gateways, row.external_id)]
    assert {one.verdict for one in told} == {"agrees"}


# --- prices ----------------------------------------------------------------------------------------------------------


def price_history(shop: DeliveryShop, item: str, price: float, *before: tuple[float, datetime]) -> None:
    """The item costs `price` now, and cost other prices until some instants."""
    number = shop.item(item, price=price)
    for version, (old, until) in enumerate(before, 1):
        shop.sql(
            "INSERT INTO item_versions (item_id, version, definition, until) VALUES (:item, :version, :row, :until)",
            item=number,
            version=version,
            row=json.dumps({"price": old}),
            until=until,
        )


@pytest.mark.parametrize(
    ("price", "before", "sent"),
    [
        (10.0, [], True),
        (10.5, [(10.0, NOON - HOUR)], True),
        (10.6, [(10.0, NOON - HOUR)], False),
        (5.0, [(10.0, NOON - HOUR)], True),  # cheaper is no worse
        (20.0, [(10.0, NOON - 7 * HOUR)], True),  # the plan knew
        (20.0, [(10.0, NOON - 2 * HOUR), (30.0, NOON - HOUR)], False),
        (20.0, [(30.0, NOON - 7 * HOUR), (10.0, NOON - HOUR)], False),
    ],
)
def test_an_item_that_became_dearer_than_the_plan_knew_is_not_announced(
    runtime: Runtime, shop: DeliveryShop, price: float, before: list[tuple[float, datetime]], sent: bool
) -> None:
    shop.campaign(items="personalised")
    price_history(shop, "i1", price, *before)
    shop.push("u1", item="i1")

    assert dispatch(runtime) == ({"accepted": 1} if sent else {"suppressed.price_changed": 1})


def test_a_campaign_sets_its_tolerance_and_a_later_look_counts(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.campaign("easy", items="personalised", price_tolerance=1.0)
    shop.campaign("strict", items="personalised")
    price_history(shop, "i1", 15.0, (10.0, NOON - 2 * HOUR))
    shop.push("u1", "easy", item="i1")
    push = shop.push("u2", "strict", item="i1", revision=1)
    remember(shop, push, as_of=NOON - HOUR)  # late binding chose it when it cost what it does now

    assert dispatch(runtime) == {"accepted": 2}
