"""Item-to-item relatedness: what users take up soon after what (pure).

T[j, i] = Σ over users' successive events j then i of 2^(−age/half-life) · weight / gap, plus half of it the other way
round, over the square root of both items' decayed popularity: a directed, decayed, gap-weighted cosine. The gap counts
visits (distinct instants), so that items of one basket are neighbours whatever their order. `science.md` §0.4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from engine.features.catalogue import Catalogue
from engine.features.state import State
from engine.learning.ranking import best_rows

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
    neighbours: sparse.csr_array

    def aligned(self, catalogue: Catalogue) -> sparse.csr_array:
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
        """`reference`: epoch seconds of weight 1; earlier events weigh less. A common factor cancels in the cosine."""
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

    def neighbours(self) -> sparse.csr_array:
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


def scores(state: State, neighbours: sparse.csr_array, interest: np.ndarray, first: int, last: int) -> sparse.csr_array:
    """Relatedness of users first … last−1 (positions) to items: CSR [users, I], columns sorted.

    neighbours: by catalogue position · interest: float32[m], of each of the state's pairs. scipy forms the product row
    by row, so it is bit-equal for any batch of users.
    """
    low, high = int(state.pair_start[first]), int(state.pair_start[last])
    shape = (last - first, len(state.catalogue))
    history = sparse.csr_array(
        (interest[low:high], state.pair_item[low:high], state.pair_start[first : last + 1] - low), shape=shape
    )
    related = history @ neighbours
    related.sort_indices()
    return related
