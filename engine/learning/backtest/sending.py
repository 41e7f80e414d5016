"""What the send windows are worth: the model's curves beside what vendors do, on visits that came later (pure)."""

from __future__ import annotations

import numpy as np

from engine.features.state import Hours
from engine.learning import windows
from engine.learning.window_fit import Visits
from engine.learning.windows import HOURS_A_DAY, WindowModel
from engine.localtime import WINDOWS_A_DAY

RIVALS = ("global", "median_hour", "most_frequent_hour")
MEASURES = ("log_likelihood", "top_1", "top_3")
TRUST = 0.25
"""Share of a user's mass that a one-hour rule puts on its hour; the rest follows everybody's curve."""


def curves(model: WindowModel, hours: Hours, users: int) -> dict[str, np.ndarray]:
    """p(cell | user) by each way of choosing, float64[users, 16]: the model's, everybody's, and two one-hour rules."""
    own = windows.curves(model, hours, users).preference.astype(np.float64)
    everybody = windows.to_cells(model.curve[None])[0]
    visits = windows.habits(windows.as_visits(model, windows.hourly(hours, 0, users))[:, 1])
    counts = visits[:, :HOURS_A_DAY] + visits[:, HOURS_A_DAY:]
    known = counts.any(axis=1)
    below = np.cumsum(counts, axis=1) >= counts.sum(axis=1, keepdims=True) / 2
    rules = {"median_hour": below.argmax(axis=1), "most_frequent_hour": counts.argmax(axis=1)}
    found = {"model": own, "global": np.broadcast_to(everybody, own.shape)}
    for name, hour in rules.items():
        found[name] = np.where(known[:, None], _one_hour(hour, everybody), everybody)
    return found


def _one_hour(hour: np.ndarray, everybody: np.ndarray) -> np.ndarray:
    """TRUST on the window of `hour` (int64[users]), on workdays and weekends as everybody shares them."""
    share = np.repeat((1 - TRUST) * everybody[None], len(hour), axis=0)
    for day in range(2):
        part = slice(day * WINDOWS_A_DAY, (day + 1) * WINDOWS_A_DAY)
        cell = day * WINDOWS_A_DAY + hour // (HOURS_A_DAY // WINDOWS_A_DAY)
        share[np.arange(len(hour)), cell] += TRUST * everybody[part].sum()
    return share


def samples(
    preference: np.ndarray, visits: Visits, user: np.ndarray, weights: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Sums over visits of each measure in every draw, and the number of visits: divide after adding weeks.

    preference: float64[U, 16] · user: int64[U], each one's row in `weights` (float64[users, draws]).
    """
    cell = visits.cell
    chosen = preference[visits.user]
    own = chosen[np.arange(len(cell)), cell]
    better = (chosen > own[:, None]).sum(axis=1)
    measured = (np.log(np.maximum(own, 1e-12)), better < 1, better < 3)
    who = user[visits.user]
    sums = {
        name: np.bincount(who, values, minlength=len(weights)) @ weights
        for name, values in zip(MEASURES, measured, strict=True)
    }
    return sums, np.bincount(who, minlength=len(weights)) @ weights


def interval(name: str, draws: np.ndarray) -> dict[str, float | None]:
    """A measure with its 95 % interval: `draws` float64[draws + 1], draw 0 being the log itself."""
    tail = draws[1:][np.isfinite(draws[1:])]
    low, high = np.percentile(tail, [2.5, 97.5]) if len(tail) else (np.nan, np.nan)
    return {name: rounded(draws[0]), f"{name}_lo": rounded(low), f"{name}_hi": rounded(high)}


def rounded(value: float) -> float | None:
    """JSON has no NaN: what could not be measured is null."""
    return round(float(value), 6) if np.isfinite(value) else None
