"""Settlement: which proposals get the capacity there is, and what the losers get instead (pure).

Capacity is a list of resources (`Capacities.flat`), and a push uses up one of each of several. Pushes are accepted one
after the other while all they use lasts: transactional ones first, then explored ones in an order by hash (their share
is taken out of every capacity and does not depend on value, so that propensities stay exact), then by value − price,
ties by hash. Who lost may take the place of a planned push that is worth less (`replace`), or is offered the next best
windows for what is left (`refill`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

UNLIMITED = -1

ORDINARY, EXPLORED, TRANSACTIONAL = range(3)
"""Classes of bids: a higher one is served first."""


@dataclass(frozen=True)
class Bids:
    """Pushes that want capacity. resource int64[m] or int64[m, D] (indices into `left`, each column of other resources
    than the others; UNLIMITED), net float64[m] (value − price), first int8[m]: their class, tie uint64[m]."""

    resource: np.ndarray
    net: np.ndarray
    first: np.ndarray
    tie: np.ndarray

    @property
    def uses(self) -> np.ndarray:
        """The resources as int64[m, D]."""
        return self.resource if self.resource.ndim > 1 else self.resource[:, None]

    def of(self, rows: np.ndarray) -> Bids:
        """The bids in `rows` alone."""
        return Bids(self.resource[rows], self.net[rows], self.first[rows], self.tie[rows])


def accept(bids: Bids, left: np.ndarray) -> np.ndarray:
    """bool[m]: the bids that get capacity, one after the other in their order, while left int64[resources] lasts.

    In rounds: a bid is certain where all better bids still undecided leave room for it, and lost where something it
    uses is gone. The best undecided bid is always one or the other.
    """
    first = bids.first.astype(np.int8)
    order = np.lexsort((bids.tie, np.where(first == ORDINARY, -bids.net, 0.0), -first))
    uses, left = bids.uses[order], left.copy()
    granted = np.zeros(len(order), bool)
    waiting = np.arange(len(order))
    while len(waiting):
        mine = uses[waiting]
        certain = np.ones(len(waiting), bool)
        for column in mine.T:
            certain &= (column == UNLIMITED) | (_rank(column) < left[np.maximum(column, 0)])
        granted[order[waiting[certain]]] = True
        left -= count(mine[certain], len(left))
        gone = ((mine != UNLIMITED) & (left[np.maximum(mine, 0)] <= 0)).any(1)
        waiting = waiting[~certain & ~gone]
    return granted


def remaining(bids: Bids, granted: np.ndarray, left: np.ndarray) -> np.ndarray:
    """int64[resources]: what is left after the granted bids; never negative."""
    rest: np.ndarray = np.maximum(left - count(bids.uses[granted], len(left)), 0)
    return rest


def refill(options: Bids, owner: np.ndarray, left: np.ndarray) -> np.ndarray:
    """int64[chosen]: positions of options that get capacity, at most one of each owner (int64[m], who could not have
    their first choice). Round by round each owner asks for their best option that is still to be had."""
    chosen: list[np.ndarray] = []
    alive = options.net > 0
    uses = options.uses
    while alive.any():
        alive &= ((uses == UNLIMITED) | (left[np.maximum(uses, 0)] > 0)).all(1)
        live = np.flatnonzero(alive)
        order = live[np.lexsort((options.tie[live], -options.net[live], owner[live]))]
        asked = order[np.append(True, owner[order][1:] != owner[order][:-1])] if len(order) else order
        bids = options.of(asked)
        granted = accept(bids, left)
        left = remaining(bids, granted, left)
        chosen.append(asked[granted])
        alive[asked[~granted]] = False
        alive &= ~np.isin(owner, owner[asked[granted]])
    return np.concatenate(chosen) if chosen else np.zeros(0, np.int64)


def replace(losers: Bids, incumbents: Bids, left: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(int64[p], int64[p]): losers and the planned pushes (net: their value) whose places they take.

    The best loser takes the place of the least valuable push that uses what the loser lacks, as long as it is worth
    more. A loser that lacks two things at once takes nobody's place.
    """
    lacks = (losers.uses != UNLIMITED) & (left[np.maximum(losers.uses, 0)] <= 0)
    pairs: list[np.ndarray] = []
    free = np.ones(len(incumbents.net), bool)
    for d in range(lacks.shape[1]):
        mine = np.flatnonzero(lacks[:, d] & (lacks.sum(1) == 1))
        theirs = np.flatnonzero(free & (incumbents.uses[:, d] != UNLIMITED))
        mine = mine[np.lexsort((losers.tie[mine], -losers.net[mine]))]
        theirs = theirs[np.lexsort((incumbents.tie[theirs], incumbents.net[theirs]))]
        found = _matched(losers.uses[mine, d], incumbents.uses[theirs, d])
        pair = np.stack([mine[found[0]], theirs[found[1]]])
        pair = pair[:, losers.net[pair[0]] > incumbents.net[pair[1]]]
        free[pair[1]] = False
        pairs.append(pair)
    loser, incumbent = np.concatenate(pairs, axis=1) if pairs else np.zeros((2, 0), np.int64)
    while len(loser):  # what they do not lack must suffice for all of them together
        freed = left + count(incumbents.uses[incumbent], len(left))
        granted = accept(losers.of(loser), freed)
        if granted.all():
            break
        loser, incumbent = loser[granted], incumbent[granted]
    return loser, incumbent


def _matched(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions in a and b (resources) that are paired: the i-th of a resource in a with the i-th of it in b."""
    key = np.stack([np.append(a, b), np.append(_rank(a), _rank(b))])
    _, code = np.unique(key, axis=1, return_inverse=True)
    code = code.reshape(-1)
    _, in_a, in_b = np.intersect1d(code[: len(a)], code[len(a) :], assume_unique=True, return_indices=True)
    return in_a, in_b


def _rank(resource: np.ndarray) -> np.ndarray:
    """int64[m]: how many before each one use the same resource."""
    order = np.argsort(resource, kind="stable")
    ascending = resource[order]
    starts = np.flatnonzero(np.append(True, ascending[1:] != ascending[:-1])) if len(order) else order
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    return rank


def count(uses: np.ndarray, resources: int) -> np.ndarray:
    """int64[resources]: how many of each are used by pushes that use int64[m, D]."""
    return np.bincount(uses[uses != UNLIMITED], minlength=resources)
