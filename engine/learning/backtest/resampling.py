"""Intervals by resampling users (pure).

A user's rows hang together, so users are drawn, not rows: draw b gives each user a weight W[u, b], how often they were
drawn. Everything measured is a function of sums over users, so a thousand draws are one product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.learning import evaluation
from engine.learning.related import sparse

DRAWS = 500
RANK_BINS = 1_000
"""Bins of equal mass that stand for the order of scores inside a draw; point estimates are exact."""


def draws(users: int, seed: int = 1, count: int = DRAWS) -> np.ndarray:
    """How often each user is drawn, float64[users, count + 1]; column 0 is everybody once: the log itself."""
    rng = np.random.default_rng(seed)
    weights = np.ones((users, count + 1))
    for draw in range(1, count + 1):
        weights[:, draw] = np.bincount(rng.integers(0, users, users), minlength=users)
    return weights


@dataclass(frozen=True)
class Week:
    """One model's scores of one week. user: int64[n], positions among all users of the backtest · item keys do not
    matter here · labels: bool[n] · scores: float64[n] · is_chance: scores are probabilities · threshold: what counts
    as chosen · ranked: users with something to find, their NDCG@10 and whether a hit · taken, proposed: per such user.
    """

    user: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    is_chance: bool
    threshold: float
    ranked: tuple[np.ndarray, np.ndarray, np.ndarray]
    taken: np.ndarray
    proposed: np.ndarray


def week_samples(week: Week, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Every measure in every draw, float64[draws]; draw 0 is exact."""
    users = len(weights)
    found = _order_samples(week, weights) | _threshold_samples(week, weights)
    who, ndcg, hit = week.ranked
    mass = weights[who].sum(axis=0)
    found["ndcg_10"] = _ratio(ndcg @ weights[who], mass)
    found["hr_10"] = _ratio(hit @ weights[who], mass)
    found["candidate_recall"] = _ratio(week.proposed @ weights[who], week.taken @ weights[who])
    if week.is_chance:
        found |= _chance_samples(week, weights, users)
    return found


def bin_sums(week: Week, users: int) -> tuple[np.ndarray, np.ndarray]:
    """Predicted − observed by user and calibration bin of this week's scores, and rows: float64[users, BINS] each."""
    bins = equal_mass(week.scores, evaluation.BINS)
    at = week.user * evaluation.BINS + bins
    gap = np.bincount(at, week.scores - week.labels, minlength=users * evaluation.BINS)
    rows = np.bincount(at, minlength=users * evaluation.BINS)
    return gap.reshape(users, -1), rows.reshape(users, -1).astype(np.float64)


def equal_mass(scores: np.ndarray, bins: int) -> np.ndarray:
    """The bin of each score, int64[n], bins of equal mass, in order of score."""
    order = np.argsort(scores, kind="stable")
    found = np.empty(len(scores), np.int64)
    found[order] = np.arange(len(scores)) * bins // max(len(scores), 1)
    return found


def ece_samples(gap: np.ndarray, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Expected calibration error in every draw from `bin_sums`."""
    return _ratio(np.abs(gap.T @ weights).sum(axis=0), (rows.T @ weights).sum(axis=0))


def _order_samples(week: Week, weights: np.ndarray) -> dict[str, np.ndarray]:
    """AUC and average precision: in draws of binned scores, shifted so that draw 0 is exact."""
    bins = equal_mass(-week.scores, RANK_BINS)
    shape = (RANK_BINS, len(weights))
    total = sparse.csr_array((np.ones(len(bins)), (bins, week.user)), shape=shape) @ weights
    good = sparse.csr_array((week.labels.astype(np.float64), (bins, week.user)), shape=shape) @ weights
    bad = total - good
    positives, negatives = good.sum(axis=0), bad.sum(axis=0)
    later = negatives - np.cumsum(bad, axis=0)
    auc = _ratio((good * (later + bad / 2)).sum(axis=0), positives * negatives)
    hits, seen = np.cumsum(good, axis=0), np.cumsum(total, axis=0)
    ap = _ratio((good * hits / np.maximum(seen, 1e-12)).sum(axis=0), positives)
    exact = {
        "auc": evaluation.auc(week.labels, week.scores),
        "ap": evaluation.average_precision(week.labels, week.scores),
    }
    return {"auc": auc + (exact["auc"] - auc[0]), "ap": ap + (exact["ap"] - ap[0])}


def _threshold_samples(week: Week, weights: np.ndarray) -> dict[str, np.ndarray]:
    chosen = week.scores >= week.threshold
    users = len(weights)
    tp, fp, fn, rows = (
        np.bincount(week.user, mask, minlength=users) @ weights
        for mask in (chosen & week.labels, chosen & ~week.labels, ~chosen & week.labels, np.ones(len(chosen)))
    )
    return {
        "accuracy": 1 - _ratio(fp + fn, rows),
        "precision": _ratio(tp, tp + fp),
        "recall": _ratio(tp, tp + fn),
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
    }


def _chance_samples(week: Week, weights: np.ndarray, users: int) -> dict[str, np.ndarray]:
    p = np.clip(week.scores.astype(np.float64), 1e-7, 1 - 1e-7)
    loss = -np.where(week.labels, np.log(p), np.log1p(-p))
    rows, losses, squares, positives, predicted = (
        np.bincount(week.user, values, minlength=users) @ weights
        for values in (np.ones(len(p)), loss, (p - week.labels) ** 2, week.labels, week.scores)
    )
    base = np.clip(_ratio(positives, rows), 1e-12, 1 - 1e-12)
    entropy = -base * np.log(base) - (1 - base) * np.log1p(-base)
    logloss, brier = _ratio(losses, rows), _ratio(squares, rows)
    return {
        "logloss": logloss,
        "ne": logloss / entropy,
        "brier": brier,
        "rmse": np.sqrt(brier),
        "predicted_per_actual": _ratio(predicted, positives),
        "ece_weekly": ece_samples(*bin_sums(week, users), weights),
    }


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    found = np.full(np.shape(above), np.nan)
    np.divide(above, below, out=found, where=np.asarray(below) > 0)
    return found
