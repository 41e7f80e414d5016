"""At which past instants a backtest learns, validates and tests (pure).

Instants lie a week apart at local midnight and labels are the seven days after each, so no label is seen twice and
everything trained on has matured before the first test begins: train < validate < test, a label window between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from engine.learning.timeline import ATTRIBUTION, LEAST_WARM_UP, MOST_TRAINING, MOST_WARM_UP
from engine.localtime import resolve

LEAST_TRAINED = 3
"""Snapshots that a model needs: one to train, one to validate, one to test. Fewer only test."""

MOST_TESTS = 4
USUAL = 13
"""Snapshots where no span is named: eight to train, one to validate, four to test."""

WEEK = timedelta(days=7)


@dataclass(frozen=True)
class Weeks:
    """Instants, oldest first. Without `validate` nothing can be trained."""

    train: tuple[datetime, ...]
    validate: datetime | None
    test: tuple[datetime, ...]

    @property
    def instants(self) -> tuple[datetime, ...]:
        """All of them."""
        return (*self.train, *((self.validate,) if self.validate else ()), *self.test)


def weeks(span: tuple[datetime, datetime], tz: ZoneInfo, first: date | None, last: date | None) -> Weeks | None:
    """The weeks of a log whose events span [begin, end]; `first` and `last` bound the instants where given.

    Instants lie whole weeks from the day that was asked for, none in the first week of the log: features need a past.
    Of more than MOST_TRAINING weeks to train on the newest are taken. None where there is not even one week to test on.
    """
    begin, end = span
    latest = end - ATTRIBUTION + timedelta(hours=12)  # the last day of a log may end in the evening
    newest = min(_midnight(last, tz), _floor(latest, tz)) if last else _floor(latest, tz)
    warm_up = LEAST_WARM_UP if first else min(MOST_WARM_UP, max(LEAST_WARM_UP, (end - begin) / 4))
    oldest = begin + warm_up
    if first is None:
        oldest = max(oldest, newest - WEEK * (USUAL - 1) - timedelta(hours=2))
    anchor = first or last or newest.astimezone(tz).date()
    step = (newest.astimezone(tz).date() - anchor).days // 7  # whole weeks from the day that was asked for
    found: list[datetime] = []
    while step >= 0 or first is None:
        instant = _midnight(anchor + WEEK * step, tz)
        if instant < oldest:
            break
        found.append(instant)
        step -= 1
    if not found:
        return None
    found.reverse()
    if len(found) < LEAST_TRAINED:
        return Weeks((), None, tuple(found))
    tests = max(1, min(MOST_TESTS, (len(found) - 2) // 2))
    return Weeks(tuple(found[: -tests - 1][-MOST_TRAINING:]), found[-tests - 1], tuple(found[-tests:]))


def _midnight(day: date, tz: ZoneInfo) -> datetime:
    return resolve(datetime.combine(day, time()), tz)


def _floor(instant: datetime, tz: ZoneInfo) -> datetime:
    return _midnight(instant.astimezone(tz).date(), tz)
