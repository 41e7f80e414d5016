"""From scores of test weeks to the tables of the report: measures, intervals, paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engine.learning import evaluation
from engine.learning.backtest.resampling import Draws, Judged, Week, equal_mass, interval, paired, pooled_ece, rounded
from engine.learning.dataset import Proposals

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
PAIRED = ("ndcg_10", "hr_10", "ap", "auc", "logloss", "ne", "brier")

Board = dict[str, list[Judged]]
"""What was judged, by name: a model, or the age of what one was fed; an entry a test week."""

Samples = tuple[dict[str, np.ndarray], dict[str, float]]


def week_of(proposals: Proposals) -> Week:
    """The outcomes of a week, to judge any number of scores on."""
    users, items = len(proposals.state), max(len(proposals.state.catalogue), 1)
    user = proposals.candidates.user
    return Week(
        proposals.state.users,
        user,
        proposals.labels,
        np.bincount(proposals.taken // items, minlength=users).astype(np.float64),
        np.bincount(user[proposals.labels], minlength=users).astype(np.float64),
    )


def judge(proposals: Proposals, week: Week, scores: np.ndarray, is_chance: bool, threshold: float | None) -> Judged:
    """Scores of `proposals` (float[n]). threshold: see `capacity`; that of these very rows where not given."""
    users, items = len(proposals.state), max(len(proposals.state.catalogue), 1)
    who, ndcg, hit = evaluation.ranking(proposals.candidates.user, proposals.keys, scores, proposals.taken, items)
    by_user = np.zeros((2, users))
    by_user[:, who] = ndcg, hit
    chosen_above = capacity(proposals.labels, scores) if threshold is None else threshold
    return Judged(week, np.asarray(scores, np.float32), is_chance, chosen_above, *by_user)


def capacity(labels: np.ndarray, scores: np.ndarray) -> float:
    """The capacity threshold: the score above which lie as many rows as were successes, fewer where scores tie."""
    successes = int(labels.sum())
    if successes >= len(scores):
        return -np.inf
    return float(np.partition(scores.astype(np.float32), -successes - 1)[-successes - 1])


def everybody(board: Board) -> np.ndarray:
    """All users who were judged: int64 ids, sorted."""
    weeks = [judged.week.ids for entries in board.values() for judged in entries]
    return np.unique(np.concatenate(weeks)) if weeks else np.zeros(0, np.int64)


def sampled(board: Board, draws: Draws) -> dict[str, Samples]:
    """Means over weeks in every draw, and the standard deviation of weeks, by name; ECE is of all weeks pooled."""
    return {name: _samples(entries, draws) for name, entries in board.items()}


def table(found: Mapping[str, Samples], names: Sequence[str]) -> dict[str, Any]:
    """`models` of the report: every measure with its interval and its deviation; what is not there is null."""
    told: dict[str, Any] = dict.fromkeys(names)
    for name in names:
        if name in found:
            mean, spread = found[name]
            told[name] = {}
            for key in (*MEASURES, *EXTRA):
                told[name] |= interval(key, mean.get(key, np.full(2, np.nan)))
                told[name][f"{key}_sd"] = rounded(spread.get(key, np.nan))
    return told


def differences(found: Mapping[str, Samples], best: str) -> dict[str, Any]:
    """How `best` differs from each other name, in the same draws of users."""
    return {
        f"{best} - {name}": {
            key: paired(found[best][0][key], mean[key]) for key in PAIRED if key in found[best][0] and key in mean
        }
        for name, (mean, _) in found.items()
        if name != best
    }


def calibration_curve(entries: Sequence[Judged]) -> list[tuple[float, float, int]]:
    """Predicted and observed rate and rows by bin of equal mass, all test weeks together."""
    chances = np.concatenate([judged.scores for judged in entries])
    labels = np.concatenate([judged.week.labels for judged in entries])
    bins = equal_mass(chances, evaluation.BINS)
    rows = np.maximum(np.bincount(bins, minlength=evaluation.BINS), 1)
    predicted = np.bincount(bins, chances, minlength=evaluation.BINS) / rows
    observed = np.bincount(bins, labels, minlength=evaluation.BINS) / rows
    return [(float(p), float(o), int(n)) for p, o, n in zip(predicted, observed, rows, strict=True)]


def _samples(entries: Sequence[Judged], draws: Draws) -> Samples:
    weekly = [judged.samples(draws) for judged in entries]
    mean = {key: np.mean([found[key] for found in weekly], axis=0) for key in weekly[0]}
    ddof = 1 if len(weekly) > 1 else 0
    spread = {key: float(np.std([found[key][0] for found in weekly], ddof=ddof)) for key in weekly[0]}
    if entries[0].is_chance:
        mean["ece"], spread["ece"] = pooled_ece(list(entries), draws), spread["ece_weekly"]
    return mean, spread
