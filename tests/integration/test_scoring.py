"""Scorers on a real store: what planning relies on."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
import xgboost

from engine.features.schema import NAMES
from engine.learning import registry
from engine.learning.candidates import Blend
from engine.learning.head import Head
from engine.learning.model import Model
from engine.learning.related import nothing
from engine.learning.scoring import load_scorer
from engine.learning.windows import rate, with_everybody
from engine.store.database import Database
from tests.learning_store import Shop

ALL = (0, 1024)


def test_without_a_model_the_baseline_proposes_own_items_first_and_fills_with_popular_ones(database: Database) -> None:
    shop = Shop()
    shop.write(database)

    with database.snapshot() as snapshot:
        scorer = load_scorer(snapshot.connection)
        catalogue = scorer.catalogue(snapshot, shop.end)
        state = scorer.state(snapshot, ALL, shop.end, catalogue)
    candidates = scorer.candidates(state, 10)
    goal = scorer.goal(state, candidates.user, candidates.item)
    cell = np.full(len(candidates), 5)
    offers = scorer.offers(state, candidates.user, candidates.item, cell)

    assert (scorer.version, scorer.regime) == (None, "baseline")
    assert len(state) == shop.users
    shares = np.bincount(candidates.user, minlength=shop.users)
    assert np.all((shares >= 4) & (shares <= 10))
    assert set(np.unique(candidates.source)) <= {0, 2, 3}
    assert np.all((goal >= 0) & (goal <= 1))
    assert np.all(offers <= goal)
    assert np.allclose(scorer.windows(state).sum(axis=1), 1, atol=1e-5)


def test_features_candidates_and_hours_of_an_instant_are_bit_equal_where_everything_later_was_deleted(
    database: Database,
) -> None:
    shop = Shop()
    shop.write(database)
    instant = shop.end - timedelta(days=20)

    seen = []
    for _ in range(2):
        with database.snapshot() as snapshot:
            scorer = load_scorer(snapshot.connection)
            catalogue = scorer.catalogue(snapshot, instant)
            state = scorer.state(snapshot, ALL, instant, catalogue)
        candidates = scorer.candidates(state, 10)
        rows = scorer.features(state, candidates.user, candidates.item, np.full(len(candidates), 3))
        seen.append((candidates.item, rows, scorer.windows(state), catalogue.block))
        shop.forget_after(database, instant)

    for before, after in zip(*seen, strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.fixture
def clicks(database: Database) -> Shop:
    """A shop whose champion is a click model: trees over the real features, the window's among them."""
    shop = Shop()
    shop.write(database)
    with database.snapshot() as snapshot:
        baseline = load_scorer(snapshot.connection)
        catalogue = baseline.catalogue(snapshot, shop.end)
        state = baseline.state(snapshot, ALL, shop.end, catalogue)
    found = baseline.candidates(state, 40)
    rng = np.random.default_rng(1)
    rows = baseline.features(state, found.user, found.item, rng.integers(0, 16, len(found)), found.related)
    ratio = rows[:, NAMES.index("window_log_ratio")]
    taste = np.nan_to_num(rows[:, NAMES.index("pair_purchases_45d")])
    labels = (rng.random(len(rows)) < 1 / (1 + np.exp(2 - ratio - taste))).astype(np.float32)
    settings = {"objective": "binary:logistic", "max_depth": 6, "eta": 0.1, "nthread": 1, "seed": 1}
    booster = xgboost.train(settings, xgboost.DMatrix(rows, labels), 100)
    windows = with_everybody(catalogue.hours)
    click_head = Head(-0.5, 1.0, 0.8, booster)
    model = Model(booster, 1.0, nothing(catalogue.ids), Blend(), windows, shop.end, head=click_head)
    with database.begin() as connection:
        registry.promote(connection, registry.register(connection, model, {}))
    return shop


def test_a_click_model_scores_the_window_itself_and_stage_one_takes_the_favourite_one(
    database: Database, clicks: Shop
) -> None:
    with database.snapshot() as snapshot:
        scorer = load_scorer(snapshot.connection)
        state = scorer.state(snapshot, ALL, clicks.end, scorer.catalogue(snapshot, clicks.end))
    found = scorer.candidates(state, 6)
    user, item = np.repeat(found.user, 16), np.repeat(found.item, 16)
    cell = np.tile(np.arange(16), len(found))

    offers = scorer.offers(state, user, item, cell).reshape(len(found), 16)

    assert scorer.regime == "click"
    assert (offers.max(axis=1) > offers.min(axis=1)).mean() > 0.9
    favourite = rate(scorer.windows(state)).argmax(axis=1)[found.user]
    goal = scorer.goal(state, found.user, found.item, found.related)
    assert np.array_equal(goal, offers[np.arange(len(found)), favourite])
    assert np.array_equal(goal, scorer.goal(state, found.user, found.item))


def test_offers_of_a_click_model_are_bit_equal_in_any_batch_and_order(database: Database, clicks: Shop) -> None:
    with database.snapshot() as snapshot:
        scorer = load_scorer(snapshot.connection)
        state = scorer.state(snapshot, ALL, clicks.end, scorer.catalogue(snapshot, clicks.end))
    rng = np.random.default_rng(2)
    user, item = rng.integers(0, len(state), 20_000), rng.integers(0, clicks.items, 20_000)
    cell = rng.integers(0, 16, 20_000)

    together = scorer.offers(state, user, item, cell)

    order = np.lexsort((cell, item, user))
    assert np.array_equal(scorer.offers(state, user[order], item[order], cell[order]), together[order])
    for at in rng.integers(0, 20_000, 10):
        one = slice(at, at + 1)
        assert scorer.offers(state, user[one], item[one], cell[one])[0] == together[at]
