"""Logistic regression on the feature rows: the simplest model that a complicated one must beat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MOST_ROWS = 120_000
RIDGE = 10.0
_STEPS = 12
_PART = 8_192


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
    known = ~np.isnan(rows)
    mean, scale = _moments(rows, known)
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
        slope, curvature = -penalty * weights, np.diag(penalty)
        for part in _parts(len(design)):  # float64 a part at a time: the whole would need half a gigabyte
            wide = design[part].astype(np.float64)
            chance = 1 / (1 + np.exp(-np.clip(wide @ weights, -30, 30)))
            slope += wide.T @ (labels[part] - chance)
            curvature += (wide * (chance * (1 - chance))[:, None]).T @ wide
        step = np.linalg.solve(curvature, slope)
        weights += step
        if np.abs(step).max() < 1e-4:
            break
    return Logistic(mean, scale, missing, weights)


def _logged(rows: np.ndarray) -> np.ndarray:
    wide = rows.astype(np.float64)
    return np.asarray(np.sign(wide) * np.log1p(np.abs(wide)), np.float64)


def _moments(rows: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the known log-scaled values by column: float64[F] each."""
    count = np.maximum(known.sum(axis=0), 1)
    total = np.zeros(rows.shape[1])
    for part in _parts(len(rows)):
        total += np.nansum(_logged(rows[part]), axis=0)
    mean, squares = total / count, np.zeros(rows.shape[1])
    for part in _parts(len(rows)):
        squares += np.nansum((_logged(rows[part]) - mean) ** 2, axis=0)
    return mean, np.sqrt(squares / count)


def _design(rows: np.ndarray, mean: np.ndarray, scale: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """float32[n, F + m + 1]."""
    design = np.ones((len(rows), rows.shape[1] + len(missing) + 1), np.float32)
    for part in _parts(len(rows)):
        design[part, : rows.shape[1]] = np.nan_to_num((_logged(rows[part]) - mean) / scale)
        design[part, rows.shape[1] : -1] = np.isnan(rows[part][:, missing])
    return design


def _parts(rows: int) -> list[slice]:
    return [slice(start, min(start + _PART, rows)) for start in range(0, rows, _PART)]
