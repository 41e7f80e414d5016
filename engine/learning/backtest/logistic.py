"""Logistic regression on the feature rows: the simplest model that a complicated one must beat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MOST_ROWS = 120_000
RIDGE = 10.0
_STEPS = 12


@dataclass(frozen=True, eq=False)
class Logistic:
    """Columns are log-scaled, standardised, missing ones filled by the mean and told of by a column of their own.

    mean, scale: float64[F] · missing: int64[m], columns that have such a column · weights: float64[F + m + 1].
    """

    mean: np.ndarray
    scale: np.ndarray
    missing: np.ndarray
    weights: np.ndarray

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """P(label) of feature rows float32[n, F], as sampled: float64[n]."""
        design = _design(rows, self.mean, self.scale, self.missing)
        chances: np.ndarray = 1 / (1 + np.exp(-np.clip(design @ self.weights, -30, 30)))
        return chances


def fit(rows: np.ndarray, labels: np.ndarray, seed: int, ridge: float = RIDGE) -> Logistic:
    """Newton's method with a ridge, on at most MOST_ROWS rows drawn by `seed`."""
    if len(rows) > MOST_ROWS:
        chosen = np.sort(np.random.default_rng(seed).choice(len(rows), MOST_ROWS, replace=False))
        rows, labels = rows[chosen], labels[chosen]
    told = _logged(rows)
    known = ~np.isnan(told)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, told, 0.0).sum(axis=0) / count
    scale = np.sqrt((np.where(known, told - mean, 0.0) ** 2).sum(axis=0) / count)
    scale[scale < 1e-6] = np.inf  # a constant column says nothing
    share = known.mean(axis=0)
    missing = np.flatnonzero((share > 0.01) & (share < 0.99))
    # columns of one block are missing together: one of them tells of all
    _, first = np.unique(known[:, missing], axis=1, return_index=True) if len(missing) else (None, missing)
    missing = missing[np.sort(first)]
    design = _design(rows, mean, scale, missing)
    weights = np.zeros(design.shape[1])
    penalty = np.full(design.shape[1], ridge)
    penalty[-1] = 1e-6
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))
        slope = design.T @ (labels - chance) - penalty * weights
        curvature = (design * (chance * (1 - chance))[:, None]).T @ design + np.diag(penalty)
        step = np.linalg.solve(curvature, slope)
        weights += step
        if np.abs(step).max() < 1e-4:
            break
    return Logistic(mean, scale, missing, weights)


def _logged(rows: np.ndarray) -> np.ndarray:
    wide = rows.astype(np.float64)
    return np.asarray(np.sign(wide) * np.log1p(np.abs(wide)), np.float64)


def _design(rows: np.ndarray, mean: np.ndarray, scale: np.ndarray, missing: np.ndarray) -> np.ndarray:
    told = np.nan_to_num((_logged(rows) - mean) / scale)
    return np.column_stack([told, np.isnan(rows[:, missing]), np.ones(len(rows))])
