"""Prices of scarce capacity, from an exact linear program over a sample of users (pure).

Scarce are a campaign's pushes and a gateway's per UTC quarter-hour, a campaign's budget of pushes, and pushes about an
item whose stock is low. Every user then weighs value − price on their own, so shards
need not know of each other, and settlement corrects what a sample cannot know. Against the exact optimum of everybody
together, first come first served reached 0.86–0.92, capacity split over shards 0.94–0.99, this scheme 0.9956–1.0.

In the program a push uses the quarters of its window evenly, because within the window its minute is a keyed hash: so
prices are smooth, and quarters that every window treats alike are one constraint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

QUARTER = 900.0
"""Seconds of a quarter-hour."""

UNLIMITED = -1
SAMPLE_USERS = 4_000
JITTER = 0.02
"""Sampled values are moved by up to this share, by hash: equal values would give one price to all or to none."""


def quarter_of(at: np.ndarray) -> np.ndarray:
    """The UTC quarter-hours (int64, since 1970) of instants in epoch seconds."""
    return np.floor(at / QUARTER).astype(np.int64)


@dataclass(frozen=True)
class Capacities:
    """What may still be sent. left int64[C, Q]: pushes of rate row c (a campaign or a gateway) in quarter first + q;
    of int32[D, O]: the rate rows that each occurrence uses; budget int64[B], budget_of int32[O]: of campaigns; stock
    int64[S], stock_items int64[S] sorted ids: pushes about items. UNLIMITED where an occurrence has none.

    As one list of resources, that `resources` counts in: rate rows by quarters, budgets, items.
    """

    first: int
    left: np.ndarray
    of: np.ndarray
    budget: np.ndarray
    budget_of: np.ndarray
    stock: np.ndarray
    stock_items: np.ndarray

    def bounded(self) -> bool:
        """Whether anything is scarce for any occurrence."""
        return bool((self.of >= 0).any() or (self.budget_of >= 0).any() or len(self.stock))

    def all_bounded(self) -> bool:
        """Whether every occurrence has a rate or a budget."""
        return bool(((self.of >= 0).any(0) | (self.budget_of >= 0)).all())

    def flat(self) -> np.ndarray:
        """int64[R]: what is left of every resource."""
        return np.concatenate([self.left.reshape(-1), self.budget, self.stock])

    @property
    def rates(self) -> int:
        """How many resources are rates; those behind are budgets and items."""
        return int(self.left.size)

    def resources(self, occurrence: np.ndarray, send_at: np.ndarray, item: np.ndarray) -> np.ndarray:
        """int64[m, D + 2]: what pushes (occurrence int, send_at epoch seconds, item id int64) use up; UNLIMITED where
        nothing."""
        quarters = self.left.shape[1]
        quarter = np.clip(quarter_of(send_at) - self.first, 0, quarters - 1)
        rows = self.of[:, occurrence].T.astype(np.int64)
        rate = np.where(rows >= 0, rows * quarters + quarter[:, None], UNLIMITED)
        budget = self.budget_of[occurrence].astype(np.int64)
        budget = np.where(budget >= 0, budget + self.rates, UNLIMITED)
        place = _place(self.stock_items, item)
        stock = np.where(place >= 0, place + self.rates + len(self.budget), UNLIMITED)
        return np.concatenate([rate, budget[:, None], stock[:, None]], axis=1)


@dataclass(frozen=True)
class Prices:
    """What a push has to be worth for each thing it uses up, float64 ≥ 0, shaped as Capacities: table[C, Q] with
    of int32[D, O], budget[B] with budget_of int32[O], stock[S] with stock_items int64[S]."""

    first: int
    table: np.ndarray
    of: np.ndarray
    budget: np.ndarray
    budget_of: np.ndarray
    stock: np.ndarray
    stock_items: np.ndarray

    def at(self, instants: np.ndarray) -> np.ndarray:
        """The price of each candidate instant, float64[n, O, W], of instants [n, O, W] in epoch seconds."""
        total = np.zeros(instants.shape)
        if not self.table.any():
            return total
        columns = np.clip(quarter_of(instants) - self.first, 0, self.table.shape[1] - 1)
        for of in self.of:
            priced = self.table[np.maximum(of, 0)[None, :, None], columns]
            total += np.where((of >= 0)[None, :, None], priced, 0.0)
        return total

    def of_offers(self, item: np.ndarray) -> np.ndarray:
        """The price of each offer beside its instant, float64[n, O, K], of items int64[n, O, K] (ids)."""
        own = np.where(self.budget_of >= 0, np.append(self.budget, 0.0)[self.budget_of], 0.0)
        place = _place(self.stock_items, item)
        total: np.ndarray = own[None, :, None] + np.append(self.stock, 0.0)[place]
        return total

    def none(self) -> Prices:
        """The same with every price zero."""
        table, budget, stock = (np.zeros(each.shape) for each in (self.table, self.budget, self.stock))
        return replace(self, table=table, budget=budget, stock=stock)

    def highest(self) -> float:
        """No push pays more than this."""
        parts = [self.table.max(initial=0.0) * len(self.of), self.budget.max(initial=0.0), self.stock.max(initial=0.0)]
        return float(sum(parts))

    def to_json(self) -> dict[str, Any]:
        """For `runs.prices`: exact, since JSON keeps float64."""
        return {name: value if name == "first" else value.tolist() for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Prices:
        """The inverse of to_json."""
        real = {"table", "budget", "stock"}
        arrays = {
            name: np.array(value, np.float64 if name in real else np.int64 if name == "stock_items" else np.int32)
            for name, value in stored.items()
            if name != "first"
        }
        return cls(first=int(stored["first"]), **arrays)


def rates(first: int, left: np.ndarray, of: np.ndarray) -> Capacities:
    """Capacities of rates alone, one row for each occurrence: left int64[C, Q], of int32[O]."""
    none = np.zeros(0, np.int64)
    return Capacities(first, left, of.reshape(1, -1), none, np.full(len(of), UNLIMITED, np.int32), none, none)


def shared(capacities: Capacities, share: float) -> Capacities:
    """A share of everything, rounded down: what a sample of the users may use up."""
    parts = (capacities.left, capacities.budget, capacities.stock)
    left, budget, stock = (np.floor(each * share).astype(np.int64) for each in parts)
    return replace(capacities, left=left, budget=budget, stock=stock)


def _place(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Positions of `wanted` in the sorted `ids`, −1 where absent."""
    if not len(ids):
        return np.full(wanted.shape, -1, np.int64)
    at = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    return np.where(ids[at] == wanted, at, -1)


def free(capacities: Capacities) -> Prices:
    """Prices of zero."""
    return priced(capacities, np.zeros(len(capacities.flat())))


def priced(capacities: Capacities, flat: np.ndarray) -> Prices:
    """The prices `flat` float64[R] of the resources, as `Capacities.flat` lists them."""
    c, rates, budgets = capacities, capacities.rates, capacities.rates + len(capacities.budget)
    table, stock = flat[:rates].reshape(c.left.shape), flat[budgets:]
    dear = np.flatnonzero(stock)  # of a catalogue hardly any item is short
    return Prices(c.first, table, c.of, flat[rates:budgets], c.budget_of, stock[dear], c.stock_items[dear])


@dataclass(frozen=True)
class Sample:
    """Sampled users: value float64[n, O, W] of the best offer of each window (−inf: none), its item int64[n, O, W] (an
    id), begin, end of the instants at which it may be sent, float64[n, O, W], most int[n]: pushes that the user's caps
    allow together."""

    value: np.ndarray
    item: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    most: np.ndarray


def solve_prices(sample: Sample, capacities: Capacities, share: float) -> Prices:
    """The prices at which demand meets capacity: dual values of the program in which the sample, `share` of all users,
    has that share of every capacity."""
    none = free(capacities)
    sample = replace(sample, value=_needed(sample.value, capacities))
    columns = np.nonzero(np.isfinite(sample.value) & (sample.value > 0))
    if not capacities.bounded() or not len(columns[0]):
        return none
    usage, of = _usage(sample, columns, capacities)
    bound = _bounds(of, capacities.flat(), usage.shape[0]) * share
    asked = _demand(sample, columns, usage)
    if not (asked > bound).any():
        return none
    duals = _duals(sample, columns, usage, bound)
    flat = np.zeros(len(of))
    flat[of >= 0] = duals[of[of >= 0]]
    return priced(capacities, flat)


def _needed(value: np.ndarray, capacities: Capacities) -> np.ndarray:
    """The values that can matter: of an occurrence without rates only each user's best window."""
    out = value.copy()
    for o in np.flatnonzero((capacities.of == UNLIMITED).all(0)):
        best = np.argmax(value[:, o], 1)
        out[:, o] = -np.inf
        np.put_along_axis(out[:, o], best[:, None], np.take_along_axis(value[:, o], best[:, None], 1), 1)
    return out


def _usage(
    sample: Sample, columns: tuple[np.ndarray, ...], capacities: Capacities
) -> tuple[sparse.csr_matrix, np.ndarray]:
    """What each column uses up of each constraint (constraints × columns), and the constraint of each resource
    (int[R], −1: unused). Quarters of one rate row that every window uses alike share a constraint."""
    users, occurrence, window = columns
    begin, end = sample.begin[users, occurrence, window], sample.end[users, occurrence, window]
    kinds, kind = np.unique(np.stack([occurrence, begin, end]), axis=1, return_inverse=True)
    quarters = (capacities.first + np.arange(capacities.left.shape[1])) * QUARTER
    overlap = np.minimum(kinds[2][:, None], quarters + QUARTER) - np.maximum(kinds[1][:, None], quarters)
    length = np.maximum(kinds[2] - kinds[1], 1e-9)
    shares = np.clip(overlap, 0, None) / length[:, None]
    pattern_of = np.full(capacities.left.shape, -1, np.int64)
    blocks, known = [], 0
    for c in range(capacities.left.shape[0]):
        uses = (capacities.of[:, kinds[0].astype(np.int64)] == c).any(0)
        mine = np.where(uses[:, None], shares, 0.0)
        signature = np.concatenate([np.round(mine, 9), capacities.left[c][None, :]])
        _, first_of, index = np.unique(signature, axis=1, return_index=True, return_inverse=True)
        pattern_of[c] = known + index.reshape(-1)
        unused = ~mine.any(0)
        pattern_of[c][unused] = -1
        blocks.append(np.stack([mine[:, pattern_of[c] == known + p].sum(1) for p in range(len(first_of))]))
        known += len(first_of)
    rates = sparse.csr_matrix(np.concatenate(blocks) if blocks else np.zeros((0, len(kinds[0]))))
    whole, numbers = _whole(sample, columns, capacities)
    of_whole = np.where(numbers.any(1), known + np.arange(len(numbers)), -1)
    usage = sparse.vstack([rates[:, kind.reshape(-1)], whole]).tocsr()
    return usage, np.concatenate([pattern_of.reshape(-1), of_whole])


def _whole(
    sample: Sample, columns: tuple[np.ndarray, ...], capacities: Capacities
) -> tuple[sparse.csr_matrix, np.ndarray]:
    """What columns use of budgets and items: a push each. The second: bool[B + S, 1], whether any does."""
    users, occurrence, window = columns
    used = capacities.resources(occurrence, np.zeros(len(users)), sample.item[users, occurrence, window])[:, -2:]
    column = np.broadcast_to(np.arange(len(users))[:, None], used.shape)
    taken = used >= 0
    count = len(capacities.budget) + len(capacities.stock)
    ones = np.ones(int(taken.sum()))
    matrix = sparse.csr_matrix((ones, (used[taken] - capacities.rates, column[taken])), (count, len(users)))
    return matrix, (np.diff(matrix.indptr) > 0)[:, None]


def _bounds(of: np.ndarray, left: np.ndarray, constraints: int) -> np.ndarray:
    used = of >= 0
    return np.bincount(of[used], left[used], minlength=constraints)


def _demand(sample: Sample, columns: tuple[np.ndarray, ...], usage: sparse.csr_matrix) -> np.ndarray:
    """What the sample would ask of each constraint at prices of zero."""
    favourite = np.zeros(sample.value.shape, bool)
    best = np.argmax(sample.value, 2)
    np.put_along_axis(favourite, best[:, :, None], True, 2)
    demand: np.ndarray = usage @ favourite[columns].astype(float)
    return demand


def _duals(sample: Sample, columns: tuple[np.ndarray, ...], usage: sparse.csr_matrix, bound: np.ndarray) -> np.ndarray:
    users, occurrence, _ = columns
    n, occurrences, _ = sample.value.shape
    count = len(users)
    position = np.arange(count)
    ones = np.ones(count)
    once = sparse.csr_matrix((ones, (users * occurrences + occurrence, position)), (n * occurrences, count))
    most = sparse.csr_matrix((ones, (users, position)), (n, count))
    limits = np.concatenate([bound, np.ones(n * occurrences), sample.most.astype(float)])
    rows = sparse.vstack([usage, once, most]).tocsr()
    bind = np.diff(rows.indptr) > 0
    bind[: len(bound)] &= np.asarray(usage.sum(1)).reshape(-1) > bound
    bind[usage.shape[0] + n * occurrences :] &= np.isfinite(sample.value).any(2).sum(1) > sample.most
    used = np.flatnonzero(bind)
    # scipy's stubs do not know that A_ub may be sparse. Interior point (with crossover) is five times faster here than
    # the dual simplex that "highs" would choose.
    matrix: Any = rows[used]
    result = linprog(-sample.value[columns], A_ub=matrix, b_ub=limits[used], bounds=(0, None), method="highs-ipm")
    duals = np.zeros(rows.shape[0])
    if result.status == 0:
        duals[used] = -result.ineqlin.marginals
    return np.maximum(duals[: len(bound)], 0.0)
