"""What a model looks like, kept beside its measures so that people can see it without loading it.

Calibration: predicted and observed rates in bins of equal mass, on the rows it was tested on. Importance: each
feature's share of the trees' total gain, and its mean absolute contribution to the log-odds (SHAP, Lundberg 2017) over
some of those rows: gain says what the trees split on, SHAP what moves scores. Hours: everybody's and typical curves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from engine.features import schema
from engine.learning import evaluation
from engine.learning.explaining import contributions
from engine.learning.model import Model
from engine.learning.replay import scrambled
from engine.learning.windows import HOURS_A_DAY, WindowModel

ROWS = 2_000
"""Rows whose contributions are averaged: chosen by a fixed hash, so that the same rows give the same figures."""

STRONGEST = 20
TYPICAL = 6


def portrait(
    model: Model, rows: Callable[[np.ndarray], np.ndarray], labels: np.ndarray, chances: np.ndarray
) -> dict[str, Any]:
    """How `model` looks, as JSON values. labels: bool[n], chances: float32[n] that its regime gives, n > 0: of what it
    was tested on; rows: float32[m, F], feature rows of positions int64[m] among those."""
    return {
        "calibration_curve": calibration_curve(labels, chances),
        "importance": importance(model, rows(some(len(labels)))),
        "hours": hours(model.windows),
    }


def some(rows: int) -> np.ndarray:
    """At most ROWS positions among `rows`, int64, ascending."""
    return np.sort(np.argsort(scrambled(np.arange(rows)), kind="stable")[:ROWS])


def calibration_curve(labels: np.ndarray, chances: np.ndarray) -> list[list[float]]:
    """[predicted rate, observed rate, rows] of bins of equal mass, from low to high chances."""
    parts = np.array_split(np.argsort(chances, kind="stable"), min(evaluation.BINS, max(len(chances), 1)))
    return [
        [round(float(chances[part].mean(dtype=np.float64)), 6), round(float(labels[part].mean()), 6), len(part)]
        for part in parts
        if len(part)
    ]


def importance(model: Model, rows: np.ndarray) -> list[dict[str, Any]]:
    """The STRONGEST features by SHAP over feature rows float32[n, F]: {"feature", "gain": share of the trees' total
    gain, "shap": mean |contribution| to the log-odds}."""
    shap = np.abs(contributions(model, rows)[:, :-1]).mean(axis=0)
    gain = _gain(model)
    best = [at for at in np.argsort(-shap, kind="stable")[:STRONGEST].tolist() if shap[at] > 0]
    return [
        {"feature": schema.NAMES[at], "gain": round(float(gain[at]), 6), "shap": round(float(shap[at]), 6)}
        for at in best
    ]


def _gain(model: Model) -> np.ndarray:
    """Each feature's share of the total gain of the trees that score last, float64[F]."""
    total = np.zeros(schema.COUNT)
    booster = model.booster if model.head is None or model.head.trees is None else model.head.trees
    for name, gained in booster.get_score(importance_type="total_gain").items():
        total[int(str(name).removeprefix("f"))] += float(np.sum(gained))
    return total / max(float(total.sum()), 1e-12)


def hours(model: WindowModel) -> dict[str, Any]:
    """Shares by local hour: everybody's on workdays and weekends (each sums to 1), and the commonest typical curves of
    users over both, with the share of users each stands for."""
    curve = model.curve.reshape(2, HOURS_A_DAY)
    curve = curve / curve.sum(axis=1, keepdims=True)
    mixture = model.mixtures[0]
    order = np.argsort(-mixture.share, kind="stable")[:TYPICAL]
    typical = mixture.curves[order].reshape(len(order), 2, HOURS_A_DAY).sum(axis=1)
    return {
        "workdays": _rounded(curve[0]),
        "weekends": _rounded(curve[1]),
        "typical": [_rounded(row) for row in typical],
        "shares": _rounded(mixture.share[order]),
    }


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 6) for value in values]
