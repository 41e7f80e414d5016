"""Candidates: what each source proposes within its quota, in the order of the blend."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from engine.features.catalogue import build_catalogue
from engine.features.prices import PriceChanges
from engine.features.state import P_14D, P_120D, build_state
from engine.learning import fresh, related
from engine.learning.candidates import SOURCES, Blend, Proposer
from engine.learning.history import item_profiles, user_profiles
from tests.unit.test_learning import DAY, TAU, goods, neighbours_of, purchases, random_shop


def test_candidates_are_what_each_source_proposes_within_its_quota_in_the_order_of_the_blend() -> None:
    log, state = random_shop(users=30, items=200, events=600, seed=1)
    neighbours, blend = neighbours_of(log, 200), Blend(own=1.0, own_recent=0.5, related=2.0, popular=0.3)
    user, item = np.repeat(np.arange(30), 200), np.tile(np.arange(200), 30)
    interest = np.concatenate([state.interest, np.zeros((1, 7), np.float32)])[state.pairs.find(user * 200 + item)]
    popularity = np.log1p(state.catalogue.popularity)
    related_scores = related.lookup(state, neighbours, user, item)
    own = np.log1p(interest[:, P_120D]) + 0.5 * np.log1p(interest[:, P_14D])
    score = own + 2 * related_scores + (0.3 * popularity / popularity.max())[item]
    ours = [own, related_scores, popularity[item]]

    found = Proposer(neighbours, blend).propose(state, 20)

    keys, proposed = found.user.astype(np.int64) * 200 + found.item, np.zeros((30, 200), bool)
    proposed.ravel()[keys] = True
    expected = np.zeros((30, 200), bool)
    for values, quota in zip(ours, (12, 10, 10), strict=True):
        table = np.asarray(values).reshape(30, 200)
        best = np.argsort(-table, axis=1, kind="stable")[:, :quota]
        np.put_along_axis(expected, best, np.take_along_axis(table, best, axis=1) > 0, axis=1)
    assert np.all(proposed.sum(axis=1) == 20)
    left_out = np.where(expected & ~proposed, score.reshape(30, 200), -np.inf).max(axis=1)
    assert np.all(left_out <= np.where(proposed, score.reshape(30, 200), np.inf).min(axis=1) + 1e-6)
    new = fresh.find(state.catalogue, state.catalogue.available, 2).has
    assert not np.any((proposed & ~expected)[:, ~new])
    np.testing.assert_allclose(found.score, score[keys], rtol=1e-5)
    assert np.all((np.diff(found.score) <= 0) | (np.diff(found.user) > 0))
    assert np.array_equal(found.related, related_scores[keys])
    assert len(np.unique(keys)) == len(found)


def test_only_allowed_and_available_items_are_proposed() -> None:
    log, state = random_shop(users=5, items=50, events=40, seed=2)
    allowed = np.arange(50) % 5 == 0

    found = Proposer(neighbours_of(log, 50), Blend()).propose(state, 20, allowed)

    assert np.all(np.bincount(found.user, minlength=5) >= 8)
    assert allowed[found.item].all()
    nobody = Proposer(neighbours_of(log, 50), Blend()).propose(state, 20, np.zeros(50, bool))
    assert len(nobody) == 0


def test_what_must_not_be_proposed_leaves_its_place_to_the_next() -> None:
    log, state = random_shop(users=30, items=200, events=600, seed=1)
    proposer = Proposer(neighbours_of(log, 200), Blend())
    first = proposer.propose(state, 20)
    banned = np.unique(first.user.astype(np.int64) * 200 + first.item)[::2]

    found = proposer.propose(state, 20, without=banned)

    assert not np.isin(found.user.astype(np.int64) * 200 + found.item, banned).any()
    assert np.all(np.bincount(found.user, minlength=30) >= 8)


def test_new_and_cheaper_items_are_proposed_to_users_of_their_category() -> None:
    items, codes = 40, np.repeat(np.arange(4), 10).astype(np.int32)
    log = purchases(
        np.repeat([1, 2], 20), np.concatenate([1 + np.arange(20) % 3, 11 + np.arange(20) % 3]), np.full(40, 60.0)
    )
    plain = goods(items)
    price = np.full(items, 3.0)
    known = replace(
        plain,
        category=codes,
        categories=("a", "b", "c", "d"),
        price=price,
        available_from=np.where(np.arange(items) == 9, TAU - DAY, np.nan),
        changes=PriceChanges(np.array([19]), np.array([TAU - 2 * DAY]), np.array([4.0])),
    )
    catalogue = build_catalogue(known, item_profiles(log), TAU)
    state = build_state(np.array([1, 2]), user_profiles(log), catalogue, TAU)

    found = Proposer(related.nothing(plain.ids).neighbours, Blend()).propose(state, 20)

    new = found.source == SOURCES.index("new")
    assert list(zip(found.user[new].tolist(), found.item[new].tolist(), strict=True)) == [(0, 9), (1, 19)]


def test_a_user_without_history_gets_what_is_popular() -> None:
    log, _ = random_shop(users=5, items=50, events=300, seed=3)
    catalogue = build_catalogue(goods(50), item_profiles(log), TAU)
    stranger = build_state(np.array([99]), user_profiles(log), catalogue, TAU)

    found = Proposer(neighbours_of(log, 50), Blend()).propose(stranger, 20)

    assert np.array_equal(found.item, np.argsort(-catalogue.popularity, kind="stable")[:10])
    assert found.source.tolist() == [2] * 10


def test_a_user_with_a_hundred_thousand_events_is_proposed_for_like_anybody() -> None:
    rng = np.random.default_rng(4)
    user = np.concatenate([np.ones(100_000, np.int64), rng.integers(2, 9, 100)])
    log = purchases(user, rng.integers(1, 301, len(user)), rng.uniform(0.1, 300, len(user)))
    catalogue = build_catalogue(goods(300), item_profiles(log), TAU)
    state = build_state(np.arange(1, 9), user_profiles(log), catalogue, TAU)
    neighbours = neighbours_of(log, 300)

    found = Proposer(neighbours, Blend()).propose(state, 10)

    assert np.all(np.bincount(found.user) >= 6)
    assert np.isfinite(found.score).all()


def test_candidates_are_bit_equal_for_any_batch_of_users() -> None:
    log, together = random_shop(users=40, items=150, events=1500, seed=5)
    proposer = Proposer(neighbours_of(log, 150), Blend())
    everyone = proposer.propose(together, 15)

    for user in (1, 20, 40):
        alone = build_state(np.array([user]), user_profiles(log), together.catalogue, TAU)
        found = proposer.propose(alone, 15)
        ours = everyone.user == user - 1
        for name in ("item", "source", "score", "related"):
            assert np.array_equal(getattr(found, name), getattr(everyone, name)[ours])
