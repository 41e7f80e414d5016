"""The parts of learning, each on its own: candidates, relatedness, blends, measures, artifacts, timelines."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import xgboost
from scipy import sparse

from engine.errors import ModelRefused
from engine.features import schema
from engine.features.catalogue import Items, build_catalogue
from engine.features.state import State, build_state
from engine.ingest.profiles import FoldRows
from engine.learning import ctr, evaluation, timeline
from engine.learning.blending import fit_blend
from engine.learning.candidates import Blend, Proposer
from engine.learning.dataset import Sample
from engine.learning.history import item_profiles, user_profiles
from engine.learning.model import Model, digest, pack, unpack
from engine.learning.odds import corrected
from engine.learning.related import Counter, Related
from engine.learning.replay import Replay
from engine.learning.windows import WEEK_HOURS, with_everybody
from engine.store.tables import EVENT_TYPES

TAU = 1_780_000_000.0
DAY = 86_400.0


def goods(count: int) -> Items:
    unknown = np.full(count, np.nan)
    codes = np.zeros(count, np.int32)
    ones = np.ones(count, np.int32)
    ids = np.arange(1, count + 1)
    return Items(ids, ones, codes, codes - 1, ("all",), (), unknown, unknown, unknown, unknown, np.zeros(count, bool))


def purchases(user: np.ndarray, item: np.ndarray, days_ago: np.ndarray) -> FoldRows:
    n = len(user)
    kind = np.full(n, EVENT_TYPES["purchase"])
    zeros = np.zeros(n, np.int64)
    return FoldRows(zeros, user, item, kind, TAU - days_ago * DAY, np.ones(n), zeros, ("UTC",))


def random_shop(users: int, items: int, events: int, seed: int) -> tuple[FoldRows, State]:
    rng = np.random.default_rng(seed)
    log = purchases(
        rng.integers(1, users + 1, events),
        (items * rng.random(events) ** 2).astype(np.int64) + 1,
        rng.uniform(0.1, 200, events),
    )
    catalogue = build_catalogue(goods(items), item_profiles(log), TAU)
    return log, build_state(np.arange(1, users + 1), user_profiles(log), catalogue, TAU)


def neighbours_of(log: FoldRows, items: int) -> object:
    order = np.lexsort((log.item, log.at, log.user))
    counter = Counter(items, TAU - 300 * DAY)
    counter.add(log.user[order], log.item[order] - 1, log.at[order], np.ones(len(order)), 0.0)
    return counter.neighbours()


# --- relatedness -----------------------------------------------------------------------------------------------------


def test_what_follows_is_related_more_than_what_came_before_and_near_more_than_far() -> None:
    n = 40
    user = np.repeat(np.arange(1, n + 1), 4)
    item = np.tile([1, 2, 3, 4], n)
    log = purchases(user, item, np.tile([4.0, 3.0, 2.0, 1.0], n))

    table = neighbours_of(log, 4).toarray()  # type: ignore[attr-defined]

    assert table[0, 1] > table[1, 0] > 0
    assert table[0, 1] > table[0, 2] > table[0, 3] > 0
    assert table.diagonal().tolist() == [0] * 4


def test_items_of_one_basket_are_neighbours_whatever_their_order() -> None:
    n = 20
    user = np.repeat(np.arange(1, n + 1), 3)
    log = purchases(user, np.tile([1, 2, 3], n), np.ones(3 * n))

    table = neighbours_of(log, 3).toarray()  # type: ignore[attr-defined]

    assert table[0, 1] == pytest.approx(table[0, 2])


def test_counting_in_slices_of_time_is_counting_at_once() -> None:
    log, _ = random_shop(users=25, items=60, events=2000, seed=6)
    ids, items = np.arange(1, 61), goods(60)
    stepwise, at_once = Replay(log, ids), Replay(log, ids)

    for days in (150, 100, 60, 20, 5):
        stepwise.at(TAU - days * DAY, items, 100)
    several, single = stepwise.at(TAU, items, 100), at_once.at(TAU, items, 100)

    np.testing.assert_allclose(several.neighbours.toarray(), single.neighbours.toarray(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(several.state.interest, single.state.interest, rtol=1e-6)
    assert np.array_equal(several.state.pairs.keys, single.state.pairs.keys)


def test_a_replay_knows_nothing_of_what_comes_later() -> None:
    log, _ = random_shop(users=25, items=60, events=2000, seed=7)
    instant = TAU - 50 * DAY
    ids, items = np.arange(1, 61), goods(60)

    with_future = Replay(log, ids).at(instant, items, 100)
    without = Replay(log.where(log.at < instant), ids).at(instant, items, 100)

    assert np.array_equal(with_future.state.user_block, without.state.user_block, equal_nan=True)
    assert np.array_equal(with_future.state.pairs.block, without.state.pairs.block, equal_nan=True)
    assert np.array_equal(with_future.state.catalogue.block, without.state.catalogue.block, equal_nan=True)
    assert np.array_equal(with_future.neighbours.toarray(), without.neighbours.toarray())


def test_events_of_items_that_were_deleted_are_passed_over() -> None:
    log, _ = random_shop(users=10, items=20, events=300, seed=10)
    half = goods(10)

    moment = Replay(log, half.ids).at(TAU, half, 100)

    assert moment.neighbours.shape == (10, 10)
    assert moment.state.pair_item.max() < 10


def test_relatedness_follows_items_into_another_catalogue() -> None:
    learned = Related(np.array([1, 3, 5]), sparse.csr_array(np.array([[0, 1, 2], [0, 0, 3], [0, 0, 0]], np.float32)))
    log = purchases(np.array([1]), np.array([1]), np.array([1.0]))
    catalogue = build_catalogue(goods(4), item_profiles(log), TAU)

    moved = learned.aligned(catalogue).toarray()

    assert moved.shape == (4, 4)
    assert moved[0, 2] == 1
    assert moved.sum() == 1


# --- blends ----------------------------------------------------------------------------------------------------------


def test_a_source_that_foretells_nothing_is_left_out_of_the_blend() -> None:
    log, state = random_shop(users=60, items=100, events=4000, seed=8)
    found = Proposer(neighbours_of(log, 100), Blend()).propose(state, 60)
    rng = np.random.default_rng(9)
    own = state.pairs.find(found.user.astype(np.int64) * 100 + found.item) < len(state.pairs.keys)
    labels = own & (rng.random(len(found)) < 0.5)

    blend = fit_blend(state, found, labels)

    assert blend.own > 0
    assert min(blend.own, blend.own_recent, blend.related, blend.popular) >= 0
    assert fit_blend(state, found, np.zeros(len(found), bool)) == Blend()


# --- measures --------------------------------------------------------------------------------------------------------


def test_measures_of_a_perfect_and_of_a_blind_scorer() -> None:
    rng = np.random.default_rng(1)
    labels = rng.random(4000) < 0.2
    blind = np.full(4000, 0.2, np.float32)

    assert evaluation.auc(labels, labels.astype(float)) == 1
    assert evaluation.average_precision(labels, labels.astype(float)) == 1
    assert evaluation.auc(labels, blind) == 0.5
    assert evaluation.average_precision(labels, blind) == pytest.approx(labels.mean())
    assert evaluation.normalised_entropy(labels, np.full(4000, labels.mean())) == pytest.approx(1)
    assert evaluation.calibration_error(labels, labels.astype(np.float32)) == 0
    assert evaluation.calibration(labels, np.full(4000, 0.4, np.float32)) == pytest.approx(0.4 / labels.mean())
    assert np.isnan(evaluation.auc(np.zeros(3, bool), blind[:3]))


def test_average_precision_is_the_mean_precision_at_the_positives() -> None:
    labels = np.array([True, False, True, False])

    assert evaluation.average_precision(labels, np.array([4.0, 3.0, 2.0, 1.0])) == pytest.approx((1 + 2 / 3) / 2)
    assert evaluation.average_precision(labels, np.array([4.0, 2.0, 2.0, 1.0])) == pytest.approx((1 + 2 / 3) / 2)


def test_what_was_not_proposed_is_a_miss() -> None:
    user, item = np.array([0, 0, 1]), np.array([3, 4, 0])
    taken = np.array([0 * 10 + 4, 0 * 10 + 9, 1 * 10 + 5, 2 * 10 + 1])

    users, ndcg, hit = evaluation.ranking(user, user * 10 + item, np.array([2.0, 1.0, 1.0]), taken, 10)

    assert users.tolist() == [0, 1, 2]
    assert ndcg.tolist() == pytest.approx([(1 / np.log2(3)) / (1 + 1 / np.log2(3)), 0, 0])
    assert hit.tolist() == [1, 0, 0]


def test_a_sampled_chance_is_corrected_to_what_it_was_before_sampling() -> None:
    assert corrected(np.array([0.5], np.float32), 0.1)[0] == pytest.approx(0.5 / (0.5 + 0.5 / 0.1))
    assert corrected(np.array([0.3], np.float32), 1.0)[0] == np.float32(0.3)
    rng = np.random.default_rng(1)
    rows = np.full((200_000, schema.COUNT), np.nan, np.float32)
    rows[:, 0] = rng.integers(0, 3, len(rows))
    labels = rng.random(len(rows)) < 0.01 * (1 + rows[:, 0])
    share = ctr.negative_share(int(labels.sum()), len(labels))
    kept = labels | (rng.random(len(rows)) < share)
    sample = Sample(rows[kept], labels[kept].astype(np.float32))
    fitted = ctr.fit(sample, sample, seed=1, threads=1)

    chances = corrected(fitted.booster.inplace_predict(rows[:1000]), share)

    for level in range(3):
        assert chances[rows[:1000, 0] == level].mean() == pytest.approx(0.01 * (1 + level), rel=0.15)


def test_trees_keep_the_directions_that_the_schema_prescribes() -> None:
    rng = np.random.default_rng(2)
    rows = rng.random((5000, schema.COUNT)).astype(np.float32)
    at = schema.NAMES.index("pair_purchases_45d")
    labels = (rng.random(5000) < 0.5 - 0.4 * rows[:, at]).astype(np.float32)  # against the prescribed direction
    booster = ctr.fit(Sample(rows, labels), Sample(rows, labels), seed=1, threads=1).booster
    ladder = np.repeat(rows[:1], 50, axis=0)
    ladder[:, at] = np.linspace(0, 1, 50)

    assert (np.diff(booster.inplace_predict(ladder)) >= -1e-7).all()


# --- timelines -------------------------------------------------------------------------------------------------------


def test_instants_lie_a_week_apart_and_every_outcome_is_known() -> None:
    now = datetime(2026, 9, 1, 13, tzinfo=UTC)
    line = timeline.choose(now - timedelta(days=200), now)

    assert line is not None
    assert line.test == now - timedelta(days=7)
    assert np.all(np.diff([instant.timestamp() for instant in line.instants]) == 7 * DAY)
    assert len(line.train) == timeline.MOST_TRAINING


@pytest.mark.parametrize(("days", "weeks"), [(6, None), (27, None), (29, 1), (60, 4), (90, 7)])
def test_a_short_history_has_fewer_training_weeks_or_none(days: int, weeks: int | None) -> None:
    now = datetime(2026, 9, 1, tzinfo=UTC)
    line = timeline.choose(now - timedelta(days=days), now)

    assert (None if line is None else len(line.train)) == weeks
    if line is not None:
        assert line.train[0] >= now - timedelta(days=days) + timeline.LEAST_WARM_UP


# --- artifacts -------------------------------------------------------------------------------------------------------


def a_model(features: int = schema.COUNT) -> Model:
    rng = np.random.default_rng(1)
    rows = rng.random((300, features)).astype(np.float32)
    booster = xgboost.train(
        {"objective": "binary:logistic", "max_depth": 3, "nthread": 1, "seed": 1},
        xgboost.DMatrix(rows, (rows[:, 0] > 0.5).astype(np.float32)),
        5,
    )
    table = sparse.csr_array(np.array([[0, 0.5], [0.25, 0]], np.float32))
    windows = with_everybody(np.ones(WEEK_HOURS))
    return Model(booster, 0.1, Related(np.array([4, 9]), table), Blend(), windows, datetime(2026, 1, 1, tzinfo=UTC))


def test_a_model_comes_back_from_its_artifact_as_it_was() -> None:
    model = a_model()
    rows = np.random.default_rng(3).random((50, schema.COUNT)).astype(np.float32)
    rows[::3, ::2] = np.nan
    artifact = pack(model)

    back = unpack(artifact, digest(artifact))

    assert np.array_equal(back.predict(rows), model.predict(rows))
    assert np.array_equal(np.concatenate([back.predict(rows[at : at + 1]) for at in range(50)]), model.predict(rows))
    assert np.array_equal(back.related.neighbours.toarray(), model.related.neighbours.toarray())
    assert (back.blend, back.negative_share, back.as_of) == (model.blend, model.negative_share, model.as_of)
    assert pack(model) == artifact


def repacked(artifact: bytes, name: str, content: bytes) -> bytes:
    """The artifact with one member replaced."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(artifact)) as old, zipfile.ZipFile(out, "w") as new:
        for member in old.namelist():
            new.writestr(member, content if member == name else old.read(member))
    return out.getvalue()


def manifest(artifact: bytes, **changes: object) -> bytes:
    with zipfile.ZipFile(io.BytesIO(artifact)) as archive:
        return json.dumps(json.loads(archive.read("manifest.json")) | changes).encode()


def pickled_arrays() -> bytes:
    out = io.BytesIO()
    np.savez(out, related_ids=np.array([{"boom": 1}], dtype=object))
    return out.getvalue()


HEAD = {"bias": 0.0, "taste": 1.0, "hour": 1.0, "trees": 0, "calibration": [1.0, 0.0]}


@pytest.mark.parametrize(
    ("member", "content", "says"),
    [
        ("manifest.json", lambda a: manifest(a, schema="other", features=["tides"]), "other features"),
        ("manifest.json", lambda a: manifest(a, head={"trees": 1}), "cannot be read"),
        ("manifest.json", lambda a: manifest(a, head=HEAD | {"taste": -1}), "click head contradicts itself"),
        ("manifest.json", lambda a: manifest(a, format=99), "by a newer version of Horae"),
        ("manifest.json", lambda a: manifest(a, format=2), "by an older version of Horae"),
        ("manifest.json", lambda a: manifest(a, libraries={"xgboost": "99.1.0"}), "XGBoost 99.1.0, newer than"),
        ("manifest.json", lambda a: manifest(a, negative_share=0), "contradicts itself"),
        ("manifest.json", lambda a: b"{", "cannot be read"),
        ("booster.ubj", lambda a: b"nonsense", "cannot be read"),
        ("booster.ubj", lambda a: bytes(a_model(3).booster.save_raw("ubj")), "contradicts itself"),
        ("arrays.npz", lambda a: pickled_arrays(), "cannot be read"),
        ("arrays.npz", lambda a: b"", "cannot be read"),
    ],
)
def test_a_poisoned_artifact_is_refused_with_the_reason(
    member: str, content: Callable[[bytes], bytes], says: str
) -> None:
    good = pack(a_model())
    poisoned = repacked(good, member, content(good))

    with pytest.raises(ModelRefused, match=says):
        unpack(poisoned, digest(poisoned))
    with pytest.raises(ModelRefused, match="SHA-256"):
        unpack(poisoned, digest(good))


def test_bytes_that_are_no_artifact_are_refused() -> None:
    with pytest.raises(ModelRefused, match="cannot be read"):
        unpack(b"MZ", digest(b"MZ"))
