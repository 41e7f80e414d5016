"""Candidate sources one by one (pure): each is fitted on what was known before τ and proposes K items per user.

`Proposer` blends the cheap ones into one ordering for every run. Here each stands alone, to be united by quotas, so
that a rarer source is heard beside a stronger one, and to be judged: `recall_by_source`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from engine.features import schema
from engine.features.state import P_120D, State
from engine.learning import related
from engine.learning.candidates import Candidates
from engine.learning.ranking import best_rows
from engine.learning.related import sparse
from engine.learning.tastes import Collaborative

NEW_DAYS = 28.0
MOST_LATENT = 5_000
"""Items whose factors are compared with a user's: of more, the most popular."""

_FUSION = 10.0
_PAIR = schema.group_names("pair")
_ITEM = schema.group_names("item")


@dataclass(frozen=True)
class Proposed:
    """What one source proposes: user, item: int64[n] positions, grouped by user, best first · score: float32[n] > 0."""

    user: np.ndarray
    item: np.ndarray
    score: np.ndarray


class Source(Protocol):
    """Proposes up to k of the open items (bool[I]) to each of the state's users."""

    def propose(self, state: State, k: int, open_items: np.ndarray) -> Proposed:
        """The k best of each user; ties in the order of items."""
        ...


@dataclass(frozen=True)
class Own:
    """The user's own items. by: a pair feature, `interest` for decayed interest (half-life 120 days)."""

    by: str = "interest"

    def propose(self, state: State, k: int, open_items: np.ndarray) -> Proposed:
        """See Source."""
        values = state.interest[:, P_120D] if self.by == "interest" else state.pairs.block[:-1, _PAIR.index(self.by)]
        return _best(_owner(state), state.pair_item, values, k, open_items)


@dataclass(frozen=True)
class AbandonedCarts:
    """Items put into a cart within two weeks or so and not bought since."""

    def propose(self, state: State, k: int, open_items: np.ndarray) -> Proposed:
        """See Source."""
        block = state.pairs.block[:-1]
        carts, since = block[:, _PAIR.index("pair_carts_14d")], block[:, _PAIR.index("pair_hours_since_cart")]
        bought = block[:, _PAIR.index("pair_hours_since_purchase")]
        return _best(_owner(state), state.pair_item, np.where(bought <= since, np.nan, carts), k, open_items)


@dataclass(frozen=True)
class RelatedItems:
    """Item-to-item: neighbours (CSR [I, I]) of the user's recent items."""

    neighbours: object

    def propose(self, state: State, k: int, open_items: np.ndarray) -> Proposed:
        """See Source."""
        shape = (len(state), len(state.catalogue))
        recent = sparse.csr_array((state.recent_share, state.pair_item, state.pair_start), shape=shape)
        return _of_table(recent @ self.neighbours, k, open_items)


@dataclass(frozen=True)
class UsersAlike:
    """User-to-user: what users alike take."""

    collaborative: Collaborative

    def propose(self, state: State, k: int, open_items: np.ndarray) -> Proposed:
        """See Source."""
        del state
        return _of_table(self.collaborative.alike, k, open_items)


@dataclass(frozen=True)
class Latent:
    """Matrix factorisation: items whose factors fit the user's."""

    collaborative: Collaborative

    def propose(self, state: State, k: int, open_items: np.ndarray) -> Proposed:
        """See Source."""
        items = np.flatnonzero(open_items)
        if len(items) > MOST_LATENT:
            popular = best_rows(np.zeros(len(items), np.int64), state.catalogue.popularity[items], MOST_LATENT)
            items = np.sort(items[popular])
        parts = []
        for first in range(0, len(state), 256):
            user = np.repeat(np.arange(first, min(first + 256, len(state))), len(items))
            item = np.tile(items, len(user) // max(len(items), 1))
            fits = self.collaborative.of_factors(user, item)
            parts.append(_best(user, item, fits, k, open_items))
        return _joined(parts)


@dataclass(frozen=True)
class Popular:
    """What everybody takes up: by decayed popularity, or by an item feature such as `item_trend_1_7`."""

    by: str = "popularity"

    def propose(self, state: State, k: int, open_items: np.ndarray) -> Proposed:
        """See Source."""
        catalogue = state.catalogue
        values = catalogue.popularity if self.by == "popularity" else catalogue.block[:, _ITEM.index(self.by)]
        at = np.flatnonzero(open_items & (values > 0))
        top = at[best_rows(np.zeros(len(at), np.int64), values[at].astype(np.float32), k)]
        user = np.repeat(np.arange(len(state)), len(top))
        return Proposed(user, np.tile(top, len(state)), np.tile(values[top].astype(np.float32), len(state)))


@dataclass(frozen=True)
class NewInCategories:
    """Items first seen within NEW_DAYS in the categories that the user takes from, newest of the dearest first."""

    def propose(self, state: State, k: int, open_items: np.ndarray) -> Proposed:
        """See Source."""
        catalogue = state.catalogue
        categories = max(len(catalogue.items.categories), 1)
        age = catalogue.block[:, _ITEM.index("item_known_days")]
        new = np.flatnonzero(open_items & (age < NEW_DAYS) & (catalogue.items.category >= 0))
        freshness = np.exp2(-age[new] / np.float32(NEW_DAYS / 4))
        shape = (categories, len(catalogue))
        offered = sparse.csr_array((freshness, (catalogue.items.category[new], new)), shape=shape)
        share = np.nan_to_num(state.category.block[:-1, schema.group_names("category").index("category_share")])
        user, category = np.divmod(state.category.keys, categories)
        liked = sparse.csr_array((share, (user, category)), shape=(len(state), categories))
        return _of_table(liked @ offered, k, open_items)


def standard(neighbours: object, collaborative: Collaborative) -> dict[str, Source]:
    """Every source, by name."""
    return {
        "own": Own(),
        "due": Own("pair_hazard_7d"),
        "related": RelatedItems(neighbours),
        "alike": UsersAlike(collaborative),
        "latent": Latent(collaborative),
        "popular": Popular(),
        "trend": Popular("item_trend_1_7"),
        "new": NewInCategories(),
        "carts": AbandonedCarts(),
    }


PROTOCOL = {"popular": 40, "related": 40, "latent": 25, "own": 50}
"""Quotas that the reference figures on Complete Journey are measured with: about 92 candidates a user."""


def union(
    state: State, sources: Mapping[str, Source], quotas: Mapping[str, int], open_items: np.ndarray, neighbours: object
) -> Candidates:
    """What any source proposes within its quota.

    score: reciprocal ranks, summed · source: place in `quotas` of the one that ranked the item highest, the earlier of
    equals.
    """
    size = len(state.catalogue)
    keys, ranks, numbers = [], [], []
    for place, (name, quota) in enumerate(quotas.items()):
        found = sources[name].propose(state, quota, open_items)
        keys.append(found.user.astype(np.int64) * size + found.item)
        ranks.append(_ranks(found.user))
        numbers.append(np.full(len(found.user), place, np.int8))
    key, rank, number = (np.concatenate(parts) for parts in (keys, ranks, numbers))
    order = np.lexsort((number, rank, key))
    key, rank, number = key[order], rank[order], number[order]
    distinct, first, of = np.unique(key, return_index=True, return_inverse=True)
    score = np.bincount(of, 1 / (_FUSION + rank), minlength=len(distinct)).astype(np.float32)
    user, item = np.divmod(distinct, max(size, 1))
    best = best_rows(user, score, sum(quotas.values()))
    user, item = user[best], item[best]
    scores = related.lookup(state, neighbours, user, item)
    return Candidates(user.astype(np.int32), item.astype(np.int32), number[first][best], score[best], scores)


def recall_by_source(
    state: State, sources: Mapping[str, Source], k: int, open_items: np.ndarray, taken: np.ndarray
) -> dict[str, float]:
    """Share of what was taken (user · I + item, int64, sorted) that each source alone proposes; NaN of nothing."""
    found = {}
    for name, source in sources.items():
        proposed = source.propose(state, k, open_items)
        keys = proposed.user.astype(np.int64) * len(state.catalogue) + proposed.item
        found[name] = float(np.isin(taken, keys).mean()) if len(taken) else float("nan")
    return found


def _owner(state: State) -> np.ndarray:
    return np.repeat(np.arange(len(state)), np.diff(state.pair_start))


def _ranks(user: np.ndarray) -> np.ndarray:
    starts = np.flatnonzero(np.append(True, user[1:] != user[:-1])) if len(user) else np.zeros(0, np.int64)
    return np.arange(len(user)) - np.repeat(starts, np.diff(np.append(starts, len(user))))


def _best(user: np.ndarray, item: np.ndarray, score: np.ndarray, k: int, open_items: np.ndarray) -> Proposed:
    good = np.flatnonzero(open_items[item] & (score > 0))
    best = good[best_rows(user[good], score[good].astype(np.float32), k)]
    return Proposed(user[best], item[best], score[best].astype(np.float32))


def _of_table(table: object, k: int, open_items: np.ndarray) -> Proposed:
    rows = sparse.csr_array(table)
    rows.sort_indices()
    user = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    return _best(user, rows.indices, rows.data, k, open_items)


def _joined(parts: list[Proposed]) -> Proposed:
    if not parts:
        nobody = np.zeros(0, np.int64)
        return Proposed(nobody, nobody, np.zeros(0, np.float32))
    return Proposed(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("user", "item", "score")))
