"""Scorers on a real store: what planning relies on."""

from __future__ import annotations

from datetime import timedelta

import numpy as np

from engine.learning.scoring import load_scorer
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
    assert np.array_equal(np.bincount(candidates.user), np.full(shop.users, 10))
    assert set(np.unique(candidates.source)) <= {0, 1, 2}
    assert np.all((goal >= 0) & (goal <= 1))
    assert np.all(offers <= goal)
    assert np.allclose(scorer.windows(state).sum(axis=1), 1, atol=1e-5)


def test_features_candidates_and_hours_of_an_instant_are_bit_equal_where_everything_later_was_deleted(database: Database) -> None:
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
