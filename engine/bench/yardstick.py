"""The yardstick: the work that scoring cannot avoid, measured on the same cores in the same run.

`inplace_predict` of a 100-tree, depth-6 model over the same number of rows × features, a quarter of them missing.
"""

from __future__ import annotations

import numpy as np
import xgboost

from engine.clock import monotonic
from engine.features import schema

TREES, DEPTH = 100, 6
MISSING = 0.25
BATCH_ROWS = 8192
"""Rows predicted at a time: a matrix that stays in the cache, which is the yardstick's best case."""

_TRAINING_ROWS = 60_000


def yardstick_model(seed: int = 1, features: int = schema.COUNT, threads: int = 1) -> xgboost.Booster:
    """A model of exactly 100 trees of depth 6 over seeded random rows whose labels depend on a third of the columns."""
    rows = yardstick_rows(_TRAINING_ROWS, seed, features)
    rng = np.random.default_rng([seed, features])
    slope = rng.normal(0, 1, features) * (rng.random(features) < 1 / 3)
    logit = (np.nan_to_num(rows, nan=0.5) - 0.5) @ slope
    labels = (rng.random(len(rows)) < 1 / (1 + np.exp(1.5 - logit))).astype(np.float32)
    settings = {"objective": "binary:logistic", "tree_method": "hist", "max_depth": DEPTH, "eta": 0.1, "seed": seed}
    booster = xgboost.train(settings | {"nthread": threads}, xgboost.QuantileDMatrix(rows, labels), TREES)
    booster.set_param({"nthread": threads})
    return booster


def yardstick_rows(rows: int, seed: int = 1, features: int = schema.COUNT) -> np.ndarray:
    """Seeded random feature rows, float32[rows, features], a quarter missing."""
    rng = np.random.default_rng([seed, rows, features])
    values = rng.random((rows, features), dtype=np.float32)
    values[rng.random((rows, features)) < MISSING] = np.nan
    return values


def yardstick_seconds(booster: xgboost.Booster, batch: np.ndarray, rows: int) -> float:
    """Seconds to predict `rows` rows, `batch` (float32[b, F]) again and again; the last batch is cut to fit."""
    started = monotonic()
    for done in range(0, rows, len(batch)):
        booster.inplace_predict(batch[: rows - done], validate_features=False)
    return monotonic() - started
