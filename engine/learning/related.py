"""Item-to-item relatedness: what users take up soon after what (pure).

T[j, i] = Σ over users' successive events j then i of 2^(−age/half-life) · weight / gap, plus half of it the other way
round, over the square root of both items' decayed popularity: a directed, decayed, gap-weighted cosine. The gap counts
visits (distinct instants), so that items of one basket are neighbours whatever their order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse

from engine.features.catalogue import Catalogue
from engine.features.state import State
from engine.learning.ranking import best_rows

sparse: Any = scipy.sparse
"""Its stubs, where they are installed, type shapes that are known at run time only."""

HALF_LIFE_DAYS = 60.0
REACH = 20
"""Events after an event that count as following it."""

NEIGHBOURS = 30
"""Neighbours kept of each item."""

BACKWARD = 0.5
LAST_EVENTS = 2_000
"""Only the last so many events of a user count: one account with most of a shop's events is a bot, not taste."""

DAY_SECONDS = 86_400.0


@dataclass(frozen=True)
class Related:
    """Neighbours of items. ids: int64[I], sorted · neighbours: CSR float32 [I, I] by position in ids."""

    ids: np.ndarray
    neighbours: Any

    def aligned(self, catalogue: Catalogue) -> Any:
        """The same by position in `catalogue`, [I, I]: items it does not know drop out, new ones have no neighbours."""
        size = len(catalogue)
        if np.array_equal(self.ids, catalogue.ids):
            return self.neighbours
        at = catalogue.positions(self.ids)
        coo = self.neighbours.tocoo()
        row, column = at[coo.row], at[coo.col]
        known = (row >= 0) & (column >= 0)
        return sparse.csr_array((coo.data[known], (row[known], column[known])), shape=(size, size), dtype=np.float32)


def nothing(ids: np.ndarray) -> Related:
    """No relatedness between the items `ids`: what there is before anything was learned."""
    return Related(ids, sparse.csr_array((len(ids), len(ids)), dtype=np.float32))


class Counter:
    """Sums co-occurrences over time: feed users' events in slices of time, take the neighbours at any moment."""

    def __init__(self, items: int, reference: float) -> None:
        """`reference`: epoch seconds of weight 1. Later events weigh more, and a common factor cancels in the cosine:
        so sums never need to be decayed. It must not depend on what comes later, nor lie decades back (float32).
        """
        self._follows = sparse.csr_array((items, items), dtype=np.float32)
        self._mass = np.zeros(items)
        self._items, self._reference = items, reference

    def add(self, user: np.ndarray, item: np.ndarray, at: np.ndarray, weight: np.ndarray, since: float) -> None:
        """Count pairs whose later event lies at or after `since`; earlier events only open pairs.

        user, item: int64[n] positions; at: float64[n], epoch seconds; rows sorted by (user, at); weight: float64[n].
        """
        fresh = at >= since
        self._mass += np.bincount(item[fresh], (weight * self._decay(at))[fresh], minlength=self._items)
        visit = np.cumsum(np.append(True, (user[1:] != user[:-1]) | (at[1:] != at[:-1])))[: len(user)]
        for offset in range(1, min(REACH, len(user) - 1) + 1):
            earlier, later = slice(None, -offset), slice(offset, None)
            use = np.flatnonzero((user[earlier] == user[later]) & (item[earlier] != item[later]) & fresh[later])
            gap = np.maximum(visit[later][use] - visit[earlier][use], 1)
            strength = self._decay(at[later][use]) * weight[later][use] / gap
            pairs = (strength.astype(np.float32), (item[earlier][use], item[later][use]))
            self._follows += sparse.coo_array(pairs, shape=self._follows.shape).tocsr()

    def neighbours(self) -> Any:
        """The NEIGHBOURS strongest of each item, cosine-normalised: CSR float32 [I, I], columns sorted."""
        both = (self._follows + BACKWARD * self._follows.T.tocsr()).tocoo()
        norm = np.sqrt(np.maximum(self._mass, 1e-12))
        cosine = (both.data / (norm[both.row] * norm[both.col])).astype(np.float32)
        best = best_rows(both.row.astype(np.int64), cosine, NEIGHBOURS)
        kept = sparse.csr_array((cosine[best], (both.row[best], both.col[best])), shape=both.shape)
        kept.sort_indices()
        return kept

    def _decay(self, at: np.ndarray) -> np.ndarray:
        decay: np.ndarray = np.exp2((at - self._reference) / (HALF_LIFE_DAYS * DAY_SECONDS))
        return decay


def lookup(state: State, neighbours: Any, user: np.ndarray, item: np.ndarray) -> np.ndarray:
    """The relatedness of each (user, item) by position: float32[n], the same numbers as `propose` gives."""
    users, row = np.unique(user, return_inverse=True)
    wanted = row * len(state.catalogue) + item
    low, high = state.pair_start[users], state.pair_start[users + 1]
    at = np.repeat(low - np.concatenate([[0], np.cumsum(high - low)[:-1]]), high - low) + np.arange((high - low).sum())
    start = np.concatenate([[0], np.cumsum(high - low)])
    shape = (len(users), len(state.catalogue))
    table = sparse.csr_array((state.recent_share[at], state.pair_item[at], start), shape=shape) @ neighbours
    table.sort_indices()
    keys = np.repeat(np.arange(len(users)), np.diff(table.indptr)) * len(state.catalogue) + table.indices
    if not len(keys):
        return np.zeros(len(user), np.float32)
    found = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[found] == wanted, table.data[found], np.float32(0))
