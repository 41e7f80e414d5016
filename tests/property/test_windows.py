"""Curves of send windows: distributions that follow the clock and fall back to everybody's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.features.state import Hours
from engine.learning import windows
from engine.learning.window_fit import Lesson, Visits, first_of_visits, fit
from engine.learning.windows import RUNGS, WEEK_HOURS, posterior, to_cells, with_everybody

EVENTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2), st.integers(0, 47), st.floats(0.01, 50)), max_size=40)
EVERYBODY = np.arange(1.0, 49.0)


def hours(events: list[tuple[int, int, int, float]]) -> Hours:
    user, rung, hour, weight = (np.array(column) for column in zip(*sorted(events), strict=True))
    return Hours(user.astype(np.int32), rung.astype(np.int16), hour.astype(np.int16), weight.astype(np.float64))


NOTHING = Hours(np.zeros(0, np.int32), np.zeros(0, np.int16), np.zeros(0, np.int16), np.zeros(0))


@given(EVENTS)
def test_a_curve_is_a_distribution_over_sixteen_cells(events: list[tuple[int, int, int, float]]) -> None:
    found = windows.curves(with_everybody(EVERYBODY), hours(events) if events else NOTHING, 5)

    assert np.allclose(found.preference.sum(axis=1), 1, atol=1e-5)
    assert (found.preference > 0).all()
    assert np.isfinite(found.log_ratio).all()
    rates = windows.rate(found.preference)
    assert np.allclose(rates.max(axis=1), 1)
    assert (rates > 0).all()


@given(EVENTS, st.integers(1, 23))
def test_turning_every_clock_turns_the_curve(events: list[tuple[int, int, int, float]], turn: int) -> None:
    counts = np.zeros((5, RUNGS, WEEK_HOURS))
    for user, rung, hour, weight in events:
        counts[user, rung, hour] += weight
    flat = with_everybody(np.zeros(WEEK_HOURS))

    def turned(shares: np.ndarray) -> np.ndarray:
        days = shares.reshape(*shares.shape[:-1], 2, 24)
        return np.roll(days, turn, axis=-1).reshape(shares.shape)

    np.testing.assert_allclose(posterior(flat, turned(counts))[0], turned(posterior(flat, counts)[0]), rtol=1e-9)


def test_without_events_the_curve_is_everybodys() -> None:
    model = with_everybody(EVERYBODY)

    found = windows.curves(model, NOTHING, 3)

    np.testing.assert_allclose(found.preference, np.broadcast_to(model.cells(), (3, 16)), rtol=1e-6)
    np.testing.assert_allclose(found.log_ratio, 0, atol=1e-6)
    assert found.evidence.tolist() == [0, 0, 0]


@pytest.mark.parametrize("rung", range(RUNGS))
def test_enough_events_of_any_rung_make_the_curve_the_users_own(rung: int) -> None:
    model = with_everybody(EVERYBODY)

    found = windows.curves(model, hours([(0, rung, 19, 5000.0)]), 1)

    assert found.preference[0].argmax() == 19 // 3
    assert found.preference[0].max() > 0.8


def test_a_higher_rung_counts_for_more_than_a_lower_one() -> None:
    model = with_everybody(np.zeros(WEEK_HOURS))

    found = windows.curves(model, hours([(0, 0, 9, 40.0), (0, 2, 21, 40.0)]), 1)

    assert found.preference[0, 3] > found.preference[0, 7]


def test_workdays_and_weekends_are_apart_but_share_the_users_hours() -> None:
    model = with_everybody(np.zeros(WEEK_HOURS))

    found = windows.curves(model, hours([(0, 1, 20, 60.0)]), 1)

    weekend = found.preference[0, 8:]
    assert weekend.argmax() == 6
    assert found.preference[0, 6] > weekend[6]


def test_curves_are_bit_equal_for_any_batch_of_users() -> None:
    rng = np.random.default_rng(2)
    events = [(int(u), int(r), int(h), float(w)) for u, r, h, w in zip(
        rng.integers(0, 50, 900), rng.integers(0, 3, 900), rng.integers(0, 48, 900), rng.random(900), strict=True
    )]  # fmt: skip
    model = with_everybody(EVERYBODY)
    together = windows.curves(model, hours(events), 50).preference

    for user in (0, 7, 49):
        own = [(0, *event[1:]) for event in sorted(events) if event[0] == user]
        assert np.array_equal(windows.curves(model, hours(own), 1).preference[0], together[user])


def test_the_fit_trusts_users_as_far_as_their_past_foretells_them() -> None:
    rng = np.random.default_rng(3)
    users = 300
    own_hour = rng.integers(0, 48, users)
    counts = np.zeros((users, RUNGS, WEEK_HOURS))
    counts[np.arange(users), 1, own_hour] = 8
    user = np.repeat(np.arange(users), 3)
    faithful = Visits(user, own_hour[user])
    fickle = Visits(user, rng.integers(0, 48, len(user)))
    everybody = np.ones(WEEK_HOURS)

    loyal, free = (fit(everybody, [Lesson(counts, visits)]).concentration[1] for visits in (faithful, fickle))

    assert (loyal < free).all()
    untouched = fit(everybody, [Lesson(counts, Visits(user[:10], own_hour[user[:10]]))])
    assert np.array_equal(untouched.concentration, windows.DEFAULT_CONCENTRATION)


def test_events_less_than_an_hour_apart_are_one_visit() -> None:
    user = np.array([1, 0, 0, 0, 0])
    at = np.array([0.0, 7200.0, 0.0, 3599.0, 7000.0])

    assert first_of_visits(user, at).tolist() == [2, 0]


def test_cells_are_three_hours_of_a_day_type() -> None:
    share = np.zeros((1, WEEK_HOURS))
    share[0, [0, 2, 23, 24, 47]] = 0.2

    assert to_cells(share)[0].tolist() == [0.4, 0, 0, 0, 0, 0, 0, 0.2, 0.2, 0, 0, 0, 0, 0, 0, 0.2]
