"""Why a row scored as it did: exact TreeSHAP contributions, told in sentences made from the feature schema."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xgboost

from engine.features import schema
from engine.learning.model import Model


@dataclass(frozen=True)
class Reason:
    """One feature's part in a score. value: None where it was missing · contribution: to the log-odds · sentence."""

    feature: str
    value: float | None
    contribution: float
    sentence: str


@dataclass(frozen=True)
class Explanation:
    """A row's score and its reasons, the weightiest first. base: log-odds of an average row · rest: of features left
    out; base + the reasons' contributions + rest is the trees' log-odds."""

    score: float
    base: float
    reasons: tuple[Reason, ...]
    rest: float


def explain_rows(model: Model, rows: np.ndarray, most: int = 5) -> list[Explanation]:
    """Explanations of feature rows float32[n, F], with at most `most` reasons each.

    Contributions are those of all trees, before the correction for sampled negatives and the calibration, which move
    every score the same way.
    """
    if not len(rows):
        return []
    scores = model.predict(rows)
    filled = xgboost.DMatrix(model.filled(rows))
    parts = model.booster.predict(filled, pred_contribs=True, validate_features=False)
    if model.order is not None:
        parts = parts + model.order.booster.predict(filled, pred_contribs=True, validate_features=False)
        parts *= np.float32(model.order.slope)
        parts[:, -1] += np.float32(model.order.intercept)
    return [_explained(row, part, float(score), most) for row, part, score in zip(rows, parts, scores, strict=True)]


def _explained(row: np.ndarray, part: np.ndarray, score: float, most: int) -> Explanation:
    ours = part[:-1]
    chosen = [int(at) for at in np.argsort(-np.abs(ours), kind="stable")[:most] if ours[at] != 0]
    reasons = tuple(_reason(schema.FEATURES[at], float(row[at]), float(ours[at])) for at in chosen)
    rest = float(ours.sum(dtype=np.float64)) - sum(reason.contribution for reason in reasons)
    return Explanation(score, float(part[-1]), reasons, rest)


def _reason(feature: schema.Feature, value: float, contribution: float) -> Reason:
    known = bool(np.isfinite(value))
    shown = f"{feature.meaning}: {value:,.4g}" if known else f"{feature.meaning}: never or unknown"
    effect = "speaks for it" if contribution > 0 else "speaks against it"
    sentence = f"{shown} – {effect} (odds × {np.exp(contribution):.2f})"
    return Reason(feature.name, value if known else None, contribution, sentence)
