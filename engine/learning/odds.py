"""Chances and their log-odds: corrections that every model's prediction goes through (pure)."""

from __future__ import annotations

import numpy as np

NO_CALIBRATION = (1.0, 0.0)


def corrected(probability: np.ndarray, negative_share: float) -> np.ndarray:
    """p / (p + (1 − p)/w): the chance before only a share w of the negatives was kept (float32 in, float32 out)."""
    if negative_share == 1.0:
        return probability
    return np.asarray(probability / (probability + (1 - probability) / np.float32(negative_share)), np.float32)


def calibrated(probability: np.ndarray, calibration: tuple[float, float]) -> np.ndarray:
    """σ(slope · logit p + intercept), float32[n]; `probability` itself for (1, 0)."""
    if calibration == NO_CALIBRATION:
        return probability
    return chance(np.float32(calibration[0]) * logit(probability) + np.float32(calibration[1]))


def logit(probability: np.ndarray) -> np.ndarray:
    """Log-odds of chances float32[n], kept 1e-7 away from 0 and 1: float32[n]."""
    p = np.clip(probability, np.float32(1e-7), np.float32(1 - 1e-7))
    return np.asarray(np.log(p / (1 - p)), np.float32)


def chance(log_odds: np.ndarray) -> np.ndarray:
    """The chances of log-odds float32[n]: float32[n]."""
    return np.asarray(1 / (1 + np.exp(-log_odds)), np.float32)
