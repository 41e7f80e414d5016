"""Candidate sources one by one: each is fitted on what was known before τ and proposes K items per user.

`Proposer` unites by quotas those that pay on every run. Here each stands alone, to be judged by what it finds:
`recall_by_source`. Users alike and factors find what own history and related items find already (2 more candidates a
user, no better ranking on Complete Journey): they are features, not sources of a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from engine.features import schema
from engine.features.state import P_120D, State
from engine.learning import fresh
from engine.learning.ranking import best_rows
from engine.learning.related import sparse
from engine.learning.tastes import Collaborative

_BLOCK = 256
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
        parts = []
        for first in range(0, len(state), _BLOCK):
            fits = self.collaborative.of_everything(slice(first, first + _BLOCK))[:, items]
            user = np.repeat(np.arange(first, first + len(fits)), len(items))
            parts.append(_best(user, np.tile(items, len(fits)), fits.ravel(), k, open_items))
        return _joined(parts)


@dataclass(frozen=True)
class Popular:
    """What everybody takes up, by decayed popularity."""

    def propose(self, state: State, k: int, open_items: np.ndarray) -> Proposed:
        """See Source."""
        return _for_everybody(state, state.catalogue.popularity, k, open_items)


@dataclass(frozen=True)
class Rising:
    """What is bought more than it was: purchases of the last days beside what those of the last weeks lead to expect.

    In standard deviations of a count, so that two purchases after one are no trend.
    """

    def propose(self, state: State, k: int, open_items: np.ndarray) -> Proposed:
        """See Source."""
        block = state.catalogue.block
        week, month = (np.nan_to_num(block[:, _ITEM.index(f"item_purchases_{days}d")]) for days in (7, 30))
        expected = month * np.float32(7 / 30)
        return _for_everybody(state, (week - expected) / np.sqrt(expected + 1), k, open_items)


@dataclass(frozen=True)
class FreshInCategories:
    """Items that are new or have become cheaper in the categories that the user takes from."""

    def propose(self, state: State, k: int, open_items: np.ndarray) -> Proposed:
        """See Source."""
        return Proposed(*fresh.find(state.catalogue, open_items, k).best(state, slice(0, len(state))))


def standard(neighbours: object, collaborative: Collaborative) -> dict[str, Source]:
    """Every source, by name."""
    return {
        "own": Own(),
        "due": Own("pair_hazard_7d"),
        "related": RelatedItems(neighbours),
        "alike": UsersAlike(collaborative),
        "latent": Latent(collaborative),
        "popular": Popular(),
        "rising": Rising(),
        "new": FreshInCategories(),
        "carts": AbandonedCarts(),
    }


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


def _for_everybody(state: State, values: np.ndarray, k: int, open_items: np.ndarray) -> Proposed:
    at = np.flatnonzero(open_items & (values > 0))
    top = at[best_rows(np.zeros(len(at), np.int64), values[at].astype(np.float32), k)]
    user = np.repeat(np.arange(len(state)), len(top))
    return Proposed(user, np.tile(top, len(state)), np.tile(values[top].astype(np.float32), len(state)))


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
