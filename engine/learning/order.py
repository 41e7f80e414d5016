"""Trees that order what one user chooses among, on top of those that tell chances."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xgboost

from engine.learning import odds


@dataclass(frozen=True, eq=False)
class Order:
    """Trees grown on top of the chances (LambdaMART).

    The log-odds of the sampled rows become slope · (log-odds + what these trees add) + intercept, which keeps the
    chances' level and spread.
    """

    booster: xgboost.Booster
    slope: float
    intercept: float


def chance(booster: xgboost.Booster, order: Order | None, rows: np.ndarray) -> np.ndarray:
    """P(label) of feature rows float32[n, F] among rows sampled as in training: float32[n]."""
    if order is None:
        return np.asarray(booster.inplace_predict(rows, validate_features=False), np.float32)
    margin = booster.inplace_predict(rows, predict_type="margin", validate_features=False)
    margin = margin + order.booster.inplace_predict(rows, predict_type="margin", validate_features=False)
    return odds.chance(np.float32(order.slope) * margin + np.float32(order.intercept))
