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
            rank = list(zip(~bids.first, np.where(bids.first, 0.0, -bids.net), bids.tie, strict=True))
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


@st.composite
def wide_markets(draw):
    """Bids that use up to three things at once."""
    count, each = draw(st.integers(0, 14)), draw(st.integers(1, 3))
    column = lambda values: draw(st.lists(values, min_size=count, max_size=count))  # noqa: E731 - again and again
    uses = np.array([column(st.integers(UNLIMITED, each - 1)) for _ in range(3)], np.int64).reshape(3, count).T
    resource = np.where(uses == UNLIMITED, UNLIMITED, uses + each * np.arange(3))
    left = np.array(draw(st.lists(st.integers(0, 3), min_size=3 * each, max_size=3 * each)), np.int64)
    net, tie = np.array(column(st.integers(1, 6)), float), np.arange(count).astype(np.uint64)
    return Bids(resource, net, np.array(column(st.integers(0, 2)), np.int8), tie), left


@settings(max_examples=300, deadline=None)
@given(wide_markets())
def test_accepting_by_rounds_is_accepting_one_after_the_other(market):
    bids, left = market
    rest, expected = left.copy(), np.zeros(len(bids.net), bool)
    for i in sorted(range(len(bids.net)), key=lambda i: (-bids.first[i], -bids.net[i] * (bids.first[i] == 0), i)):
        mine = bids.resource[i][bids.resource[i] != UNLIMITED]
        if (rest[mine] > 0).all():
            expected[i] = True
            rest[mine] -= 1
    assert (settlement.accept(bids, left) == expected).all()


@settings(max_examples=300, deadline=None)
@given(wide_markets(), wide_markets())
def test_taking_places_only_ever_gains_and_never_exceeds_a_capacity(market, standing):
    bids, left = market
    left = np.resize(left, max(len(left), len(standing[1])))
    granted = settlement.accept(bids, left)
    left = settlement.remaining(bids, granted, left)
    losers, incumbents = bids.of(np.flatnonzero(~granted)), standing[0]
    loser, incumbent = settlement.replace(losers, incumbents, left)

    assert len(set(loser.tolist())) == len(loser)
    assert len(set(incumbent.tolist())) == len(incumbent)
    assert (losers.net[loser] > incumbents.net[incumbent]).all()
    freed = left + settlement.count(incumbents.uses[incumbent], len(left))
    assert (settlement.count(losers.uses[loser], len(left)) <= freed).all()
