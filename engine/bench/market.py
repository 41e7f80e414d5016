"""Markets for `horae bench allocate`: users, offers and windows as a run's arrays, without a database.

Two campaigns of half the offers each compete for users; both have a capacity per quarter-hour. Users obey a cap of one
push in any 20 hours and one of two in three days, and a minimum gap of 4 hours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from engine.campaigns.definition import Campaign
from engine.planning import windows
from engine.planning.decide import OPEN, Goods, People, Terms
from engine.planning.inbox import no_rivals
from engine.planning.limits import Rule, Rules, no_sends
from engine.planning.occasions import Occasion
from engine.planning.prices import QUARTER, Capacities, Prices, free, rates
from engine.planning.worth import Weights

START = datetime(2026, 3, 2, 12, tzinfo=UTC)
OCCURRENCES, WINDOWS, RULES = 2, 7, 2
HOUR = 3600.0
SPREAD = 0.24 * HOUR
"""Pushes of a window are due in one quarter-hour: capacity is then a window's."""

THIN = 2.75 * HOUR
"""Of the scenario "thin": pushes are due in any of a window's twelve quarter-hours, each of which has its capacity."""

CLOSE = 20 * 3_600_000_000
"""A user gets one push in so many microseconds."""

SCENARIOS = ("random", "scarce", "identical windows", "equal values", "coarse ties", "thin")
SHARES = {"scarce": 0.03}
"""Capacity of all pushes, as a share of users × occurrences; elsewhere COMMON."""

COMMON = 0.35


@dataclass(frozen=True)
class Market:
    """A market: terms at prices of zero, its users (in blocks' order), goods, capacities and occurrences."""

    terms: Terms
    people: People
    goods: Goods
    capacities: Capacities
    occasions: tuple[Occasion, ...]

    def with_prices(self, prices: Prices) -> Terms:
        """The terms at prices."""
        return replace(self.terms, prices=prices)

    def part(self, rows: slice) -> tuple[People, Goods]:
        """The users of `rows` alone, as a shard has them."""
        users = self.people.users[rows]
        people = People(
            users,
            self.people.reason[rows],
            self.people.group[rows],
            self.people.table,
            no_sends(len(users), RULES),
            no_rivals(len(users), RULES),
        )
        return people, Goods(*(getattr(self.goods, name)[rows] for name in Goods.__dataclass_fields__))


def market(scenario: str, users: int, offers: int, seed: int) -> Market:
    """A market of a scenario, one of SCENARIOS; `offers` of both campaigns together."""
    rng = np.random.default_rng([seed, users, offers, SCENARIOS.index(scenario)])
    each = offers // OCCURRENCES
    shape = (users, OCCURRENCES, each, WINDOWS)
    score = _scores(scenario, rng, shape)
    item = np.stack([rng.permuted(np.tile(np.arange(40), (users, 1)), axis=1)[:, :each] for _ in range(OCCURRENCES)], 1)
    item = item.astype(np.int64)
    group = np.zeros(users, np.int32)
    table = _table(THIN if scenario == "thin" else SPREAD)
    occasions = tuple(_occasion(o) for o in range(OCCURRENCES))
    capacities = _capacities(table, users, SHARES.get(scenario, COMMON))
    people = People(
        np.arange(1, users + 1, dtype=np.int64),
        np.full((users, OCCURRENCES), OPEN, np.int8),
        group,
        table,
        no_sends(users, RULES),
        no_rivals(users, RULES),
    )
    goods = Goods(
        place=item.astype(np.int32),
        related=np.zeros(item.shape, np.float32),
        item=item,
        category=np.full(item.shape, -1, np.int32),
        since=np.full(item.shape, -np.inf),
        until=np.full(item.shape, np.inf),
        score=score.astype(np.float32),
        annoyed=np.zeros(users),
    )
    return Market(_terms(seed, free(capacities)), people, goods, capacities, occasions)


def _scores(scenario: str, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """P(click) of each (offer, window): an appeal of the offer times the user's hours."""
    users, _, _, count = shape
    if scenario == "equal values":
        return np.full(shape, 0.05)
    appeal = np.exp(rng.normal(-3.2, 0.9, (*shape[:3], 1)))
    if scenario == "identical windows":
        return np.broadcast_to(np.clip(appeal, 1e-4, 1.0), shape)
    hours = np.exp(rng.normal(0.0, 0.6, (users, 1, 1, count)))
    score = np.clip(appeal * hours / hours.max(3, keepdims=True), 1e-4, 1.0)
    coarse: np.ndarray = np.round(score * 50) / 50 + 0.01
    return coarse if scenario == "coarse ties" else np.asarray(score)


def _table(spread: float) -> windows.Table:
    """Seven windows of everybody, 3 hours long, over two days; pushes are due within `spread` of their beginning."""
    shape = (1, OCCURRENCES, WINDOWS)
    slots = np.array([0, 3, 6, 9, 21, 24, 27]) * HOUR
    first = np.broadcast_to(START.timestamp() + slots, shape).copy()
    return windows.Table(
        first=first,
        length=np.full(shape, spread),
        end=first + 3 * HOUR,
        slot=first,
        cell=np.broadcast_to(np.arange(WINDOWS), shape).astype(np.int8),
        day=np.broadcast_to(1 + slots // (18 * HOUR), shape).astype(np.int32),
        why=np.full(shape[:2], "", "U11"),
        until=np.full(shape[:2], START.timestamp() + 96 * HOUR),
    )


def _capacities(table: windows.Table, users: int, share: float) -> Capacities:
    """The same for both campaigns in every quarter-hour in which pushes are due, `share` of all together."""
    first, last = int(START.timestamp() // QUARTER), int(table.end.max() // QUARTER)
    quarters = (first + np.arange(last - first)) * QUARTER
    begins, ends = table.first[0, 0, :, None], (table.first + table.length)[0, 0, :, None]
    due = ((begins < quarters + QUARTER) & (quarters < ends)).any(0)
    each = max(int(share * users / due.sum()), 1)
    left = np.where(due, each, 0)[None, :].repeat(OCCURRENCES, 0).astype(np.int64)
    return rates(first, left, np.arange(OCCURRENCES, dtype=np.int32))


def _occasion(number: int) -> Occasion:
    definition: dict[str, Any] = {
        "name": f"campaign-{number}",
        "class": "marketing",
        "horizon": "4d",
        "exploration": 0.0,
        "capacity_per_quarter": 1,
        "message": {"title": "Hello", "body": "x"},
    }
    return Occasion(
        number + 1, number + 1, 1, str(number), START, START + timedelta(hours=96), Campaign.model_validate(definition)
    )


def _terms(seed: int, prices: Prices) -> Terms:
    hour = 3_600_000_000
    rules = (Rule(1, "rolling", CLOSE), Rule(2, "rolling", 72 * hour))
    everyone = np.ones((len(rules), OCCURRENCES), bool)
    yes = np.ones(OCCURRENCES, bool)
    return Terms(
        secret=b"bench allocate",
        seed=seed,
        campaigns=np.arange(1, OCCURRENCES + 1, dtype=np.int64),
        versions=np.ones(OCCURRENCES, np.int32),
        holdout=np.zeros(OCCURRENCES),
        everywhere=0.0,
        exploration=np.zeros(OCCURRENCES),
        once=yes,
        displaces=~yes,
        weights=Weights(*(np.full(OCCURRENCES, each) for each in (1.0, 0.0, 0.0, 0.0, 1.0))),
        rules=Rules(rules, everyone, everyone, 4 * hour, yes, yes),
        prices=prices,
        model=0,
        regime=0,
        policy=1,
        library=(0, 0, 0),
    )
