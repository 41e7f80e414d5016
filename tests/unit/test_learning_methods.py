"""Factors, users alike, sources, imputation, calibration, the gate, explanations: what each must hold."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from engine.errors import BadInput, ModelRefused
from engine.features import habits, matrix, schema
from engine.features.state import P_120D, State
from engine.learning import alike, ctr, evaluation, factors, gate, sources, tastes
from engine.learning.candidates import Blend
from engine.learning.dataset import Sample
from engine.learning.explaining import explain_rows
from engine.learning.imputing import STRATEGIES, complete, fit_imputer
from engine.learning.model import Model, digest, pack, unpack
from engine.learning.odds import NO_CALIBRATION, calibrated
from engine.learning.order import chance
from engine.learning.related import nothing
from engine.learning.replay import Moment, Replay, scrambled
from engine.learning.windows import with_everybody
from tests.learning_store import Shop
from tests.unit.test_features import items

RATINGS = np.array([[1, 2, 0, 1], [2, 0, 3, 2], [0, 1, 1, 0]], float)
"""0 means not rated."""


def moment_of(users: int = 120, goods: int = 60) -> tuple[Shop, Moment]:
    shop = Shop(users, goods)
    unknown = np.full(goods, np.nan)
    bare = items(
        goods,
        category=np.arange(goods, dtype=np.int32) // 30,
        brand=np.full(goods, -1, np.int32),
        price=unknown,
        stock=unknown,
    )
    return shop, Replay(shop.events(), bare.ids).at(shop.end.timestamp(), bare, 1000)


@pytest.fixture(scope="module")
def moment() -> Moment:
    return moment_of()[1]


@pytest.fixture(scope="module")
def state(moment: Moment) -> State:
    return moment.state


def test_explicit_factors_reproduce_the_rated_entries_and_never_raise_the_loss() -> None:
    observed = RATINGS > 0
    losses = []
    for rounds in (1, 2, 5, 20, 200):
        users, goods = factors.fit_explicit(RATINGS, observed, size=2, regularisation=0.01, rounds=rounds)
        losses.append(factors.explicit_loss(RATINGS, observed, users, goods, 0.01))

    assert losses == sorted(losses, reverse=True)
    assert np.abs(users @ goods.T - RATINGS)[observed].max() < 0.1
    assert (users @ goods.T)[0, 2] > 0.5  # not rated is not rated zero


def test_explicit_factors_ignore_what_stands_in_unobserved_entries() -> None:
    observed = RATINGS > 0
    other = np.where(observed, RATINGS, 99.0)

    assert np.array_equal(factors.fit_explicit(RATINGS, observed)[0], factors.fit_explicit(other, observed)[0])


def test_factors_are_the_same_for_the_same_seed_and_any_batch_of_users(state: State) -> None:
    first, second = factors.fit_implicit(state, 3), factors.fit_implicit(state, 3)
    assert np.array_equal(first.offered, second.offered)
    vectors = factors.user_vectors(state, first)
    user, item = np.arange(len(state)), np.arange(len(state)) % len(state.catalogue)
    together = factors.scores(vectors, first, user, item)
    assert together.tolist() == [factors.scores(vectors, first, user[[at]], item[[at]])[0] for at in range(len(user))]


def test_factors_rank_own_items_above_others(state: State) -> None:
    learned = factors.fit_implicit(state, 3)
    vectors = factors.user_vectors(state, learned)
    user, item = np.divmod(np.arange(len(state) * len(state.catalogue)), len(state.catalogue))
    owned = np.isin(user * len(state.catalogue) + item, state.pairs.keys)
    fits = factors.scores(vectors, learned, user, item)

    assert fits[owned].mean() > fits[~owned].mean()


def test_users_alike_leave_the_user_out_and_do_not_depend_on_the_batch(state: State) -> None:
    known = alike.fit(state, scrambled(state.users))
    table = alike.table(state, known)

    assert table.shape == (len(state), len(state.catalogue))
    assert np.all(table.data >= 0)
    nobody = alike.nothing(state.catalogue.ids)
    assert alike.table(state, nobody).nnz == 0


def test_every_source_proposes_open_items_only_best_first(moment: Moment, state: State) -> None:
    collaborative = tastes.learn(moment, 1).collaborate(state)
    open_items = np.arange(len(state.catalogue)) % 3 != 0

    for name, source in sources.standard(moment.neighbours, collaborative).items():
        found = source.propose(state, 5, open_items)
        assert open_items[found.item].all(), name
        assert np.all(np.bincount(found.user, minlength=len(state)) <= 5), name
        falls = (found.user[1:] != found.user[:-1]) | (found.score[1:] <= found.score[:-1])
        assert falls.all(), name
    assert len(sources.Own().propose(state, 5, open_items).user)


def test_the_users_own_items_tell_more_of_what_they_take_than_what_rises(moment: Moment, state: State) -> None:
    every = sources.standard(moment.neighbours, tastes.learn(moment, 1).collaborate(state))
    everything = np.ones(len(state.catalogue), bool)
    taken = np.unique(state.pairs.keys[state.interest[:, P_120D] > 1])

    found = sources.recall_by_source(state, every, 10, everything, taken)

    assert set(found) == set(every)
    assert found["own"] > found["rising"]


def test_habits_are_the_gaps_of_the_log_and_unknown_items_get_everybodys() -> None:
    count, logs = np.array([2.0, 0.0]), np.log([7.0, 7.0])
    learned = habits.habits_of(np.array([1, 2]), count, np.array([logs.sum(), 0]), np.array([(logs**2).sum(), 0]))

    mean, deviation = learned.of(np.array([1, 9]))
    assert mean == pytest.approx(np.log([7.0, 7.0]))
    assert np.all(deviation > 0)
    soon = habits.hazard(np.array([7.0]), np.array([7.0]), np.array([9.0]), mean[:1], deviation[:1])
    fresh = habits.hazard(np.array([0.1]), np.array([7.0]), np.array([9.0]), mean[:1], deviation[:1])
    assert 0 <= fresh[0] < soon[0] <= 1


def test_gaps_counted_in_slices_of_time_are_those_of_one_pass() -> None:
    shop, whole = moment_of()
    bare = whole.state.catalogue.items
    replay = Replay(shop.events(), bare.ids)
    for back in (60, 30, 7):
        replay.at(shop.end.timestamp() - back * 86_400, bare, 1000)
    stepped = replay.at(shop.end.timestamp(), bare, 1000)

    assert np.allclose(stepped.habits.log_gap, whole.habits.log_gap, rtol=1e-12)
    assert np.allclose(stepped.habits.deviation, whole.habits.deviation, rtol=1e-12)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_imputation_fills_what_is_missing_and_leaves_the_rest(strategy: str) -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(3, 1, (200, 4)).astype(np.float32)
    holes = rng.random(rows.shape) < 0.2
    rows[holes] = np.nan
    rows[0, 0], rows[:, 3] = np.inf, np.nan

    imputer = fit_imputer(strategy, rows)
    served, offline = imputer.served(rows), imputer.offline(rows)

    known = np.isfinite(rows)
    assert np.array_equal(served[known], rows[known])
    assert not np.isinf(served).any()
    if strategy in {"none", "drop"}:
        assert np.isnan(served[~known]).all()
        assert np.isfinite(rows[complete(rows)][:, :3]).all()
    else:
        assert np.isfinite(served[:, :3]).all()
        assert np.isfinite(offline[:, :3]).all()
        assert np.allclose(offline[:, :3][known[:, :3]], rows[:, :3][known[:, :3]], atol=1e-5)
    assert np.array_equal(served[5:6], imputer.served(rows[5:6]), equal_nan=True)


def test_an_unknown_imputation_is_refused_by_name() -> None:
    with pytest.raises(BadInput, match="guess"):
        fit_imputer("guess", np.zeros((2, 2), np.float32))


def test_a_calibration_is_kept_only_where_it_helps_users_it_has_not_seen() -> None:
    rng = np.random.default_rng(2)
    chances = rng.beta(1, 9, 40_000).astype(np.float32)
    half = rng.random(len(chances)) < 0.5
    honest = rng.random(len(chances)) < chances
    lower = rng.random(len(chances)) < calibrated(chances, (1.0, -0.7))

    assert gate.calibrate(honest, chances, half) == NO_CALIBRATION
    slope, intercept = gate.calibrate(lower, chances, half)
    assert slope == pytest.approx(1, abs=0.1)
    assert intercept == pytest.approx(-0.7, abs=0.15)


def test_the_gate_lets_in_what_is_calibrated_and_not_worse() -> None:
    rng = np.random.default_rng(3)
    truth = rng.beta(1, 9, 40_000).astype(np.float32)
    labels = rng.random(len(truth)) < truth
    blind = np.full(len(truth), labels.mean(), np.float32)

    assert gate.judge(labels, truth, None).passed
    assert gate.judge(labels, truth, blind).passed
    worse, boastful = gate.judge(labels, blind, truth), gate.judge(labels, np.minimum(truth * 1.5, 1), None)
    assert not worse.passed
    assert "NE" in str(worse.reason)
    assert not boastful.passed
    assert "predicts 1.5" in str(boastful.reason)


def model_of(moment: Moment) -> tuple[Model, np.ndarray]:
    state = moment.state
    learned = tastes.learn(moment, 1)
    user, item = np.divmod(np.arange(len(state) * len(state.catalogue)), len(state.catalogue))
    zeros = np.zeros(len(user), np.float32)
    rows = matrix.build(state, user, item, zeros, learned.collaborate(state).of(user, item))
    labels = np.nan_to_num(rows[:, schema.NAMES.index("pair_purchases_45d")]) > 0.5
    sample = Sample(rows, labels.astype(np.float32), user)
    fitted = ctr.fit(sample, sample, 1, 1)
    assert fitted.order is not None
    now = datetime(2026, 9, 1, tzinfo=UTC)
    windows = with_everybody(np.zeros(48))
    related = nothing(state.catalogue.ids)
    model = Model(fitted.booster, 0.5, related, Blend(), windows, now, learned, (1.1, -0.2), order=fitted.order)
    return model, rows


def test_trees_that_order_move_the_users_lists_and_keep_the_level_of_the_chances() -> None:
    rng = np.random.default_rng(3)
    group = np.repeat(np.arange(400), 25)
    rows = np.full((len(group), schema.COUNT), np.nan, np.float32)
    rows[:, :3] = rng.normal(size=(len(group), 3))
    odds = 2 * rows[:, 0] + rng.normal(size=400)[group] - 2.5  # what a user buys at all is the louder part
    sample = Sample(rows, (rng.random(len(group)) < 1 / (1 + np.exp(-odds))).astype(np.float32), group)

    fitted = ctr.fit(sample, sample, 1, 1)

    plain = chance(fitted.booster, None, rows)
    ordered = fitted.chance(rows)
    assert fitted.order is not None
    assert ordered.sum() == pytest.approx(plain.sum(), rel=0.03)
    keys = group * len(group) + np.arange(len(group))
    taken = keys[sample.labels > 0]
    ndcg = [evaluation.mean(evaluation.ranking(group, keys, s, taken, len(group))[1]) for s in (plain, ordered)]
    assert ndcg[1] > ndcg[0]
    assert ctr.fit(Sample(rows, sample.labels), sample, 1, 1).order is None


def test_a_model_with_tastes_and_calibration_comes_back_as_it_was(moment: Moment) -> None:
    model, rows = model_of(moment)
    artifact = pack(model)

    again = unpack(artifact, digest(artifact))

    assert np.array_equal(again.predict(rows), model.predict(rows))
    assert np.array_equal(again.tastes.factors.taken, model.tastes.factors.taken)
    assert again.calibration == model.calibration
    user, item = np.arange(20), np.arange(20)
    ours, theirs = (m.tastes.collaborate(moment.state).of(user, item) for m in (model, again))
    assert np.array_equal(ours, theirs)
    with pytest.raises(ModelRefused, match="SHA-256"):
        unpack(artifact[:-1] + b"x", digest(artifact))


def test_nan_everywhere_and_unseen_categories_get_a_score(moment: Moment) -> None:
    model, rows = model_of(moment)
    nothing_known = np.full((3, schema.COUNT), np.nan, np.float32)

    assert np.isfinite(model.predict(nothing_known)).all()
    assert np.array_equal(model.predict(rows[:50]), np.concatenate([model.predict(row[None]) for row in rows[:50]]))


def test_contributions_add_up_to_the_score_and_are_told_in_words(moment: Moment) -> None:
    model, rows = model_of(moment)
    told = explain_rows(model, rows[:40], most=3)

    for explanation, score in zip(told, model.predict(rows[:40]), strict=True):
        parts = explanation.base + explanation.rest + sum(reason.contribution for reason in explanation.reasons)
        assert parts == pytest.approx(explanation.margin, abs=1e-3)
        assert explanation.margin == pytest.approx(np.log(score / (1 - score)), abs=1e-3)
        assert (explanation.score, explanation.regime, explanation.window) == (score, "goal", None)
        assert all(schema.FEATURES[schema.NAMES.index(r.feature)].meaning in r.text for r in explanation.reasons)
    assert explain_rows(model, rows[:0]) == []
