"""What the send windows are worth: the model's curves beside what vendors do, on visits that came later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.features.state import State
from engine.learning import windows
from engine.learning.backtest.resampling import Draws, interval, paired, ratio
from engine.learning.window_fit import Visits
from engine.learning.windows import HOURS_A_DAY, WindowModel
from engine.localtime import WINDOWS_A_DAY

RIVALS = ("global", "median_hour", "most_frequent_hour")
MEASURES = ("log_likelihood", "top_1", "top_3")
TRUST = 0.4
"""Share of a user's mass that a one-hour rule puts around its hour; the rest follows everybody's hours."""

REACH_HOURS = 2.0
"""Width of the circular kernel around the hour (who came at 14:50 may well come at 15:10, in the next window), and of
that which smooths counts before the most frequent hour is taken. Of 0, 1, 1.5, 2 hours and of shares from 0.1 to 0.7
these make visits of Complete Journey's May and June and of its July to September likeliest."""

DAYS_TRUST = 5.0
"""Visits that outweigh how everybody shares their activity between workdays and weekends."""


@dataclass(frozen=True)
class Sent:
    """Visits of some users after an instant, and how each way of choosing windows foretold them.

    ids: int64[U] · visits: float64[U], how many each · sums: float64[3, U] by way of choosing, of MEASURES.
    """

    ids: np.ndarray
    visits: np.ndarray
    sums: Mapping[str, np.ndarray]


def judge(model: WindowModel, state: State, visits: Visits) -> Sent:
    """How the model's curves, everybody's and two one-hour rules, as of the state's instant, foretold `visits`."""
    users, cell = len(state), visits.cell
    sums = {}
    for name, preference in curves(model, state).items():
        chosen = preference[visits.user]
        own = chosen[np.arange(len(cell)), cell]
        better = (chosen > own[:, None]).sum(axis=1)
        measured = (np.log(np.maximum(own, 1e-12)), better < 1, better < 3)
        sums[name] = np.stack([np.bincount(visits.user, values, minlength=users) for values in measured])
    return Sent(state.users, np.bincount(visits.user, minlength=users).astype(np.float64), sums)


def curves(model: WindowModel, state: State) -> dict[str, np.ndarray]:
    """p(cell | user) by each way of choosing, float64[users, 16]: the model's, everybody's, and two one-hour rules.

    The rules are made as strong as a rule of one hour can be: counts are decayed, days of either type are shared as the
    user does, and the hour reaches into its neighbours. Published of Complete Journey, October to December: median hour
    −2.339 / .226 / .501, most frequent hour −2.318 / .238 / .526 (log-likelihood, best window, best three); these give
    −2.291 / .234 / .516 and −2.270 / .247 / .528.
    """
    users, hours = len(state), state.hours
    own = windows.curves(model, hours, users).preference.astype(np.float64)
    everybody = windows.to_cells(model.curve[None])[0]
    visits = windows.habits(windows.as_visits(model, windows.hourly(hours, 0, users))[:, 1])
    by_day = visits.reshape(users, 2, HOURS_A_DAY)
    counts = by_day.sum(axis=1)
    known = counts.any(axis=1)
    median = (np.cumsum(counts, axis=1) >= counts.sum(axis=1, keepdims=True) / 2).argmax(axis=1)
    rules = {"median_hour": np.stack([median, median], axis=1), "most_frequent_hour": _most_frequent(visits)}
    share = everybody.reshape(2, WINDOWS_A_DAY).sum(axis=1)
    days = (by_day.sum(axis=2) + DAYS_TRUST * share) / (counts.sum(axis=1) + DAYS_TRUST)[:, None]
    found = {"model": own, "global": np.broadcast_to(everybody, own.shape)}
    for name, hour in rules.items():
        found[name] = np.where(known[:, None], _one_hour(hour, days, everybody), everybody)
    return found


def report(weeks: Sequence[Sent], draws: Draws) -> dict[str, Any]:
    """`windows` of the report: measures per visit with intervals, and how the model differs; {} without a visit."""
    visits = sum((draws.sums(week.visits[None], week.ids)[0] for week in weeks), np.zeros(draws.count))
    if not visits[0]:
        return {}
    found = {
        name: ratio(
            sum((draws.sums(week.sums[name], week.ids) for week in weeks), np.zeros((len(MEASURES), draws.count))),
            np.broadcast_to(visits, (len(MEASURES), draws.count)),
        )
        for name in ("model", *RIVALS)
    }
    told: dict[str, Any] = {}
    for name, measured in found.items():
        told[name] = {}
        for key, values in zip(MEASURES, measured, strict=True):
            told[name] |= interval(key, values)
    told["visits"] = int(visits[0])
    told["users"] = len(np.unique(np.concatenate([week.ids[week.visits > 0] for week in weeks])))
    told["differences"] = {
        f"model - {name}": {
            key: paired(ours, theirs) for key, ours, theirs in zip(MEASURES, found["model"], found[name], strict=True)
        }
        for name in RIVALS
    }
    return told


def _most_frequent(visits: np.ndarray) -> np.ndarray:
    """Each user's most frequent hour by day type, int64[users, 2], of visits float64[users, 48].

    Counts are smoothed round the clock: the rule as its vendors state it, of unsmoothed counts, is easier to beat. Who
    never came on such a day is met at their most frequent hour of all days.
    """
    by_day = windows.smoothed(visits, REACH_HOURS).reshape(len(visits), 2, HOURS_A_DAY)
    of_all = by_day.sum(axis=1).argmax(axis=1)
    return np.asarray(np.where(by_day.any(axis=2), by_day.argmax(axis=2), of_all[:, None]), np.int64)


def _one_hour(hour: np.ndarray, days: np.ndarray, everybody: np.ndarray) -> np.ndarray:
    """TRUST around `hour` (int64[users, 2], by day type), the rest as everybody's; days shared by `days` (the same)."""
    away = np.abs(np.arange(HOURS_A_DAY) - hour[:, :, None])
    away = np.minimum(away, HOURS_A_DAY - away)
    around = np.exp(-0.5 * (away / REACH_HOURS) ** 2).reshape(len(hour), 2, WINDOWS_A_DAY, -1).sum(axis=3)
    usual = everybody.reshape(2, WINDOWS_A_DAY)
    mixed = TRUST * around / around.sum(axis=2, keepdims=True)
    mixed += (1 - TRUST) * usual / usual.sum(axis=1, keepdims=True)
    return np.asarray((days[:, :, None] * mixed).reshape(len(hour), -1), np.float64)
