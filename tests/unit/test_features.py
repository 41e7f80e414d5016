"""Feature rows: what they say, and that they say it of any batch, order and past."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine.features import matrix, schema
from engine.features.catalogue import Catalogue, Items, build_catalogue
from engine.features.decay import Folded, merge
from engine.features.readings import positions, take
from engine.features.state import Profiles, State, build_state
from engine.ingest.profiles import FoldRows
from engine.learning.history import item_profiles, user_profiles
from engine.store.tables import EVENT_TYPES, HALF_LIVES_DAYS

TAU = 1_780_000_000.0
HOUR, DAY = 3600.0, 86_400.0


def items(count: int = 4, **columns: np.ndarray) -> Items:
    unknown = np.full(count, np.nan)
    plain = Items(
        ids=np.arange(1, count + 1),
        versions=np.ones(count, np.int32),
        category=np.arange(count, dtype=np.int32) // 2,
        brand=np.array([0, -1, 1, 0], np.int32)[:count],
        categories=("a", "b"),
        brands=("x", "y"),
        price=np.array([1.0, 3.0, np.nan, 0.0])[:count],
        stock=unknown,
        available_from=unknown,
        available_until=unknown,
        stub=np.zeros(count, bool),
    )
    return replace(plain, **columns)  # type: ignore[arg-type]


def log(*rows: tuple[int, int, str, float]) -> FoldRows:
    """Events (user, item or −1, type, hours before τ)."""
    user, item, kind, ago = zip(*rows, strict=True)
    n = len(rows)
    return FoldRows(
        slot=np.zeros(n, np.int64),
        user=np.array(user),
        item=np.array(item),
        event_type=np.array([EVENT_TYPES.get(name, 100) for name in kind]),
        at=TAU - np.array(ago) * HOUR,
        value=np.full(n, 2.0),
        zone=np.zeros(n, np.int64),
        zones=("UTC",),
    )


def state_of(events: FoldRows, users: np.ndarray, goods: Items | None = None) -> State:
    catalogue = build_catalogue(goods or items(), item_profiles(events), TAU)
    return build_state(users, user_profiles(events), catalogue, TAU)


def row(state: State, user: int, item: int) -> dict[str, float]:
    made = matrix.build(state, np.array([user]), np.array([item]), np.zeros(1, np.float32))
    return dict(zip(schema.NAMES, made[0].tolist(), strict=True))


def test_the_schema_has_forty_features_or_more_each_named_once_and_told() -> None:
    assert schema.COUNT >= 40
    assert len(set(schema.NAMES)) == schema.COUNT
    assert all(feature.meaning and feature.source and feature.group in schema.GROUPS for feature in schema.FEATURES)
    assert [feature.group for feature in schema.FEATURES] == sorted(
        (feature.group for feature in schema.FEATURES), key=schema.GROUPS.index
    )


def test_a_row_says_how_much_how_recently_and_whether_it_is_due() -> None:
    events = log((7, 1, "purchase", 240.0), (7, 1, "purchase", 120.0), (7, 1, "view", 24.0), (7, 2, "view", 1.0))

    seen = row(state_of(events, np.array([7])), 0, 0)

    assert seen["pair_purchases"] == 2
    assert seen["pair_purchases_14d"] == pytest.approx(2 ** (-10 / 14) + 2 ** (-5 / 14))
    assert seen["pair_hours_since_purchase"] == pytest.approx(120)
    assert seen["pair_purchase_gap"] == pytest.approx(120)
    assert seen["pair_due_ratio"] == pytest.approx(1)
    assert seen["pair_views_1d"] == pytest.approx(0.5)
    assert seen["user_views_1d"] == pytest.approx(0.5 + 2 ** (-1 / 24))
    assert seen["user_mean_value"] == 2
    assert seen["user_known_days"] == pytest.approx(10)
    assert seen["item_share"] == 1
    assert seen["category_purchases_14d"] == pytest.approx(seen["pair_purchases_14d"])
    assert seen["category_hours_since_purchase"] == pytest.approx(120)
    assert seen["brand_share"] == pytest.approx(seen["category_share"] - 0.2 * 2 ** (-1 / 24 / 45) / _mass(), rel=1e-3)


def _mass() -> float:
    bought = 2 ** (-10 / 45) + 2 ** (-5 / 45)
    return bought + 0.2 * 2 ** (-1 / 45) + 0.2 * 2 ** (-1 / 24 / 45)


def test_never_is_nan_and_nothing_is_infinite() -> None:
    events = log((7, 1, "purchase", 5.0), (7, 4, "purchase", 5.0), (7, 4, "purchase", 5.0))
    state = state_of(events, np.array([7, 8]))

    stranger, once = row(state, 1, 2), row(state, 0, 0)

    assert all(np.isnan(stranger[name]) for name in schema.NAMES if name.startswith(("user", "pair", "category")))
    assert np.isnan(once["pair_purchase_gap"])
    assert np.isnan(once["pair_due_ratio"])
    assert np.isnan(row(state, 0, 3)["pair_due_ratio"])  # two purchases at one instant: a gap of 0 is no gap
    assert np.isnan(row(state, 0, 3)["item_price_in_category"])
    rows = matrix.build(state, np.repeat([0, 1], 4), np.tile(np.arange(4), 2), np.zeros(8, np.float32))
    assert not np.isinf(rows).any()


def test_a_category_that_arrives_late_counts_from_the_beginning() -> None:
    events = log((7, 1, "purchase", 50.0), (7, 2, "purchase", 30.0))
    late = items(category=np.array([0, 0, 1, 1], np.int32))
    early = items(category=np.array([0, -1, 1, 1], np.int32))

    assert row(state_of(events, np.array([7]), late), 0, 1)["category_purchases_120d"] > 1
    assert np.isnan(row(state_of(events, np.array([7]), early), 0, 1)["category_purchases_120d"])


def test_profiles_of_streams_and_of_one_fold_give_the_same_rows() -> None:
    rng = np.random.default_rng(3)
    names = ["view", "add_to_cart", "purchase", "push_click", "rating", "own_type"]
    rows = [(int(u), int(i), names[k], float(a)) for u, i, k, a in zip(
        rng.integers(1, 9, 400), rng.integers(1, 5, 400), rng.integers(0, 6, 400), rng.uniform(0.01, 3000, 400),
        strict=True,
    )]  # fmt: skip
    events, users = log(*rows), np.arange(1, 10)
    at_once = state_of(events, users)

    parts = [events.where(np.arange(400) % 7 == part) for part in rng.permutation(7)]
    folded = [(user_profiles(part), item_profiles(part)) for part in parts]
    profiles, of_items = folded[0]
    for more, more_items in folded[1:]:
        profiles = Profiles(
            merge(profiles.users, more.users, HALF_LIVES_DAYS["user_profiles"]),
            merge(profiles.pairs, more.pairs, HALF_LIVES_DAYS["user_item_profiles"]),
            merge(profiles.hours, more.hours, HALF_LIVES_DAYS["user_hour_profiles"]),
        )
        of_items = merge(of_items, more_items, HALF_LIVES_DAYS["item_profiles"])
    shuffled = Profiles(*(_shuffled(part, rng) for part in (profiles.users, profiles.pairs, profiles.hours)))
    streamed = build_state(users, shuffled, build_catalogue(items(), of_items, TAU), TAU)

    user, item = np.repeat(np.arange(9), 4), np.tile(np.arange(4), 9)
    nothing = np.zeros(36, np.float32)
    np.testing.assert_allclose(
        matrix.build(at_once, user, item, nothing), matrix.build(streamed, user, item, nothing), rtol=1e-6
    )
    np.testing.assert_allclose(at_once.hours.weight, streamed.hours.weight, rtol=1e-9)


def _shuffled(folded: Folded, rng: np.random.Generator) -> Folded:
    return take(folded, rng.permutation(len(folded)))


def test_rows_are_bit_equal_in_any_batch_and_order() -> None:
    rng = np.random.default_rng(4)
    rows = [(int(u), int(i), "purchase", float(a)) for u, i, a in zip(
        rng.integers(1, 40, 900), rng.integers(1, 5, 900), rng.uniform(0.01, 3000, 900), strict=True
    )]  # fmt: skip
    state = state_of(log(*rows), np.arange(1, 40))
    user, item = np.repeat(np.arange(39), 200), rng.integers(0, 4, 39 * 200)
    related = rng.random(len(user)).astype(np.float32)
    together = matrix.build(state, user, item, related)

    order = rng.permutation(len(user))
    assert np.array_equal(
        matrix.build(state, user[order], item[order], related[order]), together[order], equal_nan=True
    )
    for at in rng.integers(0, len(user), 20):
        alone = matrix.build(state, user[at : at + 1], item[at : at + 1], related[at : at + 1])
        assert np.array_equal(alone[0], together[at], equal_nan=True)
    assert matrix.build(state, user[:0], item[:0], related[:0]).shape == (0, schema.COUNT)


def test_only_items_on_offer_are_available() -> None:
    goods = items(
        stock=np.array([0.0, 5.0, np.nan, np.nan]),
        available_from=np.array([np.nan, TAU + 1, TAU, np.nan]),
        available_until=np.array([np.nan, np.nan, TAU + 1, TAU]),
    )
    empty = item_profiles(log((1, -1, "app_open", 1.0)))

    assert build_catalogue(goods, empty, TAU).available.tolist() == [False, False, True, False]
    stubs = items(stub=np.array([True, False, False, False]))
    assert build_catalogue(stubs, empty, TAU).available.tolist() == [False, True, True, True]


def test_a_shop_without_items_events_or_users_has_empty_rows() -> None:
    nothing = items(0, category=np.zeros(0, np.int32), brand=np.zeros(0, np.int32), price=np.zeros(0))
    events = log((1, -1, "app_open", 3.0))
    catalogue: Catalogue = build_catalogue(nothing, item_profiles(events), TAU)

    nobody = build_state(np.zeros(0, np.int64), user_profiles(events), catalogue, TAU)
    somebody = build_state(np.array([1, 2]), user_profiles(events), catalogue, TAU)

    assert (len(nobody), len(somebody), len(catalogue)) == (0, 2, 0)
    assert somebody.user_block.shape == (2, schema.width("user"))


def test_a_profile_that_holds_the_future_is_refused() -> None:
    events = log((7, 1, "purchase", -1.0))

    with pytest.raises(ValueError, match="before its last event"):
        state_of(events, np.array([7]))


@pytest.mark.parametrize("ids", [[2, 3, 5], [10, 10_000_000, 2**60]])
def test_positions_of_ids_dense_or_sparse(ids: list[int]) -> None:
    wanted = np.array([ids[2], 4, ids[0], -1, 2**61])

    assert positions(np.array(ids), wanted).tolist() == [2, -1, 0, -1, -1]
    assert positions(np.zeros(0, np.int64), wanted).tolist() == [-1] * 5
