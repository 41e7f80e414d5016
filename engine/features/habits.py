"""How items are bought again: the gaps between a user's purchases of the same item (pure).

Gaps are not a sum over events, so no profile can hold them in any order of arrival: they are measured over the log when
a model is trained, as of its instant, and are constants of the model from then on. Training sees them as of each of its
own instants, never later.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from engine.features.readings import positions

DAY_SECONDS = 86_400.0
LEAST_GAP_DAYS = 0.5
"""Purchases closer together are one."""

PRIOR_GAPS = 20.0
"""Gaps of all items that an item's own are shrunk towards."""

LEAST_VARIANCE = 0.05
OWN_WEIGHT = 2.0
"""Gaps of its own after which a pair's mean gap weighs as much as its item's."""

HORIZON_DAYS = 7.0
"""The renewal hazard looks so far ahead: the attribution window."""


@dataclass(frozen=True, eq=False)
class Habits:
    """Log-normal gaps (days) by item.

    ids: int64[I], sorted · log_gap, deviation: float64[I] · prior: both for other items.
    """

    ids: np.ndarray
    log_gap: np.ndarray
    deviation: np.ndarray
    prior: tuple[float, float]

    def of(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(mean, standard deviation) of log days for item ids (int64): float64[n] each, the prior for unknown ones."""
        at = positions(self.ids, ids)
        mean, deviation = (
            np.append(column, other)[at]
            for column, other in zip((self.log_gap, self.deviation), self.prior, strict=True)
        )
        return mean, deviation


def nothing() -> Habits:
    """What is believed before anything was learned: three weeks, give or take a factor of e."""
    return Habits(np.zeros(0, np.int64), np.zeros(0), np.zeros(0), (float(np.log(21.0)), 1.0))


def habits_of(ids: np.ndarray, count: np.ndarray, total: np.ndarray, squares: np.ndarray) -> Habits:
    """Habits from gaps by item: how many, Σ log days, Σ log² days (float64[I] each)."""
    if not count.sum():
        return nothing()
    overall = float(total.sum() / count.sum())
    spread = max(float(squares.sum() / count.sum()) - overall**2, LEAST_VARIANCE)
    mean = (total + PRIOR_GAPS * overall) / (count + PRIOR_GAPS)
    second = (squares + PRIOR_GAPS * (spread + overall**2)) / (count + PRIOR_GAPS)
    deviation = np.sqrt(np.maximum(second - mean**2, LEAST_VARIANCE))
    return Habits(ids, mean, deviation, (overall, float(np.sqrt(spread))))


def hazard(
    age_days: np.ndarray, gap_days: np.ndarray, n: np.ndarray, mean: np.ndarray, deviation: np.ndarray
) -> np.ndarray:
    """P(bought again within HORIZON_DAYS | not since `age_days`), float64[n].

    gap_days: the pair's own mean gap, NaN for a single purchase · n: its purchases · mean, deviation: its item's.
    """
    own = np.where(np.isfinite(gap_days), np.maximum(n - 1, 0), 0)
    expected = OWN_WEIGHT * mean + own * np.log(np.maximum(np.nan_to_num(gap_days, nan=1.0), LEAST_GAP_DAYS))
    expected = expected / (OWN_WEIGHT + own)
    now = np.maximum(age_days, 0.3)
    alive = np.maximum(ndtr((expected - np.log(now)) / deviation), 1e-4)
    later = ndtr((expected - np.log(now + HORIZON_DAYS)) / deviation)
    chance: np.ndarray = np.clip((alive - later) / alive, 0, 1)
    return chance
