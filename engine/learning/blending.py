"""How much each source of candidates should weigh, from what users then did (pure)."""

from __future__ import annotations

import numpy as np

from engine.features.state import P_14D, P_120D, State
from engine.learning.candidates import Blend, Candidates

LEAST_POSITIVES = 50
_RIDGE = 1.0
_STEPS = 25


def fit_blend(state: State, candidates: Candidates, labels: np.ndarray) -> Blend:
    """The blend whose weighted sum best tells taken candidates from others: a logistic regression, weights ≥ 0.

    labels: bool[n], by candidate. The default where there are fewer than LEAST_POSITIVES positives.
    """
    if labels.sum() < LEAST_POSITIVES or labels.all():
        return Blend()
    columns = _columns(state, candidates)
    kept = np.arange(columns.shape[1])
    weights = _logistic(columns[:, kept], labels)
    while np.any(weights < 0):  # a source that speaks against a candidate is left out and the rest fitted again
        kept = kept[weights >= 0]
        weights = _logistic(columns[:, kept], labels)
    full = np.zeros(columns.shape[1])
    full[kept] = weights
    return Blend(*(float(weight) for weight in full)) if full.any() else Blend()


def _columns(state: State, candidates: Candidates) -> np.ndarray:
    """What the blend weighs, float64[n, 4], in the order of its fields."""
    at = state.pairs.find(candidates.user.astype(np.int64) * len(state.catalogue) + candidates.item)
    interest = np.concatenate([state.interest, np.zeros((1, state.interest.shape[1]), np.float32)])[at]
    popularity = np.log1p(state.catalogue.popularity)
    popularity /= max(float(popularity.max(initial=0.0)), 1e-9)
    own, recent = np.log1p(interest[:, P_120D]), np.log1p(interest[:, P_14D])
    return np.stack([own, recent, candidates.related, popularity[candidates.item]], axis=1).astype(np.float64)


def _logistic(columns: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Weights of a ridge-regularised logistic regression by Newton's method, without the intercept: float64[k]."""
    design = np.column_stack([columns, np.ones(len(columns))])
    weights = np.zeros(design.shape[1])
    ridge = _RIDGE * np.eye(design.shape[1])
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))
        slope = design.T @ (labels - chance) - ridge @ weights
        curvature = (design * (chance * (1 - chance))[:, None]).T @ design + ridge
        step = np.linalg.solve(curvature, slope)
        weights += step
        if np.abs(step).max() < 1e-6:
            break
    return weights[:-1]
