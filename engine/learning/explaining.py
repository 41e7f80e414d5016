"""Why a row scored as it did: exact TreeSHAP contributions, told in sentences made from the feature schema.

Everything between a feature row and its score is additive in log-odds: trees, the correction for sampled negatives,
calibration, and in the click regime the head on top. So contributions add up to the score's own log-odds, exactly but
for float32. In the goal regime the score is that chance times the window's rate; the rate is a reason of its own, and
no part of the sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import xgboost

from engine.features import schema
from engine.features.schema import Feature
from engine.learning.head import Head, log_rate
from engine.learning.model import Model
from engine.learning.odds import logit

REGIMES = {
    "baseline": "no model yet: own history and popularity, times how good the window is for the user",
    "goal": "too few clicks yet: the chance that the user takes the item, times how good the window is for them",
    "click": "learned from clicks: the chance that the user clicks this item in this window",
}
"""What each regime means, in words."""

_WINDOW = schema.SLICES["window"]
_RATE = schema.NAMES.index("window_rate")
_BASELINE = ("pair_purchases_120d", "pair_views_14d", "item_purchases_7d", "item_views_7d")


class Scores(Protocol):
    """What is asked of learning.scoring.Scorer."""

    regime: str

    @property
    def model(self) -> Model | None:
        """What was learned; None for the baseline."""


@dataclass(frozen=True)
class Reason:
    """One feature's part in a score. value: None where it was missing · contribution: to the log-odds; of the goal
    regime's window its factor's logarithm, of the baseline 0 · text: all of it as a sentence."""

    feature: str
    value: float | None
    contribution: float
    text: str


@dataclass(frozen=True)
class Explanation:
    """A row's score and its reasons, the weightiest first.

    margin: log-odds of the chance that the regime models · base: those of an average row · rest: what the features left
    out add; base + the reasons' contributions + rest = margin · window: in the goal regime how the window scales the
    chance to `score`; None without one, or where the margin holds it already.
    """

    regime: str
    score: float
    margin: float
    base: float
    reasons: tuple[Reason, ...]
    rest: float
    window: Reason | None = None

    @property
    def meaning(self) -> str:
        """What the regime means, in words."""
        return REGIMES[self.regime]


def reasons(scorer: Scores, row: np.ndarray, top: int = 5) -> tuple[Reason, ...]:
    """The `top` weightiest reasons of a feature row's score (float32[F], its window's columns set where it has one).

    In the goal regime the window's reason comes last, beside them. The baseline has learned no weights: its reasons are
    what it looks at.
    """
    if scorer.model is None:
        return _looked_at(row)[:top]
    told = explain_rows(scorer.model, row[None], top)[0]
    return told.reasons if told.window is None else (*told.reasons, told.window)


def explain_rows(model: Model, rows: np.ndarray, most: int = 5) -> list[Explanation]:
    """Explanations of feature rows float32[n, F], with at most `most` reasons each."""
    if not len(rows):
        return []
    goal = model.predict(_bare(rows))
    parts = contributions(model, rows)
    if model.head is not None:
        margins = model.head.log_odds(rows, goal)
        scores = model.head.predict(rows, goal)
        return [_told("click", *each, most) for each in zip(rows, parts, margins, scores, strict=True)]
    scores = goal * np.exp(log_rate(rows))
    told = [_told("goal", *each, most) for each in zip(rows, parts, logit(goal), scores, strict=True)]
    return [_with_window(each, row) for each, row in zip(told, rows, strict=True)]


def reasons_of(model: Model, rows: np.ndarray, most: int) -> list[tuple[Reason, ...]]:
    """The reasons that explain_rows gives, the window's last, without asking for the scores again."""
    parts = contributions(model, rows)
    told = [_weightiest(row, part[:-1], most) for row, part in zip(rows, parts, strict=True)]
    if model.head is not None:
        return told
    windows = [_window(row) for row in rows]
    return [each if window is None else (*each, window) for each, window in zip(told, windows, strict=True)]


def contributions(model: Model, rows: np.ndarray) -> np.ndarray:
    """What each feature adds to the log-odds that the model's regime predicts, float64[n, F + 1], of feature rows
    float32[n, F]; the last column: what every row begins with."""
    parts = _goal_parts(model, _bare(rows))
    return parts if model.head is None else _head_parts(model.head, rows, parts)


def _bare(rows: np.ndarray) -> np.ndarray:
    """Feature rows as the goal sees them: it knows no window."""
    bare = rows.copy()
    bare[:, _WINDOW] = np.nan
    return bare


def _goal_parts(model: Model, rows: np.ndarray) -> np.ndarray:
    """Contributions to the log-odds of P(goal), float64[n, F + 1], the last: what every row begins with."""
    parts = _shap(model.booster, model.filled(rows))
    if model.order is not None:
        parts += _shap(model.order.booster, model.filled(rows))
        parts *= model.order.slope
        parts[:, -1] += model.order.intercept
    parts[:, -1] += np.log(model.negative_share)  # p / (p + (1 − p)/w) is a shift of the log-odds
    slope, intercept = model.calibration
    parts *= slope
    parts[:, -1] += intercept
    return parts


def _head_parts(head: Head, rows: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """The same for the head on top of the goal's."""
    parts = head.taste * goal
    parts[:, -1] += head.bias
    parts[:, _RATE] += head.hour * log_rate(rows)
    if head.trees is not None:
        parts += _shap(head.trees, rows)
    slope, intercept = head.calibration
    parts *= slope
    parts[:, -1] += intercept
    return np.asarray(parts, np.float64)


def _shap(booster: xgboost.Booster, rows: np.ndarray) -> np.ndarray:
    found = booster.predict(xgboost.DMatrix(rows, nthread=1), pred_contribs=True, validate_features=False)
    return np.asarray(found, np.float64)


def _told(regime: str, row: np.ndarray, part: np.ndarray, margin: float, score: float, most: int) -> Explanation:
    ours = part[:-1]
    found = _weightiest(row, ours, most)
    rest = float(ours.sum()) - sum(reason.contribution for reason in found)
    return Explanation(regime, float(score), float(margin), float(part[-1]), found, rest)


def _weightiest(row: np.ndarray, ours: np.ndarray, most: int) -> tuple[Reason, ...]:
    chosen = [int(at) for at in np.argsort(-np.abs(ours), kind="stable")[:most] if ours[at] != 0]
    return tuple(_reason(schema.FEATURES[at], float(row[at]), float(ours[at])) for at in chosen)


def _window(row: np.ndarray) -> Reason | None:
    rate = float(row[_RATE])
    if not np.isfinite(rate):
        return None
    text = "the window is the user's best" if rate >= 1 else f"the window is {rate:.0%} as good as the user's best"
    return Reason("window_rate", rate, float(np.log(rate)), f"{text} (score × {rate:.2f})")


def _with_window(told: Explanation, row: np.ndarray) -> Explanation:
    window = _window(row)
    if window is None:
        return told
    return Explanation(told.regime, told.score, told.margin, told.base, told.reasons, told.rest, window)


def _looked_at(row: np.ndarray) -> tuple[Reason, ...]:
    found = []
    for name in _BASELINE:
        feature, value = schema.FEATURES[schema.NAMES.index(name)], float(row[schema.NAMES.index(name)])
        if np.isfinite(value) and value > 0:
            found.append(Reason(name, value, 0.0, f"{feature.meaning}: {shown(feature, value)}"))
    return tuple(found)


def _reason(feature: Feature, value: float, contribution: float) -> Reason:
    known = bool(np.isfinite(value))
    direction = "speaks for it" if contribution > 0 else "speaks against it"
    text = f"{feature.meaning}: {shown(feature, value)} – {direction} (odds × {np.exp(contribution):.2f})"
    return Reason(feature.name, value if known else None, contribution, text)


def shown(feature: Feature, value: float) -> str:
    """A feature's value with its unit, as a person would say it."""
    if not np.isfinite(value):
        return "never or unknown"
    if feature.unit == "h":
        return _duration(value)
    if feature.unit == "share":
        return f"{value:.1%}"
    unit = {"d": " days", "x": " times", "": ""}[feature.unit]
    return f"{value:,.4g}{unit}"


def _duration(hours: float) -> str:
    return f"{hours:,.1f} hours" if abs(hours) < 48 else f"{hours / 24:,.1f} days"
