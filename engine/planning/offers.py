"""Offers: which items each user may be offered by each occurrence, and what they score (pure).

Two stages: the scorer's goal on every candidate (50 a user), then the best few offers × windows. Scores depend on
(user, item, cell of the week) alone, so what several occurrences and windows share is scored once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from engine.features.state import State
from engine.learning.candidates import Candidates
from engine.learning.ranking import best_rows
from engine.learning.windows import rate

CANDIDATES = 50
MOST_OFFERS = 8
"""Offers of an occurrence that meet windows; beyond the eighth the best window adds nothing measurable."""

NO_ITEM_GOAL = np.float32(0.05)
"""Score, in the user's best window, of a push that is about no item: nothing is modelled but the hour."""

MISSING, NO_ITEM = -2, -1
"""Instead of an item's position: no such offer; an offer without an item."""


class Scores(Protocol):
    """What planning asks of learning.scoring.Scorer."""

    def candidates(self, state: State, k: int, allowed: np.ndarray | None = None) -> Candidates:
        """At most k items a user."""

    def goal(
        self, state: State, user: np.ndarray, item: np.ndarray, related_scores: np.ndarray | None = None
    ) -> np.ndarray:
        """Stage 1: float32 per (user, item)."""

    def windows(self, state: State) -> np.ndarray:
        """float32[U, 16]: p(cell | user)."""

    def offers(
        self,
        state: State,
        user: np.ndarray,
        item: np.ndarray,
        cell: np.ndarray,
        related_scores: np.ndarray | None = None,
    ) -> np.ndarray:
        """Stage 2: float32 per (user, item, cell); equal (user, item) side by side."""


@dataclass(frozen=True)
class Pool:
    """Scored candidates: user, item int32[m] positions, goal, related float32[m]; grouped by user."""

    user: np.ndarray
    item: np.ndarray
    goal: np.ndarray
    related: np.ndarray


def pool(scores: Scores, state: State, allowed: np.ndarray | None) -> Pool:
    """The candidates of every user of `state` among the `allowed` items (bool[I]), with their stage-1 scores."""
    found = scores.candidates(state, CANDIDATES, allowed)
    goal = scores.goal(state, found.user, found.item, found.related)
    return Pool(found.user, found.item, goal, found.related)


class Top(NamedTuple):
    """The best items of U users: item int32[U, K] positions (MISSING where there are fewer), related float32[U, K]."""

    item: np.ndarray
    related: np.ndarray


def top(candidates: Pool, wanted: np.ndarray, barred: np.ndarray, items: int, most: int = MOST_OFFERS) -> Top:
    """The `most` best items of each wanted (bool[U]) user.

    barred: int64, sorted, of user · items + item: pairs that may not be offered again yet.
    """
    keep = wanted[candidates.user]
    if len(barred):
        keys = candidates.user.astype(np.int64) * items + candidates.item
        at = np.minimum(np.searchsorted(barred, keys), len(barred) - 1)
        keep &= barred[at] != keys
    rows = np.flatnonzero(keep)
    rows = rows[best_rows(candidates.user[rows].astype(np.int64), candidates.goal[rows], most)]
    user = candidates.user[rows]
    place = np.arange(len(rows)) - np.searchsorted(user, user)
    best = Top(np.full((len(wanted), most), MISSING, np.int32), np.zeros((len(wanted), most), np.float32))
    best.item[user, place], best.related[user, place] = candidates.item[rows], candidates.related[rows]
    return best


def scored(scores: Scores, state: State, rows: np.ndarray, best: Top, cell: np.ndarray) -> np.ndarray:
    """float32[n, O, K, W]: stage-2 scores of items [n, O, K] (`best`) at cell int8[n, O, W]; NaN where one is missing.

    rows int64[n]: each user's position in `state`, −1 where it is not there (all NaN).
    """
    item = best.item
    n, occurrences, offers = item.shape
    windows = cell.shape[2]
    items, item_at = _distinct(item.reshape(n, -1), MISSING)
    related = np.zeros(items.shape, np.float32)
    np.put_along_axis(related, item_at, best.related.reshape(n, -1), 1)
    cells, cell_at = _distinct(cell.reshape(n, -1).astype(np.int32), -1)
    wanted = (items != MISSING)[:, :, None] & (cells >= 0)[:, None, :] & (rows >= 0)[:, None, None]
    table = np.full(wanted.shape, np.nan, np.float32)
    user, k, c = np.nonzero(wanted & (items >= 0)[:, :, None])
    if len(user):
        table[user, k, c] = scores.offers(state, rows[user], items[user, k], cells[user, c], related[user, k])
    user, k, c = np.nonzero(wanted & (items == NO_ITEM)[:, :, None])
    if len(user):
        table[user, k, c] = NO_ITEM_GOAL * rate(scores.windows(state))[rows[user], cells[user, c]]
    at = item_at.reshape(n, occurrences, offers, 1) * cells.shape[1] + cell_at.reshape(n, occurrences, 1, windows)
    found = np.take_along_axis(table.reshape(n, -1), at.reshape(n, -1), 1).reshape(at.shape)
    there = (item != MISSING)[:, :, :, None] & (cell >= 0)[:, :, None, :]
    return np.where(there, found, np.float32(np.nan))


def _distinct(values: np.ndarray, missing: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values of each row, int32[n, M] (padded with `missing`), and where each value stands among them."""
    order = np.argsort(values, 1, kind="stable")
    ascending = np.take_along_axis(values, order, 1)
    rank = np.cumsum(np.diff(ascending, axis=1, prepend=ascending[:, :1]) != 0, 1)
    place = np.empty_like(rank)
    np.put_along_axis(place, order, rank, 1)
    out = np.full((len(values), int(rank.max(initial=0)) + 1), missing, np.int32)
    np.put_along_axis(out, rank, ascending.astype(np.int32), 1)
    return out, place
