"""Triggers of a user: the re-entry limit holds in every stretch of time, whatever comes in which order and batches."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.planning.following import Follow, Happening, Known, follow, room_for

ITEMS = st.sampled_from([None, 1, 2])
RULES = st.builds(Follow, st.booleans(), st.integers(1, 3), st.sampled_from([None, 10.0, 60.0]))
HAPPENED = st.lists(st.tuples(st.integers(0, 200), ITEMS, st.booleans(), st.booleans()), min_size=1, max_size=25).map(
    lambda found: [Happening(float(at), item, f"e{n}", a, c) for n, (at, item, a, c) in enumerate(found)]
)


@given(rules=RULES, happened=HAPPENED)
def test_in_every_stretch_of_the_period_at_most_the_limit_is_armed(rules, happened):
    armed = [one.at for one in follow(rules, [], happened).armed]

    if rules.per is None:
        assert len(armed) <= rules.limit
    else:
        assert all(sum(start <= at < start + rules.per for at in armed) <= rules.limit for start in armed)


@given(rules=RULES, happened=HAPPENED, cut=st.integers(0, 25))
def test_the_limit_holds_also_where_events_come_in_batches_and_late(rules, happened, cut):
    first = follow(rules, [], happened[:cut])
    known = [Known(n, one.at, one.item, fired=n % 2 == 0) for n, one in enumerate(first.armed)]

    second = follow(rules, known, happened[cut:])

    standing = [one.at for one in known if one.fired or one.id not in second.cancelled]
    times = standing + [one.at for one in second.armed]
    if rules.per is None:
        assert len(times) <= rules.limit
    else:
        assert all(sum(start <= at < start + rules.per for at in times) <= rules.limit for start in times)


@given(rules=RULES, happened=HAPPENED, order=st.randoms(use_true_random=False))
def test_the_order_in_which_a_batch_came_in_changes_nothing(rules, happened, order):
    shuffled = list(happened)
    order.shuffle(shuffled)

    assert follow(rules, [], shuffled) == follow(rules, [], happened)


@given(rules=RULES, happened=HAPPENED)
def test_nothing_stays_armed_that_a_later_event_calls_off(rules, happened):
    for one in follow(rules, [], happened).armed:
        for other in happened:
            about_it = not rules.cancel_by_item or (other.item is not None and other.item == one.item)
            assert not (other.cancels and other.at > one.at and about_it)


@given(happened=HAPPENED, limit=st.integers(1, 3))
def test_everything_that_arms_is_armed_refused_or_called_off(happened, limit):
    found = follow(Follow(False, limit, None), [], [Happening(h.at, h.item, h.source, h.arms, False) for h in happened])

    assert len(found.armed) + found.refused == sum(one.arms for one in happened)


def test_an_event_that_both_calls_off_and_arms_starts_the_delay_anew():
    carts = [Happening(float(at), 1, f"e{at}", arms=True, cancels=True) for at in (0, 5, 9)]

    assert [one.at for one in follow(Follow(False, 1, 60.0), [], carts).armed] == [9.0]


def test_a_period_ends_before_its_last_instant():
    assert room_for([0.0], 10.0, 1, 10.0)
    assert not room_for([0.0], 9.999, 1, 10.0)
    assert not room_for([20.0], 10.001, 1, 10.0)  # late: what happened later was armed before
