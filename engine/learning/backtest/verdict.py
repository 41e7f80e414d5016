"""From scores of test weeks to the table of the report: measures, intervals, paired differences (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.learning import evaluation
from engine.learning.backtest import resampling
from engine.learning.backtest.resampling import Week
from engine.learning.backtest.rivals import MODELS
from engine.learning.backtest.sending import interval, rounded
from engine.learning.backtest.snapshots import Taken

MEASURES = (
    "auc",
    "ap",
    "logloss",
    "ne",
    "ece",
    "brier",
    "rmse",
    "accuracy",
    "precision",
    "recall",
    "f1",
    "ndcg_10",
    "hr_10",
    "candidate_recall",
)
EXTRA = ("ece_weekly", "predicted_per_actual")
PAIRED = ("ndcg_10", "hr_10", "ap", "auc", "ne")


@dataclass
class Scored:
    """Scores of the test weeks by model. weights: float64[users, draws + 1], from `resampling.draws`."""

    weights: np.ndarray
    weeks: list[dict[str, Week]] = field(default_factory=list)

    def add(self, week: dict[str, Week]) -> None:
        """One more week."""
        self.weeks.append(week)


def week_of(taken: Taken, scores: np.ndarray, user: np.ndarray, threshold: float, is_chance: bool) -> Week:
    """One model's week. user: int64[U], each of the state's users among all of the backtest's."""
    proposals = taken.proposals
    items = len(proposals.state.catalogue)
    who, ndcg, hit = evaluation.ranking(proposals.candidates.user, proposals.keys, scores, proposals.taken, items)
    wanted = np.bincount(proposals.taken // items, minlength=len(user))[who]
    reached = np.bincount(proposals.candidates.user[proposals.labels], minlength=len(user))[who]
    return Week(
        user[proposals.candidates.user],
        proposals.labels,
        scores,
        is_chance,
        threshold,
        (user[who], ndcg, hit),
        wanted.astype(np.float64),
        reached.astype(np.float64),
    )


def compared(scored: Scored) -> dict[str, Any]:
    """`models` and `differences` of the report; a model that was not trained is null."""
    samples = {name: _samples(scored, name) for name in MODELS if name in scored.weeks[0]}
    models: dict[str, Any] = dict.fromkeys(MODELS)
    for name, (mean, spread) in samples.items():
        models[name] = {}
        for key in (*MEASURES, *EXTRA):
            models[name] |= interval(key, mean.get(key, np.full(2, np.nan)))
            models[name][f"{key}_sd"] = rounded(spread.get(key, np.nan))
    best = "full" if "full" in samples else "own_history"
    differences = {
        f"{best} - {name}": _paired(samples[best][0], found) for name, (found, _) in samples.items() if name != best
    }
    return {"models": models, "differences": differences}


def curve_of(scored: Scored, name: str) -> list[tuple[float, float, int]]:
    """Predicted and observed rate and rows by bin of equal mass, all test weeks together."""
    chances = np.concatenate([week[name].scores for week in scored.weeks])
    labels = np.concatenate([week[name].labels for week in scored.weeks])
    bins = resampling.equal_mass(chances, evaluation.BINS)
    rows = np.maximum(np.bincount(bins, minlength=evaluation.BINS), 1)
    predicted = np.bincount(bins, chances, minlength=evaluation.BINS) / rows
    observed = np.bincount(bins, labels, minlength=evaluation.BINS) / rows
    return [(float(p), float(o), int(n)) for p, o, n in zip(predicted, observed, rows, strict=True)]


def _samples(scored: Scored, name: str) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Means over weeks in every draw, and the standard deviation of weeks; ECE is of all weeks pooled."""
    weekly = [resampling.week_samples(week[name], scored.weights) for week in scored.weeks]
    mean = {key: np.mean([found[key] for found in weekly], axis=0) for key in weekly[0]}
    ddof = 1 if len(weekly) > 1 else 0
    spread = {key: float(np.std([found[key][0] for found in weekly], ddof=ddof)) for key in weekly[0]}
    if scored.weeks[0][name].is_chance:
        pooled = _pooled([week[name] for week in scored.weeks])
        mean["ece"] = resampling.ece_samples(*resampling.bin_sums(pooled, len(scored.weights)), scored.weights)
        spread["ece"] = spread["ece_weekly"]
    return mean, spread


def _pooled(weeks: list[Week]) -> Week:
    first = weeks[0]
    return Week(
        np.concatenate([week.user for week in weeks]),
        np.concatenate([week.labels for week in weeks]),
        np.concatenate([week.scores for week in weeks]),
        first.is_chance,
        first.threshold,
        first.ranked,
        first.taken,
        first.proposed,
    )


def _paired(best: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Differences in the same draws. `noise` where the interval holds 0."""
    found: dict[str, Any] = {}
    for key in PAIRED:
        if key in best and key in other:
            told = interval("difference", best[key] - other[key])
            low, high = told["difference_lo"], told["difference_hi"]
            found[key] = told | {"noise": low is None or high is None or low <= 0 <= high}
    return found
