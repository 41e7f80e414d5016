"""The chance that a user takes an item: gradient-boosted trees on the feature rows.

A share of the negatives is kept and the prediction corrected for it. Early stopping looks at data sampled the same way:
on unsampled data log-loss would stop at the wrong place (535 trees where 44 were best). Of the trees so found the
fewest that keep the log-loss within a thousandth are served: they are faster to score and as good.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import xgboost

from engine.features import schema
from engine.learning.dataset import Sample

NEGATIVES_PER_POSITIVE = 3.5
MOST_TREES = 800
PATIENCE = 30
TOLERANCE = 1.001
"""The log-loss of the served trees over the least of any number of trees."""

WARM_TREES = 10
WARM_ETA = 0.03

PARAMETERS: dict[str, object] = {
    "objective": "binary:logistic",
    "eval_metric": "logloss",
    "tree_method": "hist",
    "max_depth": 5,
    "eta": 0.06,
    "min_child_weight": 30,
    "lambda": 5.0,
    "subsample": 0.8,
    "colsample_bytree": 0.5,
    "max_bin": 128,
    "monotone_constraints": schema.MONOTONE,
}


@dataclass(frozen=True)
class Fitted:
    """A booster of the fewest trees that are as good as the best number, and the log-loss of each round.

    trees: how many it has · best: how many had the least log-loss · validation: log-loss after each tree.
    """

    booster: xgboost.Booster
    trees: int
    best: int
    validation: tuple[float, ...]

    def trade_off(self) -> list[dict[str, float]]:
        """What fewer trees would cost: log-loss on the validation sample at halvings of the best number."""
        counts = sorted({max(self.best >> halving, 1) for halving in range(5)} | {self.trees})
        return [{"trees": count, "logloss": self.validation[count - 1]} for count in counts]


class _Grown(xgboost.callback.TrainingCallback):
    """Tells how many trees have been grown."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell = tell

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        del model, evals_log
        self._tell(epoch + 1)
        return False


def negative_share(positives: int, rows: int) -> float:
    """The share of negatives to keep, in (0, 1]."""
    negatives = rows - positives
    return float(min(1.0, max(positives * NEGATIVES_PER_POSITIVE / max(negatives, 1), 1e-4)))


def fit(train: Sample, validate: Sample, seed: int, threads: int, grown: Callable[[int], None] | None = None) -> Fitted:
    """Train with early stopping on `validate`, sampled as `train` is. The same seed gives the same model.

    `grown` is told the number of trees after each.
    """
    bins = int(str(PARAMETERS["max_bin"]))
    data = xgboost.QuantileDMatrix(train.rows, train.labels, nthread=threads, max_bin=bins)
    watched = xgboost.QuantileDMatrix(validate.rows, validate.labels, ref=data, nthread=threads, max_bin=bins)
    history: dict[str, dict[str, list[float]]] = {}
    booster = xgboost.train(
        _settings(len(train.labels)) | {"seed": seed, "nthread": threads},
        data,
        MOST_TREES,
        evals=[(watched, "validate")],
        early_stopping_rounds=PATIENCE,
        evals_result=history,
        verbose_eval=False,
        callbacks=[_Grown(grown)] if grown else None,
    )
    losses = np.round(history["validate"]["logloss"], 6)
    best = booster.best_iteration + 1
    trees = int(np.argmax(losses[:best] <= losses[best - 1] * TOLERANCE)) + 1
    return Fitted(booster[:trees], trees, best, tuple(losses.tolist()))


def warm(booster: xgboost.Booster, fresh: Sample, seed: int, threads: int) -> xgboost.Booster:
    """`booster` with WARM_TREES more trees, grown on `fresh`; `booster` itself stays as it is.

    `fresh` must be sampled at the share of negatives that the booster was trained with.
    """
    data = xgboost.QuantileDMatrix(fresh.rows, fresh.labels, nthread=threads, max_bin=int(str(PARAMETERS["max_bin"])))
    settings = _settings(len(fresh.labels)) | {"seed": seed, "nthread": threads, "eta": WARM_ETA}
    return xgboost.train(settings, data, WARM_TREES, xgb_model=booster.copy(), verbose_eval=False)


def _settings(rows: int) -> dict[str, object]:
    """Small data need smaller leaves: 30 rows a leaf is for a hundred thousand."""
    return PARAMETERS | {"min_child_weight": 30 if rows >= 50_000 else 10}
