"""How often pushes are answered, by the window they were sent in: rates per push, from pushes alone (pure).

An answer is an open or a click within ANSWER_HOURS of a push. What people do of themselves says where a rate is likely
to be high; how often pushes were answered there says whether it is. So the rate of a user in a window is a Beta
posterior, shrunk towards the user's level times the window's appeal, which is everybody's rate there (shrunk in turn to
everybody's activity) times how much more the user (or people like them) is active there than everybody. Counting per
push sent, a shop that only ever sent at nine does not learn that nine is best.

Profiles count pushes by the hour they left and responses by the hour they came. A response belongs to a push of the
same hour or of the two before, as far as there were pushes; what is left was not prompted: a visit like any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.localtime import CELLS, WINDOWS_A_DAY

ANSWER_HOURS = 3
DELAYS = (0.75, 0.17, 0.08)
"""How answers spread over the hour of their push and the two after it."""

EVERYBODYS_PRIOR = 50.0
"""Pushes' worth of activity in everybody's rate of a window."""

FLOOR = 1 / CELLS
"""Share of activity added to each before they are compared: twice next to nothing is still next to nothing."""

LEVEL_PRIOR = 1.0
"""Answers' worth of everybody's level in a user's own."""

DEFAULT_STRENGTH = 20.0
"""Pushes that outweigh what a user's rate in a window is shrunk to, before anything is fitted."""

DEFAULT_POWER = 1.0
STRENGTHS = (5.0, 10.0, 20.0, 40.0, 80.0, 1e6)
POWERS = (0.0, 0.5, 1.0, 1.5, 2.0)
LEAST_ANSWERS = 30
"""Answers in the lessons below which the defaults stand."""

_LEAST_GAIN = 2.0
"""Log-likelihood that departing from the defaults must gain."""

_TINY = 1e-12
_DAYS = np.array([5.0, 2.0]).repeat(WINDOWS_A_DAY)
_HOURS_A_DAY = 24


@dataclass(frozen=True)
class Answers:
    """What pushes to everybody met with, by cell of the week.

    sent, answered: float64[16], pushes that were sent and answered, decayed · strength: pushes that outweigh what a
    user's rate is shrunk to · power: exponent of how much a user's activity differs from everybody's.
    """

    sent: np.ndarray
    answered: np.ndarray
    strength: float = DEFAULT_STRENGTH
    power: float = DEFAULT_POWER

    @property
    def known(self) -> bool:
        """Whether any push was answered: without that rates say nothing."""
        return bool(self.answered.any())

    def told(self) -> dict[str, Any]:
        """What is known as JSON values, by cell of the week."""
        counts = {"sent": self.sent, "answered": self.answered}
        rounded = {name: [round(float(count), 3) for count in values] for name, values in counts.items()}
        return rounded | {"strength": self.strength, "power": self.power}

    def array(self) -> np.ndarray:
        """All of it as float64[34]; `from_array` takes it back."""
        return np.concatenate([self.sent, self.answered, [self.strength, self.power]])


@dataclass(frozen=True)
class Tally:
    """Pushes to U users by cell. sent, answered: float64[U, 16]; a user's answers in a cell are at most its pushes."""

    sent: np.ndarray
    answered: np.ndarray


@dataclass(frozen=True)
class Lesson:
    """What was known at an instant, and which pushes were answered after it.

    activity: float64[U, 16] · everybody: float64[16] · known: before the instant · later: after it.
    """

    activity: np.ndarray
    everybody: np.ndarray
    known: Tally
    later: Tally


def none() -> Answers:
    """What is known before any push was sent."""
    return Answers(np.zeros(CELLS), np.zeros(CELLS))


def from_array(array: np.ndarray) -> Answers | None:
    """The answers that `Answers.array` gave; None where the array is not such."""
    if array.shape != (2 * CELLS + 2,) or not np.isfinite(array).all() or (array < 0).any() or array[-2] == 0:
        return None
    sent, answered = array[:CELLS], array[CELLS : 2 * CELLS]
    return Answers(sent, answered, float(array[-2]), float(array[-1])) if (answered <= sent).all() else None


def prompted(responses: np.ndarray, sent: np.ndarray) -> np.ndarray:
    """How many of the responses pushes can have prompted, at most one each; both float64[…, 48], by hour."""
    reach = sum((_later(sent, hours) for hours in range(ANSWER_HOURS)), np.zeros(sent.shape))
    return np.asarray(np.minimum(responses, reach), np.float64)


def tally(answers: np.ndarray, sent: np.ndarray) -> Tally:
    """Answers by the window of the push they belong to; both float64[U, 48], answers by the hour they came."""
    expected = [share * _later(sent, hours) for hours, share in enumerate(DELAYS)]
    scale = answers / np.maximum(sum(expected, np.zeros(sent.shape)), _TINY)
    of_push = sum((_later(part * scale, -hours) for hours, part in enumerate(expected)), np.zeros(sent.shape))
    return Tally(_cells(sent), _cells(np.minimum(of_push, sent)))


def posterior(answers: Answers, activity: np.ndarray, everybody: np.ndarray, own: Tally) -> np.ndarray:
    """Rates per push of users in each window, float64[U, 16], positive.

    activity: float64[U, 16], shares by cell · everybody: float64[16], the same of all together.
    """
    expected = expectation(answers, activity, everybody, own)
    return (own.answered + answers.strength * expected) / (own.sent + answers.strength)


def expectation(answers: Answers, activity: np.ndarray, everybody: np.ndarray, own: Tally) -> np.ndarray:
    """What those rates are shrunk to: the user's level times the window's appeal to them, float64[U, 16]."""
    differs = ((activity + FLOOR) / (everybody + FLOOR)) ** answers.power
    appeal = everybodys_rate(answers, everybody) * differs
    should = _total(own.sent * appeal)
    level = (_total(own.answered) + LEVEL_PRIOR) / (should + LEVEL_PRIOR)
    return np.asarray(np.minimum(appeal * level, 1.0), np.float64)


def everybodys_rate(answers: Answers, everybody: np.ndarray) -> np.ndarray:
    """Everybody's rate per push in each window, float64[16], shrunk to what everybody's activity lets expect."""
    per_day = everybody / _DAYS * _DAYS.mean() + FLOOR
    mean = answers.answered.sum() / answers.sent.sum()
    expected = mean * per_day / ((answers.sent * per_day).sum() / answers.sent.sum())
    rate = (answers.answered + EVERYBODYS_PRIOR * expected) / (answers.sent + EVERYBODYS_PRIOR)
    return np.asarray(np.minimum(rate, 1.0), np.float64)


def taught(answers: Answers, lessons: list[Lesson]) -> Answers:
    """`answers` with the strength and power that make the lessons' later answers likeliest; itself where few."""
    if sum(float(lesson.later.answered.sum()) for lesson in lessons) < LEAST_ANSWERS:
        return answers
    tried = [Answers(answers.sent, answers.answered, strength, power) for strength in STRENGTHS for power in POWERS]
    found = [_likelihood(candidate, lessons) for candidate in tried]
    best = int(np.argmax(found))
    return tried[best] if found[best] > _likelihood(answers, lessons) + _LEAST_GAIN else answers


def _likelihood(answers: Answers, lessons: list[Lesson]) -> float:
    total = 0.0
    for lesson in lessons:
        rate = np.clip(posterior(answers, lesson.activity, lesson.everybody, lesson.known), 1e-6, 1 - 1e-6)
        told = lesson.later.answered * np.log(rate) + (lesson.later.sent - lesson.later.answered) * np.log1p(-rate)
        total += float(told.sum())
    return total


def _total(by_cell: np.ndarray) -> np.ndarray:
    return np.asarray(by_cell.sum(axis=1, keepdims=True), np.float64)


def _later(week: np.ndarray, hours: int) -> np.ndarray:
    """What stood at an hour, `hours` later round the clock; a day's last hours reach into the next of the same type."""
    days = week.reshape(*week.shape[:-1], 2, _HOURS_A_DAY)
    return np.roll(days, hours, axis=-1).reshape(week.shape)


def _cells(week: np.ndarray) -> np.ndarray:
    three = week.reshape(*week.shape[:-1], CELLS, _HOURS_A_DAY // WINDOWS_A_DAY)
    return np.asarray(three[..., 0] + three[..., 1] + three[..., 2], np.float64)
