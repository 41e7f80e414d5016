"""What providers answer, as seen in the tables: retries, doubt, refusals, devices, stops."""

from __future__ import annotations

from datetime import timedelta
from random import Random
from typing import Any

import pytest

from engine import clock
from engine.campaigns.policy import Cap
from engine.delivery import switches
from engine.delivery.dispatch import dispatch_due
from engine.delivery.gateways import Kind, Outcome
from engine.delivery.upkeep import upkeep
from engine.errors import UnknownName
from engine.runtime import Runtime
from tests.delivery_store import NOON, DeliveryShop, Pigeon, dispatch, with_gateway

DAILY = Cap(id="daily", limit=1, window="local_day")
TRANSACTIONAL = {"class": "transactional"}


def no_waiting(shop: DeliveryShop) -> None:
    """Let the machine's time pass over all backoffs and rests."""
    shop.sql("UPDATE pushes SET not_before = NULL")
    shop.sql("UPDATE buckets SET at = least(at, clock_timestamp())")


def test_a_refusal_that_passes_is_tried_again_after_a_wait(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.policy(DAILY)
    shop.campaign(gateway="pigeon")
    shop.push()
    asked = Outcome(Kind.RETRY, delay=timedelta(minutes=5))
    pigeon = Pigeon(asked)

    assert dispatch(runtime, pigeon) == {"retry": 1}
    [row] = shop.hot()
    assert (row["state"], row["attempts"], row["in_doubt"]) == ("planned", 1, False)
    assert clock.machine_now() + timedelta(minutes=4) < row["not_before"] < clock.machine_now() + timedelta(minutes=6)
    assert dispatch(runtime, pigeon) == {}

    no_waiting(shop)
    assert dispatch(runtime, pigeon) == {"accepted": 1}
    assert [row["attempts"] for row in shop.deliveries()] == [2]
    assert len({message.push_id for message in pigeon.got}) == len({message.collapse_id for message in pigeon.got}) == 1


@pytest.mark.parametrize(
    ("kind", "state", "free"),
    [
        (Kind.PAYLOAD_REFUSED, "rejected.payload_refused", True),
        (Kind.RETRY, "expired.retries", True),
        (Kind.UNKNOWN, "unknown.no_answer", False),
        (Kind.ACCEPTED, "accepted", False),
    ],
)
def test_a_place_is_given_back_only_where_nothing_was_taken(
    runtime: Runtime, shop: DeliveryShop, kind: Kind, state: str, free: bool
) -> None:
    shop.policy(DAILY)
    shop.campaign("a", gateway="pigeon")
    shop.campaign("b", gateway="pigeon")
    shop.push("u1", "a")
    pigeon = Pigeon(Outcome(kind, delay=timedelta(days=1)))

    assert dispatch(runtime, pigeon) == {state: 1}
    no_waiting(shop)
    shop.push("u1", "b")
    assert dispatch(runtime, pigeon) == ({"accepted": 1} if free else {"suppressed.capped": 1})


def test_marketing_in_doubt_is_never_sent_again(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.campaign(gateway="pigeon")
    shop.push()
    pigeon = Pigeon(Outcome(Kind.UNKNOWN, detail="timed out"))

    dispatch(runtime, pigeon)
    upkeep(with_gateway(runtime, pigeon), NOON)
    dispatch(runtime, pigeon, NOON + timedelta(hours=1))

    assert len(pigeon.got) == 1
    [row] = shop.deliveries()
    assert (row["state"], row["reason"], row["detail"], row["counts"]) == ("unknown", "no_answer", "timed out", True)


def test_transactional_in_doubt_is_sent_again_under_the_same_collapse_id(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.campaign("code", gateway="pigeon", **TRANSACTIONAL)
    shop.push("u1", "code")
    pigeon = Pigeon(Outcome(Kind.UNKNOWN))

    assert dispatch(runtime, pigeon) == {"unknown": 1}
    assert [row["in_doubt"] for row in shop.hot()] == [True]
    no_waiting(shop)
    assert dispatch(runtime, pigeon) == {"accepted": 1}
    assert len(pigeon.got) == 2
    assert len({message.collapse_id for message in pigeon.got}) == 1


@pytest.mark.parametrize("ending", ["expires", "is cancelled", "is refused"])
def test_transactional_that_was_in_doubt_ends_as_unknown_and_keeps_its_place(
    runtime: Runtime, shop: DeliveryShop, ending: str
) -> None:
    shop.policy(DAILY)
    rules = {"obeys_caps": True, "counts_toward_caps": True}
    shop.campaign("code", gateway="pigeon", **TRANSACTIONAL, **rules)
    shop.campaign("b", gateway="pigeon")
    shop.push("u1", "code")
    pigeon = Pigeon(Outcome(Kind.UNKNOWN), Outcome(Kind.PAYLOAD_REFUSED))
    dispatch(runtime, pigeon)
    no_waiting(shop)
    now = NOON

    if ending == "expires":
        now = NOON + timedelta(hours=3)
        upkeep(with_gateway(runtime, pigeon), now)
    elif ending == "is cancelled":
        shop.sql("UPDATE campaigns SET state = 'cancelled' WHERE name = 'code'")
        dispatch(runtime, pigeon)
        upkeep(with_gateway(runtime, pigeon), now)
    else:
        dispatch(runtime, pigeon)

    assert shop.ended() == {"unknown.no_answer": 1}
    runtime.caps.flushdb()
    shop.push("u1", "b", send_at=now)
    assert dispatch(runtime, pigeon, now) == {"suppressed.capped": 1}


def test_a_push_in_doubt_counts_while_it_waits_also_after_redis_forgot(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.policy(DAILY)
    shop.campaign("code", gateway="pigeon", counts_toward_caps=True, **TRANSACTIONAL)
    shop.campaign("b", gateway="pigeon")
    shop.push("u1", "code")
    dispatch(runtime, Pigeon(Outcome(Kind.UNKNOWN)))

    runtime.caps.flushdb()
    shop.push("u1", "b")
    assert dispatch(runtime, Pigeon()) == {"suppressed.capped": 1}


@pytest.mark.parametrize("kind", [Kind.CREDENTIALS_REFUSED, Kind.DEAD_DEVICE])
def test_a_channel_that_refuses_us_is_stopped_and_its_pushes_wait(
    runtime: Runtime, shop: DeliveryShop, kind: Kind
) -> None:
    shop.campaign("a", gateway="pigeon")
    shop.campaign("b")
    shop.push("u1", "a")
    pigeon = Pigeon(Outcome(kind, detail="no such key"))

    assert dispatch(runtime, pigeon) == {kind.value: 1, "channel_stopped": 1}
    no_waiting(shop)
    shop.push("u1", "b")
    assert dispatch(runtime, pigeon) == {"accepted": 1}
    with runtime.database.begin() as connection:
        [switch] = switches.stopped(connection)
        assert (switch.scope, switch.author) == ("gateway:pigeon", "horae")
        assert "no such key" in str(switch.why)
        assert switches.start(connection, "gateway:pigeon")
    assert [row["attempts"] for row in shop.hot()] == [0]
    assert dispatch(runtime, pigeon) == {"accepted": 1}


def test_a_dead_device_is_buried_and_the_others_are_reached(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.campaign(gateway="pigeon", devices="all")
    old = shop.device("u1", "old", "pigeon", seen_at=NOON - timedelta(days=9))
    shop.device("u1", "new", "pigeon")
    shop.device("u1", "elsewhere", "log")
    shop.device("u1", "buried", "pigeon", dead_at=NOON)
    shop.device("u2", "only", "pigeon")
    shop.user("u3")
    shop.pushes(["u1", "u2", "u3"])
    accepted, gone = Outcome(Kind.ACCEPTED), Outcome(Kind.DEAD_DEVICE, detail="unregistered")
    pigeon = Pigeon(needs_device=True)
    pigeon.answer = lambda message: accepted if message.device and message.device.token == "new" else gone

    assert dispatch(runtime, pigeon) == {
        "accepted": 1,
        "rejected.dead_device": 1,
        "suppressed.no_device": 1,
    }
    to_u1 = [message.device.token for message in pigeon.got if message.user_id == "u1" and message.device]
    assert to_u1 == ["new", "old"]
    with runtime.database.begin() as connection:
        dead = connection.exec_driver_sql("SELECT id, dead_reason FROM devices WHERE dead_reason IS NOT NULL").all()
    assert (old, "unregistered") in [tuple(row) for row in dead]
    assert len(dead) == 2


# --- stopping --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", [{}, {"gateway": "log"}, {"campaign": "bread"}])
def test_what_is_stopped_waits_and_what_is_started_leaves(
    runtime: Runtime, shop: DeliveryShop, what: dict[str, str]
) -> None:
    shop.campaign()
    shop.push()
    with runtime.database.begin() as connection:
        scope = switches.scope_of(connection, **what)
        assert switches.stop(connection, scope, "ada", "wrong price") == 0
        assert switches.stop(connection, scope) == 0

    assert dispatch(runtime, Pigeon()) == {}
    with runtime.database.begin() as connection:
        assert [switch.why for switch in switches.stopped(connection)] == ["wrong price"]
        assert switches.start(connection, scope)
        assert not switches.start(connection, scope)
    assert dispatch(runtime, Pigeon()) == {"accepted": 1}


def test_a_stop_holds_back_what_is_already_claimed_and_says_what_it_cannot(
    runtime: Runtime, shop: DeliveryShop
) -> None:
    shop.campaign("a")
    shop.campaign("b")
    shop.push("u1", "a", send_at=NOON - timedelta(seconds=1))
    shop.push("u1", "b")
    bounds: dict[str, int] = {}

    def stop_all(point: str) -> None:
        if point in ("after_reserve", "after_intent") and point not in bounds:
            with runtime.database.begin() as connection:
                bounds[point] = switches.stop(connection, "campaign:2" if point == "after_reserve" else "all")

    counts = dispatch_due(runtime, NOON, rng=Random(1), at=stop_all)

    assert bounds == {"after_reserve": 0}
    assert counts == {"back.stopped": 2}, "the stop moved the epoch, so nothing that began before it commits"

    no_waiting(shop)
    counts = dispatch_due(runtime, NOON, rng=Random(1), at=stop_all)
    assert bounds["after_intent"] == counts["accepted"] == 1


def test_only_what_exists_can_be_stopped(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.campaign("bread")
    with runtime.database.begin() as connection:
        with pytest.raises(UnknownName, match="no campaign"):
            switches.scope_of(connection, campaign="bred")
        with pytest.raises(UnknownName, match="no gateway"):
            switches.scope_of(connection, gateway="fax")


def test_a_stopped_push_frees_its_place(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.policy(DAILY)
    shop.campaign("a")
    shop.campaign("b")
    shop.push("u1", "a")

    def stop_a(point: str) -> None:
        if point == "after_reserve":
            with runtime.database.begin() as connection:
                switches.stop(connection, switches.scope_of(connection, campaign="a"))

    assert dispatch_due(runtime, NOON, at=stop_a) == {"back.stopped": 1}
    shop.push("u1", "b")
    assert dispatch(runtime, Pigeon()) == {"accepted": 1}


def test_many_answers_of_one_batch_are_told_apart(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.campaign(gateway="pigeon")
    kinds: list[Any] = [Kind.ACCEPTED, Kind.UNKNOWN, Kind.RETRY, Kind.PAYLOAD_REFUSED, Kind.ACCEPTED]
    shop.pushes([f"u{n}" for n in range(5)])

    assert dispatch(runtime, Pigeon(*map(Outcome, kinds))) == {
        "accepted": 2,
        "rejected.payload_refused": 1,
        "retry": 1,
        "unknown.no_answer": 1,
    }
