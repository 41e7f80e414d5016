"""What upkeep finds after dead workers and passed time; twice the same."""

from __future__ import annotations

from datetime import timedelta
from random import Random

import pytest
from sqlalchemy import text

from engine.campaigns.policy import Cap
from engine.delivery.dispatch import dispatch_due, outstanding
from engine.delivery.retry import FIRST_WAIT
from engine.delivery.sending import Pace
from engine.delivery.upkeep import upkeep
from engine.runtime import Runtime
from tests.delivery_store import NOON, POINTS, DeliveryShop, journal, received
from tests.machine_time import MachineTime

DAILY = Cap(id="daily", limit=1, window="local_day")


class KilledError(Exception):
    """Stands for the death of the process: nothing after it runs."""


def die_at(runtime: Runtime, point: str, pace: Pace = Pace()) -> None:  # noqa: B008 - frozen
    def crash(here: str) -> None:
        if here == point:
            raise KilledError

    with pytest.raises(KilledError):
        dispatch_due(runtime, NOON, rng=Random(1), at=crash, pace=pace)


def lease_ends(shop: DeliveryShop) -> None:
    shop.sql("UPDATE pushes SET lease_until = clock_timestamp() - interval '1 second' WHERE lease_until IS NOT NULL")


def resume(runtime: Runtime, shop: DeliveryShop) -> dict[str, int]:
    shop.sql("UPDATE pushes SET not_before = NULL")
    return dispatch_due(runtime, NOON, rng=Random(1))


def kept(counts: dict[str, int]) -> dict[str, int]:
    return {name: number for name, number in counts.items() if name not in ("partitions", "released")}


@pytest.mark.parametrize("point", ["after_claim", "after_reserve"])
def test_a_worker_that_dies_before_the_intent_costs_time_only(runtime: Runtime, shop: DeliveryShop, point: str) -> None:
    shop.policy(DAILY)
    shop.campaign("a")
    shop.campaign("b")
    shop.push("u1", "a")
    die_at(runtime, point)
    assert kept(upkeep(runtime, NOON)) == {}, "the lease lives"

    lease_ends(shop)
    assert kept(upkeep(runtime, NOON)) == {"rescued.planned": 1}
    assert kept(upkeep(runtime, NOON)) == {}

    shop.push("u1", "b", send_at=NOON - timedelta(seconds=1))
    assert resume(runtime, shop) == {"accepted": 1, "suppressed.capped": 1}, "the place was free again"
    assert len(journal(runtime.settings.journal_path)) == 1


@pytest.mark.parametrize(("point", "sent"), [("after_intent", 0), ("after_send", 1), ("after_record", 1)])
def test_marketing_under_way_when_its_worker_died_is_unknown_and_keeps_its_place(
    runtime: Runtime, shop: DeliveryShop, point: str, sent: int
) -> None:
    shop.policy(DAILY)
    shop.campaign("a", tags=["spring"])
    shop.campaign("b")
    shop.push("u1", "a")
    die_at(runtime, point)
    lease_ends(shop)

    assert kept(upkeep(runtime, NOON)) == {"rescued.unknown": 1}
    assert kept(upkeep(runtime, NOON)) == {}

    [row] = shop.deliveries()
    assert (row["state"], row["reason"], row["counts"]) == ("unknown", "lease_expired", True)
    assert "tag:spring" in row["scopes"]
    assert len(journal(runtime.settings.journal_path)) == sent
    shop.push("u1", "b")
    assert resume(runtime, shop) == {"suppressed.capped": 1}
    runtime.caps.flushdb()
    shop.another_occurrence("b", "second")
    shop.push("u1", "b")
    assert resume(runtime, shop) == {"suppressed.capped": 1}


def test_transactional_under_way_when_its_worker_died_is_sent_again(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.campaign("code", **{"class": "transactional"})
    push = shop.push("u1", "code")
    die_at(runtime, "after_send")
    lease_ends(shop)

    assert kept(upkeep(runtime, NOON)) == {"rescued.planned": 1}
    assert resume(runtime, shop) == {"accepted": 1}
    assert [line["push_id"] for line in journal(runtime.settings.journal_path)] == [str(push)] * 2


def test_wherever_a_worker_dies_every_row_has_ended_one_lease_and_one_wait_later(
    runtime: Runtime, shop: DeliveryShop
) -> None:
    machine, pace = MachineTime(runtime.database), Pace(batch=6, group=2, in_flight=2)
    for campaign, kind in (("news", "marketing"), ("code", "transactional")):
        shop.campaign(campaign, **{"class": kind})
    news = set()
    for number, point in enumerate(POINTS):
        shop.another_occurrence("news", point)
        shop.another_occurrence("code", point)
        news.add(shop.occurrences["news"])
        shop.pushes(["u1", "u2", "u3"], "news")
        shop.pushes(["u1", "u2", "u3"], "code")
        die_at(runtime, point, pace)

        machine.passes(pace.lease)
        upkeep(runtime, NOON)
        machine.passes(FIRST_WAIT)
        dispatch_due(runtime, NOON, rng=Random(1))

        assert shop.hot() == [], point
        assert len(shop.deliveries()) == 6 * (number + 1), point
    taken = received(runtime.settings.journal_path)
    assert max(times for (occurrence, _), times in taken.items() if occurrence in news) == 1
    assert {row["state"] for row in shop.deliveries() if row["occurrence_id"] not in news} == {"accepted"}


def test_a_push_that_kills_its_workers_is_given_up(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.campaign()
    shop.push(attempts=9)
    die_at(runtime, "after_claim")
    lease_ends(shop)

    assert kept(upkeep(runtime, NOON)) == {"rescued.rejected": 1}
    assert shop.ended() == {"rejected.attempts": 1}


def test_what_is_too_late_expires_also_of_runs_that_were_never_published(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.campaign()
    shop.push("planned")
    shop.push("proposed", state="proposed")
    shop.push("later", send_at=NOON + timedelta(hours=4))
    die_at_claim = shop.push("claimed", send_at=NOON - timedelta(minutes=1), window_end=NOON + timedelta(minutes=10))
    shop.sql("UPDATE pushes SET state = 'claimed', lease_until = clock_timestamp() WHERE id = :id", id=die_at_claim)
    now = NOON + timedelta(hours=3)

    assert kept(upkeep(runtime, now)) == {"expired.expired": 2, "rescued.expired": 1}
    assert len(shop.hot()) == 1
    assert outstanding(runtime.database, now) == 0


def test_the_place_of_a_push_that_ended_without_giving_it_back_is_found(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.policy(DAILY)
    shop.campaign("a")
    shop.campaign("b")
    shop.push("u1", "a")
    die_at(runtime, "after_reserve")
    shop.sql("UPDATE pushes SET state = 'planned', window_end = :at", at=NOON + timedelta(seconds=1))
    dispatch_due(runtime, NOON)  # too late to arrive in time: it expires, and never asked for its place back

    counts = upkeep(runtime, NOON)

    assert counts["released"] == 1
    shop.push("u1", "b")
    assert resume(runtime, shop) == {"accepted": 1}


def test_without_redis_upkeep_does_the_rest(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.campaign()
    shop.push()
    die_at(runtime, "after_claim")
    lease_ends(shop)
    away = Runtime(runtime.settings, runtime.database, "", "", "redis://127.0.0.1:1/0")

    assert kept(upkeep(away, NOON)) == {"rescued.planned": 1, "caps_unreachable": 1}


def test_partitions_are_made_ahead_and_old_ticks_go(runtime: Runtime, shop: DeliveryShop) -> None:
    with runtime.database.begin() as connection:
        connection.execute(
            text("INSERT INTO ticks (name, at, created_at) VALUES ('x', :now, :old), ('y', :now, clock_timestamp())"),
            {"now": NOON, "old": NOON - timedelta(days=3000)},
        )

    first, second = upkeep(runtime, NOON), upkeep(runtime, NOON)

    assert first["partitions"] > 10
    assert first["ticks"] == 1
    assert second == {}


def test_more_than_a_batch_is_rescued(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.campaign()
    shop.pushes([f"u{n}" for n in range(520)], state="sending")
    shop.sql("UPDATE pushes SET lease_until = clock_timestamp(), attempts = 1, fence = 1")

    assert kept(upkeep(runtime, NOON)) == {"rescued.unknown": 520}


@pytest.mark.parametrize(
    ("left", "counts"),
    [("1 minute", {"accepted": 3}), ("0.4 s", {"accepted": 1, "lease_lost": 2})],
    ids=["still held", "already ended"],
)
def test_a_lease_is_extended_while_a_batch_takes_long_but_never_once_it_has_ended(
    runtime: Runtime, shop: DeliveryShop, left: str, counts: dict[str, int]
) -> None:
    shop.campaign()
    shop.pushes(["a", "b", "c"])
    slow: list[str] = []

    def take_long(point: str) -> None:
        if point == "after_record" and not slow:
            slow.append(point)
            shop.sql(
                "UPDATE pushes SET lease_until = clock_timestamp() + CAST(:left AS interval) WHERE state = 'claimed'",
                left=left,
            )
            shop.sql("SELECT pg_sleep(1.1)")

    assert (
        dispatch_due(runtime, NOON, pace=Pace(group=1, in_flight=1, lease=timedelta(seconds=2)), at=take_long) == counts
    )
