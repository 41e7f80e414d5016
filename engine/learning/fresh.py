"""Items that are new or have become cheaper, for users who take from their categories (pure)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.features import schema
from engine.features.catalogue import Catalogue
from engine.features.state import State
from engine.learning.ranking import best_rows
from engine.learning.related import sparse

NEW_DAYS = 28.0
LEAST_DROP = 0.05
"""Share of its price that an item must have become cheaper by."""

A_CATEGORY = 5
"""Items of a category that are proposed: of more, the newest and the most reduced."""

_ITEM, _CATEGORY = schema.group_names("item"), schema.group_names("category")
_KNOWN, _OFFERED, _DROP = (_ITEM.index(f"item_{name}") for name in ("known_days", "offered_days", "price_drop"))
_SHARE = _CATEGORY.index("category_share")


@dataclass(frozen=True, eq=False)
class Fresh:
    """What is fresh. offered: CSR float32 [C, I], by category, how fresh (0 … 1] · has: bool[I] · k: of each user."""

    offered: object
    has: np.ndarray
    k: int

    def __len__(self) -> int:
        return int(self.has.sum())

    def best(self, state: State, users: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(user from `users.start`, item, score) of each user's k best: share in the category times freshness."""
        codes = max(len(state.catalogue.items.categories), 1)
        low, high = np.searchsorted(state.category.keys, (users.start * codes, users.stop * codes))
        user, code = np.divmod(state.category.keys[low:high] - users.start * codes, codes)
        share = np.nan_to_num(state.category.block[low:high, _SHARE])
        table = sparse.csr_array((share, (user, code)), shape=(users.stop - users.start, codes)) @ self.offered
        table.sort_indices()
        user = np.repeat(np.arange(table.shape[0]), np.diff(table.indptr))
        good = np.flatnonzero(table.data > 0)
        kept = good[best_rows(user[good], table.data[good], self.k)]
        return user[kept], table.indices[kept].astype(np.int64), table.data[kept]

    def beside(
        self, state: State, users: slice, user: np.ndarray, item: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which rows (user, item) are fresh enough, bool[n]; and (user, item) of the fresh items not among them."""
        size = max(len(state.catalogue), 1)
        new_user, new_item, _ = self.best(state, users)
        wanted = np.sort(new_user * size + new_item)
        known = np.flatnonzero(self.has[item])
        keys = user[known] * size + item[known]
        there = np.zeros(len(user), bool)
        there[known[np.isin(keys, wanted)]] = True
        missing = np.setdiff1d(wanted, keys)
        return there, missing // size, missing % size


def find(catalogue: Catalogue, open_items: np.ndarray, k: int) -> Fresh:
    """What is fresh among the open items (bool[I]): first seen or first on offer within NEW_DAYS, or reduced."""
    block, category = catalogue.block, catalogue.items.category
    age = np.fmin(block[:, _KNOWN], block[:, _OFFERED])
    with np.errstate(invalid="ignore"):
        newness = np.where(age < NEW_DAYS, np.exp2(-age / np.float32(NEW_DAYS / 4)), 0)
        reduced = np.where(block[:, _DROP] >= LEAST_DROP, block[:, _DROP], 0)
    freshness = np.maximum(newness, reduced).astype(np.float32)
    at = np.flatnonzero(open_items & (category >= 0) & (freshness > 0))
    at = at[np.argsort(category[at], kind="stable")]
    kept = at[best_rows(category[at].astype(np.int64), freshness[at], A_CATEGORY)]
    has = np.zeros(len(catalogue), bool)
    has[kept] = True
    shape = (max(len(catalogue.items.categories), 1), len(catalogue))
    return Fresh(sparse.csr_array((freshness[kept], (category[kept], kept)), shape=shape), has, k)
