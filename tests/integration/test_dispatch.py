"""Dispatch on real servers: what leaves, what does not and why, what is written down."""

from __future__ import annotations

import uuid
from datetime import date, datetime, time, timedelta
from random import Random
from typing import Any

import pytest
import redis
from sqlalchemy import text

from engine import clock
from engine.campaigns import store as campaigns
from engine.campaigns.policy import Cap
from engine.delivery.dispatch import dispatch_due, outstanding
from engine.delivery.sending import Pace
from engine.runtime import Runtime
from engine.store.partitions import ensure_partitions
from tests.delivery_store import NOON, DeliveryShop, journal, received


def daily(limit: int, scope: str = "all") -> Cap:
    return Cap(id=f"daily-{scope}-{limit}", scope=scope, limit=limit, window="local_day")


def dispatch(runtime: Runtime, now: datetime = NOON, **options: Any) -> dict[str, int]:
    return dispatch_due(runtime, now, rng=Random(1), **options)


def test_a_due_push_leaves_once_and_its_row_becomes_a_delivery(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.campaign(
        items="personalised", tags=["spring"], message={"title": "{{ item.title }}", "body": "{{ data.code }}"}
    )
    shop.item("i1", category="Bakery")
    push = shop.push("u1", item="i1", send_at=NOON - timedelta(seconds=5))

    assert dispatch(runtime) == {"accepted": 1}
    assert dispatch(runtime) == {}

    [line], [row] = journal(runtime.settings.journal_path), shop.deliveries()
    assert shop.hot() == []
    assert (line["push_id"], line["user_id"], line["item_id"], line["test"]) == (str(push), "u1", "i1", False)
    assert (line["title"], line["body"], line["at"]) == ("I1", "SPRING", NOON.isoformat())
    assert (row["state"], row["reason"], row["at"], row["attempts"]) == ("accepted", None, NOON, 1)
    assert row["scopes"] == ["campaign:bread", "category:Bakery", "channel:log", "tag:spring"]
    assert (row["counts"], row["local_day"], row["test"]) == (True, date(2026, 3, 2), False)


def test_only_what_is_due_leaves_and_what_is_late_leaves_while_its_window_is_open(
    runtime: Runtime, shop: DeliveryShop
) -> None:
    shop.campaign()
    shop.push("soon", send_at=NOON + timedelta(seconds=1))
    shop.push("late", send_at=NOON - timedelta(minutes=90))
    shop.push("gone", send_at=NOON - timedelta(hours=3))

    assert dispatch(runtime) == {"accepted": 1, "expired.expired": 1, "late": 1}
    assert [line["user_id"] for line in journal(runtime.settings.journal_path)] == ["late"]
    assert [row["state"] for row in shop.hot()] == ["planned"]


def test_hundreds_leave_in_groups_and_every_one_is_counted(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.campaign()
    shop.pushes([f"u{n}" for n in range(250)])

    assert dispatch(runtime, pace=Pace(batch=120, group=50)) == {"accepted": 250}
    assert set(received(runtime.settings.journal_path).values()) == {1}
    assert len(shop.deliveries()) == 250


def test_a_limit_bounds_a_pass(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.campaign()
    shop.pushes(["a", "b", "c"])

    assert dispatch(runtime, limit=2) == {"accepted": 2}
    assert outstanding(runtime.database, NOON) == 1


def test_a_pass_that_runs_out_of_time_wakes_the_next(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.campaign()
    shop.pushes(["a", "b"])
    woken: list[str] = []

    counts = dispatch(runtime, wake=lambda task, *ids: woken.append(task), pace=Pace(longest=timedelta(0)))

    assert (counts, woken) == ({}, ["horae.dispatch_due"])


# --- what the just-in-time check finds -------------------------------------------------------------------------------


def test_consent_that_was_withdrawn_or_never_given_stops_a_push(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.campaign()
    shop.user("refused", consent=False)
    shop.user("unasked", consent=None)  # the journal reaches nobody: no record is needed
    shop.user("stub", stub=True)
    shop.pushes(["refused", "unasked", "stub"])
    shop.push("erased", user_id=10**9)

    dispatch(runtime)

    assert shop.ended() == {"accepted": 1, "suppressed.no_consent": 1, "suppressed.not_eligible": 2}


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"stock": 0}, "item_unavailable"),
        ({"stock": 1}, None),
        ({"available_until": NOON + timedelta(seconds=30)}, "item_unavailable"),
        ({"available_until": NOON + timedelta(seconds=31)}, None),
        ({"available_from": NOON + timedelta(seconds=1)}, "item_unavailable"),
        ({"available_from": NOON}, None),
        ({"stub": True}, "item_unavailable"),
    ],
)
def test_an_item_that_cannot_be_had_is_not_announced(
    runtime: Runtime, shop: DeliveryShop, columns: dict[str, Any], reason: str | None
) -> None:
    shop.campaign(items="personalised")
    shop.item("i1", **columns)
    shop.push(item="i1")

    dispatch(runtime)

    assert shop.ended() == {f"suppressed.{reason}" if reason else "accepted": 1}


def test_what_was_bought_since_the_plan_is_not_announced(runtime: Runtime, shop: DeliveryShop) -> None:
    ensure_partitions(runtime.database, "events", date(2026, 2, 1), date(2026, 3, 31))
    shop.campaign(items="personalised")
    as_of = NOON - timedelta(hours=6)
    shop.purchase("bought", "i1", as_of)
    shop.purchase("earlier", "i1", as_of - timedelta(seconds=1))  # the plan knew of it
    shop.purchase("heard-late", "i1", as_of - timedelta(hours=2), received=as_of + timedelta(hours=1))
    shop.purchase("old-news", "i1", as_of - timedelta(days=9), received=as_of + timedelta(hours=1))
    shop.purchase("other-item", "i2", as_of + timedelta(hours=1))
    shop.pushes(["bought", "earlier", "heard-late", "old-news", "other-item"], item="i1")

    dispatch(runtime)

    sent = {line["user_id"] for line in journal(runtime.settings.journal_path)}
    assert sent == {"earlier", "old-news", "other-item"}
    assert shop.ended()["suppressed.item_bought"] == 2


def test_a_transactional_push_is_about_an_item_that_was_bought(runtime: Runtime, shop: DeliveryShop) -> None:
    ensure_partitions(runtime.database, "events", date(2026, 2, 1), date(2026, 3, 31))
    shop.campaign("order", items="personalised", **{"class": "transactional"})
    shop.item("i1", stock=0)
    shop.purchase("u1", "i1", NOON - timedelta(minutes=1))
    shop.push("u1", "order", item="i1")

    assert dispatch(runtime) == {"accepted": 1}


def test_quiet_hours_are_those_of_the_users_wall_clock_now(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.policy(quiet_hours="22:00-08:00")
    shop.campaign()
    shop.user("berlin", timezone="Europe/Berlin")  # 13:00
    shop.user("tokyo", timezone="Asia/Tokyo")  # 21:00
    shop.user("sydney", timezone="Australia/Sydney")  # 23:00
    shop.user("napper", timezone="Europe/Berlin", quiet_from=time(13), quiet_until=time(14))
    shop.pushes(["berlin", "tokyo", "sydney"], window_end=NOON + timedelta(hours=12))
    shop.push("napper", window_end=NOON + timedelta(hours=1, minutes=30))

    assert dispatch(runtime) == {"accepted": 2, "later": 2}

    waiting = {row["user_id"]: row for row in shop.hot()}
    assert waiting[shop.user("sydney")]["send_at"] == NOON + timedelta(hours=9)  # 08:00 there
    assert waiting[shop.user("napper")]["send_at"] == NOON + timedelta(hours=1)
    assert {row["attempts"] for row in shop.hot()} == {0}


def test_what_could_arrive_in_quiet_hours_or_after_its_end_does_not_leave(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.policy(quiet_hours="13:00-14:00")
    shop.campaign()
    almost = NOON + timedelta(minutes=59, seconds=45)
    shop.push("quiet", send_at=NOON, window_end=NOON + timedelta(hours=4))
    shop.push("ending", send_at=NOON, window_end=almost + timedelta(seconds=20))

    assert dispatch(runtime, almost) == {"expired.expired": 1, "later": 1}


def test_a_push_that_no_local_hour_lets_out_any_more_ends(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.policy(quiet_hours="11:00-20:00")
    shop.campaign()
    shop.push()

    assert dispatch(runtime) == {"suppressed.hours": 1}


def test_a_campaign_narrows_its_hours_and_a_code_asked_for_at_night_may_come_at_night(
    runtime: Runtime, shop: DeliveryShop
) -> None:
    shop.policy(quiet_hours="11:00-13:00")
    shop.campaign("evening", hours="18:00-21:00")
    shop.campaign("code", obeys_quiet_hours=False, **{"class": "transactional"})
    shop.push("u1", "evening")
    shop.push("u1", "code")

    assert dispatch(runtime) == {"accepted": 1, "suppressed.hours": 1}


def test_a_template_that_fails_for_one_user_stops_only_their_push(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.campaign(message={"title": "Hi", "body": "{{ user.attributes.name }}"})
    shop.user("named", attributes={"name": "Ada"})
    shop.pushes(["named", "nameless"])

    assert dispatch(runtime) == {"accepted": 1, "rejected.template": 1}
    assert "name" in str([row["detail"] for row in shop.deliveries() if row["state"] == "rejected"])


def test_paused_campaigns_wait_cancelled_ones_end_and_finished_ones_are_sent(
    runtime: Runtime, shop: DeliveryShop
) -> None:
    for name, state in (("p", "paused"), ("c", "cancelled"), ("d", "done")):
        shop.campaign(name)
        shop.push("u1", name)
        with runtime.database.begin() as connection:
            campaigns.set_state(connection, name, state)  # type: ignore[arg-type]

    assert dispatch(runtime) == {"accepted": 1, "cancelled.campaign_cancelled": 1}
    assert [row["state"] for row in shop.hot()] == ["planned"]
    assert outstanding(runtime.database, NOON) == 0

    assert dispatch(runtime, NOON + timedelta(hours=2)) == {"expired.expired": 1}


def test_a_gateway_that_is_not_configured_sends_nothing(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.campaign(gateway="webhook")
    shop.push()

    assert dispatch(runtime) == {}
    assert [row["state"] for row in shop.hot()] == ["planned"]


# --- caps ------------------------------------------------------------------------------------------------------------


def test_a_cap_lets_its_number_through_and_no_more(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.policy(daily(2))
    for name in "abcd":
        shop.campaign(name)
        shop.pushes(["u1", "u2"], name)

    assert dispatch(runtime) == {"accepted": 4, "suppressed.capped": 4}
    users = [line["user_id"] for line in journal(runtime.settings.journal_path)]
    assert (users.count("u1"), users.count("u2")) == (2, 2)
    assert {row["detail"] for row in shop.deliveries() if row["state"] == "suppressed"} == {"daily-all-2"}


def test_the_minimum_gap_and_the_campaigns_own_cap_hold_too(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.policy(min_gap="2h")
    shop.campaign("a", caps=[{"limit": 1, "window": "local_week"}])
    shop.push("u1", "a", window_end=NOON + timedelta(days=1))
    shop.campaign("b")
    shop.push("u1", "b", send_at=NOON + timedelta(hours=1), window_end=NOON + timedelta(days=1))

    assert dispatch(runtime) == {"accepted": 1}
    assert dispatch(runtime, NOON + timedelta(hours=1)) == {"suppressed.gap": 1}

    shop.another_occurrence("a", "second")
    shop.push("u1", "a", send_at=NOON + timedelta(hours=5))
    assert dispatch(runtime, NOON + timedelta(hours=5)) == {"suppressed.capped": 1}


def test_who_does_not_obey_is_not_held_and_who_does_not_count_takes_no_place(
    runtime: Runtime, shop: DeliveryShop
) -> None:
    shop.policy(daily(1))
    shop.campaign("receipt", **{"class": "transactional"})
    shop.campaign("silent", counts_toward_caps=False)
    shop.campaign("loud")
    shop.push("u1", "receipt", send_at=NOON - timedelta(seconds=3))
    shop.push("u1", "silent", send_at=NOON - timedelta(seconds=2))
    shop.push("u1", "loud", send_at=NOON - timedelta(seconds=1))
    shop.another_occurrence("receipt", "second")
    shop.push("u1", "receipt")
    shop.another_occurrence("silent", "second")
    shop.push("u1", "silent")

    assert dispatch(runtime) == {"accepted": 4, "suppressed.capped": 1}


def test_caps_hold_after_redis_forgot_everything(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.policy(daily(1))
    for name in "abc":
        shop.campaign(name)
    shop.push("u1", "a")
    assert dispatch(runtime) == {"accepted": 1}

    runtime.caps.flushdb()
    shop.push("u1", "b")
    assert dispatch(runtime) == {"suppressed.capped": 1}

    tomorrow = NOON + timedelta(days=1)
    shop.push("u1", "c", send_at=tomorrow)
    assert dispatch(runtime, tomorrow) == {"accepted": 1}


def test_a_flush_between_reservation_and_intent_sends_nothing_until_caps_are_sure(
    runtime: Runtime, shop: DeliveryShop
) -> None:
    shop.policy(daily(1))
    shop.campaign("a")
    shop.campaign("b")
    shop.push("u1", "a")
    flushed: list[str] = []

    def flush_once(point: str) -> None:
        if point == "after_reserve" and not flushed:
            flushed.append(point)
            runtime.caps.flushdb()
            shop.push("u1", "b", send_at=NOON - timedelta(seconds=1))
            dispatch(runtime)  # another worker notices, begins an epoch and sends the other push

    counts = dispatch(runtime, at=flush_once)

    assert counts == {"back.stopped": 1}
    shop.sql("UPDATE pushes SET not_before = NULL")
    assert dispatch(runtime) == {"suppressed.capped": 1}
    assert [line["campaign"] for line in journal(runtime.settings.journal_path)] == ["b"]


def test_without_redis_nothing_leaves_and_everything_waits(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.campaign()
    shop.pushes(["a", "b"])
    away = Runtime(runtime.settings, runtime.database, "", "", "redis://127.0.0.1:1/0")

    assert dispatch(away) == {"waiting.caps_unreachable": 2}
    assert {row["attempts"] for row in shop.hot()} == {0}
    assert journal(runtime.settings.journal_path) == []
    assert dispatch(runtime) == {"accepted": 2}


def test_redis_that_fails_in_the_middle_puts_the_batch_back_untried(
    runtime: Runtime, shop: DeliveryShop, redis_url: str
) -> None:
    shop.campaign()
    shop.pushes(["a", "b", "c"])
    client = redis.Redis.from_url(redis_url)

    def break_caps(point: str) -> None:
        if point == "after_claim":
            client.config_set("maxmemory", "1")

    try:
        counts = dispatch(runtime, at=break_caps)
    finally:
        client.config_set("maxmemory", "0")
        client.close()

    assert counts == {"back.caps_unreachable": 3}
    assert {(row["state"], row["attempts"]) for row in shop.hot()} == {("planned", 0)}


def test_a_longer_cap_added_later_counts_what_was_sent_before(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.campaign("a")
    shop.push("u1", "a")
    assert dispatch(runtime) == {"accepted": 1}

    later = NOON + timedelta(days=30)
    with runtime.database.begin() as connection:
        connection.execute(text("UPDATE workspace SET business_now = :at"), {"at": later})
    shop.policy(Cap(id="long", limit=1, window="rolling:P40D"))
    shop.campaign("b")
    shop.push("u1", "b", send_at=later, not_after=later + timedelta(days=1))

    assert dispatch(runtime, later) == {"suppressed.capped": 1}


def test_where_business_time_is_real_it_runs_on_during_a_pass(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.sql("UPDATE workspace SET business_now = NULL")
    now = clock.machine_now()
    shop.campaign()
    shop.push("u1", send_at=now - timedelta(seconds=1), not_after=now + timedelta(days=1))

    assert dispatch(runtime, now) == {"accepted": 1}
    assert now < shop.deliveries()[0]["at"] < now + timedelta(minutes=1)


def test_two_passes_at_once_send_everything_once(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.campaign()
    shop.pushes([f"u{n}" for n in range(40)])
    seen: list[dict[str, int]] = []

    def meanwhile(point: str) -> None:
        if point == "after_claim" and not seen:
            seen.append({})
            seen.append(dispatch(runtime, pace=Pace(batch=15)))

    counts = dispatch(runtime, pace=Pace(batch=15), at=meanwhile)

    assert counts["accepted"] + seen[1]["accepted"] == 40
    assert set(received(runtime.settings.journal_path).values()) == {1}


def test_a_zombie_records_nothing(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.campaign()
    push = shop.push()

    def overtaken(point: str) -> None:
        if point == "after_reserve":
            shop.sql("UPDATE pushes SET fence = fence + 1 WHERE id = :id", id=push)

    assert dispatch(runtime, at=overtaken) == {"lease_lost": 1}
    assert shop.deliveries() == []
    assert journal(runtime.settings.journal_path) == []
    assert [row["state"] for row in shop.hot()] == ["claimed"]


def test_a_zombie_that_had_sent_records_nothing_either(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.campaign()
    push: uuid.UUID = shop.push()

    def overtaken(point: str) -> None:
        if point == "after_send":
            shop.sql("UPDATE pushes SET fence = fence + 1 WHERE id = :id", id=push)

    assert dispatch(runtime, at=overtaken)["lease_lost"] == 1
    assert shop.deliveries() == []


def test_what_counts_and_obeys_nothing_does_not_overtake_what_was_admitted_before_it(
    runtime: Runtime, shop: DeliveryShop
) -> None:
    shop.policy(Cap(id="daily", limit=1, window="local_day"))
    shop.campaign("held")
    shop.campaign("free", obeys_caps=False)
    shop.campaign("code", **{"class": "transactional"})
    for number, name in enumerate(("held", "free", "code")):
        shop.push("u1", name, send_at=NOON - timedelta(seconds=3 - number))
    shop.push("u2", "free")

    assert dispatch(runtime) == {"accepted": 3, "later": 1}
    [waiting] = shop.hot()
    assert (waiting["send_at"], waiting["attempts"]) == (NOON + timedelta(seconds=30), 0)
    assert dispatch(runtime, NOON + timedelta(seconds=29)) == {}
    assert dispatch(runtime, NOON + timedelta(seconds=30)) == {"accepted": 1}

    shop.another_occurrence("free", "again")
    shop.push("u2", "free", window_end=NOON + timedelta(seconds=45))
    shop.push("u3", "free", send_at=NOON - timedelta(seconds=1))
    shop.push("u3", "held")
    assert dispatch(runtime) == {"accepted": 1, "expired.expired": 1, "suppressed.capped": 1}
