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
from engine.planning.decide import Choice, Goods, Options, People, Terms


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


def best_worth(terms: Terms, weighed: Weighed) -> np.ndarray:
    """float64[n]: value less price of each user's best set, and less the planned pushes that give way to it."""
    exploiting = replace(terms, exploration=np.zeros(len(terms.exploration)))
    return _worth(weighed, decide.choose(exploiting, weighed.people, weighed.goods, weighed.options))


def costs(terms: Terms, weighed: Weighed, caps: tuple[str, ...]) -> list[Cost]:
    """What caps (named by position), the gap, ends of offers, exploration and capacity cost these users.

    Quiet hours and allowed hours decide which windows there are and the holdout who is scored: those are for who reads
    the block (`cost`).
    """
    base = best_worth(terms, weighed)
    found = []
    for name, freer, goods in _relaxed(terms, weighed, caps):
        options = decide.weigh(freer, weighed.people, goods)
        found.append(cost(name, base, best_worth(freer, Weighed(weighed.people, goods, options))))
    drawn = decide.choose(terms, weighed.people, weighed.goods, weighed.options)
    found.append(cost("exploration", _worth(weighed, drawn), base))
    if terms.prices.highest():
        found.append(_capacity(terms, weighed))
    return [one for one in found if one.users]


def cost(name: str, base: np.ndarray, relaxed: np.ndarray) -> Cost:
    """The cost of the constraint between two worths float64[n] of the same users."""
    gain = relaxed - base
    losers = gain > 1e-12 + 1e-9 * np.abs(base)  # more than ties
    return Cost(name, float(gain.sum()), int(losers.sum()), int((losers & (base <= 0)).sum()))


def _relaxed(terms: Terms, weighed: Weighed, caps: tuple[str, ...]) -> Iterator[tuple[str, Terms, Goods]]:
    """Terms and goods without each of the constraints that may bind anything here."""
    rules, goods, code = terms.rules, weighed.goods, weighed.options.code
    for r, name in enumerate(caps):
        binding = (code == receipt.FIRST_CAP + r).any() or rules.rules[r].limit < code.shape[1]
        if rules.binds[r].any() and binding:
            binds = rules.binds.copy()
            binds[r] = False
            yield name, replace(terms, rules=replace(rules, binds=binds)), goods
    if rules.gap > 0:
        yield "minimum gap", replace(terms, rules=replace(rules, gap=0)), goods
    if (code == receipt.EXPIRED).any():
        always = replace(goods, since=np.full(goods.since.shape, -np.inf), until=np.full(goods.until.shape, np.inf))
        yield "ends of offers", terms, always


def _capacity(terms: Terms, weighed: Weighed) -> Cost:
    """The value that scarce capacity turns away or moves to another window."""
    unpriced = replace(terms, prices=terms.prices.none())
    options = decide.weigh(unpriced, weighed.people, weighed.goods)
    paid = _sum(allocation.best_sets(weighed.options.problem), weighed.options.value)
    return cost("capacity", paid, _sum(allocation.best_sets(options.problem), options.value))


def _worth(weighed: Weighed, choice: Choice) -> np.ndarray:
    options, rivals = weighed.options, weighed.people.rivals
    net = np.maximum(options.value - options.price[:, :, None, :] - options.charge[..., None], 0.0)
    given_up = np.where(choice.displaced, rivals.value, 0.0).sum(1)
    total: np.ndarray = _sum(choice.chosen, net) - given_up
    return total


def _sum(chosen: np.ndarray, of: np.ndarray) -> np.ndarray:
    """float64[n]: the sum over the chosen options of `of` [n, O, K, W]."""
    n, occurrences = chosen.shape
    flat = of.reshape(n, occurrences, -1)
    picked = np.take_along_axis(flat, np.maximum(chosen, 0)[..., None], 2)[..., 0]
    total: np.ndarray = np.where(chosen >= 0, picked, 0.0).sum(1)
    return total
