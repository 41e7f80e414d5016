"""Candidate items for each user, with a score per source (pure).

Sources: `own`, the user's own items, decayed; `related`, item-to-item from the user's recent items; `popular`, what
everybody takes up; `new`, items that are new or have become cheaper in the categories that the user takes from. Each
proposes up to its share of the K asked for, so that a rarer source is heard beside a stronger one: a list by one
weighted sum held as many good items and more that only look like them (AP .291 against .312 on Complete Journey). Of
what they propose together, the blend, a weighted sum, orders the candidates and keeps at most K; a candidate's source
is the one that contributed most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.features.catalogue import Catalogue
from engine.features.state import P_14D, P_120D, State
from engine.learning import fresh
from engine.learning.fresh import Fresh
from engine.learning.ranking import best_rows
from engine.learning.related import sparse

SOURCES = ("own", "related", "popular", "new")

BLOCK_USERS = 1024
"""Users proposed for at a time: bounds memory, and their arrays stay in the cache."""


@dataclass(frozen=True)
class Quotas:
    """What share of the K candidates each source may propose; what several of them propose counts once.

    With these, K = 100 gives 93 a user on Complete Journey and finds .57 of what is bought, as the published protocol.
    """

    own: float = 0.58
    related: float = 0.48
    popular: float = 0.48
    new: float = 0.1

    def of(self, k: int) -> dict[str, int]:
        """How many each source may propose of k: one at least, unless its share is 0."""
        return {name: max(round(share * k), 1) if share else 0 for name, share in vars(self).items()}


QUOTAS = Quotas()


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

    def at(self, rows: np.ndarray) -> Candidates:
        """The candidates at `rows` (positions)."""
        return Candidates(*(getattr(self, name)[rows] for name in Candidates.__dataclass_fields__))


class Proposer:
    """Proposes items of one catalogue: item-to-item neighbours and popularity, ready for many states and campaigns."""

    def __init__(self, neighbours: Any, blend: Blend) -> None:
        """`neighbours`: CSR float32 [I, I] by catalogue position."""
        self.neighbours, self.blend = neighbours, blend
        # One sparse product forms two sums for every (user, item): Σ interest·relatedness in the real part, the own
        # item's score in the imaginary part. So the union of both sources needs no sorting and no searching.
        identity = sparse.eye_array(neighbours.shape[0], dtype=np.complex64, format="csr") * 1j
        self._sources = sparse.vstack([neighbours.astype(np.complex64), identity], format="csr")

    def propose(
        self,
        state: State,
        k: int,
        allowed: np.ndarray | None = None,
        without: np.ndarray | None = None,
        quotas: Quotas = QUOTAS,
    ) -> Candidates:
        """At most k items for each user, of those `allowed` (bool[I]; None: all) and available at the state's τ.

        without: user · I + item (int64, sorted) that must not be proposed. Bit-equal for any batch of users. Equal
        scores keep an order that depends on the user alone.
        """
        return self.propose_of(state, self.shelf(state.catalogue, k, allowed, without, quotas))

    def shelf(
        self,
        catalogue: Catalogue,
        k: int,
        allowed: np.ndarray | None = None,
        without: np.ndarray | None = None,
        quotas: Quotas = QUOTAS,
    ) -> Shelf:
        """What `propose` prepares from the catalogue alone, the same for all users: to be kept where they come one by
        one."""
        open_items = catalogue.available if allowed is None else catalogue.available & allowed
        shares = quotas.of(k)
        some = without is not None and len(without) > 0
        return Shelf(
            k,
            shares,
            open_items,
            without if without is not None else np.zeros(0, np.int64),
            _popular(catalogue, open_items, self.blend, k if some else shares["popular"]),
            fresh.find(catalogue, open_items, shares["new"]),
        )

    def propose_of(self, state: State, asked: Shelf) -> Candidates:
        """What `propose` says, from a shelf of the state's catalogue."""
        blocks = [
            self._propose(state, slice(first, min(first + BLOCK_USERS, len(state))), asked)
            for first in range(0, len(state), BLOCK_USERS)
        ]
        names = ("user", "item", "source", "score", "related")
        types = (np.int32, np.int32, np.int8, np.float32, np.float32)
        if not blocks:
            return Candidates(*(np.zeros(0, dtype) for dtype in types))
        return Candidates(*(np.concatenate([getattr(block, name) for block in blocks]) for name in names))

    def _propose(self, state: State, users: slice, asked: Shelf) -> Candidates:
        table = self._interests(state, users) @ self._sources
        count, size = table.shape[0], max(len(state.catalogue), 1)
        user, item, sums = np.repeat(np.arange(count), np.diff(table.indptr)), table.indices, table.data
        keep = asked.open_items[item]
        if len(asked.without):
            keep &= ~_among(asked.without, (user + users.start) * size + item)
        if not keep.all():
            kept = np.flatnonzero(keep)
            user, item, sums = user[kept], item[kept], sums[kept]
        chosen = _best(user, sums.imag, asked.quotas["own"]) | _best(user, sums.real, asked.quotas["related"])
        popular, extra_user, extra_item = asked.popular.beside(user, item, count, users.start, asked, size)
        chosen |= popular
        if len(asked.fresh):
            there, new_user, new_item = asked.fresh.beside(state, users, user, item)
            chosen |= there
            extra = np.unique(np.concatenate([extra_user * size + extra_item, new_user * size + new_item]))
            if len(asked.without):
                extra = extra[~_among(asked.without, extra + users.start * size)]
            extra_user, extra_item = np.divmod(extra, size)
        rows = np.flatnonzero(chosen)
        user, item = np.concatenate([user[rows], extra_user]), np.concatenate([item[rows], extra_item])
        sums = np.concatenate([sums[rows], np.zeros(len(extra_user), np.complex64)])
        parts = np.stack([sums.imag, np.float32(self.blend.related) * sums.real, asked.popular.score[item]])
        score = parts[0] + parts[1] + parts[2]
        best = best_rows(user, score, asked.k)
        source = parts[:, best].argmax(axis=0)
        if len(asked.fresh):
            source[(sums[best] == 0) & asked.fresh.has[item[best]]] = SOURCES.index("new")
        return Candidates(
            (user[best] + users.start).astype(np.int32),
            item[best].astype(np.int32),
            source.astype(np.int8),
            score[best],
            np.ascontiguousarray(sums[best].real),
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
class Shelf:
    """What may be proposed to whomever, ready for all users. k: how many at most of each · quotas: by source ·
    open_items: bool[I] · without: as in `propose` · popular, fresh: the sources that are everybody's."""

    k: int
    quotas: dict[str, int]
    open_items: np.ndarray
    without: np.ndarray
    popular: _Popular
    fresh: Fresh


@dataclass(frozen=True)
class _Popular:
    """Popularity as a source. score: float32[I] · items: the most popular open ones, best first · rank: int32[I], −1
    for others."""

    score: np.ndarray
    items: np.ndarray
    rank: np.ndarray

    def beside(
        self, user: np.ndarray, item: np.ndarray, users: int, start: int, asked: Shelf, size: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which rows (user, item) are popular enough, bool[n]; and (user, item) of the popular items not among them."""
        wanted = np.ones((users, len(self.items)), bool)
        if len(asked.without):
            keys = (np.arange(users)[:, None] + start) * size + self.items
            wanted = ~_among(asked.without, keys.ravel()).reshape(wanted.shape)
            wanted &= np.cumsum(wanted, axis=1) <= asked.quotas["popular"]
        rank = self.rank[item]
        known = np.flatnonzero(rank >= 0)
        there = np.zeros(len(user), bool)
        there[known] = wanted[user[known], rank[known]]
        wanted[user[known], rank[known]] = False
        extra_user, at = np.nonzero(wanted)
        return there, extra_user, self.items[at]


def _popular(catalogue: Catalogue, open_items: np.ndarray, blend: Blend, k: int) -> _Popular:
    popularity = np.log1p(catalogue.popularity)
    highest = popularity.max(initial=0.0)
    score = (blend.popular * popularity / (highest if highest > 0 else 1.0)).astype(np.float32)
    at = np.flatnonzero(open_items)
    items = at[best_rows(np.zeros(len(at), np.int64), score[at], k)]
    rank = np.full(len(score), -1, np.int32)
    rank[items] = np.arange(len(items))
    return _Popular(score, items, rank)


def _best(user: np.ndarray, score: np.ndarray, k: int) -> np.ndarray:
    """A mask of the k highest positive scores of each user; rows come user by user."""
    rows = np.flatnonzero(score > 0)
    mask = np.zeros(len(user), bool)
    mask[rows[best_rows(user[rows], np.ascontiguousarray(score[rows]), k)]] = True
    return mask


def _among(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Which of `wanted` are in the sorted `keys`, of which there is at least one."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    found: np.ndarray = keys[at] == wanted
    return found
