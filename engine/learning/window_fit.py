"""Fits the send-window model: everybody's curve, and α by the likelihood of visits that came later (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from engine.features.state import Hours
from engine.learning import windows
from engine.learning.windows import RUNGS, WindowModel
from engine.localtime import WINDOWS_A_DAY

VISIT_SECONDS = 3600.0
"""Events of a user less than an hour after the one before belong to the same visit."""

LEAST_VISITS = 50
_GRID = np.exp2(np.arange(0, 12))
"""α from 1 to 2,048 decayed events."""

_ROUNDS = 2


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
    """What was known of U users at an instant, float64[U, RUNGS, 48], and their visits afterwards."""

    counts: np.ndarray
    visits: Visits


def first_of_visits(user: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The rows (positions) that begin a visit; any order in, rows by (user, time) out."""
    order = np.lexsort((at, user))
    begins = np.ones(len(order), bool)
    begins[1:] = (user[order][1:] != user[order][:-1]) | (np.diff(at[order]) >= VISIT_SECONDS)
    return order[begins]


def lesson(hours: Hours, users: int, visits: Visits) -> Lesson:
    """A lesson for `fit` from the state at an instant and what came after it."""
    return Lesson(windows.hourly(hours, 0, users), visits)


def fit(everybody: np.ndarray, lessons: Sequence[Lesson]) -> WindowModel:
    """The model whose curve is everybody's counts (float64[48]) and whose α make the lessons' visits most likely.

    Coordinate ascent over a grid, rung by rung; a rung that no user of the lessons has keeps its default, and so do all
    with fewer than LEAST_VISITS visits.
    """
    model = windows.with_everybody(everybody)
    if sum(len(lesson.visits.user) for lesson in lessons) < LEAST_VISITS:
        return model
    seen = [rung for rung in range(RUNGS) if any(lesson.counts[:, rung].any() for lesson in lessons)]
    for _ in range(_ROUNDS):
        for rung in reversed(seen):
            for level in range(2):
                model = _best(model, (rung, level), lessons)
    return model


def _best(model: WindowModel, place: tuple[int, int], lessons: Sequence[Lesson]) -> WindowModel:
    tried = []
    for alpha in _GRID:
        concentration = model.concentration.copy()
        concentration[place] = alpha
        tried.append(replace(model, concentration=concentration))
    return max(tried, key=lambda candidate: _likelihood(candidate, lessons))


def _likelihood(model: WindowModel, lessons: Sequence[Lesson]) -> float:
    total = 0.0
    for taught in lessons:
        cells = windows.to_cells(windows.posterior(model, taught.counts)[0])
        total += float(np.log(cells[taught.visits.user, taught.visits.cell]).sum())
    return total
