"""Breakers, buckets and the volume breaker, without a store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.delivery import breaker, buckets, volume
from engine.delivery.breaker import Heard
from engine.delivery.buckets import Bucket
from engine.delivery.volume import Volume

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def opened(trips: int = 0) -> breaker.Breaker:
    state = breaker.after(breaker.new(NOW), Heard(100, 100, "HTTP 503"), NOW)
    for _ in range(trips):
        assert state.until is not None
        state = breaker.after(breaker.probed(state, state.until, seconds(30)), Heard(1, 1, "HTTP 503"), state.until)
    return state


@pytest.mark.parametrize(
    ("answers", "failures", "state"),
    [(9, 9, "closed"), (10, 10, "open"), (20, 10, "open"), (21, 10, "closed"), (1000, 499, "closed")],
)
def test_a_breaker_opens_at_half_of_enough_failures(answers: int, failures: int, state: str) -> None:
    assert breaker.after(breaker.new(NOW), Heard(answers, failures), NOW).state == state


def test_failures_count_together_within_a_window_and_are_forgotten_after_it() -> None:
    some = breaker.after(breaker.new(NOW), Heard(9, 9, "reset"), NOW)

    assert breaker.after(some, Heard(1, 1), NOW + seconds(29)).state == "open"
    assert breaker.after(some, Heard(1, 1), NOW + seconds(29)).why == "reset"
    assert breaker.after(some, Heard(1, 1), NOW + seconds(31)).state == "closed"


def test_an_open_breaker_lets_nothing_then_one_then_all_again() -> None:
    state = opened()
    later = NOW + breaker.FIRST

    assert breaker.way(state, later - seconds(0.001)) == "none"
    assert breaker.way(state, later) == "one"
    probing = breaker.probed(state, later, seconds(30))
    assert breaker.way(probing, later + seconds(29)) == "none"
    assert breaker.way(probing, later + seconds(30)) == "one"  # whoever probed is gone
    assert breaker.way(breaker.unprobed(probing, later), later) == "one"
    assert breaker.way(breaker.after(probing, Heard(1, 0), later), later) == "all"
    assert breaker.way(None, later) == "all"


def test_a_breaker_stays_open_twice_as_long_each_time_until_a_whole_window_went_well() -> None:
    lengths = [state.until - state.since for trips in range(9) if (state := opened(trips)).until]

    assert lengths[:3] == [seconds(5), seconds(10), seconds(20)]
    assert lengths[-1] == breaker.LONGEST
    again = opened(2)
    assert again.until is not None
    closed = breaker.after(breaker.probed(again, again.until, seconds(30)), Heard(1, 0), again.until)
    assert breaker.after(closed, Heard(10, 10), again.until).trips == 4
    assert breaker.after(closed, Heard(10, 10), again.until + seconds(31)).trips == 1


def test_what_was_under_way_when_a_breaker_opened_changes_nothing() -> None:
    assert breaker.after(opened(), Heard(300, 0), NOW) == opened()
    assert breaker.after(opened(), Heard(300, 300), NOW) == opened()


@given(
    st.integers(1, 2_000), st.lists(st.tuples(st.floats(0, 20), st.integers(1, 500)), max_size=60), st.floats(0, 100)
)
def test_no_minute_wherever_it_begins_sees_more_than_the_rate(
    most: int, asked: list[tuple[float, int]], start: float
) -> None:
    rate, bucket, now = buckets.per_minute(most), None, NOW
    sent: list[tuple[float, int]] = []
    for wait, number in asked:
        now += seconds(wait)
        granted = min(number, int(buckets.level(bucket, rate, now)))
        bucket = buckets.changed(bucket, rate, -granted, now)
        sent.append(((now - NOW).total_seconds(), granted))

    assert sum(number for at, number in sent if start <= at < start + 60) <= most
    assert most == 1 or all(buckets.level(None, buckets.per_minute(n), NOW) >= 1 for n in (1, most))


def test_a_bucket_fills_up_to_its_burst_and_to_no_more() -> None:
    rate = buckets.per_minute(600)
    empty = Bucket(0.0, NOW)

    assert rate.burst == 50
    assert buckets.level(empty, rate, NOW + seconds(1)) == pytest.approx(551 / 60)
    assert buckets.level(empty, rate, NOW + timedelta(days=1)) == 50
    assert buckets.changed(empty, rate, 1e9, NOW).level == 50


def test_a_rest_that_was_asked_for_is_kept_with_and_without_a_rate() -> None:
    rests = buckets.emptied(None, NOW + seconds(30))
    rate = buckets.per_minute(600)

    for given_rate in (None, rate):
        assert buckets.level(rests, given_rate, NOW + seconds(29)) == 0
    assert buckets.level(rests, None, NOW + seconds(30)) == buckets.UNLIMITED
    assert buckets.level(rests, rate, NOW + seconds(31)) == pytest.approx(551 / 60)
    assert buckets.changed(rests, rate, 5, NOW) == rests  # what is given back meanwhile does not end it
    assert buckets.emptied(rests, NOW + seconds(10)) == rests


@given(
    st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(1, 5)), max_size=20),
    st.dictionaries(st.sampled_from("ab"), st.floats(0, 30)),
)
def test_who_is_admitted_gets_all_they_want_and_together_no_more_than_there_is(
    wants: list[dict[str, int]], levels: dict[str, float]
) -> None:
    short = buckets.admit(wants, levels)

    for key, there in levels.items():
        taken = sum(want.get(key, 0) for want, lacks in zip(wants, short, strict=True) if lacks is None)
        assert taken <= there
        assert all(want[key] > there - taken for want, lacks in zip(wants, short, strict=True) if lacks == key)
    assert all(lacks is None or lacks in levels for lacks in short)


@pytest.mark.parametrize(
    ("seen", "stops"),
    [
        (Volume(0, 49, 49), False),
        (Volume(0, 50, 10), False),
        (Volume(0, 50, 11), True),
        (Volume(1_000_000, 1_000_000, 200_000), False),
        (Volume(1_000_000, 1_000_000, 200_001), True),
    ],
)
def test_more_than_a_fifth_of_errors_is_too_many(seen: Volume, stops: bool) -> None:
    assert (volume.too_many_errors(seen) is not None) == stops


def test_more_than_ten_pushes_for_each_reachable_user_are_too_much() -> None:
    assert volume.too_much(Volume(1_000, 1_000, 0), 100) is None
    assert volume.too_much(Volume(1_001, 1_001, 0), 100) is not None
    assert volume.too_much(Volume(11, 11, 0), 0) is not None


@given(st.integers(0, 50), st.integers(0, 20))
def test_users_are_counted_wherever_the_limit_could_be_passed(reachable: int, occurrences: int) -> None:
    most = Volume(reachable * occurrences, reachable * occurrences, 0)  # a user gets one push of an occurrence

    assert volume.may_be_too_much(most, occurrences) or volume.too_much(most, reachable) is None
