"""Settlement: which proposals get the capacity there is, and what the losers get instead (pure).

Proposals are accepted by value − price while their capacity lasts: explored ones first (their share is taken out of
every capacity and never trimmed, so that propensities stay exact), ties by hash. Who lost, and who found capacity too
dear at plan time, is then offered their next best windows for what is left, again by value − price.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

UNLIMITED = -1


@dataclass(frozen=True)
class Bids:
    """Pushes that want capacity. resource int64[m] (index into `left`; UNLIMITED), net float64[m] (value − price),
    first bool[m] (explored: before all others), tie uint64[m]."""

    resource: np.ndarray
    net: np.ndarray
    first: np.ndarray
    tie: np.ndarray


def accept(bids: Bids, left: np.ndarray) -> np.ndarray:
    """bool[m]: the bids that get capacity, in their order, while left int64[resources] lasts."""
    order = np.lexsort((bids.tie, -bids.net, ~bids.first, bids.resource))
    resource = bids.resource[order]
    starts = np.flatnonzero(np.append(True, resource[1:] != resource[:-1])) if len(order) else np.zeros(0, np.int64)
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    granted = np.zeros(len(order), bool)
    granted[order] = (resource == UNLIMITED) | (rank < left[np.maximum(resource, 0)])
    return granted


def remaining(bids: Bids, granted: np.ndarray, left: np.ndarray) -> np.ndarray:
    """int64[resources]: what is left after the granted bids; never negative."""
    taken = granted & (bids.resource != UNLIMITED)
    return np.maximum(left - np.bincount(bids.resource[taken], minlength=len(left)), 0)


def refill(options: Bids, owner: np.ndarray, left: np.ndarray) -> np.ndarray:
    """int64[chosen]: positions of options that get capacity, at most one of each owner (int64[m], who could not have
    their first choice). Round by round each owner asks for their best option that is still to be had."""
    chosen: list[np.ndarray] = []
    alive = options.net > 0
    while alive.any():
        alive &= (options.resource == UNLIMITED) | (left[np.maximum(options.resource, 0)] > 0)
        live = np.flatnonzero(alive)
        order = live[np.lexsort((options.tie[live], -options.net[live], owner[live]))]
        asked = order[np.append(True, owner[order][1:] != owner[order][:-1])] if len(order) else order
        bids = Bids(options.resource[asked], options.net[asked], options.first[asked], options.tie[asked])
        granted = accept(bids, left)
        left = remaining(bids, granted, left)
        chosen.append(asked[granted])
        alive[asked[~granted]] = False
        alive &= ~np.isin(owner, owner[asked[granted]])
    return np.concatenate(chosen) if chosen else np.zeros(0, np.int64)
