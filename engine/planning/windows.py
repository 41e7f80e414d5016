"""The instants at which a user may be sent something: the next open parts of 3-hour local slots (pure).

They depend on the zone, the quiet hours and the campaign alone, so each is computed once per group of users and
gathered per user. Inside a window the instant is a keyed hash of user and campaign within the window's first hour
(SPREAD): the load spreads and never falls on the hour, and most of the time for which the window was chosen still lies
ahead of the push.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np

from engine.localtime import Hours, open_intervals, open_windows, windows_between

MOST_WINDOWS = 14
"""Candidate windows of a push: the next ones."""

LAST_CALL = timedelta(minutes=15)
"""A push is due at least this long before its window closes: dispatch may be late, a virtual clock steps that far."""

SPREAD = timedelta(hours=1)
"""A push is due within so much of its window's beginning. Chosen on *Complete Journey*, August and September 2017, long
before the demo's days: a push a day in each household's favourite window (as known before August) is followed by a trip
within 3 hours in 5.3 % of cases, spread over the whole window in 4.7 % (tests/unit/test_planning_spread.py). A quarter
of an hour would reach 5.4 % and concentrate the load four times more."""

AT_ONCE = timedelta(hours=1)
"""How long a push that is to leave at once may still leave."""


@dataclass(frozen=True)
class Span:
    """When an occurrence may reach users of one zone: [start, end), within `allowed` local hours. `end` is also the
    instant from which the push is worthless. `at_once`: now, or not at all. `spread`: pushes are due within so much of
    a window's beginning; None: in all of it, which a capacity per quarter-hour needs."""

    start: datetime
    end: datetime
    allowed: Hours | None = None
    at_once: bool = False
    spread: timedelta | None = SPREAD


@dataclass(frozen=True)
class Open:
    """A stretch in which a push may leave: due in [first, first + length), open until `end`; `slot` is the start of its
    3-hour slot, cell the slot's cell of the week, day the ordinal of the local date. Instants in epoch seconds."""

    first: float
    length: float
    end: float
    slot: float
    cell: int
    day: int


def open_stretches(
    tz: ZoneInfo, span: Span, quiet: Hours | None, now: datetime, most: int = MOST_WINDOWS
) -> tuple[list[Open], str]:
    """The next stretches from `now` on, and why there are none: too_late, expired or quiet_hours (else "")."""
    if span.at_once:
        return _at_once(tz, span, quiet, now)
    start = max(span.start, now)
    if start >= span.end:
        return [], "too_late" if span.start < now else "expired"
    found = _stretches(tz, span, quiet, start)
    if found:
        return found[:most], ""
    return [], "quiet_hours" if _stretches(tz, span, None, start) else "too_late"


def _stretches(tz: ZoneInfo, span: Span, quiet: Hours | None, start: datetime) -> list[Open]:
    return [
        Open(
            first.timestamp(),
            min(end - LAST_CALL - first, span.spread or span.end - span.start).total_seconds(),
            end.timestamp(),
            window.start.timestamp(),
            window.cell,
            window.local_date.toordinal(),
        )
        for window, first, end in open_windows(tz, start, span.end, span.allowed, quiet)
        if end - first > LAST_CALL
    ]


def _at_once(tz: ZoneInfo, span: Span, quiet: Hours | None, now: datetime) -> tuple[list[Open], str]:
    end = min(span.end, now + AT_ONCE)
    if now >= end:
        return [], "too_late"
    for first, closes in open_intervals(tz, now, end, span.allowed, quiet):
        if first == now and closes - now > LAST_CALL:
            window = windows_between(tz, now, now + timedelta(seconds=1))[0]
            here = now.timestamp()
            return [Open(here, 0.0, closes.timestamp(), here, window.cell, window.local_date.toordinal())], ""
    return [], "quiet_hours"


@dataclass(frozen=True)
class Table:
    """Stretches of G groups × O occurrences × W: first, length, end, slot float64, cell int8 (−1: no such window), day
    int32; why[G, O]: the reason where there are none; until float64[G, O]: when the push becomes worthless."""

    first: np.ndarray
    length: np.ndarray
    end: np.ndarray
    slot: np.ndarray
    cell: np.ndarray
    day: np.ndarray
    why: np.ndarray
    until: np.ndarray


def table(groups: Sequence[Sequence[tuple[list[Open], str, datetime]]], occurrences: int) -> Table:
    """The table of groups[g][o]: (stretches, why there are none, when the push becomes worthless)."""
    widest = max((len(cell[0]) for group in groups for cell in group), default=0)
    shape = (len(groups), occurrences, max(widest, 1))
    out = Table(
        np.zeros(shape),
        np.zeros(shape),
        np.zeros(shape),
        np.zeros(shape),
        np.full(shape, -1, np.int8),
        np.zeros(shape, np.int32),
        np.full(shape[:2], "", "U11"),
        np.zeros(shape[:2]),
    )
    for g, group in enumerate(groups):
        for o, (stretches, why, until) in enumerate(group):
            out.why[g, o] = why
            out.until[g, o] = until.timestamp()
            for w, stretch in enumerate(stretches):
                out.first[g, o, w], out.length[g, o, w], out.end[g, o, w] = stretch.first, stretch.length, stretch.end
                out.slot[g, o, w], out.cell[g, o, w], out.day[g, o, w] = stretch.slot, stretch.cell, stretch.day
    return out


def instants(first: np.ndarray, length: np.ndarray, draw: np.ndarray) -> np.ndarray:
    """The due instants, in epoch seconds to the millisecond: `draw` in [0, 1) of the way through each stretch."""
    spread = first + np.floor(draw * length * 1000.0) / 1000.0
    return np.where(length > 0, spread, first)


def instant(seconds: float) -> datetime:
    """Epoch seconds as an aware UTC instant."""
    return datetime.fromtimestamp(seconds, UTC)
