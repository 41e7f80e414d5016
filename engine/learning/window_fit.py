"""Fits the send-window model: typical curves by EM, and how far users are trusted by visits that came later (pure)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from engine.features.state import PUSHED, Hours
from engine.learning import answering, windows
from engine.learning.answering import Answers, Tally
from engine.learning.windows import FAST, MEMBERS, RUNGS, SLOW, WEEK_HOURS, Mixture, WindowModel
from engine.localtime import WINDOWS_A_DAY

VISIT_SECONDS = 3600.0
"""Events of a user less than an hour after the one before belong to the same visit."""

LEAST_VISITS = 50
CURVES = 32
"""Typical curves of a mixture; 8, 16 and 64 were not better."""

LEAST_TELLING = 5.0
"""Visits of a user who can begin a typical curve; with fewer such users than curves everybody's curve is the prior."""

MOST_USERS = 20_000
"""Users a mixture is fitted on."""

LESSON_USERS = 4_000
"""Users of a lesson that concentrations are fitted on."""

_STRENGTH = 20.0
"""Visits' worth of everybody's curve in each typical one."""

_MOST_VISITS = 40.0
"""Visits of one user that count towards a typical curve."""

_ROUNDS = 40
_SCALES = np.array([0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 16.0, 256.0])
"""Factors tried on a rung's concentrations; the last passes the rung over."""

_LEAST_GAIN = 5e-4
"""Log-likelihood per visit that a departure from the defaults must gain."""

_SWEEPS = 2
_SLOW_SHARES = np.linspace(0.0, 1.0, 11)
_BURST_DAYS = 30.0
_LESSON_DAYS = 7.0


@dataclass(frozen=True)
class Visits:
    """Visits in the days after an instant. user: int64[n] positions · hour: int64[n], day type × 24 + local hour."""

    user: np.ndarray
    hour: np.ndarray

    @property
    def cell(self) -> np.ndarray:
        """The cell of each visit, int64[n]."""
        return self.hour // (windows.HOURS_A_DAY // WINDOWS_A_DAY)


@dataclass(frozen=True)
class Lesson:
    """What was known of U users at an instant, and what they did in the week after.

    counts: float64[U, KINDS, RUNGS, 48] · visits: after · sent: float64[U, KINDS, 48], pushes · later: the pushes
    after, None where there were none.
    """

    counts: np.ndarray
    visits: Visits
    sent: np.ndarray
    later: Tally | None = None


def first_of_visits(user: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The rows (positions) that begin a visit; any order in, rows by (user, time) out."""
    order = np.lexsort((at, user))
    begins = np.ones(len(order), bool)
    begins[1:] = (user[order][1:] != user[order][:-1]) | (np.diff(at[order]) >= VISIT_SECONDS)
    return order[begins]


def lesson(hours: Hours, users: int, visits: Visits, later: Tally | None = None) -> Lesson:
    """A lesson for `fit` from the state at an instant and what came after it, of the first LESSON_USERS users."""
    kept = min(users, LESSON_USERS)
    told = visits.user < kept
    answers = None if later is None or not later.sent.any() else Tally(later.sent[:kept], later.answered[:kept])
    return Lesson(
        windows.hourly(hours, 0, kept),
        Visits(visits.user[told], visits.hour[told]),
        windows.pushes(hours, 0, kept),
        answers,
    )


def fit(hours: Hours, users: int, lessons: Sequence[Lesson], answers: Answers | None = None) -> WindowModel:
    """The model of what is known now (`hours` of `users` users), whose trust in users makes the lessons most likely.

    Concentrations are scaled rung by rung, the pool weighed after them, with typical curves of the first lesson's
    instant, which knows none of the lessons' visits. A rung that no user of the lessons has keeps its default, and so
    do all with fewer than LEAST_VISITS visits. answers: what pushes to everybody met with; where any did, visits are
    only those that no push prompted, and the lessons' pushes say how far a user's own answers are trusted.
    """
    kept = min(users, MOST_USERS)
    counts = windows.hourly(hours, 0, kept)
    model = windows.with_everybody(_everybody(hours))
    if answers is not None and answers.known:
        model = replace(model, answers=answers)
        counts = _of_themselves(model, counts, windows.pushes(hours, 0, kept))
        model = replace(model, curve=windows.everybodys_curve(counts[:, 1].sum(axis=(0, 1))))
        told = list(lessons)
        lessons = [replace(each, counts=_of_themselves(model, each.counts, each.sent)) for each in told]
        model = _windows_of(model, counts, lessons)
        return replace(model, answers=answering.taught(answers, _answer_lessons(model, told)))
    return _windows_of(model, counts, lessons)


def _windows_of(model: WindowModel, counts: np.ndarray, lessons: Sequence[Lesson]) -> WindowModel:
    """`model` with the trust in users that makes the lessons' visits likeliest, and typical curves of `counts`."""
    if sum(len(taught.visits.user) for taught in lessons) >= LEAST_VISITS:
        model = _taught(model, lessons)
    return with_curves_of(model, counts)


def relearned(model: WindowModel, hours: Hours, users: int) -> WindowModel:
    """`model` with the curves of another instant: what it would have been then, given the same trust in users."""
    kept = min(users, MOST_USERS)
    counts = windows.hourly(hours, 0, kept)
    everybody = _everybody(hours)
    if model.answers.known:
        counts = _of_themselves(model, counts, windows.pushes(hours, 0, kept))
        everybody = counts[:, 1].sum(axis=(0, 1))
    return with_curves_of(replace(model, curve=windows.everybodys_curve(everybody)), counts)


def _everybody(hours: Hours) -> np.ndarray:
    acted = hours.rung != PUSHED
    return np.asarray(np.bincount(hours.hour[acted], hours.weight[acted], minlength=WEEK_HOURS), np.float64)


def _of_themselves(model: WindowModel, counts: np.ndarray, sent: np.ndarray) -> np.ndarray:
    if not model.answers.known:
        return counts
    return windows.of_themselves(model, counts, answering.prompted(counts[:, :, 0], sent))


def _answer_lessons(model: WindowModel, lessons: Sequence[Lesson]) -> list[answering.Lesson]:
    found = []
    for each in lessons:
        if each.later is not None:
            prompted = answering.prompted(each.counts[:, :, 0], each.sent)
            activity = windows.pooled(model, windows.of_themselves(model, each.counts, prompted))
            known = answering.tally(prompted[:, 1], each.sent[:, 1])
            found.append(answering.Lesson(activity, model.activity, known, each.later))
    return found


def with_curves_of(model: WindowModel, counts: np.ndarray) -> WindowModel:
    """`model` with the typical curves of users whose counts are float64[U, KINDS, RUNGS, 48]."""
    visits = windows.as_visits(model, counts)
    told = {kind: windows.habits(visits[:, kind]) for kind in set(windows.PRIOR_SEEN)}
    mixtures = tuple(mixture(told[windows.PRIOR_SEEN[member]], model.curve) for member in range(MEMBERS))
    return replace(model, mixtures=mixtures)


def mixture(visits: np.ndarray, everybody: np.ndarray, curves: int = CURVES) -> Mixture:
    """Typical curves of users by EM; their visits: float64[U, 48]. Everybody's alone where too few users tell enough.

    Begins with users spread evenly over all: the same counts give the same curves.
    """
    smooth = windows.smoothed(visits)
    n = smooth.sum(axis=1)
    telling = np.flatnonzero(n >= LEAST_TELLING)
    if len(telling) < curves:
        return Mixture(everybody[None, :], np.ones(1))
    seeds = telling[np.arange(curves) * len(telling) // curves]
    total = smooth.sum(axis=0)
    total /= total.sum()
    total = (total + 1e-6) / (1 + 1e-6 * WEEK_HOURS)
    found = Mixture(_normalised(smooth[seeds] + _STRENGTH * total), np.full(curves, 1 / curves))
    kept = np.minimum(1.0, _MOST_VISITS / np.maximum(n, 1e-9))[:, None]
    for _ in range(_ROUNDS):
        belief = _beliefs(found, smooth)
        share = (belief.sum(axis=0) + 1) / (len(belief) + curves)
        found = Mixture(_normalised((belief * kept).T @ smooth + _STRENGTH * total), share)
    return found


def _beliefs(found: Mixture, smooth: np.ndarray) -> np.ndarray:
    """`windows.responsibilities` as a matrix product: nothing here is decided about one user alone."""
    score = np.log(found.share) + windows.TEMPER * (smooth @ np.log(found.curves).T)
    belief = np.exp(score - score.max(axis=1, keepdims=True))
    return np.asarray(belief / belief.sum(axis=1, keepdims=True), np.float64)


def _normalised(curves: np.ndarray) -> np.ndarray:
    return np.asarray(curves / curves.sum(axis=1, keepdims=True), np.float64)


def _taught(model: WindowModel, lessons: Sequence[Lesson]) -> WindowModel:
    model = replace(model, burst=_burst(lessons))
    model = with_curves_of(model, lessons[0].counts)
    seen = [rung for rung in range(RUNGS) if any(taught.counts[:, :, rung].any() for taught in lessons)]
    exercises = [_exercise(model, taught) for taught in lessons]
    for member in range(MEMBERS):
        for _ in range(_SWEEPS if len(seen) > 1 else 1):
            for rung in reversed(seen):
                model = _best_scale(model, member, rung, exercises)
    return _best_pool(model, exercises)


def _burst(lessons: Sequence[Lesson]) -> np.ndarray:
    """Events of each rung in a visit: what the recent counts amount to a week over the visits of the week after."""
    visits = sum(len(taught.visits.user) for taught in lessons)
    recent = sum((taught.counts[:, 2].sum(axis=(0, 2)) for taught in lessons), np.zeros(RUNGS))
    a_week = recent * np.log(2) * _LESSON_DAYS / _BURST_DAYS
    return np.asarray(np.maximum(a_week / visits, 1.0), np.float64)


@dataclass(frozen=True)
class _Exercise:
    """A lesson cut to the users who came: priors and counts as visits by member, and who came in which cell.

    priors: float64[U, 48] · seen: float64[U, RUNGS, 48] · user, cell: int64[n].
    """

    priors: tuple[np.ndarray, ...]
    seen: tuple[np.ndarray, ...]
    user: np.ndarray
    cell: np.ndarray


def _exercise(model: WindowModel, taught: Lesson) -> _Exercise:
    came, user = np.unique(taught.visits.user, return_inverse=True)
    visits = windows.as_visits(model, taught.counts[came])
    told = [windows.habits(visits[:, kind]) for kind in windows.PRIOR_SEEN]
    return _Exercise(
        tuple(windows.prior_curves(model.mixtures[member], told[member]) for member in range(MEMBERS)),
        tuple(visits[:, kind] for kind in windows.SEEN),
        user,
        taught.visits.cell,
    )


def _best_scale(model: WindowModel, member: int, rung: int, exercises: Sequence[_Exercise]) -> WindowModel:
    def told(scale: float) -> WindowModel:
        concentration = model.concentration.copy()
        concentration[member, rung] = windows.DEFAULT_CONCENTRATION[member, rung] * scale
        return replace(model, concentration=concentration)

    def likelihood(candidate: WindowModel) -> float:
        return _likelihood([[_cells(candidate, e, member)] for e in exercises], exercises, np.ones(1))

    return _worth_it(model, [told(scale) for scale in _SCALES], likelihood, exercises)


def _best_pool(model: WindowModel, exercises: Sequence[_Exercise]) -> WindowModel:
    members = [[_cells(model, e, member) for member in (SLOW, FAST)] for e in exercises]
    total = windows.DEFAULT_POOL.sum()
    tried = [replace(model, pool=total * np.array([slow, 1 - slow])) for slow in _SLOW_SHARES]
    return _worth_it(model, tried, lambda candidate: _likelihood(members, exercises, candidate.pool), exercises)


def _worth_it(
    model: WindowModel,
    tried: Sequence[WindowModel],
    likelihood: Callable[[WindowModel], float],
    exercises: Sequence[_Exercise],
) -> WindowModel:
    """The likeliest of `tried` if it gains enough on `model`: three weeks tell no finer differences."""
    found = [likelihood(candidate) for candidate in tried]
    best = int(np.argmax(found))
    visits = sum(len(e.user) for e in exercises)
    return tried[best] if found[best] - likelihood(model) > _LEAST_GAIN * visits else model


def _cells(model: WindowModel, exercise: _Exercise, member: int) -> np.ndarray:
    """Log shares by cell of one member, float64[U, 16]."""
    share = windows.climbed(model, exercise.priors[member], exercise.seen[member], member)
    return np.asarray(np.log(windows.to_cells(share)), np.float64)


def _likelihood(told: list[list[np.ndarray]], exercises: Sequence[_Exercise], pool: np.ndarray) -> float:
    total = 0.0
    for shares, exercise in zip(told, exercises, strict=True):
        pooled = sum((weight * share for weight, share in zip(pool, shares, strict=True)), np.zeros(1))
        cells = pooled - np.log(np.exp(pooled).sum(axis=1, keepdims=True))
        total += float(cells[exercise.user, exercise.cell].sum())
    return total
