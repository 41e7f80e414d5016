"""The volume breaker: campaigns that send too much, or mostly into errors, are paused, and can be resumed."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import text

from engine.campaigns import store
from engine.delivery.dispatch import dispatch_due
from engine.delivery.gateways import Kind, Outcome
from engine.delivery.sending import Pace
from engine.delivery.upkeep import upkeep
from engine.runtime import Runtime
from tests.delivery_store import NOON, DeliveryShop, Pigeon, dispatch, users, with_gateway


def test_a_campaign_that_a_provider_refuses_is_paused_and_can_be_resumed(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.campaign("bad", gateway="pigeon")
    shop.campaign("good", gateway="pigeon")
    shop.pushes(users(200), "bad")
    pigeon = Pigeon()
    pigeon.answer = lambda message: Outcome(
        Kind.PAYLOAD_REFUSED if message.campaign == "bad" and int(message.user_id[1:]) % 4 == 0 else Kind.ACCEPTED
    )
    small = Pace(batch=50, group=50, in_flight=1)

    counts = dispatch(runtime, pigeon, pace=small)

    assert counts["campaign_paused"] == 1
    assert counts["accepted"] + counts["rejected.payload_refused"] < 200
    with runtime.database.begin() as connection:
        paused = store.paused_by_horae(connection)
        assert "of 50 pushes within 15 minutes ended in provider errors" in paused["bad"]
    shop.pushes(users(3), "good")
    assert dispatch(runtime, pigeon) == {"accepted": 3}

    pigeon.answer = lambda message: Outcome(Kind.ACCEPTED)
    with runtime.database.begin() as connection:
        store.set_state(connection, "bad", "running")
        assert store.paused_by_horae(connection) == {}
    left = len(shop.hot())
    shop.waited()
    assert dispatch(runtime, pigeon) == {"accepted": left}


def test_a_campaign_that_is_triggered_again_and_again_is_paused(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.campaign(gateway="pigeon")
    pigeon = Pigeon()
    for n in range(11):
        shop.another_occurrence("bread", f"again {n}")
        shop.pushes(users(4))
        if n < 10:
            assert dispatch(runtime, pigeon) == {"accepted": 4}
    shop.user("unreachable", consent=False)

    assert dispatch(runtime, pigeon) == {"accepted": 4, "campaign_paused": 1}
    with runtime.database.begin() as connection:
        assert "more than 10 for each of 4 reachable users" in store.paused_by_horae(connection)["bread"]


def test_what_was_sent_longer_ago_does_not_count_and_is_forgotten(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.campaign(gateway="pigeon")
    shop.pushes(users(60))
    dispatch(runtime, Pigeon(*[Outcome(Kind.ACCEPTED)] * 45, *[Outcome(Kind.PAYLOAD_REFUSED)] * 12))
    shop.another_occurrence("bread", "later")
    later = NOON + timedelta(minutes=16)
    shop.push("u1", send_at=later)
    bad = with_gateway(runtime, Pigeon(Outcome(Kind.PAYLOAD_REFUSED)))

    assert dispatch_due(bad, later) == {"rejected.payload_refused": 1}
    upkeep(runtime, NOON + timedelta(days=3))
    with runtime.database.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM campaign_minutes")).scalar_one() == 0
