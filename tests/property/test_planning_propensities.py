"""Propensities by property: every chance enumerated, the share of each choice is what its decision says."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.planning import arms, chance, decide, limits, record, windows
from engine.planning.decide import OPEN, Goods, People, Terms
from engine.planning.inbox import Rivals, no_rivals
from engine.planning.limits import Rule, Rules, Sends
from engine.planning.offers import MISSING
from engine.planning.prices import free, rates
from engine.planning.record import Weighed
from engine.planning.worth import Weights

SHARE = Fraction(1, 4)
HOUR = 3_600.0
STEPS = 8
"""Draws of the explore arm: an eighth of them each, of which a quarter explore."""


def terms_of(rules: Rules) -> Terms:
    one = np.ones(1)
    return Terms(
        secret=bytes(16),
        seed=1,
        campaigns=np.array([7]),
        versions=np.ones(1, np.int32),
        holdout=np.zeros(1),
        everywhere=0.0,
        exploration=np.array([float(SHARE)]),
        once=np.zeros(1, bool),
        displaces=np.ones(1, bool),
        weights=Weights(one, one * 0, one * 0, one * 0, one),
        rules=rules,
        prices=free(rates(0, np.zeros((0, 1), np.int64), np.array([-1], np.int32))),
        model=0,
        regime=0,
        policy=1,
        library=(0, 0, 0),
    )


def table_of(count: int) -> windows.Table:
    """`count` windows, four hours apart, on days of their own."""
    first = 1e6 + np.arange(count)[None, None, :] * 4 * HOUR
    return windows.Table(
        first=first,
        length=np.full(first.shape, HOUR),
        end=first + 3 * HOUR,
        slot=first,
        cell=np.zeros(first.shape, np.int8),
        day=np.arange(count, dtype=np.int32)[None, None, :] + 1,
        why=np.full((1, 1), "", "U11"),
        until=np.full((1, 1), 1e9),
    )


def people_of(users: int, width: int, rival: tuple[int, float] | None) -> People:
    """Users who are all alike; `rival`: the day and value of a push that each is planned to get already."""
    none = no_rivals(users, 1)
    sends = limits.no_sends(users, 1)
    if rival is not None:
        day, value = rival
        at = np.full(users, int((1e6 + day * 4 * HOUR + HOUR) * 1e6))
        yes = np.ones(users, bool)
        column = at[:, None]
        sends = Sends(np.arange(users + 1), at, np.full(users, day + 1, np.int32), yes[None], yes[None], yes, yes)
        flag = np.ones((1, 1), bool)
        none = Rivals(
            occurrence=np.full((users, 1), 9),
            value=np.full((users, 1), value),
            at=column,
            day=np.full((users, 1), day + 1, np.int32),
            item=np.full((users, 1), -1),
            category=np.full((users, 1), -1, np.int32),
            send=np.arange(users)[:, None],
            binds=flag,
            counted=flag,
            gap_binds=flag[0],
            gap_counted=flag[0],
        )
    return People(
        users=np.arange(users),
        reason=np.full((users, 1), OPEN, np.int8),
        group=np.zeros(users, np.int32),
        table=table_of(width),
        sends=sends,
        rivals=none,
    )


def goods_of(users: int, score: np.ndarray) -> Goods:
    offers, width = score.shape
    item = np.where(np.isnan(score).all(1), MISSING, np.arange(offers))
    place = np.broadcast_to(item, (users, 1, offers))
    edge = np.broadcast_to(np.inf, place.shape)
    return Goods(
        place=place.astype(np.int32),
        related=np.zeros(place.shape, np.float32),
        item=place.astype(np.int64),
        category=np.full(place.shape, -1, np.int32),
        since=-edge,
        until=edge,
        score=np.broadcast_to(score.astype(np.float32), (users, 1, offers, width)),
        annoyed=np.zeros(users),
    )


def decided(terms: Terms, score: np.ndarray, rival: Any, draws: list[tuple[float, float]]) -> record.Decided:
    """Decisions for one user for each pair of draws (of the arm, and of the explored option)."""
    people, goods = people_of(len(draws), score.shape[1], rival), goods_of(len(draws), score)
    options = decide.weigh(terms, people, goods)
    arm, pick = np.array(draws).T
    kinds = {chance.key_of(terms.secret, "explore", 1): arm, chance.key_of(terms.secret, "explored", 1): pick}
    real = chance.uniform

    def enumerated(key: int, *ids: np.ndarray) -> np.ndarray:
        return kinds[key][ids[0]] if key in kinds else real(key, *ids)

    with patch.object(chance, "uniform", enumerated):
        choice = decide.choose(terms, people, goods, options)
    return record.record(terms, Weighed(people, goods, options, choice), 0.0)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_share_of_every_choice_is_the_propensity_that_its_decision_records(data):
    offers, width = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    # All scores differ: ties are broken by the user's hash, and these users are to be one and the same.
    known = data.draw(st.lists(st.booleans(), min_size=offers * width, max_size=offers * width))
    order = np.array(data.draw(st.permutations(range(1, offers * width + 1)))) / 10.0
    score = np.where(known, order, np.nan).reshape(offers, width)
    rival = data.draw(st.none() | st.tuples(st.integers(0, width - 1), st.sampled_from([0.05, 0.35, 2.0])))
    cap, yes = Rule(1, "day"), np.ones((1, 1), bool)
    terms = terms_of(Rules((cap,), yes, yes, 0, yes[0], yes[0]))
    alone = decided(terms, score, rival, [(0.99, 0.0)])
    size = int(alone.head[0]["options"])
    draws = [((i + 0.5) / STEPS, (j + 0.5) / size) for i in range(STEPS) for j in range(size)]
    found = decided(terms, score, rival, draws)

    counted: Counter[Any] = Counter()
    told: dict[Any, set[float]] = {}
    for item, slot, p in zip(found.item, found.slot, found.propensity, strict=True):
        key = None if np.isnan(slot) else (int(item), float(slot))
        counted[key] += 1
        told.setdefault(key, set()).add(round(float(p), 12))
    for key, count in counted.items():
        assert sorted(told[key]) == pytest.approx([count / len(draws)])
    assert sum(min(values) for values in told.values()) == pytest.approx(1.0)
    explored = int((found.arm == arms.EXPLORE).sum())
    assert explored == (len(draws) * SHARE if size > 1 else 0)
    if rival is not None and rival[1] == 2.0:  # worth more than any offer: it keeps its day
        assert 1e6 + rival[0] * 4 * HOUR not in found.slot
