"""The click head: P(click | user, item, window) on top of the chance that the user takes the item.

    log-odds of a click = bias + taste · log-odds of the goal + hour · log of the window's rate + trees(features)

The first three numbers are what a shop's first thousand clicks can teach; the trees, grown on what those leave over,
learn how item and window meet and how pushes tire (monotone there and in affinity). They stay only where pushes that
none of it was learned on say that they help. All of it is additive, so a score can be explained exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xgboost

from engine.features import schema
from engine.learning import evaluation
from engine.learning.gate import calibrate
from engine.learning.odds import NO_CALIBRATION, chance, logit

LEAST_CLICKS = 1_000
"""Matured clicks over all windows from which on a head scores; before, goal × window does."""

JUDGED, WATCHED = 0.2, 0.2
"""Shares of the pushes, the newest, that judge; and of those before them, that stop the trees."""

MOST_TREES = 150
PATIENCE = 15
LEAST_GAIN = 0.001
"""Share of NE that trees must gain on the linear part, and the most that dropping some of them may cost."""

WARM_TREES = 8
WARM_ETA = 0.02

_RIDGE = 10.0
_STEPS = 30
_RATE = schema.NAMES.index("window_rate")

PARAMETERS: dict[str, object] = {
    "objective": "binary:logistic",
    "eval_metric": "logloss",
    "base_score": 0.5,
    "tree_method": "hist",
    "max_depth": 4,
    "eta": 0.05,
    "min_child_weight": 5,
    "lambda": 10.0,
    "subsample": 0.8,
    "colsample_bytree": 0.5,
    "max_bin": 64,
    "monotone_constraints": schema.MONOTONE,
}


@dataclass(frozen=True, eq=False)
class Head:
    """bias, taste, hour: of the linear part · trees: None where they do not help · calibration: (slope, intercept)."""

    bias: float
    taste: float
    hour: float
    trees: xgboost.Booster | None = None
    calibration: tuple[float, float] = NO_CALIBRATION

    def predict(self, rows: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """P(click) of feature rows float32[n, F] with their window's columns; goal: float32[n], P(goal)."""
        return chance(self.log_odds(rows, goal))

    def log_odds(self, rows: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """Its log-odds, float32[n], each row's own whatever the batch."""
        total = self.linear(rows, goal)
        if self.trees is not None:
            total = total + self.trees.inplace_predict(rows, predict_type="margin", validate_features=False)
        slope, intercept = self.calibration
        return np.asarray(np.float32(slope) * total + np.float32(intercept), np.float32)

    def linear(self, rows: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """The log-odds without trees and calibration, float32[n]."""
        linear = np.float32(self.bias) + np.float32(self.taste) * logit(goal) + np.float32(self.hour) * log_rate(rows)
        return np.asarray(linear, np.float32)

    def numbers(self) -> dict[str, Any]:
        """What is not trees, as JSON values."""
        numbers = {"bias": self.bias, "taste": self.taste, "hour": self.hour, "calibration": list(self.calibration)}
        return numbers | {"trees": 0 if self.trees is None else self.trees.num_boosted_rounds()}


@dataclass(frozen=True)
class Lessons:
    """Pushes to learn from, oldest first. rows: float32[n, F] · goal: float32[n] · clicked: bool[n] · half: bool[n],
    one half of the users."""

    rows: np.ndarray
    goal: np.ndarray
    clicked: np.ndarray
    half: np.ndarray

    def part(self, low: int, high: int) -> Lessons:
        """Those from `low` to `high`."""
        cut = slice(low, high)
        return Lessons(self.rows[cut], self.goal[cut], self.clicked[cut], self.half[cut])


@dataclass(frozen=True)
class Fitted:
    """The head to serve, and its chances (float32[m]) of the newest pushes as if it had not seen those.

    judged: where they begin · report: measures, as JSON values.
    """

    head: Head
    judged: int
    chances: np.ndarray
    report: Mapping[str, Any]


def log_rate(rows: np.ndarray) -> np.ndarray:
    """log of the window's rate beside the user's best window, float32[n]; 0 where no window is given."""
    rate = rows[:, _RATE]
    return np.asarray(np.where(np.isnan(rate), np.float32(0), np.log(rate)), np.float32)


def fit(lessons: Lessons, seed: int, threads: int) -> Fitted | None:
    """Learn a head; None where a part of the pushes has no clicks, or nothing but clicks."""
    n = len(lessons.clicked)
    judged = round(n * (1 - JUDGED))
    watched = round(judged * (1 - WATCHED))
    train, watch, judge = lessons.part(0, watched), lessons.part(watched, judged), lessons.part(judged, n)
    if any(part.clicked.all() or not part.clicked.any() for part in (train, watch, judge)):
        return None
    trial = _linear(train)
    trees, curve = _trees(trial, train, watch, seed, threads)
    trial = _linear(lessons.part(0, judged))
    with_trees = replace(trial, trees=_regrown(trial, lessons.part(0, judged), trees, seed, threads))
    plain, full = (evaluation.normalised_entropy(judge.clicked, head.predict(judge.rows, judge.goal)) for head in (
        trial, with_trees))  # fmt: skip
    helps = full < plain * (1 - LEAST_GAIN)
    chosen = with_trees if helps else trial
    told = chosen.predict(judge.rows, judge.goal)
    calibration = calibrate(judge.clicked, told, judge.half)
    served = _linear(lessons)
    served = replace(
        served,
        trees=_regrown(served, lessons, trees, seed, threads) if helps else None,
        calibration=calibration,
    )
    report = {
        "pushes": n,
        "clicks": int(lessons.clicked.sum()),
        "head": served.numbers(),
        "trade_off": curve,
        "linear_ne": round(plain, 6),
        "trees_ne": round(full, 6),
        "judged": {name: round(value, 6) for name, value in evaluation.classification(judge.clicked, told).items()},
    }
    return Fitted(served, judged, told, report)


def warm(head: Head, fresh: Lessons, seed: int, threads: int) -> Head:
    """`head` with a few more trees grown on `fresh`; a head without trees gets new numbers drawn to its own instead."""
    if head.trees is None:
        return _linear(fresh, around=(head.bias, head.taste, head.hour))
    settings = PARAMETERS | {"seed": seed, "nthread": threads, "eta": WARM_ETA}
    grown = xgboost.train(
        settings, _matrix(head, fresh, threads), WARM_TREES, xgb_model=head.trees.copy(), verbose_eval=False
    )
    grown.set_param({"nthread": 1})
    return replace(head, trees=grown)


def _linear(lessons: Lessons, around: tuple[float, float, float] | None = None) -> Head:
    """Bias, taste and hour by penalised likelihood, drawn to 1 for taste and hour (or to `around`)."""
    design = np.column_stack([np.ones(len(lessons.clicked)), logit(lessons.goal), log_rate(lessons.rows)])
    design = design.astype(np.float64)
    base = float(np.clip(lessons.clicked.mean(), 1e-6, 1 - 1e-6))
    centre = np.array(around or (np.log(base / (1 - base)) - design[:, 1].mean() - design[:, 2].mean(), 1.0, 1.0))
    pull = _RIDGE * np.array([1.0 if around else 0.0, 1.0, 1.0])
    weights = centre.copy()
    for _ in range(_STEPS):
        expected = 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))
        slope = design.T @ (lessons.clicked - expected) - pull * (weights - centre)
        curvature = (design * (expected * (1 - expected))[:, None]).T @ design + np.diag(pull + 1e-6)
        step = np.linalg.solve(curvature, slope)
        weights += step
        if np.abs(step).max() < 1e-9:
            break
    # a taste or an hour that speaks against itself is noise: more of either never makes a click less likely
    bias, taste, hour = (float(weight) for weight in weights)
    return Head(bias, max(taste, 0.0), max(hour, 0.0))


def _trees(head: Head, train: Lessons, watch: Lessons, seed: int, threads: int) -> tuple[int, list[dict[str, float]]]:
    """How many trees on top of `head` are the fewest that are as good as any number, and what fewer would cost."""
    history: dict[str, dict[str, list[float]]] = {}
    xgboost.train(
        PARAMETERS | {"seed": seed, "nthread": threads},
        _matrix(head, train, threads),
        MOST_TREES,
        evals=[(_matrix(head, watch, threads), "watch")],
        early_stopping_rounds=PATIENCE,
        evals_result=history,
        verbose_eval=False,
    )
    losses = np.round(history["watch"]["logloss"], 6)
    best = int(np.argmin(losses))
    fewest = int(np.argmax(losses[: best + 1] <= losses[best] * (1 + LEAST_GAIN))) + 1
    counts = sorted({max((best + 1) >> halving, 1) for halving in range(5)} | {fewest})
    return fewest, [{"trees": count, "logloss": float(losses[count - 1])} for count in counts]


def _regrown(head: Head, lessons: Lessons, trees: int, seed: int, threads: int) -> xgboost.Booster:
    settings = PARAMETERS | {"seed": seed, "nthread": threads}
    grown = xgboost.train(settings, _matrix(head, lessons, threads), trees, verbose_eval=False)
    grown.set_param({"nthread": 1})
    return grown


def _matrix(head: Head, lessons: Lessons, threads: int) -> xgboost.DMatrix:
    matrix = xgboost.DMatrix(lessons.rows, lessons.clicked.astype(np.float32), nthread=threads)
    matrix.set_base_margin(replace(head, trees=None).linear(lessons.rows, lessons.goal))
    return matrix
