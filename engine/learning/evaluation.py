"""Measures of predictions and rankings (pure).

A candidate that was never proposed is a miss: rankings are judged against everything the user took, not only against
what was proposed.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy.stats import rankdata

CUTOFF = 10
BINS = 15


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve, ties counting half; NaN where only one class is there."""
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return float("nan")
    ranks = rankdata(scores)
    return float((ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """Mean precision at the positives, tied scores sharing that at the end of their run; NaN without positives."""
    if not labels.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(labels[order], dtype=np.float64)
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    precision = hits[ends] / (ends + 1)
    gained = np.diff(np.concatenate([[0.0], hits[ends]]))
    return float((precision * gained).sum() / hits[-1])


def logloss(labels: np.ndarray, chances: np.ndarray) -> float:
    """Mean negative log-likelihood, chances kept 1e-7 away from 0 and 1."""
    p = np.clip(chances.astype(np.float64), 1e-7, 1 - 1e-7)
    return float(-np.mean(np.where(labels, np.log(p), np.log1p(-p))))


def normalised_entropy(labels: np.ndarray, chances: np.ndarray) -> float:
    """Log-loss over that of always predicting the base rate; NaN where only one class is there."""
    base = float(labels.mean())
    if base in {0.0, 1.0}:
        return float("nan")
    return logloss(labels, chances) / float(-base * np.log(base) - (1 - base) * np.log(1 - base))


def calibration_error(labels: np.ndarray, chances: np.ndarray) -> float:
    """ECE over 15 bins of equal mass: mean absolute difference of predicted and observed rate."""
    order = np.argsort(chances, kind="stable")
    edges = np.linspace(0, len(order), BINS + 1).astype(np.int64)
    gaps = [
        abs(float(chances[part].mean(dtype=np.float64)) - float(labels[part].mean())) * len(part)
        for low, high in pairwise(edges)
        if len(part := order[low:high])
    ]
    return sum(gaps) / len(order)


def calibration(labels: np.ndarray, chances: np.ndarray) -> float:
    """Predicted over actual positives; NaN without any."""
    return float(chances.sum(dtype=np.float64) / labels.sum()) if labels.any() else float("nan")


def ranking(
    user: np.ndarray, key: np.ndarray, score: np.ndarray, taken: np.ndarray, items: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """NDCG@10 and HR@10 of each user who took something: (users, ndcg, hit), int64[m], float64[m], float64[m].

    user, score: of each proposal, user positions · key: user · `items` + item · taken: int64 keys, sorted, distinct.
    Equal scores keep the given order.
    """
    order = np.lexsort((-score, user))
    ranked = user[order]
    starts = np.concatenate([[0], np.flatnonzero(np.diff(ranked)) + 1]) if len(ranked) else np.zeros(0, np.int64)
    rank = np.arange(len(ranked)) - np.repeat(starts, np.diff(np.append(starts, len(ranked))))
    top = np.flatnonzero(rank < CUTOFF)
    hit = top[np.isin(key[order[top]], taken)]
    users, wanted = np.unique(taken // items, return_counts=True)
    discount = 1 / np.log2(np.arange(CUTOFF) + 2)
    size = int(max(ranked.max(initial=0), users.max(initial=0))) + 1
    gained = np.bincount(ranked[hit], discount[rank[hit]], minlength=size)
    ideal = np.concatenate([[0.0], np.cumsum(discount)])[np.minimum(wanted, CUTOFF)]
    hits = np.bincount(ranked[hit], minlength=size)[users] > 0
    return users, gained[users] / ideal, hits.astype(np.float64)


def mean(values: np.ndarray) -> float:
    """The mean, NaN of nothing."""
    return float(values.mean()) if len(values) else float("nan")


def classification(labels: np.ndarray, chances: np.ndarray) -> dict[str, float]:
    """AUC, AP, log-loss, NE, ECE, predicted/actual and Brier score of `chances` for `labels` (bool)."""
    return {
        "auc": auc(labels, chances),
        "ap": average_precision(labels, chances),
        "logloss": logloss(labels, chances),
        "ne": normalised_entropy(labels, chances),
        "ece": calibration_error(labels, chances),
        "predicted_per_actual": calibration(labels, chances),
        "brier": float(np.mean((chances.astype(np.float64) - labels) ** 2)),
    }


def windows(preference: np.ndarray, cell: np.ndarray) -> dict[str, float]:
    """Mean log-likelihood, top-1 and top-3 hit rate of curves float[n, 16] for the cells int[n] of n visits."""
    own = preference[np.arange(len(cell)), cell]
    better = (preference > own[:, None]).sum(axis=1)
    return {
        "log_likelihood": mean(np.log(np.maximum(own, 1e-12))),
        "top_1": mean((better < 1).astype(np.float64)),
        "top_3": mean((better < 3).astype(np.float64)),
        "visits": float(len(cell)),
    }
