"""Settlement by property: capacity is never exceeded, value decides, and nothing that fits is left out."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.planning import settlement
from engine.planning.settlement import UNLIMITED, Bids


@st.composite
def markets(draw, owners: bool = False):
    count, resources = draw(st.integers(0, 30)), draw(st.integers(1, 4))
    column = lambda values: draw(st.lists(values, min_size=count, max_size=count))  # noqa: E731 - four times the same
    bids = Bids(
        np.array(column(st.integers(UNLIMITED, resources - 1)), np.int64),
        np.array(column(st.integers(-2, 5)), float),
        np.array(column(st.booleans()), bool),
        np.array(column(st.integers(0, 3)), np.uint64),
    )
    left = np.array(draw(st.lists(st.integers(0, 5), min_size=resources, max_size=resources)), np.int64)
    return bids, left, np.array(column(st.integers(0, 8)), np.int64)


def use(bids: Bids, granted: np.ndarray, resources: int) -> np.ndarray:
    taken = bids.resource[granted]
    return np.bincount(taken[taken != UNLIMITED], minlength=resources)


@settings(max_examples=200, deadline=None)
@given(markets())
def test_capacity_goes_to_explored_pushes_and_then_by_value_and_is_used_up(market):
    bids, left, _ = market
    granted = settlement.accept(bids, left)
    used = use(bids, granted, len(left))
    assert (used <= left).all()
    for resource in range(len(left)):
        mine = bids.resource == resource
        assert used[resource] == min(mine.sum(), left[resource])
        got, lost = np.flatnonzero(mine & granted), np.flatnonzero(mine & ~granted)
        if len(got) and len(lost):
            rank = list(zip(~bids.first, -bids.net, bids.tie, strict=True))
            assert max(rank[i] for i in got) <= min(rank[i] for i in lost)
    assert granted[bids.resource == UNLIMITED].all()
    assert (settlement.remaining(bids, granted, left) == left - used).all()


@settings(max_examples=200, deadline=None)
@given(markets())
def test_refilling_gives_each_at_most_one_and_leaves_nobody_out_whom_something_would_fit(market):
    options, left, owner = market
    chosen = settlement.refill(options, owner, left)
    assert len(set(owner[chosen])) == len(chosen)
    assert (options.net[chosen] > 0).all()
    granted = np.zeros(len(owner), bool)
    granted[chosen] = True
    used = use(options, granted, len(left))
    assert (used <= left).all()
    still = left - used
    for option in np.flatnonzero((options.net > 0) & ~np.isin(owner, owner[chosen])):
        assert options.resource[option] != UNLIMITED
        assert still[options.resource[option]] == 0
