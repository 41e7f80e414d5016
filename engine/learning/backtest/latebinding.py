"""What late binding is worth: items chosen at a snapshot, beside items chosen again hours later with the events since.

A push planned on Monday at midnight for Monday evening could go out about the item that was best at midnight, or about
the one that is best when it leaves. Both are judged by what the same users took from then on. Only users with events in
between are bound again, as `refresh` does: everybody else keeps the first choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from engine.learning import evaluation
from engine.learning.backtest.log import Log
from engine.learning.backtest.resampling import Draws, interval, paired, ratio, rounded
from engine.learning.backtest.snapshots import Taken, wanted_after
from engine.learning.timeline import ATTRIBUTION

NOTHING = -1
_MEASURES = ("hr_1", "hr_10", "ndcg_10")
"""Whether the first item was taken, whether one of the first ten was, and NDCG@10."""


@dataclass(frozen=True, eq=False)
class _Chosen:
    """What was ranked at an instant: the snapshot, and each proposal's chance, float32[n]."""

    taken: Taken
    chances: np.ndarray

    def first(self) -> np.ndarray:
        """Each user's best item (position), int64[U]; NOTHING where nothing was proposed."""
        found = self.taken.proposals.candidates
        order = np.lexsort((-self.chances, found.user))
        user, at = np.unique(found.user[order], return_index=True)
        out = np.full(len(self.taken.state), NOTHING, np.int64)
        out[user] = found.item[order][at]
        return out

    def judged(self, wanted: np.ndarray) -> np.ndarray:
        """The measures of each user, float64[3, U], by what is wanted (keys of this state); NaN who took nothing."""
        proposals = self.taken.proposals
        items = max(len(proposals.state.catalogue), 1)
        found = np.full((len(_MEASURES), len(proposals.state)), np.nan)
        who, ndcg, hit = evaluation.ranking(
            proposals.candidates.user, proposals.keys, self.chances, wanted, items
        )  # fmt: skip
        first = self.first()[who]
        found[:, who] = np.isin(who * items + first, wanted) & (first >= 0), hit, ndcg
        return found


@dataclass(frozen=True)
class _Week:
    """Users known at both instants. ids int64[U]; touched bool[U]: with events in between; changed bool[U]: of those
    the first item did; fixed, bound float64[3, U]: the measures, NaN who took nothing after."""

    ids: np.ndarray
    touched: np.ndarray
    changed: np.ndarray
    fixed: np.ndarray
    bound: np.ndarray


class LateBinding:
    """Collects the choices of the test weeks as the log is walked through."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._later = [
            (test, test + timedelta(hours=hours), hours) for test in log.weeks.test for hours in log.spec.late
        ]
        self._first: dict[datetime, _Chosen] = {}
        self._weeks: dict[int, list[_Week]] = {}

    @property
    def instants(self) -> set[datetime]:
        """When choices are made again."""
        return {later for _, later, _ in self._later}

    def take(self, taken: Taken, chances: np.ndarray) -> None:
        """Keep a snapshot's choices, and judge them where they are choices made again."""
        for test, later, hours in self._later:
            if taken.instant == later and test in self._first:
                week = self._judge(self._first[test], _Chosen(taken, chances), (test, later))
                self._weeks.setdefault(hours, []).append(week)
        due = [later for test, later, _ in self._later if test == taken.instant]
        self._first = {test: old for test, old in self._first.items() if self._awaited(test, taken.instant)}
        if due:
            self._first[taken.instant] = _Chosen(taken, chances)

    def _awaited(self, test: datetime, now: datetime) -> bool:
        return any(begun == test and later > now for begun, later, _ in self._later)

    def _judge(self, old: _Chosen, new: _Chosen, span: tuple[datetime, datetime]) -> _Week:
        since, until = span[1].timestamp(), (span[1] + ATTRIBUTION).timestamp()
        ids, in_old, in_new = np.intersect1d(old.taken.state.users, new.taken.state.users, return_indices=True)
        fixed = old.judged(wanted_after(self._log, old.taken.state, until, since))[:, in_old]
        bound = new.judged(wanted_after(self._log, new.taken.state, until))[:, in_new]
        events = self._log.events
        between = (events.at >= span[0].timestamp()) & (events.at < since)
        touched = np.isin(ids, events.user[between])
        both = np.isfinite(fixed[0]) & np.isfinite(bound[0])
        fixed, bound = np.where(both, fixed, np.nan), np.where(both, bound, np.nan)
        changed = touched & (old.first()[in_old] != new.first()[in_new])
        return _Week(ids, touched, changed, fixed, np.where(touched, bound, fixed))

    def report(self, draws: Draws) -> dict[str, Any]:
        """By hours: how many users were touched and how often the item changed, and the measures of both choices, of
        everybody and of those touched, with intervals and paired differences in the same draws of users."""
        told: dict[str, Any] = {}
        for hours, weeks in sorted(self._weeks.items()):
            users = sum(len(week.ids) for week in weeks)
            touched = sum(int(week.touched.sum()) for week in weeks)
            changed = sum(int(week.changed.sum()) for week in weeks)
            told[str(hours)] = {
                "users": users,
                "touched": rounded(touched / users) if users else None,
                "changed": rounded(changed / touched) if touched else None,
                "all": _compared(weeks, draws, everybody=True),
                "touched_only": _compared(weeks, draws, everybody=False),
            }
        return told


def _compared(weeks: Sequence[_Week], draws: Draws, *, everybody: bool) -> dict[str, Any]:
    total = np.zeros((1 + 2 * len(_MEASURES), draws.count))
    for week in weeks:
        some = np.isfinite(week.fixed[0]) & (week.touched | everybody)
        counted = np.concatenate([some[None, :].astype(np.float64), week.fixed, week.bound])
        total += draws.sums(np.where(some, counted, 0.0), week.ids)
    found: dict[str, Any] = {"took": int(total[0, 0])}
    for number, name in enumerate(_MEASURES, 1):
        fixed, bound = (ratio(total[row], total[0]) for row in (number, number + len(_MEASURES)))
        found |= interval(f"fixed_{name}", fixed) | interval(f"bound_{name}", bound)
        found[f"difference_{name}"] = paired(bound, fixed)
    return found
