"""Training on a real store: from events to a champion, or to a clear reason why not."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import text

from engine.errors import ModelRefused, UnknownName
from engine.features import schema
from engine.learning import ctr, registry
from engine.learning.explaining import explain_rows
from engine.learning.scoring import load_scorer
from engine.learning.training import Options, train
from engine.learning.warm import warm_update
from engine.store.database import Database
from tests.learning_store import Shop

ALL = (0, 1024)
ONE_THREAD = Options(threads=1)
"""Tests share their cores."""


@pytest.fixture
def shop(database: Database) -> Shop:
    shop = Shop()
    shop.write(database)
    return shop


def test_training_registers_a_champion_that_beats_popularity_and_says_what_it_does(
    database: Database, shop: Shop
) -> None:
    told: list[tuple[str, float]] = []

    report = train(database, shop.end, lambda what, share: told.append((what, share)), ONE_THREAD)

    assert report.promoted
    assert report.reason is None
    model, popularity = report.metrics["model"], report.metrics["popularity"]
    assert model["ndcg_10"] > popularity["ndcg_10"]
    assert 0.7 < model["predicted_per_actual"] < 1.4
    windows = report.metrics["windows"]
    assert windows["model"]["log_likelihood"] > windows["everybody"]["log_likelihood"]
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    with database.begin() as connection:
        assert registry.champion(connection) == report.version
        entry = registry.entries(connection)[0]
    assert (entry.state, entry.regime, entry.metrics["goal"]) == ("champion", "goal", "purchase")


def test_the_same_seed_and_events_give_the_same_model(database: Database, shop: Shop) -> None:
    train(database, shop.end, options=ONE_THREAD)
    train(database, shop.end, options=ONE_THREAD)

    with database.begin() as connection:
        first, second = registry.entries(connection)
    assert first.sha256 == second.sha256
    assert (first.state, second.state) == ("champion", "retired")


def test_a_trained_scorer_gives_the_same_numbers_one_user_at_a_time(database: Database, shop: Shop) -> None:
    train(database, shop.end, options=ONE_THREAD)
    with database.snapshot() as snapshot:
        scorer = load_scorer(snapshot.connection)
        catalogue = scorer.catalogue(snapshot, shop.end)
        together = scorer.state(snapshot, ALL, shop.end, catalogue)
        all_candidates = scorer.candidates(together, 12)
        all_scores = scorer.goal(together, all_candidates.user, all_candidates.item, all_candidates.related)
        cell = np.arange(len(all_candidates)) % 16
        all_offers = scorer.offers(together, all_candidates.user, all_candidates.item, cell)
        for position in (0, 17, len(together) - 1):
            alone = scorer.state(snapshot, ALL, shop.end, catalogue, together.users[position : position + 1])
            candidates = scorer.candidates(alone, 12)
            ours = all_candidates.user == position
            assert np.array_equal(candidates.item, all_candidates.item[ours])
            assert np.array_equal(candidates.score, all_candidates.score[ours])
            assert np.array_equal(candidates.related, all_candidates.related[ours])
            assert np.array_equal(scorer.goal(alone, candidates.user, candidates.item), all_scores[ours])
            assert np.array_equal(scorer.windows(alone)[0], scorer.windows(together)[position])
            offers = scorer.offers(alone, candidates.user, candidates.item, cell[ours])
            assert np.array_equal(offers, all_offers[ours])


def test_a_later_champion_is_served_without_a_restart(database: Database, shop: Shop) -> None:
    with database.begin() as connection:
        assert load_scorer(connection).regime == "baseline"
    first = train(database, shop.end - timedelta(days=7), options=ONE_THREAD).version
    with database.begin() as connection:
        assert load_scorer(connection).version == first
    second = train(database, shop.end, options=ONE_THREAD).version
    with database.begin() as connection:
        assert load_scorer(connection).version == second
        assert load_scorer(connection, first).version == first


@pytest.mark.parametrize(
    ("until_day", "says"),
    [(0, "no events"), (20, "history is too short")],
)
def test_too_little_history_registers_nothing_and_says_so(
    database: Database, shop: Shop, until_day: int, says: str
) -> None:
    now = shop.end - timedelta(days=shop.days - until_day)

    report = train(database, now, options=ONE_THREAD)

    assert report.version is None
    assert says in (report.reason or "")
    with database.begin() as connection:
        assert registry.entries(connection) == []


def test_a_shop_without_purchases_gets_no_model_but_may_learn_another_goal(database: Database, shop: Shop) -> None:
    with database.begin() as connection:
        connection.execute(text("DELETE FROM events WHERE event_type = 4"))

    assert "no event of type purchase" in (train(database, shop.end, options=ONE_THREAD).reason or "")
    assert train(database, shop.end, options=Options(goal="view", threads=1)).version is not None


def test_one_item_is_no_choice(database: Database, shop: Shop) -> None:
    with database.begin() as connection:
        connection.execute(text("UPDATE events SET item_id = 1 WHERE item_id > 1"))
        connection.execute(text("DELETE FROM item_profiles WHERE item_id > 1"))
        connection.execute(text("DELETE FROM items WHERE id > 1"))

    assert "fewer than two items" in (train(database, shop.end, options=ONE_THREAD).reason or "")


def test_an_unknown_goal_is_refused_with_the_closest_name(database: Database) -> None:
    with pytest.raises(UnknownName, match="purchase"):
        train(database, datetime.fromisoformat("2026-06-01T00:00:00+00:00"), options=Options(goal="purchas"))


def test_a_damaged_artifact_is_refused_and_cannot_be_promoted(database: Database, shop: Shop) -> None:
    version = train(database, shop.end, options=ONE_THREAD).version
    assert version is not None
    with database.begin() as connection:
        connection.execute(text("UPDATE models SET artifact = set_byte(artifact, 100, 7), state = 'retired'"))

    with database.begin() as connection, pytest.raises(ModelRefused, match="SHA-256"):
        registry.load(connection, version)
    with database.begin() as connection, pytest.raises(ModelRefused):
        registry.promote(connection, version)
    with database.begin() as connection, pytest.raises(UnknownName):
        registry.promote(connection, 999)


def test_the_stored_schema_is_the_one_that_features_follow(database: Database, shop: Shop) -> None:
    train(database, shop.end, options=ONE_THREAD)

    with database.begin() as connection:
        stored = connection.execute(text("SELECT feature_schema FROM models")).scalar_one()

    assert [feature["name"] for feature in stored] == list(schema.NAMES)


def test_a_warm_update_grows_the_champion_and_keeps_all_else(database: Database, shop: Shop) -> None:
    first = train(database, shop.end, options=ONE_THREAD)
    assert first.promoted

    later = warm_update(database, shop.end, options=ONE_THREAD)

    assert later.version is not None
    with database.begin() as connection:
        before, after = registry.load(connection, first.version or 0), registry.load(connection, later.version)
        assert registry.champion(connection) == (later.version if later.promoted else first.version)
    assert after.booster.num_boosted_rounds() == before.booster.num_boosted_rounds() + ctr.WARM_TREES
    assert after.blend == before.blend
    assert np.array_equal(after.tastes.factors.taken, before.tastes.factors.taken)
    assert later.metrics["gate"]["passed"] == later.promoted


def test_without_a_champion_there_is_nothing_to_update(database: Database, shop: Shop) -> None:
    report = warm_update(database, shop.end, options=ONE_THREAD)

    assert report.version is None
    assert "no champion" in str(report.reason)


def test_rolling_back_brings_the_champion_before_and_running_scorers_follow(database: Database, shop: Shop) -> None:
    first = train(database, shop.end, options=ONE_THREAD)
    second = train(database, shop.end, options=ONE_THREAD)
    with database.begin() as connection:
        assert load_scorer(connection).version == second.version
    with database.begin() as connection:
        assert registry.rollback(connection) == first.version
    with database.begin() as connection:
        assert load_scorer(connection).version == first.version  # a running process asks anew in each run
        with pytest.raises(UnknownName, match="no earlier champion"):
            registry.rollback(connection)


@pytest.mark.parametrize("impute", ["median", "drop"])
def test_a_model_trained_on_imputed_rows_serves_the_same_constants(database: Database, shop: Shop, impute: str) -> None:
    report = train(database, shop.end, options=Options(threads=1, impute=impute))

    assert report.version is not None
    with database.begin() as connection:
        model = registry.load(connection, report.version)
    rows = np.full((2, schema.COUNT), np.nan, np.float32)
    assert (model.constants is not None) == (impute == "median")
    assert np.isfinite(model.predict(rows)).all()


def test_a_score_is_explained_in_the_words_of_the_schema(database: Database, shop: Shop) -> None:
    train(database, shop.end, options=ONE_THREAD)
    with database.snapshot() as snapshot:
        scorer = load_scorer(snapshot.connection)
        assert scorer.model is not None
        state = scorer.state(snapshot, ALL, shop.end, scorer.catalogue(snapshot, shop.end))
        found = scorer.candidates(state, 1)
        told = explain_rows(scorer.model, scorer.features(state, found.user[:3], found.item[:3]))
        scores = scorer.goal(state, found.user[:3], found.item[:3])

    assert [explanation.score for explanation in told] == scores.tolist()
    assert all(explanation.reasons for explanation in told)
