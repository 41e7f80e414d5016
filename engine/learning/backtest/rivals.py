"""The models that are compared: five that need no training, and three trained on the same rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xgboost

from engine.features import schema
from engine.features.state import P_120D
from engine.learning import ctr
from engine.learning.backtest.snapshots import Taken
from engine.learning.dataset import Sample
from engine.learning.logistic import Logistic
from engine.learning.odds import corrected

UNTRAINED = ("popularity", "decayed_popularity", "own_history", "item_to_item", "als")
TRAINED = ("counts_xgboost", "logistic", "full")
MODELS = (*UNTRAINED, *TRAINED)

_OWN, _LATENT = (schema.NAMES.index(name) for name in ("pair_purchases", "related_latent"))
PART = 16_384
"""Rows made at a time: bounds memory."""


@dataclass(frozen=True, eq=False)
class Trained:
    """The trained models, and how they were made. share: of negatives kept in their rows."""

    full: ctr.Fitted
    counts: ctr.Fitted
    logistic: Logistic
    share: float


def untrained(taken: Taken) -> dict[str, np.ndarray]:
    """Scores of the proposals by what needs no training, float64[n] each."""
    proposals = taken.proposals
    state, found = proposals.state, proposals.candidates
    own = np.append(state.interest[:, P_120D], np.float32(0))[state.pairs.find(proposals.keys)]
    latent = proposals.collaborative.of(found.user, found.item)[:, 0]
    return {
        "popularity": taken.sold[found.item],
        "decayed_popularity": state.catalogue.popularity[found.item].astype(np.float64),
        "own_history": own.astype(np.float64),
        "item_to_item": found.related.astype(np.float64),
        "als": np.nan_to_num(latent.astype(np.float64)),
    }


def trained(models: Trained, taken: Taken) -> dict[str, np.ndarray]:
    """Chances of the proposals by the trained models, float32[n] each; rows are made a part at a time."""
    n = len(taken.proposals.labels)
    chances = {name: np.empty(n, np.float32) for name in TRAINED}
    for start in range(0, n, PART):
        part = np.arange(start, min(start + PART, n))
        rows = taken.proposals.rows(part)
        few = count_columns(taken, rows, part)
        for name, raw in (
            ("full", models.full.chance(rows)),
            ("counts_xgboost", models.counts.booster.inplace_predict(few, validate_features=False)),
            ("logistic", models.logistic.predict(rows)),
        ):
            chances[name][part] = corrected(np.asarray(raw, np.float32), models.share)
    return chances


def count_columns(taken: Taken, rows: np.ndarray, at: np.ndarray) -> np.ndarray:
    """What the counts-only model sees, float32[n, 4]: all-time counts of pair, item and user, the factors' score."""
    found = taken.proposals.candidates
    columns = (rows[:, _OWN], taken.sold[found.item[at]], taken.spent[found.user[at]], rows[:, _LATENT])
    return np.stack(columns, axis=1).astype(np.float32)


def fit_counts(train: Sample, validate: Sample, seed: int, threads: int) -> ctr.Fitted:
    """The counts-only trees, with the settings of the full model's."""
    data = xgboost.QuantileDMatrix(train.rows, train.labels, nthread=threads)
    watched = xgboost.QuantileDMatrix(validate.rows, validate.labels, ref=data, nthread=threads)
    free = {name: value for name, value in ctr.PARAMETERS.items() if name not in {"monotone_constraints", "max_bin"}}
    history: dict[str, dict[str, list[float]]] = {}
    booster = xgboost.train(
        free | {"seed": seed, "nthread": threads, "colsample_bytree": 1.0},
        data,
        ctr.MOST_TREES,
        evals=[(watched, "validate")],
        early_stopping_rounds=ctr.PATIENCE,
        evals_result=history,
        verbose_eval=False,
    )
    best = booster.best_iteration + 1
    return ctr.Fitted(booster[:best], best, best, tuple(history["validate"]["logloss"]))
