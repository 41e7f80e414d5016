"""Candidate items for each user, with a score per source (pure).

Sources: `own`, the user's own items, decayed; `related`, item-to-item from the user's recent items; `popular`, what
everybody takes up, which also fills up where a user's history gives too little. Their weighted sum orders the
candidates; a candidate's source is the one that contributed most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.features.state import P_14D, P_120D, State
from engine.learning.ranking import best_rows, floors
from engine.learning.related import sparse

SOURCES = ("own", "related", "popular")

BLOCK_USERS = 1024
"""Users proposed for at a time: bounds memory, and their arrays stay in the cache."""


@dataclass(frozen=True)
class Blend:
    """How much each source weighs: on log(1 + decayed interest), on relatedness, on relative log popularity."""

    own: float = 1.8
    own_recent: float = 0.1
    related: float = 1.0
    popular: float = 0.9


@dataclass(frozen=True)
class Candidates:
    """Proposals, grouped by user, best first.

    user, item: int32[n], positions in state.users and in the catalogue · source: int8[n], index into SOURCES · score:
    float32[n] · related: float32[n], the item-to-item score, which is a feature too.
    """

    user: np.ndarray
    item: np.ndarray
    source: np.ndarray
    score: np.ndarray
    related: np.ndarray

    def __len__(self) -> int:
        return len(self.user)


class Proposer:
    """Proposes items of one catalogue: item-to-item neighbours and popularity, ready for many states and campaigns."""

    def __init__(self, neighbours: Any, blend: Blend) -> None:
        """`neighbours`: CSR float32 [I, I] by catalogue position."""
        self.neighbours, self.blend = neighbours, blend
        # One sparse product forms two sums for every (user, item): Σ interest·relatedness in the real part, the own
        # item's score in the imaginary part. So the union of both sources needs no sorting and no searching.
        identity = sparse.eye_array(neighbours.shape[0], dtype=np.complex64, format="csr") * 1j
        self._sources = sparse.vstack([neighbours.astype(np.complex64), identity], format="csr")

    def propose(self, state: State, k: int, allowed: np.ndarray | None = None) -> Candidates:
        """At most k items for each user, of those `allowed` (bool[I]; None: all) and available at the state's τ.

        Bit-equal for any batch of users. Equal scores keep an order that depends on the user alone.
        """
        open_items = state.catalogue.available if allowed is None else state.catalogue.available & allowed
        fill = _fill(state, open_items, self.blend, k)
        blocks = [
            self._propose(state, slice(first, min(first + BLOCK_USERS, len(state))), open_items, fill)
            for first in range(0, len(state), BLOCK_USERS)
        ]
        names = ("user", "item", "source", "score", "related")
        types = (np.int32, np.int32, np.int8, np.float32, np.float32)
        if not blocks:
            return Candidates(*(np.zeros(0, dtype) for dtype in types))
        return Candidates(*(np.concatenate([getattr(block, name) for block in blocks]) for name in names))

    def _propose(self, state: State, users: slice, open_items: np.ndarray, fill: _Fill) -> Candidates:
        table = self._interests(state, users) @ self._sources
        user, item, sums = np.repeat(np.arange(table.shape[0]), np.diff(table.indptr)), table.indices, table.data
        if not open_items.all():
            keep = np.flatnonzero(open_items[item])
            user, item, sums = user[keep], item[keep], sums[keep]
        score = sums.imag + np.float32(self.blend.related) * sums.real + fill.score[item]
        floor = floors(user, score, table.shape[0], fill.k)
        good = np.flatnonzero(score >= floor[user])
        fill_user, fill_item = fill.unseen(user, item, floor)
        user, item = np.concatenate([user[good], fill_user]), np.concatenate([item[good], fill_item])
        score = np.concatenate([score[good], fill.score[fill_item]])
        sums = np.concatenate([sums[good], np.zeros(len(fill_user), np.complex64)])
        best = best_rows(user, score, fill.k)
        item, sums = item[best], sums[best]
        parts = (sums.imag, np.float32(self.blend.related) * sums.real, fill.score[item])
        return Candidates(
            (user[best] + users.start).astype(np.int32),
            item.astype(np.int32),
            np.stack(parts).argmax(axis=0).astype(np.int8),
            score[best],
            np.ascontiguousarray(sums.real),
        )

    def _interests(self, state: State, users: slice) -> Any:
        """[users, 2I]: each pair's history for relatedness, then its score as the user's own item."""
        low, high = int(state.pair_start[users.start]), int(state.pair_start[users.stop])
        start = state.pair_start[users.start : users.stop + 1] - low
        pairs, size = np.diff(start), len(state.catalogue)
        at = np.arange(high - low) + np.repeat(start[:-1], pairs)
        data, columns = np.empty(2 * (high - low), np.complex64), np.empty(2 * (high - low), np.int64)
        second = at + np.repeat(pairs, pairs)
        item = state.pair_item[low:high]
        data[at], columns[at] = state.recent_share[low:high], item
        data[second], columns[second] = self._own(state, low, high), item + size
        return sparse.csr_array((data, columns, 2 * start), shape=(len(pairs), 2 * size))

    def _own(self, state: State, low: int, high: int) -> np.ndarray:
        interest = state.interest[low:high]
        score: np.ndarray = np.float32(self.blend.own) * np.log1p(interest[:, P_120D])
        score += np.float32(self.blend.own_recent) * np.log1p(interest[:, P_14D])
        return score


@dataclass(frozen=True)
class _Fill:
    """Popularity as a source. score: float32[I] · items: the k most popular open ones · rank: int32[I], −1 others."""

    k: int
    score: np.ndarray
    items: np.ndarray
    rank: np.ndarray

    def unseen(self, user: np.ndarray, item: np.ndarray, floor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(user, item) of the popular items not among the rows (user, item) yet that reach the user's floor."""
        missing = self.score[self.items] >= floor[:, None]
        rank = self.rank[item]
        known = np.flatnonzero(rank >= 0)
        missing[user[known], rank[known]] = False
        fill_user, at = np.nonzero(missing)
        return fill_user, self.items[at]


def _fill(state: State, open_items: np.ndarray, blend: Blend, k: int) -> _Fill:
    popularity = np.log1p(state.catalogue.popularity)
    highest = popularity.max(initial=0.0)
    score = (blend.popular * popularity / (highest if highest > 0 else 1.0)).astype(np.float32)
    at = np.flatnonzero(open_items)
    items = at[best_rows(np.zeros(len(at), np.int64), score[at], k)]
    rank = np.full(len(score), -1, np.int32)
    rank[items] = np.arange(len(items))
    return _Fill(k, score, items, rank)
