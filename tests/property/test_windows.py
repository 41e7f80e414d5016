"""Curves of send windows: distributions that follow the clock and fall back to everybody's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.features.state import Hours
from engine.learning import windows
from engine.learning.answering import Answers
from engine.learning.window_fit import Visits, first_of_visits, fit, lesson, with_curves_of
from engine.learning.windows import RUNGS, WEEK_HOURS, posterior, to_cells, with_everybody
from engine.localtime import local_hours

EVENTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2), st.integers(0, 47), st.floats(0.01, 50)), max_size=40)
EVERYBODY = np.arange(1.0, 49.0)


def hours(events: list[tuple[int, int, int, float]]) -> Hours:
    user, rung, hour, weight = (np.array(column) for column in zip(*sorted(events), strict=True))
    return Hours(user.astype(np.int32), rung.astype(np.int16), hour.astype(np.int16), *[weight.astype(np.float64)] * 3)


NOTHING = Hours(np.zeros(0, np.int32), np.zeros(0, np.int16), np.zeros(0, np.int16), *[np.zeros(0)] * 3)


@given(EVENTS)
def test_a_curve_is_a_distribution_over_sixteen_cells(events: list[tuple[int, int, int, float]]) -> None:
    found = windows.curves(with_everybody(EVERYBODY), hours(events) if events else NOTHING, 5)

    assert np.allclose(found.preference.sum(axis=1), 1, atol=1e-5)
    assert (found.preference > 0).all()
    assert np.isfinite(found.log_ratio).all()
    rates = windows.rate(found.preference)
    assert np.allclose(rates.max(axis=1), 1)
    assert (rates > 0).all()


def two_habits(turn: int = 0) -> windows.WindowModel:
    """A model with two typical curves, all of it turned by so many hours."""
    morning, evening = np.full((2, 24), 1.0), np.full((2, 24), 1.0)
    morning[:, 8], evening[:, 20] = 9.0, 9.0
    evening[1] *= 2
    both = np.roll(np.stack([morning, evening]), turn, axis=-1).reshape(2, WEEK_HOURS)
    both /= both.sum(axis=1, keepdims=True)
    mixture = windows.Mixture(both, np.array([0.3, 0.7]))
    return replace(with_everybody(np.zeros(WEEK_HOURS)), mixtures=(mixture, mixture))


def turned(week: np.ndarray, turn: int) -> np.ndarray:
    days = week.reshape(*week.shape[:-1], 2, 24)
    return np.roll(days, turn, axis=-1).reshape(week.shape)


def counted(events: list[tuple[int, int, int, float]]) -> np.ndarray:
    counts = np.zeros((5, windows.KINDS, RUNGS, WEEK_HOURS))
    for user, rung, hour, weight in events:
        counts[user, :, rung, hour] += [weight, weight / 2, weight / 4]
    return counts


@given(EVENTS, st.integers(1, 24))
def test_turning_every_clock_turns_the_curve(events: list[tuple[int, int, int, float]], turn: int) -> None:
    counts = counted(events)
    still, moved = two_habits(), two_habits(turn)

    for member in range(windows.MEMBERS):
        before = windows.member_share(still, windows.as_visits(still, counts), member)
        after = windows.member_share(moved, windows.as_visits(moved, turned(counts, turn)), member)
        np.testing.assert_allclose(after, turned(before, turn), rtol=1e-9)


@given(EVENTS, st.integers(1, 8))
def test_turning_every_clock_by_whole_windows_turns_the_cells(
    events: list[tuple[int, int, int, float]], step: int
) -> None:
    counts = counted(events)
    before = posterior(two_habits(), counts)[0].reshape(-1, 2, 8)
    after = posterior(two_habits(3 * step), turned(counts, 3 * step))[0].reshape(-1, 2, 8)

    np.testing.assert_allclose(after, np.roll(before, step, axis=-1), rtol=1e-9)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3 * 86_400 - 1)), min_size=1, max_size=60))
def test_a_day_later_on_every_clock_is_the_same_curve(stamps: list[tuple[int, int]]) -> None:
    monday = 1_496_635_200.0  # 2017-06-05 04:00 UTC, midnight in New York; Thursday is a workday too

    def told(shift: float) -> np.ndarray:
        user, at = (np.array(column) for column in zip(*stamps, strict=True))
        at = at + monday + shift
        hour = local_hours(at, np.zeros(len(at), np.int64), ["America/New_York"])
        age = (monday + 3 * 86_400 + shift - at) / 86_400
        counts = np.zeros((4, windows.KINDS, RUNGS, WEEK_HOURS))
        for kind, weight in enumerate((np.ones(len(at)), np.exp2(-age / 120), np.exp2(-age / 30))):
            np.add.at(counts[:, kind, 1], (user, hour), weight)
        return posterior(two_habits(), counts)[0]

    assert np.array_equal(told(0.0), told(86_400.0))


def test_a_user_is_likened_to_those_who_live_like_them() -> None:
    model = two_habits()
    shares = windows.member_share(model, windows.as_visits(model, counted([(0, 1, 8, 3.0), (1, 1, 20, 3.0)])), 0)

    assert shares[0, 24 + 8] > 1.5 * shares[1, 24 + 8]  # weekends, of which nothing was seen
    assert shares[1, 24 + 20] > 1.5 * shares[0, 24 + 20]


def test_opens_at_hours_with_many_pushes_tell_less_of_preference() -> None:
    # 200 pushes at nine and 20 at eighteen: 16 opens of many are less than 8 of few
    told = hours([(0, 0, 9, 16.0), (0, 0, 18, 8.0), (0, 3, 9, 200.0), (0, 3, 18, 20.0)])
    sent, answered = np.bincount([3, 6], [200.0, 20.0], 16), np.bincount([3, 6], [16.0, 8.0], 16)
    model = replace(with_everybody(np.zeros(WEEK_HOURS)), answers=Answers(sent, answered))

    found = windows.curves(model, told, 1)

    assert found.preference[0, 6] > found.preference[0, 3]
    naive = windows.curves(with_everybody(np.zeros(WEEK_HOURS)), told, 1)
    assert naive.preference[0, 6] < naive.preference[0, 3]


def test_typical_curves_are_found_among_users_and_known_again_from_arrays() -> None:
    rng = np.random.default_rng(1)
    counts = np.zeros((200, windows.KINDS, RUNGS, WEEK_HOURS))
    for user in range(200):
        counts[user, :, 1] = np.bincount((9 if user < 100 else 19) + rng.integers(0, 2, 30), minlength=WEEK_HOURS)
    model = with_curves_of(replace(with_everybody(np.ones(WEEK_HOURS)), burst=np.ones(RUNGS)), counts)

    prior = windows.prior_curves(model.mixtures[0], counts[[0, 150], 0, 1])
    assert prior[0, 9:11].sum() > 3 * prior[1, 9:11].sum()
    again = windows.from_arrays(model.arrays())
    assert again is not None
    assert np.array_equal(posterior(again, counts)[0], posterior(model, counts)[0])
    assert windows.from_arrays(model.arrays() | {"window_pool": np.zeros(2)}) is None


def test_without_events_the_curve_is_everybodys() -> None:
    model = with_everybody(EVERYBODY)

    found = windows.curves(model, NOTHING, 3)

    np.testing.assert_allclose(found.preference, np.broadcast_to(model.cells, (3, 16)), rtol=1e-6)
    np.testing.assert_allclose(model.cells, to_cells(model.curve[None])[0], atol=0.005)
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
    model = two_habits()
    together = windows.curves(model, hours(events), 50).preference

    for user in (0, 7, 49):
        own = [(0, *event[1:]) for event in sorted(events) if event[0] == user]
        assert np.array_equal(windows.curves(model, hours(own), 1).preference[0], together[user])


def test_the_fit_trusts_users_as_far_as_their_past_foretells_them() -> None:
    rng = np.random.default_rng(3)
    users = 300
    own_hour = rng.integers(0, 48, users)
    known = hours([(user, 1, int(own_hour[user]), 8.0) for user in range(users)])
    user = np.repeat(np.arange(users), 3)
    faithful = Visits(user, own_hour[user])
    fickle = Visits(user, rng.integers(0, 48, len(user)))

    def concentration(visits: Visits) -> np.ndarray:
        return fit(known, users, [lesson(known, users, visits)]).concentration

    assert (concentration(faithful)[:, 1] < concentration(fickle)[:, 1]).all()
    few = concentration(Visits(user[:10], own_hour[user[:10]]))
    assert np.array_equal(few, windows.DEFAULT_CONCENTRATION)


def test_events_less_than_an_hour_apart_are_one_visit() -> None:
    user = np.array([1, 0, 0, 0, 0])
    at = np.array([0.0, 7200.0, 0.0, 3599.0, 7000.0])

    assert first_of_visits(user, at).tolist() == [2, 0]


def test_cells_are_three_hours_of_a_day_type() -> None:
    share = np.zeros((1, WEEK_HOURS))
    share[0, [0, 2, 23, 24, 47]] = 0.2

    assert to_cells(share)[0].tolist() == [0.4, 0, 0, 0, 0, 0, 0, 0.2, 0.2, 0, 0, 0, 0, 0, 0, 0.2]
