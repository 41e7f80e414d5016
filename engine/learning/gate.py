"""Calibration on the newest matured days, and the gate that a challenger must pass (pure)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.learning import evaluation
from engine.learning.odds import NO_CALIBRATION, calibrated

LEAST_POSITIVES = 500
"""Positives below which a calibration is not fitted: two parameters would follow the noise of a week."""

SHRINKAGE = 20.0
LEAST_GAIN = 0.001
"""Share of NE that a calibration must gain on users it was not fitted on."""

WORSE = 1.005
"""NE of a challenger over the champion's up to which it is not worse."""

LOWEST, HIGHEST = 0.9, 1.1
"""Predicted over actual successes of a calibrated model."""

CHANCE = 3.0
"""Standard deviations of a Poisson count that a miscalibration must exceed: few successes prove little."""

_STEPS = 25


@dataclass(frozen=True)
class Verdict:
    """Whether a challenger may replace the champion; `reason` says why not."""

    passed: bool
    reason: str | None


def calibrate(labels: np.ndarray, chances: np.ndarray, half: np.ndarray) -> tuple[float, float]:
    """(slope, intercept) for `model.calibrated`, (1, 0) where that does not help.

    labels: bool[n] · chances: float32[n], of the newest matured days · half: bool[n], one half of the users: each half
    judges what was fitted on the other, and the calibration is kept only where both together gain.
    """
    if labels.sum() < LEAST_POSITIVES:
        return NO_CALIBRATION
    crossed = np.empty_like(chances)
    for part in (half, ~half):
        if not labels[part].any():
            return NO_CALIBRATION
        crossed[~part] = calibrated(chances[~part], platt(labels[part], chances[part]))
    before, after = (evaluation.normalised_entropy(labels, values) for values in (chances, crossed))
    return platt(labels, chances) if after < before * (1 - LEAST_GAIN) else NO_CALIBRATION


def platt(labels: np.ndarray, chances: np.ndarray) -> tuple[float, float]:
    """Slope and intercept on the logit by penalised likelihood, shrunk towards (1, 0)."""
    p = np.clip(chances.astype(np.float64), 1e-7, 1 - 1e-7)
    design = np.column_stack([np.log(p / (1 - p)), np.ones(len(p))])
    identity = np.array([1.0, 0.0])
    weights = identity.copy()
    for _ in range(_STEPS):
        expected = 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))
        slope = design.T @ (labels - expected) - SHRINKAGE * (weights - identity)
        curvature = (design * (expected * (1 - expected))[:, None]).T @ design + SHRINKAGE * np.eye(2)
        step = np.linalg.solve(curvature, slope)
        weights += step
        if np.abs(step).max() < 1e-9:
            break
    return float(np.clip(weights[0], 0.1, 9.0)), float(np.clip(weights[1], -9.0, 9.0))


def judge(labels: np.ndarray, challenger: np.ndarray, champion: np.ndarray | None) -> Verdict:
    """Whether `challenger`'s chances (float32[n]) on the newest matured days let it replace `champion` (None: none)."""
    actual, predicted = float(labels.sum()), float(challenger.sum(dtype=np.float64))
    share = predicted / actual if actual else float("nan")
    off = not LOWEST <= share <= HIGHEST
    if off and abs(predicted - actual) > CHANCE * np.sqrt(max(actual, 1.0)):
        return Verdict(False, f"it predicts {share:.2f} times the successes there were, outside {LOWEST}–{HIGHEST}")
    if champion is None:
        return Verdict(True, None)
    ours, theirs = (evaluation.normalised_entropy(labels, chances) for chances in (challenger, champion))
    if ours > theirs * WORSE:
        return Verdict(False, f"its NE on the newest matured days is {ours:.4f}, the champion's {theirs:.4f}")
    return Verdict(True, None)
