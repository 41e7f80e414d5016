"""Breakers, rates and retry budgets, with real rows and passes."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from random import Random

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from engine import clock
from engine.campaigns.policy import Cap
from engine.cli.app import app
from engine.delivery import buckets, health
from engine.delivery.dispatch import dispatch_due
from engine.delivery.gateways import Kind, Outcome
from engine.delivery.gateways.push import PushGateway
from engine.delivery.sending import Pace
from engine.delivery.upkeep import upkeep
from engine.runtime import Runtime
from engine.status import gather
from tests.delivery_store import NOON, DeliveryShop, Pigeon, dispatch, users, with_gateway

DOWN = Outcome(Kind.RETRY, detail="HTTP 503")


def states(runtime: Runtime) -> dict[str, str]:
    with runtime.database.begin() as connection:
        return {one.gateway: one.state for one in health.gateways(connection)}


def reservations(runtime: Runtime) -> int:
    """Users of whom the caps' Redis knows anything."""
    return len(list(runtime.caps.scan_iter("horae:cap:*")))


# --- circuit breaker -------------------------------------------------------------------------------------------------


def test_while_a_breaker_is_open_rows_wait_and_take_no_caps(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.policy(Cap(id="daily", limit=1, window="local_day"))
    shop.campaign(gateway="pigeon")
    shop.pushes(users(12))
    pigeon = Pigeon(*[DOWN] * 12)

    assert dispatch(runtime, pigeon, limit=12) == {"breaker_opened": 1, "retry": 12}
    shop.sql("UPDATE pushes SET not_before = NULL")
    shop.pushes(users(30, "later"))
    runtime.caps.flushdb()

    assert dispatch(runtime, pigeon) == {}
    assert len(pigeon.got) == 12
    assert {row["state"] for row in shop.hot()} == {"planned"}
    assert len(shop.hot()) == 42
    assert reservations(runtime) == 0
    assert states(runtime) == {"pigeon": "open"}


def test_one_push_probes_and_closes_it_or_opens_it_for_longer(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.campaign(gateway="pigeon")
    shop.pushes(users(40))
    pigeon = Pigeon(*[DOWN] * 40)
    dispatch(runtime, pigeon, limit=40)

    shop.waited()
    pigeon.answers = [DOWN]
    assert dispatch(runtime, pigeon) == {"breaker_opened": 1, "retry": 1}
    assert len(pigeon.got) == 41
    with runtime.database.begin() as connection:
        [row] = connection.execute(text("SELECT trips, until - since AS length FROM breakers"))
    assert (row.trips, row.length) == (2, timedelta(seconds=10))

    shop.waited()
    shop.sql("UPDATE buckets SET level = 100")  # the retry budget is another matter
    assert dispatch(runtime, pigeon) == {"accepted": 40}
    assert states(runtime) == {"pigeon": "closed"}


def test_a_probe_that_does_not_leave_leaves_the_next_one_free(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.campaign(gateway="pigeon")
    shop.pushes(users(10))
    pigeon = Pigeon(*[DOWN] * 10)
    dispatch(runtime, pigeon, limit=10)
    shop.sql("DELETE FROM pushes")
    shop.user("unwilling", consent=False)
    shop.push("unwilling", send_at=NOON - timedelta(minutes=1))
    shop.push("willing")
    shop.waited()

    counts = dispatch(runtime, pigeon)
    while shop.hot():
        counts = dispatch(runtime, pigeon)

    assert counts == {"accepted": 1}
    assert shop.ended() == {"accepted": 1, "suppressed.no_consent": 1}


def test_of_a_channel_only_the_broken_gateways_devices_wait(runtime: Runtime, shop: DeliveryShop) -> None:
    class Crow(Pigeon):
        name = "crow"

    pigeon, crow = Pigeon(*[DOWN] * 10, needs_device=True), Crow(needs_device=True)
    channel = PushGateway({"pigeon": pigeon, "crow": crow})
    shop.campaign(gateway="push")
    for n in range(10):
        shop.device(f"broken{n}", f"p{n}", "pigeon")
    shop.pushes(users(10, "broken"))
    assert dispatch(runtime, channel, limit=10) == {"breaker_opened": 1, "retry": 10}

    shop.sql("UPDATE pushes SET not_before = NULL")
    shop.device("crows", "c1", "crow")
    shop.device("both", "p-both", "pigeon")
    shop.device("both", "c2", "crow", seen_at=NOON - timedelta(days=1))
    shop.pushes(["crows", "both"])
    assert dispatch(runtime, channel) == {"accepted": 2, "back.stopped": 10}
    assert {message.device.token for message in crow.got if message.device} == {"c1", "c2"}

    shop.waited()
    shop.sql("UPDATE buckets SET level = 100")
    counts = dispatch(runtime, channel)
    assert counts == {"accepted": 1, "back.breaker": 9}  # one of them probes, for all
    shop.waited()
    assert dispatch(runtime, channel) == {"accepted": 9}


def test_refusals_of_the_message_or_the_device_break_nothing(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.campaign(gateway="pigeon")
    shop.pushes(users(30))
    dispatch(runtime, Pigeon(*[Outcome(Kind.PAYLOAD_REFUSED)] * 30))

    assert states(runtime) == {"pigeon": "closed"}


# --- rates -----------------------------------------------------------------------------------------------------------


def test_a_gateways_rate_bounds_what_leaves_and_the_rest_waits_untried(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.policy(gateways=[{"gateway": "pigeon", "per_minute": 120}])
    shop.campaign(gateway="pigeon")
    shop.pushes(users(60))
    pigeon = Pigeon()

    first = dispatch(runtime, pigeon)["accepted"]
    assert 10 <= first < 30  # five seconds' worth, and what came while it was sending
    assert {(row["state"], row["attempts"]) for row in shop.hot()} == {("planned", 0)}

    shop.sql("UPDATE buckets SET at = at - interval '5 seconds'")
    assert 9 <= dispatch(runtime, pigeon)["accepted"] < 30
    assert len(shop.deliveries()) + len(shop.hot()) == 60


def test_a_campaigns_rate_holds_it_and_nobody_else(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.campaign("slow", gateway="pigeon", per_minute=12)
    shop.campaign("fast", gateway="pigeon")
    shop.pushes(users(20), "slow", send_at=NOON - timedelta(minutes=1))
    shop.pushes(users(20), "fast")
    pigeon = Pigeon()

    dispatch(runtime, pigeon)

    names = [message.campaign for message in pigeon.got]
    assert names.count("fast") == 20
    assert 1 <= names.count("slow") <= 4
    assert {row["attempts"] for row in shop.hot()} == {0}  # what waits was not even claimed


def test_a_campaign_with_a_rate_goes_by_a_gateway_with_one_and_beside_a_backlog(
    runtime: Runtime, shop: DeliveryShop
) -> None:
    shop.policy(gateways=[{"gateway": "pigeon", "per_minute": 1_200}])
    shop.campaign("slow", gateway="pigeon", per_minute=60)
    shop.campaign("fast", gateway="pigeon")
    shop.pushes(users(90), "fast", send_at=NOON - timedelta(minutes=1))
    shop.pushes(users(10), "slow")
    pigeon = Pigeon()

    dispatch(runtime, pigeon, limit=40, pace=Pace(batch=40))

    names = [message.campaign for message in pigeon.got]
    assert names.count("slow") == 5
    assert names.count("fast") == 35


def test_messages_to_several_devices_count_each(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.policy(gateways=[{"gateway": "pigeon", "per_minute": 60}])
    shop.campaign(gateway="pigeon", devices="all")
    for user in users(9):
        for n in range(2):
            shop.device(user, f"{user}-{n}", "pigeon")
    shop.pushes(users(9))
    pigeon = Pigeon(needs_device=True)

    counts = dispatch(runtime, pigeon)

    assert 4 <= len(pigeon.got) <= 8
    assert counts["accepted"] * 2 == len(pigeon.got)


def test_what_was_taken_for_pushes_that_did_not_leave_is_given_back(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.campaign("slow", gateway="pigeon", per_minute=60)
    shop.user("unwilling", consent=False)
    shop.push("unwilling", "slow", send_at=NOON - timedelta(minutes=1))
    shop.pushes(users(5), "slow")
    pigeon = Pigeon()

    dispatch(runtime, pigeon)
    dispatch(runtime, pigeon)

    assert len(pigeon.got) == 5  # its burst, though a sixth had asked


def test_a_provider_that_asks_for_a_rest_gets_it_from_everybody(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.campaign(gateway="pigeon")
    shop.pushes(users(3))
    slow_down = Outcome(Kind.THROTTLED, delay=timedelta(minutes=2), detail="HTTP 429")
    pigeon = Pigeon(*[slow_down] * 3)
    assert dispatch(runtime, pigeon) == {"throttled": 3}

    shop.pushes(users(5, "more"))
    shop.sql("UPDATE pushes SET not_before = NULL")
    assert dispatch(runtime, pigeon) == {}
    with runtime.database.begin() as connection:
        [one] = health.gateways(connection)
    assert one.resting_until is not None
    assert one.state == "closed"

    shop.sql("UPDATE buckets SET at = at - interval '3 minutes'")
    assert dispatch(runtime, pigeon) == {"accepted": 8}


def test_one_device_that_is_told_to_wait_waits_alone(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.campaign(gateway="pigeon")
    shop.pushes(users(9))
    pigeon = Pigeon(Outcome(Kind.THROTTLED, delay=timedelta(minutes=2)))
    assert dispatch(runtime, pigeon) == {"accepted": 8, "throttled": 1}

    shop.pushes(users(5, "more"))
    assert dispatch(runtime, pigeon) == {"accepted": 5}


# --- several workers -------------------------------------------------------------------------------------------------


def at_once(runtime: Runtime, pigeon: Pigeon, workers: int) -> Counter[str]:
    """What several passes at the same time did together."""

    def work(number: int) -> dict[str, int]:
        return dispatch_due(with_gateway(runtime, pigeon), NOON, pace=Pace(batch=20, group=10), rng=Random(number))

    with ThreadPoolExecutor(workers) as pool:
        return sum((Counter(counts) for counts in pool.map(work, range(workers))), Counter())


def test_workers_share_a_rate_and_none_is_counted_twice(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.policy(gateways=[{"gateway": "pigeon", "per_minute": 1_200}])
    shop.campaign(gateway="pigeon")
    shop.pushes(users(400))
    pigeon = Pigeon()

    begun = clock.machine_now()
    counts = at_once(runtime, pigeon, 4)
    took = (clock.machine_now() - begun).total_seconds()

    rate = buckets.per_minute(1_200)
    assert rate.burst <= counts["accepted"] <= rate.burst + rate.per_second * took
    assert counts["accepted"] == len(pigeon.got) == len(shop.deliveries())
    assert len(shop.hot()) == 400 - counts["accepted"]


def test_of_several_workers_one_probes(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.campaign(gateway="pigeon")
    shop.pushes(users(40))
    pigeon = Pigeon(*[DOWN] * 40)
    dispatch(runtime, pigeon, limit=40)
    shop.waited()
    shop.sql("UPDATE buckets SET level = 100")
    pigeon.answer = lambda message: DOWN
    pigeon.got.clear()

    counts = at_once(runtime, pigeon, 4)

    assert len(pigeon.got) == counts["retry"] == 1
    assert {row["state"] for row in shop.hot()} == {"planned"}


# --- retry budget ----------------------------------------------------------------------------------------------------


def test_repeats_are_a_small_part_of_what_a_provider_gets(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.campaign(gateway="pigeon")
    shop.pushes(users(200))
    pigeon = Pigeon(*[DOWN if n % 3 == 0 else Outcome(Kind.ACCEPTED) for n in range(200)])
    assert dispatch(runtime, pigeon, limit=200) == {"accepted": 133, "retry": 67}

    shop.waited()
    counts = dispatch(runtime, pigeon)

    assert 30 <= counts["accepted"] <= 40  # ten to begin with, a tenth of 200, one a second
    assert counts["accepted"] + counts["back.retries"] == 67
    assert {row["attempts"] for row in shop.hot()} == {1}
    shop.sql("UPDATE buckets SET at = at - interval '2 minutes'")
    shop.waited()
    assert dispatch(runtime, pigeon)["accepted"] == 67 - counts["accepted"]


def test_what_dead_workers_held_is_no_repeat_and_leaves_as_soon_as_it_is_found(
    runtime: Runtime, shop: DeliveryShop
) -> None:
    class DiedError(Exception):
        """Stands for a kill."""

    def die(point: str) -> None:
        if point == "after_claim":
            raise DiedError

    shop.campaign(gateway="pigeon")
    shop.pushes(users(200))
    for _ in range(2):
        with pytest.raises(DiedError):
            dispatch(runtime, Pigeon(), at=die)
        shop.sql("UPDATE pushes SET lease_until = clock_timestamp()")
        upkeep(runtime, NOON)
        shop.waited()
    assert {row["attempts"] for row in shop.hot()} == {2}

    assert dispatch(runtime, Pigeon()) == {
        "accepted": 200
    }  # the retry budget would have let ten leave, then one a second


# --- for people -------------------------------------------------------------------------------------------------------


def test_status_says_what_fails_rests_and_was_paused_and_resume_lets_it_go_on(
    runtime: Runtime, shop: DeliveryShop
) -> None:
    class Crow(Pigeon):
        name = "crow"

    shop.campaign("bad", gateway="pigeon")
    shop.campaign("crows", gateway="crow")
    shop.campaign("refused", gateway="log")
    shop.pushes(users(10), "bad")
    shop.push("u1", "crows")
    dispatch(runtime, Pigeon(*[DOWN] * 10), limit=10)
    dispatch(runtime, Crow(Outcome(Kind.THROTTLED, delay=timedelta(minutes=5))))
    with runtime.database.begin() as connection:
        health.pause(connection, "refused", "50% of 100 pushes within 15 minutes ended in provider errors")

    found = gather(runtime.settings)

    alarms = "\n".join(found.alarms)
    assert "gateway pigeon fails (HTTP 503) and is left alone" in alarms
    assert "gateway crow was asked to rest until" in alarms
    assert "campaign refused was paused: 50% of 100" in alarms
    assert "horae campaign resume refused" in alarms
    assert json.loads(json.dumps(found.as_dict()))["store"]["paused_by_horae"].keys() == {"refused"}

    environment = {
        "HORAE_HOME": str(runtime.settings.home),
        "HORAE_DATABASE_URL": runtime.database.libpq_url,
        "HORAE_REDIS_URL": runtime.redis_url,
    }
    assert CliRunner().invoke(app, ["campaign", "resume", "refused"], env=environment).exit_code == 0
    limited = CliRunner().invoke(app, ["caps", "gateway", "log", "--per-minute", "90"], env=environment)
    assert limited.output == "log: at most 90 a minute\n"
    assert "was paused" not in "\n".join(gather(runtime.settings).alarms)
