"""User-to-user: what users alike take (pure).

A sample of at most MOST_USERS active users is kept with the model, by id of their items. A user is compared with them
by cosine of log(1 + decayed purchases) · idf over the user's strongest items; the NEAREST count, by similarity. All
sums are sparse and row by row: bit-equal for any batch of users.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.features.readings import positions
from engine.features.state import P_45D, P_120D, State
from engine.learning.ranking import best_rows
from engine.learning.related import sparse

MOST_USERS = 1_000
MOST_ITEMS = 40
"""Items of a user that are compared, and of a sampled user that are proposed."""

NEAREST = 60
BLOCK_USERS = 512


@dataclass(frozen=True, eq=False)
class Alike:
    """The sampled users.

    ids: int64[I] items, sorted · idf: float32[I] · profile: CSR float32 [R, I], rows of length 1 · takes: CSR float32
    [R, I], their recent purchases (half-life 45 days).
    """

    ids: np.ndarray
    idf: np.ndarray
    profile: Any
    takes: Any

    def aligned(self, ids: np.ndarray) -> Alike:
        """The same by position in `ids` (int64, sorted): items it does not know drop out."""
        if np.array_equal(ids, self.ids):
            return self
        at = positions(ids, self.ids)
        idf = np.zeros(len(ids), np.float32)
        idf[at[at >= 0]] = self.idf[at >= 0]
        return Alike(ids, idf, _moved(self.profile, at, len(ids)), _moved(self.takes, at, len(ids)))


def nothing(ids: np.ndarray) -> Alike:
    """No sampled users."""
    empty = sparse.csr_array((0, len(ids)), dtype=np.float32)
    return Alike(ids, np.zeros(len(ids), np.float32), empty, empty)


def fit(state: State, order: np.ndarray) -> Alike:
    """The first MOST_USERS of the state's users by `order` (a hash of each, uint64[U])."""
    if not len(state):
        return nothing(state.catalogue.ids)
    owners = np.bincount(state.pair_item[state.interest[:, P_120D] > 0], minlength=len(state.catalogue))
    idf = np.log((len(state) + 1) / (owners + 1)).astype(np.float32)
    chosen = np.sort(np.argsort(order, kind="stable")[:MOST_USERS])
    profile = _normalised(_strongest(state, idf))[chosen]
    return Alike(state.catalogue.ids, idf, profile, _pairs(state, np.arange(len(state.pair_item)), P_45D)[chosen])


def table(state: State, alike: Alike) -> Any:
    """How much each of the state's users' neighbours take each item: CSR float32 [U, I], columns sorted.

    A sampled user is no neighbour of their own: a similarity above 0.999 is taken for the same person.
    """
    if not alike.profile.shape[0]:
        return sparse.csr_array((len(state), len(state.catalogue)), dtype=np.float32)
    mine, theirs = _normalised(_strongest(state, alike.idf)), alike.profile.T.tocsr()
    blocks = [
        _nearest(mine[first : first + BLOCK_USERS] @ theirs) @ alike.takes
        for first in range(0, len(state), BLOCK_USERS)
    ]
    if not blocks:
        return sparse.csr_array((0, len(state.catalogue)), dtype=np.float32)
    found = sparse.vstack(blocks, format="csr")
    found.sort_indices()
    return found


def lookup(found: Any, user: np.ndarray, item: np.ndarray) -> np.ndarray:
    """The entries of a `table` at (user, item) positions: float32[n]."""
    size = found.shape[1]
    keys = np.repeat(np.arange(found.shape[0]), np.diff(found.indptr)) * size + found.indices
    wanted = np.asarray(user, np.int64) * size + item
    if not len(keys):
        return np.zeros(len(wanted), np.float32)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, found.data[at], np.float32(0))


def _nearest(similar: Any) -> Any:
    user = np.repeat(np.arange(similar.shape[0]), np.diff(similar.indptr))
    other = np.flatnonzero((similar.data < 0.999) & (similar.data > 0))
    best = other[best_rows(user[other], similar.data[other], NEAREST)]
    total = np.bincount(user[best], similar.data[best], minlength=similar.shape[0])
    share = (similar.data[best] / total[user[best]]).astype(np.float32)
    return sparse.csr_array((share, (user[best], similar.indices[best])), shape=similar.shape)


def _strongest(state: State, idf: np.ndarray) -> Any:
    user = np.repeat(np.arange(len(state)), np.diff(state.pair_start))
    weight = np.log1p(state.interest[:, P_120D]) * idf[state.pair_item]
    best = np.sort(best_rows(user, weight, MOST_ITEMS))
    shape = (len(state), len(state.catalogue))
    return sparse.csr_array((weight[best], (user[best], state.pair_item[best])), shape=shape)


def _pairs(state: State, rows: np.ndarray, column: int) -> Any:
    user = np.repeat(np.arange(len(state)), np.diff(state.pair_start))
    interest = state.interest[rows, column]
    best = np.sort(best_rows(user[rows], interest, 2 * MOST_ITEMS))
    best = best[interest[best] > 0]
    shape = (len(state), len(state.catalogue))
    return sparse.csr_array((interest[best], (user[best], state.pair_item[best])), shape=shape)


def _normalised(rows: Any) -> Any:
    user = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    length = np.sqrt(np.bincount(user, rows.data.astype(np.float64) ** 2, minlength=rows.shape[0]))
    data = (rows.data / np.maximum(length, 1e-9)[user]).astype(np.float32)
    return sparse.csr_array((data, rows.indices, rows.indptr), shape=rows.shape)


def _moved(rows: Any, at: np.ndarray, size: int) -> Any:
    coo = rows.tocoo()
    column = at[coo.col]
    known = column >= 0
    return sparse.csr_array((coo.data[known], (coo.row[known], column[known])), shape=(rows.shape[0], size))
