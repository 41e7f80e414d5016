"""Imputation of missing values, for comparison in training and backtest; trees by default keep NaN and need none.

Fitted on training rows only. What is served is a constant per column (`constants`): neighbours, models and
interpolation need other rows at hand, which a decision about one user has not. scikit-learn fits; it is optional.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from engine.errors import BadInput, HoraeError

STRATEGIES = ("none", "drop", "mean", "median", "mode", "interpolation", "knn", "model")
NEIGHBOURS = 5
MOST_ROWS = 5_000
"""Rows that neighbours and models are fitted on: their cost grows with the square."""

COLUMNS_A_MODEL = 10


@dataclass(frozen=True)
class Imputer:
    """A fitted imputation.

    strategy: one of STRATEGIES · constants: float32[F], what stands for a missing value when served; NaN keeps it
    missing.
    """

    strategy: str
    constants: np.ndarray
    _full: Callable[[np.ndarray], np.ndarray] | None = None

    def offline(self, rows: np.ndarray) -> np.ndarray:
        """Training or test rows float32[n, F] with the strategy itself; `drop` fills nothing: see `complete`."""
        if self._full is None:
            return self.served(rows)
        return np.asarray(self._full(rows), np.float32)

    def served(self, rows: np.ndarray) -> np.ndarray:
        """Rows float32[n, F] as they are scored in service: each value by its own row and column only."""
        return np.where(np.isfinite(rows), rows, self.constants).astype(np.float32)


def fit_imputer(strategy: str, rows: np.ndarray, seed: int = 1) -> Imputer:
    """The imputation `strategy` fitted on training rows float32[n, F]; ±inf counts as missing.

    Columns without any value keep NaN. Raises BadInput for an unknown strategy, HoraeError without scikit-learn.
    """
    if strategy not in STRATEGIES:
        raise BadInput(f"there is no imputation {strategy!r}", hint="one of " + ", ".join(STRATEGIES))
    known = np.where(np.isfinite(rows), rows, np.nan).astype(np.float32)
    if strategy in {"none", "drop"}:
        return Imputer(strategy, np.full(rows.shape[1], np.nan, np.float32))
    constants = _constants(
        "most_frequent" if strategy == "mode" else "median" if strategy == "median" else "mean", known
    )
    if strategy == "interpolation":
        return Imputer(strategy, constants, lambda later: _interpolated(later, constants))
    if strategy in {"knn", "model"}:
        return Imputer(strategy, constants, _neighbourly(strategy, known, constants, seed))
    return Imputer(strategy, constants)


def complete(rows: np.ndarray, least: float = 0.5) -> np.ndarray:
    """`drop`: which rows to learn from, bool[n]: those that have every value that at least a share `least` of rows has.

    Were a single rare column enough to drop a row, none would be left.
    """
    known = np.isfinite(rows)
    chosen = known.mean(axis=0) >= least
    return np.asarray(known[:, chosen].all(axis=1), bool)


def _constants(sklearn_strategy: str, known: np.ndarray) -> np.ndarray:
    imputer = _sklearn("sklearn.impute").SimpleImputer(strategy=sklearn_strategy, keep_empty_features=True)
    constants = np.asarray(imputer.fit(known).statistics_, np.float32)
    constants[~np.isfinite(known).any(axis=0)] = np.nan
    return constants


def _interpolated(rows: np.ndarray, constants: np.ndarray) -> np.ndarray:
    """Linear between the known values before and after in the order of rows; the constant in a column without any."""
    filled = np.where(np.isfinite(rows), rows, np.nan).astype(np.float64)
    at = np.arange(len(rows))
    for column, constant in enumerate(constants):
        known = np.isfinite(filled[:, column])
        if known.any():
            filled[~known, column] = np.interp(at[~known], at[known], filled[known, column])
        else:
            filled[:, column] = constant
    return filled


def _neighbourly(
    strategy: str, known: np.ndarray, constants: np.ndarray, seed: int
) -> Callable[[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    sample = known[np.sort(rng.choice(len(known), min(MOST_ROWS, len(known)), replace=False))]
    used = np.isfinite(sample).any(axis=0)
    scale = np.nanstd(sample[:, used], axis=0)
    scale = np.where(scale > 0, scale, 1)
    if strategy == "knn":
        imputer = _sklearn("sklearn.impute").KNNImputer(n_neighbors=NEIGHBOURS)
    else:
        _sklearn("sklearn.experimental.enable_iterative_imputer")
        imputer = _sklearn("sklearn.impute").IterativeImputer(
            # its own choice, a Bayesian ridge, overflows where some columns foretell another exactly
            _sklearn("sklearn.linear_model").Ridge(),
            random_state=seed,
            max_iter=3,
            n_nearest_features=COLUMNS_A_MODEL,
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Early stopping criterion not reached")  # three rounds are enough
        imputer.fit(sample[:, used] / scale)

    def full(rows: np.ndarray) -> np.ndarray:
        filled = np.where(np.isfinite(rows), rows, constants).astype(np.float64)
        usable = np.where(np.isfinite(rows[:, used]), rows[:, used], np.nan)
        filled[:, used] = imputer.transform(usable / scale) * scale
        return filled

    return full


def require() -> None:
    """Raises HoraeError where scikit-learn is not installed."""
    if find_spec("sklearn") is None:
        raise HoraeError("imputation needs the package scikit-learn", hint="pip install 'horae[learning]'")


def _sklearn(module: str) -> Any:
    require()
    return import_module(module)
