"""When a user is most likely to act: a hierarchical Dirichlet model of their week (pure).

A week has 16 cells: day type × 3-hour window of local time. A user's curve is made of three levels, each shrunk towards
the one before: a prior curve; their hours of the day, smoothed round the clock; their hours by day type, and how they
share their activity between day types. The prior curve is not everybody's but a mixture of typical curves (early
workers, weekend shoppers, …), weighed by how well each explains the user. This is done on each rung of a ladder, from
any activity over app sessions to responses to pushes: a lesser rung's curve is what the next rung shrinks to.

Two members see the same events differently: the slow one counts a whole history, the fast one the last month
(half-life 30 days). Their curves are pooled geometrically. Without events a user has the mixture's mean curve.

Numbers of events are turned into numbers of visits (a session of ten views is one visit, and would pass for certainty).

Responses follow when the shop used to send. So where pushes were sent, those that a push can have prompted are no
visits but answers, and count per push sent: see `answering`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from engine.features.matrix import WindowCurves
from engine.features.state import PUSHED, Hours
from engine.learning import answering
from engine.learning.answering import Answers
from engine.localtime import CELLS, WINDOWS_A_DAY

RUNGS = 3
"""0 responses to pushes, 1 app sessions, 2 any other activity: `user_hour_profiles.rung`."""

HOURS_A_DAY = 24
WEEK_HOURS = 2 * HOURS_A_DAY
DAYS_OF_TYPE = np.array([5.0, 2.0]).repeat(WINDOWS_A_DAY)
"""How many days of a week each cell stands for."""

KINDS = 3
"""How events are counted: 0 all alike, 1 with a half-life of 120 days, 2 of 30 days."""

SLOW, FAST = 0, 1
MEMBERS = 2
SEEN = (0, 2)
"""The kind of counts each member sees."""

PRIOR_SEEN = (0, 1)
"""The kind of counts each member's mixture sees: typical curves need more than a month."""

SIGMA_HOURS = 1.0
"""Width of the circular kernel of a user's hours; by day type hours are left as they are."""

MIXTURE_SIGMA_HOURS = 0.8
"""Width of that of the visits that typical curves are made of and weighed by. Both were chosen on Complete Journey's
May and June and its July to September: all three measures of windows are a little better there than at 1.13 and 1."""

TEMPER = 0.6
"""How much of the likelihood a mixture believes: the visits of one user are not independent."""

_REACH_HOURS = 5
_STEPS = np.arange(-_REACH_HOURS, _REACH_HOURS + 1)
_BEFORE = (np.arange(HOURS_A_DAY) - _STEPS[:, None]) % HOURS_A_DAY
"""By step, the hour that lies so many before each hour of the day."""

_BLOCK_USERS = 2048
_ENOUGH = 0.5

DEFAULT_CONCENTRATION = np.array(
    [
        [[13.0, 35.0, 14.0], [26.0, 70.0, 27.0], [26.0, 70.0, 27.0]],
        [[4.5, 15.0, 6.0], [9.0, 30.0, 12.0], [9.0, 30.0, 12.0]],
    ]
)
"""Before anything is fitted, by member, rung and level: how many visits outweigh what they are shrunk to."""

DEFAULT_BURST = np.array([1.0, 2.0, 1.0])
DEFAULT_POOL = np.array([0.565, 0.41])

CURVE_PRIOR = 50.0
"""Events' worth of a flat week in everybody's curve: no hour is impossible."""


@dataclass(frozen=True)
class Mixture:
    """Typical curves. curves: float64[K, 48], positive, each sums to 1 · share: float64[K], of users, sums to 1."""

    curves: np.ndarray
    share: np.ndarray


@dataclass(frozen=True)
class WindowModel:
    """Everybody's curve, typical curves, and how fast a user departs from them.

    curve: float64[48], everybody's share of activity by day type × 24 + local hour, positive, sums to 1 ·
    mixtures: one per member · concentration: float64[MEMBERS, RUNGS, 3], of hours, hours by day type, day types ·
    burst: float64[RUNGS], events of a visit · pool: float64[MEMBERS], exponents · answers: what pushes met with.
    """

    curve: np.ndarray
    mixtures: tuple[Mixture, ...]
    concentration: np.ndarray = field(default_factory=DEFAULT_CONCENTRATION.copy)
    burst: np.ndarray = field(default_factory=DEFAULT_BURST.copy)
    pool: np.ndarray = field(default_factory=DEFAULT_POOL.copy)
    answers: Answers = field(default_factory=answering.none)

    def arrays(self) -> dict[str, np.ndarray]:
        """The model as arrays, by the names of ARRAYS; `from_arrays` takes them back."""
        return {
            "window_curve": self.curve,
            "window_curves": np.concatenate([mixture.curves for mixture in self.mixtures]),
            "window_shares": np.concatenate([mixture.share for mixture in self.mixtures]),
            "window_sizes": np.array([len(mixture.share) for mixture in self.mixtures]),
            "window_concentration": self.concentration,
            "window_burst": self.burst,
            "window_pool": self.pool,
            "window_answers": self.answers.array(),
        }

    @cached_property
    def cells(self) -> np.ndarray:
        """The share by cell of a user without events, float64[16], sums to 1."""
        nothing = np.zeros((1, KINDS, RUNGS, WEEK_HOURS))
        return np.asarray(posterior(self, nothing)[0][0], np.float64)

    @cached_property
    def activity(self) -> np.ndarray:
        """The same as it would be if no push had ever been sent: when people come of themselves."""
        return np.asarray(pooled(self, np.zeros((1, KINDS, RUNGS, WEEK_HOURS)))[0], np.float64)


ARRAYS = (
    "window_curve",
    "window_curves",
    "window_shares",
    "window_sizes",
    "window_concentration",
    "window_burst",
    "window_pool",
    "window_answers",
)


def from_arrays(arrays: Mapping[str, np.ndarray]) -> WindowModel | None:
    """The model that `WindowModel.arrays` gave; None where the arrays are not those of one."""
    curve, *parts, concentration, burst, pool, told = (arrays[name] for name in ARRAYS)
    answers = answering.from_array(told)
    curves, shares, sizes = parts
    sound = (
        curve.shape == (WEEK_HOURS,)
        and sizes.shape == (MEMBERS,)
        and bool((sizes > 0).all())
        and shares.shape == (sizes.sum(),)
        and curves.shape == (sizes.sum(), WEEK_HOURS)
        and concentration.shape == (MEMBERS, RUNGS, 3)
        and burst.shape == (RUNGS,)
        and pool.shape == (MEMBERS,)
        and answers is not None
        and all(bool((part > 0).all()) for part in (curve, curves, shares, concentration, burst))
        and bool((pool >= 0).all() and pool.sum() > 0)
        and np.allclose(curves.sum(axis=1), 1)
        and abs(float(curve.sum()) - 1) < 1e-6
    )
    if not sound or answers is None:
        return None
    cut = int(sizes[0])
    mixtures = (Mixture(curves[:cut], shares[:cut]), Mixture(curves[cut:], shares[cut:]))
    return WindowModel(curve, mixtures, concentration, burst, pool, answers)


def with_everybody(counts: np.ndarray) -> WindowModel:
    """A model whose only curve comes from everybody's counts per hour of the week (float64[48]); flat without any."""
    curve = everybodys_curve(counts)
    return WindowModel(curve, (Mixture(curve[None, :], np.ones(1)),) * MEMBERS)


def everybodys_curve(counts: np.ndarray) -> np.ndarray:
    """Everybody's share by hour of the week, float64[48], smoothed, from their counts (float64[48])."""
    flat = np.array([5.0, 2.0]).repeat(HOURS_A_DAY) / (7 * HOURS_A_DAY)
    total = smoothed(counts[None, :])[0] + CURVE_PRIOR * flat
    return np.asarray(total / total.sum(), np.float64)


def curves(model: WindowModel, hours: Hours, users: int) -> WindowCurves:
    """The curves of `users` users; bit-equal for any batch of users."""
    everybody = model.cells
    preference = np.empty((users, CELLS), np.float32)
    evidence = np.empty(users, np.float32)
    for first in range(0, users, _BLOCK_USERS):
        last = min(first + _BLOCK_USERS, users)
        counts, sent = hourly(hours, first, last), pushes(hours, first, last)
        preference[first:last], evidence[first:last] = posterior(model, counts, sent)
    return WindowCurves(preference, np.log(preference / everybody.astype(np.float32)), rate(preference), evidence)


def hourly(hours: Hours, first: int, last: int) -> np.ndarray:
    """Counts of what users first … last−1 did: float64[users, KINDS, RUNGS, 48]."""
    return np.ascontiguousarray(_counted(hours, first, last)[:, :, :RUNGS])


def pushes(hours: Hours, first: int, last: int) -> np.ndarray:
    """Pushes sent to users first … last−1, counted as `hourly` counts: float64[users, KINDS, 48]."""
    return np.ascontiguousarray(_counted(hours, first, last)[:, :, PUSHED])


def _counted(hours: Hours, first: int, last: int) -> np.ndarray:
    low, high = np.searchsorted(hours.user, (first, last))
    part, rungs = slice(int(low), int(high)), PUSHED + 1
    key = ((hours.user[part].astype(np.int64) - first) * rungs + hours.rung[part]) * WEEK_HOURS + hours.hour[part]
    kinds = [
        np.bincount(key, weights[part], minlength=(last - first) * rungs * WEEK_HOURS)
        for weights in (hours.count, hours.weight, hours.recent)
    ]
    stacked: np.ndarray = np.stack([kind.reshape(last - first, rungs, WEEK_HOURS) for kind in kinds], axis=1)
    return stacked.astype(np.float64)


def posterior(model: WindowModel, counts: np.ndarray, sent: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Shares by cell, float64[users, 16], and the evidence behind them, float64[users].

    counts: float64[users, KINDS, RUNGS, 48], as `hourly` gives them · sent: float64[users, KINDS, 48], as `pushes`
    does. Evidence is decayed events (half-life 120 days).

    Where the model knows what pushes met with, a share is that of answers to pushes sent evenly over the week.
    """
    evidence = counts[:, 1].sum(axis=(1, 2))
    if not model.answers.known:
        return pooled(model, counts), evidence
    if sent is None:
        sent = np.zeros((len(counts), KINDS, WEEK_HOURS))
    prompted = answering.prompted(counts[:, :, 0], sent)
    activity = pooled(model, of_themselves(model, counts, prompted))
    rates = answering.posterior(model.answers, activity, model.activity, answering.tally(prompted[:, 1], sent[:, 1]))
    share = rates * DAYS_OF_TYPE
    return share / share.sum(axis=1, keepdims=True), evidence


def of_themselves(model: WindowModel, counts: np.ndarray, prompted: np.ndarray) -> np.ndarray:
    """Counts without the responses that pushes prompted (float64[users, KINDS, 48]) and the sessions they began."""
    free = counts.copy()
    free[:, :, 0] -= prompted
    free[:, :, 1] = np.maximum(free[:, :, 1] - prompted * model.burst[1], 0)
    return free


def pooled(model: WindowModel, counts: np.ndarray) -> np.ndarray:
    """Shares of activity by cell, float64[users, 16], of counts as `posterior` takes them."""
    visits = as_visits(model, counts)
    logs = np.zeros((len(counts), CELLS))
    for member in range(MEMBERS):
        logs += model.pool[member] * np.log(to_cells(member_share(model, visits, member)))
    share = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(share / share.sum(axis=1, keepdims=True), np.float64)


def as_visits(model: WindowModel, counts: np.ndarray) -> np.ndarray:
    """Counts of events as visits, of the same shape: over the events of a visit."""
    return np.asarray(counts / model.burst[:, None], np.float64)


def member_share(model: WindowModel, visits: np.ndarray, member: int) -> np.ndarray:
    """One member's shares by hour of the week, float64[users, 48], of `visits` as `as_visits` gives them."""
    prior = prior_curves(model.mixtures[member], habits(visits[:, PRIOR_SEEN[member]]))
    return climbed(model, prior, visits[:, SEEN[member]], member)


def climbed(model: WindowModel, prior: np.ndarray, visits: np.ndarray, member: int) -> np.ndarray:
    """Prior curves (float64[users, 48]) taken up the ladder of visits (float64[users, RUNGS, 48]) of one member."""
    share = prior.copy()
    for rung in reversed(range(RUNGS)):
        own = visits[:, rung]
        known = np.flatnonzero(own.any(axis=1))
        share[known] = shrunk(own[known], share[known], model.concentration[member, rung], SIGMA_HOURS)
    return share


def habits(visits: np.ndarray) -> np.ndarray:
    """What is told of each user's habits, float64[users, 48]: their best rung that holds at least half of any's.

    visits: float64[users, RUNGS, 48].
    """
    n = visits.sum(axis=2)
    best = (n >= _ENOUGH * n.max(axis=1, keepdims=True)).argmax(axis=1)
    return np.asarray(visits[np.arange(len(visits)), best], np.float64)


def prior_curves(mixture: Mixture, visits: np.ndarray) -> np.ndarray:
    """Each user's mean of the typical curves, weighed by how well they explain their visits: float64[users, 48].

    Summed hour by hour, not as a matrix product, whose rounding would depend on the batch.
    """
    belief = responsibilities(mixture, smoothed(visits, MIXTURE_SIGMA_HOURS))
    prior = np.zeros((len(visits), WEEK_HOURS))
    for curve in range(len(mixture.share)):
        prior += belief[:, curve, None] * mixture.curves[curve]
    return prior


def responsibilities(mixture: Mixture, smooth: np.ndarray) -> np.ndarray:
    """How far each typical curve stands for each user, float64[users, K], rows sum to 1; smooth: float64[users, 48]."""
    score = np.repeat(np.log(mixture.share)[None, :], len(smooth), axis=0)
    if len(mixture.share) == 1:
        return np.ones_like(score)
    told = TEMPER * np.log(mixture.curves)
    for hour in range(WEEK_HOURS):
        score += smooth[:, hour, None] * told[:, hour]
    belief = np.exp(score - score.max(axis=1, keepdims=True))
    total: np.ndarray = np.cumsum(belief, axis=1)[:, -1:]  # in order, whatever the number of users
    return np.asarray(belief / total, np.float64)


def shrunk(own: np.ndarray, prior: np.ndarray, alphas: np.ndarray, sigma: float) -> np.ndarray:
    """One rung: visits (users, 48), each user with some, towards `prior` shares of the same shape."""
    days, lesser = _by_day(own), _by_day(prior)
    n_day = days.sum(axis=2)
    n = n_day.sum(axis=1)
    hours_lesser = lesser.sum(axis=1)
    hours = _round_the_clock(days.sum(axis=1), sigma) + alphas[0] * hours_lesser
    hours /= (n + alphas[0])[:, None]
    share_of_day = lesser.sum(axis=2)
    expected = lesser / share_of_day[:, :, None] * (hours / hours_lesser)[:, None, :]
    expected /= expected.sum(axis=2, keepdims=True)
    given = (days + alphas[1] * expected) / (n_day + alphas[1])[:, :, None]
    of_day = (n_day + alphas[2] * share_of_day) / (n + alphas[2])[:, None]
    share: np.ndarray = (given * of_day[:, :, None]).reshape(len(own), WEEK_HOURS)
    return share


def smoothed(counts: np.ndarray, sigma: float = MIXTURE_SIGMA_HOURS) -> np.ndarray:
    """Counts (…, 48) smoothed round the clock within each day type; sums are kept."""
    return _round_the_clock(_by_day(counts), sigma).reshape(counts.shape)


def _by_day(week: np.ndarray) -> np.ndarray:
    return week.reshape(*week.shape[:-1], 2, HOURS_A_DAY)


def _round_the_clock(hours: np.ndarray, sigma: float) -> np.ndarray:
    kernel = np.exp(-0.5 * (_STEPS / sigma) ** 2)
    kernel /= kernel.sum()
    total = np.zeros(hours.shape)  # counts of nobody come out of bincount as integers
    for before, weight in zip(_BEFORE, kernel, strict=True):
        total += weight * hours[..., before]
    return total


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
