"""Event-triggered campaigns on a real store: what arms, calls off and hands on; business time is virtual."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sqlalchemy import text

from engine import clock
from engine.campaigns import store
from engine.campaigns.definition import Campaign
from engine.campaigns.policy import Cap
from engine.ingest.entities import store_items
from engine.ingest.entity_rows import EntityRows
from engine.ingest.event_rows import EventRows
from engine.ingest.fold import fold_all
from engine.ingest.run import ingest_events
from engine.ingest.write import Recording, ensure_months, months_of, record_events
from engine.planning.arming import arm
from engine.planning.explain import explain
from engine.planning.firing import fire, tick_triggers
from engine.planning.refresh import refresh
from engine.runtime import Runtime
from tests.planning_shop import NOW, Workers, fill_shop, reasons, rows, set_caps

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
NOON = NOW + 7 * HOUR
CART = {
    "name": "cart",
    "class": "marketing",
    "gateway": "log",
    "items": "event",
    "horizon": "24h",
    "cost_disturb": 0,
    "exploration": 0,
    "trigger": {"event": "add_to_cart", "delay": "1h", "cancel_if": ["purchase"]},
    "message": {"title": "Still thinking?", "body": "{{ item.title }}"},
}


@pytest.fixture
def shop(runtime: Runtime) -> Runtime:
    return at(fill_shop(runtime), NOON)


def at(runtime: Runtime, now: datetime) -> Runtime:
    with runtime.database.begin() as connection:
        clock.start_virtual(connection, now)
    return runtime


def define(runtime: Runtime, definition: dict[str, Any], now: datetime = NOON, **changes: Any) -> int:
    with runtime.database.begin() as connection:
        return store.create(connection, Campaign.model_validate({**definition, **changes}), now).stored.id


def happen(runtime: Runtime, now: datetime, *events: tuple[str, str, str | None, datetime], fold: bool = True) -> None:
    """(type, user, item, occurred at), received at `now`."""
    kinds, users, items, instants = zip(*events, strict=True)
    found = EventRows(
        pa.array(users, pa.string()),
        pa.array(items, pa.string()),
        pa.array(kinds, pa.string()),
        np.array([each.astimezone(UTC).replace(tzinfo=None) for each in instants], "datetime64[us]"),
        np.full(len(events), np.nan),
        np.full(len(events), np.nan),
    )
    ensure_months(runtime.database, months_of(found))
    with runtime.database.begin() as connection:
        record_events(connection, found, now, Recording(fold=fold))


def tick(runtime: Runtime, now: datetime) -> dict[str, int]:
    """A tick at `now`, and all the planning it wakes."""
    at(runtime, now)
    workers = Workers(runtime)
    found = tick_triggers(runtime, now, workers.wake)
    workers.drain()
    return found


def states(runtime: Runtime) -> Counter[str]:
    return Counter(row.state for row in rows(runtime, "SELECT state FROM armed_triggers"))


def pushed(runtime: Runtime) -> list[tuple[str, str]]:
    query = (
        "SELECT u.external_id, i.external_id FROM pushes p JOIN users u ON u.id = p.user_id"
        " LEFT JOIN items i ON i.id = p.item_id WHERE p.state = 'planned' ORDER BY 1, 2"
    )
    return [tuple(row) for row in rows(runtime, query)]


def change_item(runtime: Runtime, now: datetime, item: str, **columns: float) -> None:
    values = {name: (np.array([value]), np.array([True])) for name, value in columns.items()}
    if "stock" in values:
        values["stock"] = (np.array([columns["stock"]], np.int64), np.array([True]))
    with runtime.database.begin() as connection:
        store_items(connection, EntityRows(pa.array([item]), values, {}, None, np.arange(1)), now)


def test_an_abandoned_cart_is_due_after_its_delay_and_about_its_item(shop):
    define(shop, CART)
    happen(shop, NOON, ("add_to_cart", "u1", "i3", NOON - MINUTE), ("add_to_cart", "u2", "i5", NOON - MINUTE))

    assert tick(shop, NOON)["armed"] == 2
    assert "fired" not in tick(shop, NOON + 58 * MINUTE)
    assert tick(shop, NOON + 59 * MINUTE)["fired"] == 2

    assert pushed(shop) == [("u1", "i3"), ("u2", "i5")]
    assert reasons(shop) == {"planned": 2}
    assert "fired" not in tick(shop, NOON + 2 * HOUR)


def test_the_explanation_names_the_trigger_and_agrees(shop):
    define(shop, CART)
    happen(shop, NOON, ("add_to_cart", "u1", "i3", NOON - MINUTE))
    tick(shop, NOON)
    tick(shop, NOON + HOUR)

    (found,) = explain(shop.database, shop.gateways, "u1", "cart")

    assert found.because is not None
    assert (found.because.happened_at, found.because.item) == (NOON - MINUTE, "i3")
    assert found.because.trigger == "1h after each add_to_cart, unless purchase"
    assert found.chosen is not None
    assert found.chosen.item == "i3"
    assert found.verdict == "agrees"


def test_a_purchase_of_the_item_calls_it_off_and_one_of_another_does_not(shop):
    define(shop, CART)
    happen(shop, NOON, ("add_to_cart", "u1", "i3", NOON - MINUTE), ("add_to_cart", "u2", "i5", NOON - MINUTE))
    tick(shop, NOON)
    later = NOON + 30 * MINUTE
    happen(shop, later, ("purchase", "u1", "i3", later), ("purchase", "u2", "i6", later))

    assert tick(shop, later)["called_off"] == 1
    tick(shop, NOON + HOUR)

    assert pushed(shop) == [("u2", "i5")]


def test_a_purchase_that_was_received_first_calls_it_off_too(shop):
    define(shop, CART)
    happen(shop, NOON, ("purchase", "u1", "i3", NOON - MINUTE))
    tick(shop, NOON)
    happen(shop, NOON + MINUTE, ("add_to_cart", "u1", "i3", NOON - 2 * MINUTE))
    tick(shop, NOON + MINUTE)

    tick(shop, NOON + HOUR)

    assert states(shop) == {"cancelled": 1}
    assert pushed(shop) == []


def test_after_it_was_handed_on_the_planned_push_still_ends_by_what_calls_it_off(shop):
    define(shop, CART, trigger={"event": "add_to_cart", "cancel_if": ["app_open"], "same_item": False})
    happen(shop, NOON, ("add_to_cart", "u1", "i3", NOON - MINUTE))
    tick(shop, NOON)
    assert pushed(shop) == [("u1", "i3")]
    happen(shop, NOON + MINUTE, ("app_open", "u1", None, NOON + MINUTE))

    assert tick(shop, NOON + MINUTE)["ended"] == 1

    assert pushed(shop) == []
    assert [tuple(row) for row in rows(shop, "SELECT state, reason FROM deliveries")] == [("cancelled", "called_off")]
    assert reasons(shop) == {"not_eligible": 1}


def test_a_refresh_after_new_events_keeps_the_item_of_the_trigger(shop):
    define(shop, CART, trigger={"event": "add_to_cart"})
    happen(shop, NOON, ("add_to_cart", "u1", "i3", NOON - MINUTE))
    tick(shop, NOON)
    happen(shop, NOON + MINUTE, *[("view", "u1", f"i{n}", NOON + MINUTE) for n in range(10, 20)])

    refresh(at(shop, NOON + MINUTE), NOON + MINUTE, Workers(shop).wake)

    assert pushed(shop) == [("u1", "i3")]


def test_events_of_a_file_fire_and_a_history_of_more_than_a_day_ago_never_does(shop, tmp_path):
    define(shop, CART)
    file = tmp_path / "events.csv"
    old, fresh = (NOON - 25 * HOUR).isoformat(), (NOON - HOUR).isoformat()
    file.write_text(f"user_id,item_id,event_type,occurred_at\nu1,i1,add_to_cart,{old}\nu2,i2,add_to_cart,{fresh}\n")
    ingest_events(shop.database, [file], NOON)

    tick(shop, NOON)

    assert pushed(shop) == [("u2", "i2")]


def test_a_queued_event_of_the_api_fires_like_one_of_a_file(shop):
    define(shop, CART, trigger={"event": "add_to_cart"})
    happen(shop, NOON, ("add_to_cart", "u1", "i3", NOON - MINUTE), fold=False)

    assert "fired" not in tick(shop, NOON)  # it is not in the profiles yet that the planner reads
    fold_all(shop.database)
    tick(shop, NOON)

    assert pushed(shop) == [("u1", "i3")]


def test_who_was_reached_comes_back_only_after_the_re_entry_period(shop):
    define(shop, CART, trigger={"event": "add_to_cart", "reentry": {"limit": 1, "per": "7d"}}, item_once_days=None)
    days = [0, 1, 6, 7, 8]
    for day in days:
        now = NOON + day * DAY
        happen(shop, now, ("add_to_cart", "u1", f"i{day}", now))
        tick(shop, now)

    found = rows(shop, "SELECT happened_at FROM armed_triggers ORDER BY 1")
    assert [row.happened_at for row in found] == [NOON, NOON + 7 * DAY]


def test_a_price_drop_concerns_those_who_looked_and_did_not_buy(shop):
    define(
        shop,
        CART,
        name="drop",
        trigger={"price_drop": "10%", "interest": {"events": ["view"], "within": "3d"}, "cancel_if": ["purchase"]},
    )
    change_item(shop, NOON, "i3", price=10.0)
    tick(shop, NOON)
    seen = NOON - HOUR
    happen(shop, NOON, ("view", "u1", "i3", seen), ("view", "u2", "i3", seen), ("purchase", "u2", "i3", seen + MINUTE))
    happen(shop, NOON, ("view", "u4", "i4", seen))

    change_item(shop, NOON, "i3", price=9.5)
    assert "armed" not in tick(shop, NOON)
    change_item(shop, NOON, "i3", price=8.0)
    assert tick(shop, NOON + MINUTE)["armed"] == 1

    assert pushed(shop) == [("u1", "i3")]


def test_back_in_stock_tells_those_who_looked_once(shop):
    define(shop, CART, name="stock", trigger={"back_in_stock": True})
    happen(shop, NOON, ("view", "u1", "i3", NOON - HOUR))
    change_item(shop, NOON, "i3", stock=0)
    tick(shop, NOON)

    change_item(shop, NOON + MINUTE, "i3", stock=5)
    assert tick(shop, NOON + MINUTE)["fired"] == 1
    change_item(shop, NOON + 2 * MINUTE, "i3", stock=9)
    assert "armed" not in tick(shop, NOON + 2 * MINUTE)


def test_a_first_event_welcomes_once_and_not_those_who_were_here_before(shop):
    define(
        shop, CART, name="welcome", items="none", trigger={"first_event": True}, message={"title": "Hi", "body": "!"}
    )
    happen(shop, NOON, ("view", "u1", "i1", NOON - 2 * DAY))
    happen(shop, NOON, ("view", "u1", "i1", NOON), ("view", "u2", "i1", NOON), ("view", "u2", "i2", NOON + 0 * MINUTE))

    assert tick(shop, NOON)["fired"] == 1
    happen(shop, NOON + MINUTE, ("view", "u2", "i9", NOON - HOUR))  # came late, and is earlier than the first
    tick(shop, NOON + MINUTE)

    assert [user for user, _ in pushed(shop)] == ["u2"]
    assert states(shop) == {"fired": 1}


def test_a_silence_wins_back_those_who_fell_silent_while_the_campaign_ran(shop):
    define(shop, CART, name="back", items="none", trigger={"inactive_for": "30d"}, message={"title": "Hi", "body": "!"})
    happen(shop, NOON, ("view", "u1", "i1", NOON - 30 * DAY + HOUR), ("view", "u2", "i1", NOON - 40 * DAY))
    happen(shop, NOON, ("view", "u4", "i1", NOON - 30 * DAY + HOUR))
    with shop.database.begin() as connection:  # the shop's own profiles were active yesterday
        connection.execute(text("DELETE FROM user_item_profiles"))
    tick(shop, NOON)
    happen(shop, NOON + MINUTE, ("app_open", "u4", None, NOON + MINUTE))

    assert tick(shop, NOON + HOUR + 2 * MINUTE)["fired"] == 1

    assert [user for user, _ in pushed(shop)] == ["u1"]


def test_after_downtime_the_latest_of_each_user_runs_or_none(shop):
    define(shop, CART, trigger={"event": "add_to_cart", "reentry": {"limit": 9, "per": "1d"}})
    define(shop, {**CART, "name": "strict", "misfire": "skip"}, trigger={"event": "add_to_cart"})
    happen(shop, NOON, *[("add_to_cart", "u1", f"i{n}", NOON + n * MINUTE - HOUR) for n in range(5)])

    assert tick(shop, NOON + 3 * HOUR)["fired"] == 1

    assert [item for _, item in pushed(shop)] == ["i4"]
    assert states(shop) == {"fired": 1, "missed": 5}


def test_what_was_due_longer_ago_than_the_horizon_never_runs(shop):
    define(shop, CART, trigger={"event": "add_to_cart"}, horizon="2h")
    happen(shop, NOON, ("add_to_cart", "u1", "i1", NOON))

    tick(shop, NOON + 2 * HOUR)

    assert states(shop) == {"missed": 1}


def test_a_paused_campaign_arms_nothing_and_hands_nothing_on(shop):
    define(shop, CART)
    happen(shop, NOON, ("add_to_cart", "u1", "i1", NOON))
    tick(shop, NOON)
    with shop.database.begin() as connection:
        store.set_state(connection, "cart", "paused")
    happen(shop, NOON, ("add_to_cart", "u2", "i2", NOON))

    tick(shop, NOON + HOUR)

    assert states(shop) == {"armed": 1}
    assert pushed(shop) == []


def test_the_holdout_and_consent_hold_for_triggers_and_only_the_shards_needed_are_planned(shop):
    define(shop, CART, trigger={"event": "add_to_cart"}, holdout=1.0, exploration=0)
    happen(shop, NOON, ("add_to_cart", "u1", "i1", NOON), ("add_to_cart", "u9", "i2", NOON))

    tick(shop, NOON)

    assert pushed(shop) == []
    assert reasons(shop) == {"holdout": 1, "no_consent": 1}
    run = rows(shop, "SELECT shards_total, shards_done, users_total, users_done, state FROM runs")[0]
    assert run.shards_total == run.shards_done <= 2
    assert run.users_total == run.users_done
    assert run.state == "published"


def test_while_a_run_over_triggers_is_under_way_what_becomes_due_waits(shop):
    define(shop, CART, trigger={"event": "add_to_cart"})
    happen(shop, NOON, ("add_to_cart", "u1", "i3", NOON - MINUTE))
    lazy = Workers(shop)
    tick_triggers(shop, NOON, lazy.wake)
    happen(shop, NOON, ("add_to_cart", "u2", "i5", NOON - MINUTE))

    assert "fired" not in tick_triggers(shop, NOON, Workers(shop).wake)
    lazy.drain()
    assert tick(shop, NOON)["fired"] == 1

    assert pushed(shop) == [("u1", "i3"), ("u2", "i5")]


def test_a_tick_that_dies_before_its_end_has_changed_nothing_and_the_next_does_it(shop):
    define(shop, CART, trigger={"event": "add_to_cart"})
    happen(shop, NOON, ("add_to_cart", "u1", "i3", NOON - MINUTE))
    with suppress(ZeroDivisionError), shop.database.begin() as connection:
        campaigns = store.get_all(connection, ("running",))
        assert arm(connection, campaigns, NOON)["armed"] == 1
        assert fire(connection, campaigns[0], NOON)["fired"] == 1
        raise ZeroDivisionError

    assert tick(shop, NOON)["fired"] == 1

    assert pushed(shop) == [("u1", "i3")]


def test_caps_hold_over_triggers_and_a_capped_user_says_so(shop):
    set_caps(shop, Cap(id="one", limit=1, window="local_day"), quiet_hours=None)
    day: dict[str, Any] = {"horizon": "2h", "overflow": "drop", "trigger": {"event": "add_to_cart"}}
    define(shop, CART, **day)
    define(shop, CART, name="other", **day)
    happen(shop, NOON, ("add_to_cart", "u4", "i3", NOON - MINUTE))

    tick(shop, NOON)

    assert reasons(shop) == {"planned": 1, "capped": 1}


def test_two_ticks_at_once_hand_a_trigger_on_once(shop):
    define(shop, CART, trigger={"event": "add_to_cart"})
    happen(shop, NOON, *[("add_to_cart", f"u{n}", "i1", NOON) for n in range(8)])
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: tick_triggers(shop, NOON, Workers(shop).wake), range(4)))

    assert sum(each.get("fired", 0) for each in done) == 8
    assert len(rows(shop, "SELECT * FROM occurrences")) == 1
