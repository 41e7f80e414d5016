"""When a user is most likely to act: a hierarchical Dirichlet model of their week (pure).

A week has 16 cells: day type × 3-hour window of local time. A user's decayed counts per local hour are smoothed round
the clock (Gaussian, σ = 1 h) and shrunk twice: their hours of the day towards everybody's, then their workdays and
weekends towards their own hours of the day. "Everybody" is the next lesser rung of a ladder: responses to pushes → app
sessions → any activity → the global curve:
    hours[h]    = (Σ_d counts[d, h] + α₁ · lesser[h]) / (n + α₁)
    share[d, h] = (counts[d, h] + α₂ · hours[h] · lesser[d | h]) / (n + α₂)
With no events it is the global curve. The α are fitted to the likelihood of later visits (`window_fit`), which also
makes up for events that come in bursts (a basket of ten lines is one visit) and would pass for certainty.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.features.matrix import WindowCurves
from engine.features.state import Hours
from engine.localtime import CELLS, WINDOWS_A_DAY

RUNGS = 3
"""0 responses to pushes, 1 app sessions, 2 any other activity: `user_hour_profiles.rung`."""

HOURS_A_DAY = 24
WEEK_HOURS = 2 * HOURS_A_DAY
SIGMA_HOURS = 1.0
_REACH_HOURS = 3
_BLOCK_USERS = 8192

DAYS_OF_TYPE = np.array([5.0, 2.0]).repeat(WINDOWS_A_DAY)
"""How many days of a week each cell stands for."""


@dataclass(frozen=True)
class WindowModel:
    """Everybody's curve and how fast a user departs from it.

    curve: float64[48], everybody's share of activity by day type × 24 + local hour, positive, sums to 1 ·
    concentration: float64[RUNGS, 2], α₁ and α₂ of each rung: how many decayed events outweigh what they shrink to.
    """

    curve: np.ndarray
    concentration: np.ndarray

    def cells(self) -> np.ndarray:
        """Everybody's share by cell, float64[16], sums to 1."""
        return np.asarray(to_cells(self.curve[None, :])[0], np.float64)


DEFAULT_CONCENTRATION = np.array([[10.0, 10.0], [20.0, 40.0], [60.0, 120.0]])
"""Before anything is fitted: α of hours of the day was 7–15 for opens; other activity comes in bursts."""


CURVE_PRIOR = 50.0
"""Events' worth of a flat week in everybody's curve: no hour is impossible."""


def with_everybody(counts: np.ndarray, concentration: np.ndarray = DEFAULT_CONCENTRATION) -> WindowModel:
    """A model whose global curve comes from everybody's counts per hour of the week (float64[48]); flat without any."""
    flat = np.array([5.0, 2.0]).repeat(HOURS_A_DAY) / (7 * HOURS_A_DAY)
    total = smoothed(counts[None, :])[0] + CURVE_PRIOR * flat
    return WindowModel(total / total.sum(), concentration)


def curves(model: WindowModel, hours: Hours, users: int) -> WindowCurves:
    """The curves of `users` users; bit-equal for any batch of users."""
    everybody = model.cells()
    preference = np.empty((users, CELLS), np.float32)
    evidence = np.empty(users, np.float32)
    for first in range(0, users, _BLOCK_USERS):
        last = min(first + _BLOCK_USERS, users)
        share, n = posterior(model, hourly(hours, first, last))
        preference[first:last] = to_cells(share)
        evidence[first:last] = n
    return WindowCurves(preference, np.log(preference / everybody.astype(np.float32)), evidence)


def hourly(hours: Hours, first: int, last: int) -> np.ndarray:
    """Decayed counts of users first … last−1: float64[users, RUNGS, 48]."""
    low, high = np.searchsorted(hours.user, (first, last))
    part = slice(int(low), int(high))
    key = ((hours.user[part].astype(np.int64) - first) * RUNGS + hours.rung[part]) * WEEK_HOURS + hours.hour[part]
    counts = np.bincount(key, hours.weight[part], minlength=(last - first) * RUNGS * WEEK_HOURS)
    return counts.reshape(last - first, RUNGS, WEEK_HOURS)


def posterior(model: WindowModel, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shares by hour of the week, float64[users, 48], and the evidence behind them, float64[users].

    counts: float64[users, RUNGS, 48].
    """
    smooth = smoothed(counts).reshape(len(counts), RUNGS, 2, HOURS_A_DAY)
    share = np.broadcast_to(model.curve.reshape(2, HOURS_A_DAY), (len(counts), 2, HOURS_A_DAY))
    evidence = np.zeros(len(counts))
    for rung in reversed(range(RUNGS)):
        own, n = smooth[:, rung], counts[:, rung].sum(axis=1)
        share = _shrunk(own, n, share, model.concentration[rung])
        evidence += n
    return share.reshape(len(counts), WEEK_HOURS), evidence


def _shrunk(own: np.ndarray, n: np.ndarray, lesser: np.ndarray, alphas: np.ndarray) -> np.ndarray:
    """One rung: own counts (users, 2, 24), n in all, towards `lesser` shares of the same shape."""
    lesser_hours = lesser[:, 0] + lesser[:, 1]
    hours = (own[:, 0] + own[:, 1] + alphas[0] * lesser_hours) / (n + alphas[0])[:, None]
    expected = lesser * (hours / lesser_hours)[:, None]
    share: np.ndarray = (own + alphas[1] * expected) / (n + alphas[1])[:, None, None]
    return share


def smoothed(counts: np.ndarray) -> np.ndarray:
    """Counts (…, 48) smoothed round the clock within each day type; sums are kept."""
    days = counts.reshape(*counts.shape[:-1], 2, HOURS_A_DAY)
    steps = np.arange(-_REACH_HOURS, _REACH_HOURS + 1)
    kernel = np.exp(-0.5 * (steps / SIGMA_HOURS) ** 2)
    kernel /= kernel.sum()
    total = np.zeros(days.shape)  # counts of nobody come out of bincount as integers
    for step, weight in zip(steps, kernel, strict=True):
        total += weight * np.roll(days, step, axis=-1)
    return np.asarray(total.reshape(counts.shape), np.float64)


def to_cells(share: np.ndarray) -> np.ndarray:
    """Shares by hour of the week (n, 48) → by cell (n, 16)."""
    three = share.reshape(len(share), CELLS, HOURS_A_DAY // WINDOWS_A_DAY)
    cells: np.ndarray = three[..., 0] + three[..., 1] + three[..., 2]
    return cells


def rate(preference: np.ndarray) -> np.ndarray:
    """How good each cell's window is beside the user's best, (n, 16) in (0, 1]: share per day, over the largest.

    A cell of workdays gathers five days' activity, one of weekends two; a push meets one day.
    """
    per_day = preference / DAYS_OF_TYPE.astype(preference.dtype)
    relative: np.ndarray = per_day / per_day.max(axis=1, keepdims=True)
    return relative
