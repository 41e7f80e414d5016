"""Recommendations and hours of single users: fresh at once, as a plan would score, and clear where there is nothing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from urllib.parse import quote

import numpy as np
import pytest
from sqlalchemy import text

from engine import clock
from engine.campaigns import store
from engine.campaigns.definition import Campaign
from engine.errors import BadInput, UnknownName, UserErased
from engine.ingest.fold import fold_all
from engine.ingest.live import LiveIntake
from engine.learning import registry
from engine.learning.scoring import load_scorer
from engine.localtime import zone
from engine.planning.recommending import Recommender
from engine.privacy.erase import erase_user
from engine.runtime import Runtime
from engine.store.database import Database
from engine.store.partitions import ensure_partitions
from tests.api_server import make_key, module_runtime, serving
from tests.learning_store import ZONE, Shop
from tests.models import small_model
from tests.running import wait_for

FIRST = "0001-01-01T00:00:00%2B05:00"
"""Lies before the first instant that UTC can say."""


@pytest.fixture(scope="module")
def shop(shared_database: Database) -> Shop:
    made = Shop()
    made.write(shared_database)
    with shared_database.begin() as connection:
        clock.start_virtual(connection, made.end)
        # The shop names its ids itself: others come after them.
        connection.execute(text("SELECT setval(pg_get_serial_sequence('users', 'id'), 1000)"))
    return made


@pytest.fixture(scope="module")
def runtime(shared_database, servers, tmp_path_factory) -> Runtime:
    redis_url = servers.redis_url.rsplit("/", 1)[0] + "/9"
    return module_runtime(shared_database, redis_url, tmp_path_factory.mktemp("recommending"))


@pytest.fixture(scope="module")
def recommender(shop: Shop, shared_database: Database) -> Iterator[Recommender]:
    made = Recommender(shared_database)
    yield made
    made.close()


def view(database: Database, user: str, item: str, times: int = 1) -> None:
    """`user` views `item` now; no profile holds it yet."""
    message = {"type": "track", "userId": user, "event": "view", "properties": {"item_id": item}}
    LiveIntake(database).accept([message] * times)


def test_they_are_the_best_of_what_a_plan_would_weigh(
    recommender: Recommender, shop: Shop, shared_database: Database
) -> None:
    found = recommender.recommend("u7", 8)

    with shared_database.snapshot() as snapshot:
        scorer = load_scorer(snapshot.connection)
        catalogue = scorer.catalogue(snapshot, shop.end)
        state = scorer.state(snapshot, (0, 1024), shop.end, catalogue, np.array([8]))
        candidates = scorer.candidates(state, 50)
        local = shop.end.astimezone(zone(ZONE))
        cell = np.full(len(candidates), 8 * (local.weekday() >= 5) + local.hour // 3, np.int8)
        score = scorer.offers(state, candidates.user, candidates.item, cell, candidates.related)
        order = np.argsort(-score, kind="stable")[:8]
        names: dict[int, str] = dict(snapshot.connection.execute(text("SELECT id, external_id FROM items")).all())
    assert [one.item for one in found.items] == [names[int(catalogue.ids[at])] for at in candidates.item[order]]
    assert [one.score for one in found.items] == score[order].tolist()
    assert (found.model, found.regime, found.zone, found.unfolded) == (None, "baseline", ZONE, 0)
    assert "no model yet" in found.meaning
    assert all(one.reasons for one in found.items)


def test_an_event_counts_from_its_acceptance_on_and_folding_changes_nothing(
    recommender: Recommender, shop: Shop, shared_database: Database
) -> None:
    before = recommender.recommend("u3", 50, told=0)
    never = next(f"i{n}" for n in range(shop.items) if f"i{n}" not in {one.item for one in before.items[:20]})

    view(shared_database, "u3", never, 40)
    waiting = recommender.recommend("u3", 50, told=0)
    hours = recommender.hours("u3")
    fold_all(shared_database)
    folded = recommender.recommend("u3", 50, told=0)

    assert (before.unfolded, waiting.unfolded, hours.unfolded, folded.unfolded) == (0, 40, 40, 0)
    assert never in {one.item for one in waiting.items[:5]}
    assert [one.item for one in folded.items] == [one.item for one in waiting.items]
    np.testing.assert_allclose([i.score for i in folded.items], [i.score for i in waiting.items], rtol=1e-6)
    assert recommender.hours("u3").evidence == pytest.approx(hours.evidence)


def test_somebody_who_is_known_by_one_event_gets_what_everybody_likes(
    recommender: Recommender, shared_database: Database
) -> None:
    view(shared_database, "a/new one", "i59")

    found = recommender.recommend("a/new one", 50)

    assert found.unfolded == 1
    assert "i59" in {one.item for one in found.items}
    assert "popular" in {one.source for one in found.items}


def test_what_is_sold_out_is_gone_and_a_new_model_is_there_within_moments(
    recommender: Recommender, shared_database: Database
) -> None:
    first = recommender.recommend("u7", 1).items[0].item
    with shared_database.begin() as connection:
        given = {"item": first}
        connection.execute(text("UPDATE items SET stock = 0, updated_at = now() WHERE external_id = :item"), given)

    wait_for(
        lambda: first not in {i.item for i in recommender.recommend("u7", 50).items}, "the sold out item to go", 10
    )
    with shared_database.begin() as connection:
        registry.promote(connection, registry.register(connection, small_model(), {}))
    wait_for(lambda: recommender.recommend("u7").model is not None, "the new model", 10)
    found = recommender.recommend("u7")
    assert found.regime == "goal"
    assert all(one.reasons for one in found.items)


def test_a_campaigns_are_of_what_its_pushes_may_be_about(
    recommender: Recommender, shop: Shop, shared_database: Database
) -> None:
    common = {"class": "marketing", "message": {"title": "t", "body": "b"}}
    few = {"kind": "fixed", "ids": ["i1", "i2", "i3"]}
    with shared_database.begin() as connection:
        for definition in ({"name": "few", "items": few, **common}, {"name": "bare", **common}):
            store.create(connection, Campaign.model_validate(definition), shop.end)

    assert {one.item for one in recommender.recommend("u7", 10, "few").items} == {"i1", "i2", "i3"}
    with shared_database.begin() as connection:
        edited = {"name": "few", "items": {**few, "ids": ["i4"]}, **common}
        store.create(connection, Campaign.model_validate(edited), shop.end)
    assert {one.item for one in recommender.recommend("u7", 10, "few").items} == {"i4"}
    with pytest.raises(BadInput, match="about no items"):
        recommender.recommend("u7", 10, "bare")
    with pytest.raises(UnknownName, match="no campaign"):
        recommender.recommend("u7", 10, "fewer")


def test_a_campaign_does_not_offer_again_what_was_pushed_of_late(
    recommender: Recommender, shop: Shop, shared_database: Database
) -> None:
    definition = {
        "name": "weekly",
        "class": "marketing",
        "items": "personalised",
        "item_once_days": 7,
        "message": {"title": "t", "body": "b"},
    }
    with shared_database.begin() as connection:
        campaign = store.create(connection, Campaign.model_validate(definition), shop.end).stored.id
    late, early = (one.item for one in recommender.recommend("u9", 2, "weekly").items)
    for days, item in ((2, late), (9, early)):
        at = shop.end - timedelta(days=days)
        ensure_partitions(shared_database, "deliveries", at.date(), at.date())
        with shared_database.begin() as connection:
            connection.execute(
                text(
                    "INSERT INTO deliveries (day, id, push_id, state, at, campaign_id, user_id, item_id, gateway,"
                    " attempts, send_at, counts, scopes) SELECT CAST(:at AS timestamptz)::date, gen_random_uuid(),"
                    " gen_random_uuid(), 'accepted', :at, :campaign, u.id, i.id, 'log', 1, :at, true, '{}'"
                    " FROM users u, items i WHERE u.external_id = 'u9' AND i.external_id = :item"
                ),
                {"at": at, "campaign": campaign, "item": item},
            )

    again = {one.item for one in recommender.recommend("u9", 50, "weekly").items}

    assert late not in again
    assert early in again
    assert late in {one.item for one in recommender.recommend("u9", 50).items}


def test_an_item_whose_offer_ends_before_the_instant_is_left_out(
    recommender: Recommender, shop: Shop, shared_database: Database
) -> None:
    best = recommender.recommend("u11", 1).items[0].item
    ends = {"item": best, "at": shop.end + timedelta(hours=2)}
    with shared_database.begin() as connection:
        connection.execute(
            text("UPDATE items SET available_until = :at, updated_at = now() WHERE external_id = :item"), ends
        )

    def later() -> set[str]:
        return {one.item for one in recommender.recommend("u11", 50, at=shop.end + timedelta(hours=3)).items}

    wait_for(lambda: best not in later(), "the change to be seen", 10)
    assert best in {one.item for one in recommender.recommend("u11", 50).items}
    for wrong in (shop.end - timedelta(hours=1), shop.end + timedelta(days=8)):
        with pytest.raises(BadInput, match="7 days"):
            recommender.recommend("u11", at=wrong)


def test_hours_say_when_a_user_acts_and_the_best_windows_lie_outside_quiet_hours(
    recommender: Recommender, shop: Shop
) -> None:
    found = recommender.hours("u7", n=60)

    assert sum(slot.share for day in found.week.values() for slot in day) == pytest.approx(1, abs=1e-5)
    assert max(slot.rate for day in found.week.values() for slot in day) == 1
    assert (next(iter(found.week)), [slot.hours for slot in found.week["Monday"]][-1]) == ("Monday", "21:00-24:00")
    rates = [best.rate for best in found.best]
    assert rates == sorted(rates, reverse=True)
    assert 35 < len(found.best) <= 50
    assert all(8 <= best.local.hour < 22 for best in found.best)
    assert all(shop.end <= best.starts_at < best.ends_at <= shop.end + timedelta(days=7) for best in found.best)


def test_who_is_unknown_or_was_erased_is_told_so_over_http(
    shop: Shop, runtime: Runtime, recommender: Recommender
) -> None:
    erase_user(runtime, "u5", shop.end)
    with pytest.raises(UserErased):
        recommender.recommend("u5")
    key, writer = make_key(runtime.database, "read"), make_key(runtime.database, "write")
    with serving(runtime) as api:
        found = api.ask("/v1/users/u7/recommendations?n=3&reasons=1", key=key)
        hours = api.ask("/v1/users/u7/windows", key=key)
        odd = api.ask(f"/v1/users/{quote('a/new one', safe='')}/recommendations", key=key)
        gone = api.ask("/v1/users/u5/recommendations", key=key)
        nobody = api.ask("/v1/users/nobody/windows", key=key)
        refused = [
            api.ask(f"/v1/users/u7/recommendations?{query}", key=key).status
            for query in ("n=0", "n=51", "at=soon", "at=2026-09-01T00:00:00", "at=9999-12-31T23:59:59Z", f"at={FIRST}")
        ]
        assert api.ask("/v1/users/u7/recommendations", key=writer).status == 403

    assert (found.status, len(found.json["items"])) == (200, 3)
    assert {"item", "title", "score", "source", "reasons"} <= set(found.json["items"][0])
    assert (hours.status, len(hours.json["best"])) == (200, 5)
    assert (odd.status, odd.json["user"]) == (200, "a/new one")
    assert (gone.status, "erased" in gone.json["title"]) == (410, True)
    assert nobody.status == 404
    assert refused == [400] * 6
