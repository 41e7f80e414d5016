"""Promotions: what a shop announced beforehand about its items (pure).

A promotion says that an item is promoted from one instant to another, in one of a few ways, and how strongly. It is
known from its announcement on, so that features as of τ may look at the days after τ: only at what had been announced.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.features.readings import positions

DAY_SECONDS = 86_400.0
KINDS = ("advert", "placement", "discount")
"""Advertised (leaflet, mail, banner) · placed well (end of an aisle, front page) · sold for less."""

AHEAD_DAYS = 7.0
"""How far features look ahead: the attribution window."""

USUAL_DAYS = 56.0
"""The time before τ that tells how strongly an item usually is promoted."""

_LITTLE = 0.1


@dataclass(frozen=True, eq=False)
class Promotions:
    """Promotions as announced before τ, in any order.

    item: int64[m] ids · kind: int8[m], index into KINDS · starts, ends: float64[m], epoch seconds · weight: float64[m].
    """

    item: np.ndarray
    kind: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    weight: np.ndarray

    def __len__(self) -> int:
        return len(self.item)


def none() -> Promotions:
    """No promotions."""
    empty = np.zeros(0)
    return Promotions(np.zeros(0, np.int64), np.zeros(0, np.int8), empty, empty, empty)


def strengths(promotions: Promotions, ids: np.ndarray, as_of: float) -> tuple[np.ndarray, np.ndarray]:
    """(in the AHEAD_DAYS from τ, beside what is usual) of items `ids` (int64[I], sorted): float64[I, KINDS] each.

    A strength is the sum of weights, each times the share of the days that its promotion covers. What is usual is that
    of the USUAL_DAYS before τ; the second table is NaN where a kind was never announced for any item.
    """
    shape = (len(ids), len(KINDS))
    told = np.isin(np.arange(len(KINDS)), promotions.kind)
    ahead = _strength(promotions, ids, as_of, as_of + AHEAD_DAYS * DAY_SECONDS, shape)
    usual = _strength(promotions, ids, as_of - USUAL_DAYS * DAY_SECONDS, as_of, shape)
    beside = (ahead + _LITTLE) / (usual + _LITTLE)
    return np.where(told, ahead, np.nan), np.where(told, beside, np.nan)


def _strength(promotions: Promotions, ids: np.ndarray, begin: float, end: float, shape: tuple[int, int]) -> np.ndarray:
    at = positions(ids, promotions.item)
    covered = (np.minimum(promotions.ends, end) - np.maximum(promotions.starts, begin)) / (end - begin)
    use = np.flatnonzero((at >= 0) & (covered > 0))
    key = at[use] * shape[1] + promotions.kind[use]
    weight = promotions.weight[use] * covered[use]
    total: np.ndarray = np.bincount(key, weight, minlength=shape[0] * shape[1]).reshape(shape)
    return total
