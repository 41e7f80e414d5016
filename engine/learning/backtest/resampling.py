"""Intervals by resampling users (pure).

A user's rows hang together, so users are drawn, not rows: a draw gives each user a weight, how often they were drawn.
Everything measured is a function of sums over users, so hundreds of draws are one product, and two models are compared
in the same draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.learning import evaluation
from engine.learning.related import sparse

DRAWS = 300
RANK_BINS = 1_000
"""Bins of equal mass that stand for the order of scores inside a draw; point estimates are exact."""

_TOGETHER = 50
"""Draws multiplied at a time: bounds memory."""


class Draws:
    """How often each user is drawn. Draw 0 is everybody once: the log itself."""

    def __init__(self, ids: np.ndarray, rng: np.random.Generator, count: int = DRAWS) -> None:
        """`ids`: int64, sorted: the users who are drawn from."""
        self.ids, self.count = ids, count + 1
        users = len(ids)
        self._weights = np.ones((self.count, users), np.uint8)
        for draw in range(1, self.count):
            drawn = np.bincount(rng.integers(0, users, users), minlength=users) if users else 0
            self._weights[draw] = np.minimum(drawn, 255)

    def sums(self, by_user: Any, ids: np.ndarray) -> np.ndarray:
        """Sums over users in every draw, float64[k, draws + 1]; by_user: dense or sparse [k, U], of users `ids`.

        They are added up in by_user's own precision: counts below 2²⁴ are exact in float32, at half the time.
        """
        at = np.searchsorted(self.ids, ids)
        found = np.empty((by_user.shape[0], self.count))
        for first in range(0, self.count, _TOGETHER):
            part = slice(first, first + _TOGETHER)
            found[:, part] = by_user @ self._weights[part, at].T.astype(by_user.dtype)
        return found


@dataclass(frozen=True)
class Week:
    """A week of outcomes, shared by the models that are judged on it.

    ids: int64[U], its users · user: int32[n], the position of each row's user among them · labels: bool[n] · wanted,
    reached: float64[U], how much each took, and how much of it had been proposed.
    """

    ids: np.ndarray
    user: np.ndarray
    labels: np.ndarray
    wanted: np.ndarray
    reached: np.ndarray


@dataclass(frozen=True)
class Judged:
    """One model's scores of a week.

    scores: float32[n] · is_chance: they are probabilities · threshold: from which on a row counts as chosen · ndcg,
    hit: float64[U], 0 for users who took nothing.
    """

    week: Week
    scores: np.ndarray
    is_chance: bool
    threshold: float
    ndcg: np.ndarray
    hit: np.ndarray

    def samples(self, draws: Draws) -> dict[str, np.ndarray]:
        """Every measure in every draw, float64[draws + 1]; draw 0 is exact."""
        found = self._order(draws) | self._choice(draws)
        who = self.week.wanted > 0
        mass, ndcg, hit, wanted, reached = draws.sums(
            np.stack([who.astype(np.float64), self.ndcg, self.hit, self.week.wanted, self.week.reached]), self.week.ids
        )
        found |= {"ndcg_10": ratio(ndcg, mass), "hr_10": ratio(hit, mass), "candidate_recall": ratio(reached, wanted)}
        return found | self._chance(draws) if self.is_chance else found

    def by_user(self, *values: np.ndarray) -> np.ndarray:
        """Sums by user of values of rows: float64[k, U]."""
        return np.stack([np.bincount(self.week.user, value, minlength=len(self.week.ids)) for value in values]).astype(
            np.float64
        )

    def _order(self, draws: Draws) -> dict[str, np.ndarray]:
        """AUC and average precision: in draws of binned scores, shifted so that draw 0 is exact."""
        week = self.week
        bins = equal_mass(-self.scores, RANK_BINS)
        shape = (RANK_BINS, len(week.ids))
        good_rows = np.flatnonzero(week.labels)
        both = sparse.vstack(
            [
                sparse.csr_array((np.ones(len(at), np.float32), (bins[at], week.user[at])), shape=shape)
                for at in (np.arange(len(bins)), good_rows)
            ],
            format="csr",
        )
        total, good = np.split(draws.sums(both, week.ids), 2)
        bad = total - good
        positives, negatives = good.sum(axis=0), bad.sum(axis=0)
        later = negatives - np.cumsum(bad, axis=0)
        auc = ratio((good * (later + bad / 2)).sum(axis=0), positives * negatives)
        hits, seen = np.cumsum(good, axis=0), np.cumsum(total, axis=0)
        ap = ratio((good * hits / np.maximum(seen, 1e-12)).sum(axis=0), positives)
        exact_auc = evaluation.auc(week.labels, self.scores)
        exact_ap = evaluation.average_precision(week.labels, self.scores)
        return {"auc": auc + (exact_auc - auc[0]), "ap": ap + (exact_ap - ap[0])}

    def _choice(self, draws: Draws) -> dict[str, np.ndarray]:
        chosen, labels = self.scores >= self.threshold, self.week.labels
        counted = self.by_user(chosen & labels, chosen & ~labels, ~chosen & labels, np.ones(len(labels)))
        tp, fp, fn, rows = draws.sums(counted, self.week.ids)
        return {
            "accuracy": 1 - ratio(fp + fn, rows),
            "precision": ratio(tp, tp + fp),
            "recall": ratio(tp, tp + fn),
            "f1": ratio(2 * tp, 2 * tp + fp + fn),
        }

    def _chance(self, draws: Draws) -> dict[str, np.ndarray]:
        labels = self.week.labels
        p = np.clip(self.scores.astype(np.float64), 1e-7, 1 - 1e-7)
        loss = -np.where(labels, np.log(p), np.log1p(-p))
        summed = self.by_user(np.ones(len(p)), loss, (p - labels) ** 2, labels, self.scores)
        rows, losses, squares, positives, predicted = draws.sums(summed, self.week.ids)
        base = np.clip(ratio(positives, rows), 1e-12, 1 - 1e-12)
        entropy = -base * np.log(base) - (1 - base) * np.log1p(-base)
        logloss, brier = ratio(losses, rows), ratio(squares, rows)
        return {
            "logloss": logloss,
            "ne": logloss / entropy,
            "brier": brier,
            "rmse": np.sqrt(brier),
            "predicted_per_actual": ratio(predicted, positives),
            "ece_weekly": pooled_ece([self], draws),
        }


def pooled_ece(weeks: list[Judged], draws: Draws) -> np.ndarray:
    """Expected calibration error over bins of equal mass of all these weeks together, in every draw."""
    bins = equal_mass(np.concatenate([judged.scores for judged in weeks]), evaluation.BINS)
    gap = rows = np.zeros((evaluation.BINS, draws.count))
    first = 0
    for judged in weeks:
        week, users = judged.week, len(judged.week.ids)
        at = bins[first : first + len(week.labels)] * users + week.user
        first += len(week.labels)
        off = np.bincount(at, judged.scores - week.labels, minlength=users * evaluation.BINS)
        seen = np.bincount(at, minlength=users * evaluation.BINS)
        gap = gap + draws.sums(off.reshape(-1, users), week.ids)
        rows = rows + draws.sums(seen.reshape(-1, users).astype(np.float64), week.ids)
    return ratio(np.abs(gap).sum(axis=0), rows.sum(axis=0))


def equal_mass(scores: np.ndarray, bins: int) -> np.ndarray:
    """The bin of each score, int64[n], bins of equal mass, in order of score."""
    order = np.argsort(scores, kind="stable")
    found = np.empty(len(scores), np.int64)
    found[order] = np.arange(len(scores)) * bins // max(len(scores), 1)
    return found


def interval(name: str, draws: np.ndarray) -> dict[str, float | None]:
    """A measure with its 95 % interval: `draws` float64[draws + 1], draw 0 being the log itself.

    The interval is widened to hold the log itself: drawing users again adds to absolute gaps, so that of a small ECE
    all draws may lie above it.
    """
    tail = draws[1:][np.isfinite(draws[1:])]
    low, high = np.percentile(tail, [2.5, 97.5]) if len(tail) else (np.nan, np.nan)
    low, high = np.fmin(low, draws[0]), np.fmax(high, draws[0])
    return {name: rounded(draws[0]), f"{name}_lo": rounded(low), f"{name}_hi": rounded(high)}


def paired(ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    """The difference in the same draws, with its interval: `noise` where that holds 0 or is unknown."""
    found: dict[str, Any] = interval("difference", ours - theirs)
    low, high = found["difference_lo"], found["difference_hi"]
    return found | {"noise": low is None or high is None or low <= 0 <= high}


def rounded(value: float) -> float | None:
    """JSON has no NaN: what could not be measured is null."""
    return round(float(value), 6) if np.isfinite(value) else None


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, NaN where there is nothing below."""
    found = np.full(np.shape(above), np.nan)
    np.divide(above, below, out=found, where=np.asarray(below) > 0)
    return found
