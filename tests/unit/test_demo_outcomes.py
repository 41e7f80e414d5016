"""What happened after the pushes, counted by hand on small data."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.demo import outcomes

NOON = pd.Timestamp("2017-10-16 16:00", tz="UTC")  # 12:00 in New York


def frame(*rows: tuple[str, str, float]) -> pd.DataFrame:
    """(user, item, hours after NOON) rows."""
    return pd.DataFrame(
        {
            "user": [r[0] for r in rows],
            "item": [r[1] for r in rows],
            "at": [NOON + pd.Timedelta(hours=r[2]) for r in rows],
        }
    )


def test_a_purchase_counts_from_just_after_the_push_to_seven_days_later() -> None:
    pushes = frame(("a", "milk", 0), ("b", "milk", 0), ("c", "milk", 0), ("d", "milk", 0), ("e", "milk", 0))
    purchases = frame(
        ("a", "milk", 0.1), ("b", "milk", 7 * 24), ("c", "milk", 7 * 24 + 0.1), ("d", "milk", 0), ("e", "eggs", 1)
    )

    bought = outcomes.followed_by(pushes, purchases, ["user", "item"], outcomes.BOUGHT_WITHIN)

    assert bought.tolist() == [True, True, False, False, False]


def test_outcomes_keep_the_order_of_the_pushes() -> None:
    pushes = frame(("b", "milk", 5), ("a", "milk", 0))
    trips = frame(("a", "", 1))

    assert outcomes.followed_by(pushes, trips, ["user"], outcomes.TRIP_WITHIN).tolist() == [False, True]


def test_baskets_less_than_an_hour_apart_are_one_trip() -> None:
    events = frame(("a", "milk", 0), ("a", "eggs", 0), ("a", "milk", 0.5), ("a", "milk", 2), ("b", "milk", 2.1))

    trips = outcomes.trips_of(events)

    assert list(zip(trips["user"], trips["at"], strict=True)) == [
        ("a", NOON),
        ("a", NOON + pd.Timedelta(hours=2)),
        ("b", NOON + pd.Timedelta(hours=2.1)),
    ]


def test_popularity_counts_a_household_once_a_day() -> None:
    purchases = frame(*[("a", "eggs", h / 10) for h in range(9)], ("a", "milk", 0), ("b", "milk", 0))

    assert outcomes.most_popular_items(purchases, 2) == ["milk", "eggs"]


def test_the_baseline_does_not_repeat_an_item_to_a_household() -> None:
    pushes = frame(("a", "x", 24), ("a", "x", 0), ("b", "x", 1))

    assert outcomes.with_popular_items(pushes, ["milk", "eggs"])["item"].tolist() == ["eggs", "milk", "milk"]


def test_the_popular_hour_is_a_local_hour_on_the_same_local_day() -> None:
    late = frame(("a", "x", 9.5))  # 21:30 in New York is the next day in UTC

    moved = outcomes.at_popular_hour(late, "America/New_York", 17)

    assert moved["at"].tolist() == [NOON + pd.Timedelta(hours=5)]


def test_the_popular_hour_is_the_one_before_most_trips_among_the_hours_a_push_may_leave_in() -> None:
    at_17, at_18, at_02 = ("a", "", 5.5), ("c", "", 6.5), [(str(n), "", -9.5) for n in range(5)]
    trips = frame(*at_02, at_17, ("b", "", 5.2), at_18)

    assert outcomes.most_popular_hour(trips, "America/New_York", range(8, 22)) == 16


def test_a_comparison_gives_shares_and_their_difference() -> None:
    users = pd.Series(["a", "a", "b", "b"])

    found = outcomes.compare(
        users, np.array([True, True, True, False]), np.array([False, False, True, False]), np.random.default_rng(1)
    )

    assert (found.horae.value, found.baseline.value, found.gain.value) == (0.75, 0.25, 0.5)
    assert (found.pushes, found.households) == (4, 2)
    assert found.gain.low <= 0.5 <= found.gain.high


def test_pushes_of_one_household_are_drawn_together() -> None:
    """One push each, or the same outcome a hundred times each: the same uncertainty."""
    rng = np.random.default_rng(2)
    hits = rng.random(80) < 0.3
    users = pd.Series([str(n) for n in range(80)])
    never = np.zeros(80, bool)

    once = outcomes.compare(users, hits, never, np.random.default_rng(3)).horae
    many = outcomes.compare(
        users.repeat(100).reset_index(drop=True), hits.repeat(100), never.repeat(100), np.random.default_rng(3)
    ).horae

    assert (many.low, many.high) == pytest.approx((once.low, once.high))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_an_estimate_is_a_share_inside_its_interval(rows: list[tuple[str, bool, bool]]) -> None:
    users, first, second = zip(*rows, strict=True)

    found = outcomes.compare(pd.Series(users), np.array(first), np.array(second), np.random.default_rng(0))

    assert found.horae.value == pytest.approx(np.mean(first))
    for estimate in (found.horae, found.baseline):
        assert 0 <= estimate.low <= estimate.high <= 1
    assert found.gain.value == pytest.approx(found.horae.value - found.baseline.value)
