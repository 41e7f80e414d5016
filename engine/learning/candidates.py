"""Candidate items for each user, with a score per source (pure).

Sources: `own`, the user's own items, decayed; `related`, item-to-item from the user's recent items; `popular`, what
everybody takes up, which also fills up where a user's history gives too little. Their weighted sum orders the
candidates; a candidate's source is the one that contributed most.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from engine.features.state import P_14D, P_120D, State
from engine.learning import related
from engine.learning.ranking import best_rows

SOURCES = ("own", "related", "popular")

BLOCK_USERS = 1024
"""Users proposed for at a time: bounds memory, and their arrays stay in the cache."""


@dataclass(frozen=True)
class Blend:
    """How much each source weighs: on log(1 + decayed interest), on relatedness, on relative log popularity."""

    own: float = 1.0
    own_recent: float = 0.3
    related: float = 0.5
    popular: float = 0.3


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


def propose(
    state: State, neighbours: sparse.csr_array, blend: Blend, k: int, allowed: np.ndarray | None = None
) -> Candidates:
    """At most k items for each user, of those `allowed` (bool[I]; None: all) and available at the state's τ.

    neighbours: item-to-item by catalogue position. Equal for any batch of users; equal scores keep the sources' order, then the catalogue's.
    """
    open_items = state.catalogue.available if allowed is None else state.catalogue.available & allowed
    fill = _fill(state, open_items, blend, k)
    blocks = [
        _propose(state, _Round(first, min(first + BLOCK_USERS, len(state)), neighbours, open_items, fill), blend, k)
        for first in range(0, len(state), BLOCK_USERS)
    ]
    names = ("user", "item", "source", "score", "related")
    types = (np.int32, np.int32, np.int8, np.float32, np.float32)
    if not blocks:
        return Candidates(*(np.zeros(0, dtype) for dtype in types))
    return Candidates(*(np.concatenate([getattr(block, name) for block in blocks]) for name in names))


@dataclass(frozen=True)
class _Fill:
    """Popularity as a source. score: float32[I] · items: the k most popular open ones · rank: int32[I], −1 others."""

    score: np.ndarray
    items: np.ndarray
    rank: np.ndarray


@dataclass(frozen=True)
class _Round:
    """What one block of users is proposed from."""

    first: int
    last: int
    neighbours: sparse.csr_array
    open_items: np.ndarray
    fill: _Fill


def _fill(state: State, open_items: np.ndarray, blend: Blend, k: int) -> _Fill:
    popularity = np.log1p(state.catalogue.popularity)
    highest = popularity.max(initial=0.0)
    score = (blend.popular * popularity / (highest if highest > 0 else 1.0)).astype(np.float32)
    at = np.flatnonzero(open_items)
    items = at[best_rows(np.zeros(len(at), np.int64), score[at], k)]
    rank = np.full(len(score), -1, np.int32)
    rank[items] = np.arange(len(items))
    return _Fill(score, items, rank)


def _propose(state: State, round_: _Round, blend: Blend, k: int) -> Candidates:
    own_user, own_item, own = _own(state, blend, round_.first, round_.last)
    user, item, related_score = _related(state, round_)
    size = len(state.catalogue)
    at = _find(user * size + item, own_user * size + own_item)
    found = at >= 0
    own_of_row = np.zeros(len(user), np.float32)
    own_of_row[at[found]] = own[found]
    user = np.concatenate([user, own_user[~found]])
    item = np.concatenate([item, own_item[~found]])
    related_score = np.concatenate([related_score, np.zeros(int((~found).sum()), np.float32)])
    own_of_row = np.concatenate([own_of_row, own[~found]])
    fill_user, fill_item = _unseen(user, item, round_)
    user, item = np.concatenate([user, fill_user]), np.concatenate([item, fill_item])
    related_score = np.concatenate([related_score, np.zeros(len(fill_user), np.float32)])
    own_of_row = np.concatenate([own_of_row, np.zeros(len(fill_user), np.float32)])
    return _best(round_, blend, k, (user, item, own_of_row, related_score))


def _own(state: State, blend: Blend, first: int, last: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The block's own items: (user within the block, item, score)."""
    low, high = int(state.pair_start[first]), int(state.pair_start[last])
    user, item = np.divmod(state.pairs.keys[low:high], max(len(state.catalogue), 1))
    interest = state.interest[low:high]
    score = np.float32(blend.own) * np.log1p(interest[:, P_120D])
    score += np.float32(blend.own_recent) * np.log1p(interest[:, P_14D])
    return user - first, item, score


def _related(state: State, round_: _Round) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The block's related items in (user, item) order: (user within the block, item, score)."""
    table = related.scores(state, round_.neighbours, _history(state), round_.first, round_.last)
    user = np.repeat(np.arange(round_.last - round_.first), np.diff(table.indptr))
    return user, table.indices.astype(np.int64), table.data


def _history(state: State) -> np.ndarray:
    """What relatedness starts from: decayed interest in each pair, damped so that staples do not drown the rest."""
    return np.log1p(state.interest[:, P_14D])


def _find(sorted_keys: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Where each of `keys` stands in `sorted_keys`, −1 where it does not."""
    if not len(sorted_keys):
        return np.full(len(keys), -1, np.int64)
    at = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    return np.where(sorted_keys[at] == keys, at, -1)


def _unseen(user: np.ndarray, item: np.ndarray, round_: _Round) -> tuple[np.ndarray, np.ndarray]:
    """The popular items that a user has not among (user, item) yet."""
    fill = round_.fill
    unseen = np.ones((round_.last - round_.first, len(fill.items)), bool)
    rank = fill.rank[item]
    known = rank >= 0
    unseen[user[known], rank[known]] = False
    fill_user, at = np.nonzero(unseen)
    return fill_user, fill.items[at]


def _best(
    round_: _Round, blend: Blend, k: int, rows: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
) -> Candidates:
    keep = round_.open_items[rows[1]]
    user, item, own, related_score = (column[keep] for column in rows)
    popular = round_.fill.score[item]
    score = own + np.float32(blend.related) * related_score + popular
    at = best_rows(user, score, k)
    parts = np.stack([own[at], np.float32(blend.related) * related_score[at], popular[at]])
    return Candidates(
        (user[at] + round_.first).astype(np.int32),
        item[at].astype(np.int32),
        parts.argmax(axis=0).astype(np.int8),
        score[at],
        related_score[at],
    )
