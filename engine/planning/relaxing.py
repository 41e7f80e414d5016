"""What each constraint costs: the best that could be had without it, beside what is planned (pure).

Everything is weighed at the run's prices of capacity: value − price of each user's best set, with the constraint and
without it. By the duality of the program behind the prices, the difference is what one more user's freedom is worth
while capacity stays scarce.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from engine.planning import allocation, decide, receipt
from engine.planning.decide import Goods, Options, People, Terms
from engine.planning.prices import Prices


@dataclass(frozen=True)
class Cost:
    """What a constraint cost some users: value lost, how many of them lost some, and how many of those got nothing."""

    constraint: str
    value: float
    users: int
    left_out: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.constraint, self.value + other.value, self.users + other.users, self.left_out + other.left_out)

    def scaled(self, factor: float) -> Cost:
        """The same for `factor` times the users."""
        return Cost(self.constraint, self.value * factor, round(self.users * factor), round(self.left_out * factor))


@dataclass(frozen=True)
class Weighed:
    """A block of users before the choice: people with reasons, goods, options; names: those of the terms' caps."""

    people: People
    goods: Goods
    options: Options


def best_worth(options: Options) -> np.ndarray:
    """float64[n]: value less price of each user's best set."""
    return _sum(allocation.best_sets(options.problem), options.problem.net)


def costs(terms: Terms, weighed: Weighed, caps: tuple[str, ...]) -> list[Cost]:
    """What caps (named by position), the gap, ends of offers, exploration and capacity cost these users.

    Quiet hours and allowed hours decide which windows there are and the holdout who is scored: those are for who reads
    the block (`cost`).
    """
    base = best_worth(weighed.options)
    found = [cost(name, base, best_worth(options)) for name, options in _relaxed(terms, weighed, caps)]
    found.append(_exploration(terms, weighed))
    if terms.prices.table.any():
        found.append(_capacity(terms, weighed))
    return [one for one in found if one.users]


def cost(name: str, base: np.ndarray, relaxed: np.ndarray) -> Cost:
    """The cost of the constraint between two worths float64[n] of the same users."""
    lost = np.maximum(relaxed - base, 0.0)
    losers = lost > 1e-12 + 1e-9 * np.abs(base)  # more than ties
    return Cost(name, float(lost[losers].sum()), int(losers.sum()), int((losers & (base <= 0)).sum()))


def _relaxed(terms: Terms, weighed: Weighed, caps: tuple[str, ...]) -> Iterator[tuple[str, Options]]:
    """Options without each of the constraints that binds anything here."""
    rules, people, goods, code = terms.rules, weighed.people, weighed.goods, weighed.options.code
    for r, name in enumerate(caps):
        limit = rules.rules[r].limit
        if rules.binds[r].any() and ((code == receipt.FIRST_CAP + r).any() or limit < code.shape[1]):
            binds = rules.binds.copy()
            binds[r] = False
            yield name, decide.weigh(replace(terms, rules=replace(rules, binds=binds)), people, goods)
    if rules.gap > 0:
        yield "minimum gap", decide.weigh(replace(terms, rules=replace(rules, gap=0)), people, goods)
    if (code == receipt.EXPIRED).any():
        always = replace(goods, since=np.full(goods.since.shape, -np.inf), until=np.full(goods.until.shape, np.inf))
        yield "ends of offers", decide.weigh(terms, people, always)


def _exploration(terms: Terms, weighed: Weighed) -> Cost:
    """What drawing a choice at random costs beside choosing the best, in expectation of the draw that was made."""
    choice = decide.choose(terms, weighed.people, weighed.options)
    net = weighed.options.problem.net
    best, chosen = (_sum(picked, net) for picked in (choice.best, choice.chosen))
    return cost("exploration", chosen, best)


def _capacity(terms: Terms, weighed: Weighed) -> Cost:
    """The value that scarce capacity turns away or moves to another window."""
    prices = terms.prices
    free = Prices(prices.first, np.zeros(prices.table.shape), prices.of)
    unpriced = decide.weigh(replace(terms, prices=free), weighed.people, weighed.goods)
    value = weighed.options.value
    paid = _sum(allocation.best_sets(weighed.options.problem), value)
    return cost("capacity", paid, _sum(allocation.best_sets(unpriced.problem), value))


def _sum(chosen: np.ndarray, of: np.ndarray) -> np.ndarray:
    """float64[n]: the sum over the chosen options of `of` [n, O, K, W]."""
    n, occurrences = chosen.shape
    flat = of.reshape(n, occurrences, -1)
    picked = np.take_along_axis(flat, np.maximum(chosen, 0)[..., None], 2)[..., 0]
    total: np.ndarray = np.where(chosen >= 0, picked, 0.0).sum(1)
    return total
