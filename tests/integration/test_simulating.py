"""A past period planned again over its receipts, on a real store."""

from __future__ import annotations

from datetime import time, timedelta

import pytest
from sqlalchemy import text

from engine import clock
from engine.campaigns.policy import Cap
from engine.errors import BadInput
from engine.planning.period import Change
from engine.planning.refresh import refresh
from engine.planning.simulate import Simulation, simulate
from engine.planning.wake import ignore
from engine.runtime import Runtime
from engine.store.partitions import ensure_ahead
from tests.integration.test_planning_refresh import happen
from tests.planning_shop import ITEMS, NOW, USERS, Workers, create, daily, fill_shop, reasons, rows, set_caps

CAPS = (
    Cap(id="cap-1", scope="all", limit=1, window="local_day"),
    Cap(id="cap-2", scope="all", limit=2, window="local_week"),
)
END = NOW + timedelta(days=3)


@pytest.fixture
def shop(runtime: Runtime) -> Runtime:
    """Two campaigns on each of three mornings, one with a capacity; everything leaves when it is due."""
    filled = fill_shop(runtime)
    ensure_ahead(filled.database, NOW)
    set_caps(filled, *CAPS, min_gap=timedelta(hours=4), holdout=0.05)
    cron = {"cron": "0 8 * * *", "zone": "local"}
    create(
        filled,
        daily(schedule=cron, exploration=0.2, horizon="12h", overflow="best_window"),
        daily(name="sale", schedule=cron, capacity_per_quarter=4, priority=0.9, horizon="20h", overflow="best_window"),
    )
    workers = Workers(filled)
    for day in range(3):
        now = NOW + timedelta(days=day)
        with filled.database.begin() as connection:
            clock.start_virtual(connection, now)
            _send(connection, now)
        workers.tick(now)
    return filled


def _send(connection, now) -> None:
    """What was planned before `now` was delivered when it was due."""
    connection.execute(
        text(
            "WITH gone AS (DELETE FROM pushes WHERE send_at < :now RETURNING *)"
            " INSERT INTO deliveries (day, id, push_id, state, at, occurrence_id, campaign_id, user_id, item_id,"
            " gateway, attempts, send_at, local_day, counts, scopes)"
            " SELECT (g.send_at AT TIME ZONE 'UTC')::date, g.id, g.id, 'accepted', g.send_at, g.occurrence_id,"
            " g.campaign_id, g.user_id, g.item_id, 'log', 1, g.send_at,"
            " (g.send_at AT TIME ZONE coalesce(u.timezone, 'UTC'))::date, true,"
            " ARRAY['channel:log', 'campaign:' || c.name] FROM gone g JOIN users u ON u.id = g.user_id"
            " JOIN campaigns c ON c.id = g.campaign_id"
        ),
        {"now": now},
    )


@pytest.fixture
def contested(runtime: Runtime) -> Runtime:
    """A campaign is planned, then another that is worth more to many; the day's cap lets each user have one push."""
    filled = fill_shop(runtime)
    set_caps(filled, CAPS[0], pushes_per_stock=10)
    with filled.database.begin() as connection:
        connection.execute(text("UPDATE items SET stock = 3"))
    workers = Workers(filled)
    create(filled, daily(horizon="16h"))
    workers.tick()
    create(filled, daily(name="sale", schedule={"once": "2026-03-02T08:01", "zone": "local"}, priority=3))
    workers.tick()
    return filled


def played(shop: Runtime, **change) -> Simulation:
    return simulate(shop.database, Change(**change), NOW, END)


def test_unchanged_rules_give_what_was_planned(shop: Runtime) -> None:
    found = played(shop, caps=CAPS)

    assert found.really.reasons == {name: count for name, count in reasons(shop).items() if count}
    assert found.decisions == sum(found.really.reasons.values()) == sum(found.simulated.reasons.values())
    assert found.without_receipt == 0
    assert found.simulated.planned == pytest.approx(found.really.planned, rel=0.01)
    assert found.simulated.value == pytest.approx(found.really.value, rel=0.01)
    apart = {hour: abs(found.really.by_hour[hour] - found.simulated.by_hour[hour]) for hour in range(24)}
    assert sum(apart.values()) <= 0.02 * found.really.planned


def test_stricter_rules_plan_less_and_say_why_and_looser_ones_more(shop: Runtime) -> None:
    same = played(shop, caps=CAPS)
    weekly = played(shop, caps=(Cap(id="w", scope="all", limit=1, window="local_week"),))
    free = played(shop, caps=(), min_gap="none", capacity="none")
    nothing = played(shop, caps=(Cap(id="0", scope="all", limit=0, window="local_day"),))
    late = played(shop, quiet_hours=(time(18), time(12)))

    eligible = USERS - USERS // 50
    assert weekly.simulated.planned < eligible
    assert weekly.simulated.reasons["capped"] > same.simulated.reasons["capped"]
    assert nothing.simulated.planned == nothing.simulated.value == 0
    assert free.simulated.planned > same.simulated.planned
    assert free.simulated.value > same.simulated.value
    assert set(late.simulated.by_hour) <= set(range(12, 18))
    for found in (weekly, free, nothing, late):
        assert found.really == same.really
        assert sum(found.simulated.reasons.values()) == found.decisions


def test_a_capacity_is_kept_in_every_quarter_hour(shop: Runtime) -> None:
    scarce, none = played(shop, capacity=1), played(shop, capacity="none")

    assert 0 < scarce.simulated.planned < none.simulated.planned
    assert scarce.simulated.reasons["capacity"] > 0
    assert max(scarce.simulated.by_hour.values()) <= 4 * 2 * 3 * 4  # quarters, campaigns, days, zones


def test_what_is_gone_stays_as_it_was_and_an_empty_time_is_said_so(shop: Runtime) -> None:
    with shop.database.begin() as connection:
        connection.execute(text("UPDATE decisions SET receipt = NULL"))

    found = played(shop, caps=(Cap(id="0", scope="all", limit=0, window="local_day"),))

    assert found.without_receipt == found.decisions
    assert found.simulated == found.really
    with pytest.raises(BadInput, match="no run was opened"):
        simulate(shop.database, Change(caps=()), END, END + timedelta(days=1))
    with pytest.raises(BadInput, match="is empty"):
        simulate(shop.database, Change(caps=()), END, NOW)
    assert rows(shop, "SELECT count(*) FROM runs")[0][0] == found.runs  # nothing was written


def test_planned_pushes_give_way_as_they_did_and_less_where_caps_are_wider(contested: Runtime) -> None:
    found = played(contested, caps=CAPS[:1])
    wider = played(contested, caps=(Cap(id="cap-1", scope="all", limit=2, window="local_day"),))

    assert found.really.reasons["displaced"] > USERS / 4
    assert found.simulated.reasons["displaced"] == pytest.approx(found.really.reasons["displaced"], rel=0.02)
    assert found.simulated.planned == pytest.approx(found.really.planned, rel=0.01)
    assert found.simulated.value == pytest.approx(found.really.value, rel=0.01)
    assert wider.simulated.reasons["displaced"] < found.simulated.reasons["displaced"] / 20  # of stock alone
    assert wider.simulated.planned > found.simulated.planned
    for one in (found, wider):
        assert sum(one.simulated.reasons.values()) == one.decisions
        assert sum(one.simulated.by_hour.values()) == one.simulated.planned


def test_the_stock_of_then_bounds_the_pushes_about_an_item(contested: Runtime) -> None:
    with contested.database.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO item_versions SELECT id, version, to_jsonb(items), :later FROM items",
            ),
            {"later": END},
        )
        connection.execute(text("UPDATE items SET stock = NULL"))  # of today: no limit

    few = played(contested, pushes_per_stock=1)
    none = played(contested, pushes_per_stock="none")

    [(drawn,)] = rows(contested, "SELECT count(*) FROM pushes WHERE explored")  # never trimmed, whatever is scarce
    assert 0 < few.simulated.planned <= ITEMS * 3 + drawn
    assert few.simulated.reasons["budget"] > 0
    assert none.simulated.planned >= few.really.planned > few.simulated.planned
    for one in (few, none):
        assert sum(one.simulated.reasons.values()) == one.decisions


def test_late_binding_is_followed_where_the_push_is_the_same_and_counted_where_it_is_not(contested: Runtime) -> None:
    later = NOW + timedelta(minutes=15)
    with contested.database.begin() as connection:
        clock.step_virtual(connection, later)
    waiting = rows(
        contested,
        "SELECT u.external_id AS user, i.external_id AS item FROM pushes p JOIN users u ON u.id = p.user_id"
        f" JOIN items i ON i.id = p.item_id WHERE NOT p.explored AND p.send_at > '{later.isoformat()}'::timestamptz"
        f" + interval '1 hour' AND p.send_at < '{later.isoformat()}'::timestamptz + interval '11 hours' ORDER BY 1",
    )[:20]
    happen(contested, [(row.user, "purchase", row.item) for row in waiting[:10]], later)
    happen(contested, [(row.user, "unsubscribe", "i0") for row in waiting[10:]], later)
    done = refresh(contested, later, ignore)
    changed = done.get("changed", 0) + done["ended"]

    same = played(contested, caps=CAPS[:1])
    nothing = played(contested, caps=(Cap(id="0", scope="all", limit=0, window="local_day"),))

    assert changed >= 20
    assert same.late_bound + same.not_late_bound == changed
    assert same.late_bound > changed / 2
    assert same.simulated.reasons["no_consent"] >= same.really.reasons["no_consent"] - same.not_late_bound
    assert same.simulated.value == pytest.approx(same.really.value, rel=0.02)
    assert nothing.late_bound == nothing.not_late_bound == nothing.simulated.planned == 0
    assert sum(same.simulated.reasons.values()) == same.decisions
