"""Steps through a log and says at each instant who would be offered what, and what they then took."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from engine.features import schema
from engine.features.readings import positions
from engine.features.state import State
from engine.learning import ctr, dataset, sources, tastes
from engine.learning.backtest.log import Log
from engine.learning.blending import fit_blend
from engine.learning.candidates import Blend, Candidates, Proposer
from engine.learning.dataset import Proposals
from engine.learning.replay import Moment, Replay
from engine.learning.tastes import Collaborative
from engine.learning.timeline import ATTRIBUTION
from engine.learning.walk import MOST_USERS
from engine.learning.window_fit import Visits

NEW_DAYS = 30.0
"""An item is new to a user who has not bought it for so long."""

_RECENCY = schema.group_names("pair").index("pair_hours_since_purchase")


@dataclass(frozen=True, eq=False)
class Taken:
    """A snapshot: proposals with outcomes, and visits. Without anything to rank there are no proposals.

    sold: float64[I], goal events of each item so far · spent: float64[U], of each user.
    """

    instant: datetime
    proposals: Proposals
    visits: Visits
    sold: np.ndarray
    spent: np.ndarray
    neighbours: object

    @property
    def state(self) -> State:
        """What was known at the instant."""
        return self.proposals.state

    def recall_by_source(self, k: int) -> dict[str, float]:
        """Share of what was taken that each candidate source alone proposes among its k best; NaN of nothing."""
        state, found = self.state, sources.standard(self.neighbours, self.proposals.collaborative)
        return sources.recall_by_source(state, found, k, state.catalogue.available, self.proposals.taken)


class Steps:
    """Walks through a log, forward in time; the first instant decides blend and share of negatives unless given."""

    def __init__(self, log: Log, blend: Blend | None = None) -> None:
        """`blend`: the one of an earlier walk."""
        self._log, self.blend = log, blend
        self._replay = Replay(log.events, log.ids, log.share)
        self.negative_share = 1.0

    def walk(self, instants: Iterable[datetime]) -> Iterator[Taken]:
        """The snapshots of `instants`, oldest first."""
        for instant in instants:
            yield self._at(instant)

    def _at(self, instant: datetime) -> Taken:
        log = self._log
        tau, until = instant.timestamp(), (instant + ATTRIBUTION).timestamp()
        moment = self._replay.at(tau, log.items[tau], MOST_USERS)
        state = moment.state
        before = (log.events.at < tau) & (log.events.event_type == log.goal)
        return Taken(
            instant,
            self._proposed(moment, until),
            dataset.visits_after(log.events, state, until),
            _count(state.catalogue.positions(log.events.item[before]), len(state.catalogue)),
            _count(positions(state.users, log.events.user[before]), len(state)),
            moment.neighbours,
        )

    def _proposed(self, moment: Moment, until: float) -> Proposals:
        log, state = self._log, moment.state
        if log.lacking or not len(state):
            none = Candidates(*(np.zeros(0, dtype) for dtype in (np.int32, np.int32, np.int8, np.float32, np.float32)))
            blank = tastes.nothing(state.catalogue.ids).collaborate(state)
            return Proposals(state, none, blank, np.zeros(0, bool), np.zeros(0, np.int64))
        collaborative = tastes.learn(moment, log.spec.seed, log.spec.threads).collaborate(state)
        wanted = wanted_after(log, state, until)
        if self.blend is None:
            first = self._proposals(moment, Blend(), collaborative, wanted)
            self.blend = fit_blend(state, first.candidates, first.labels)
            self.negative_share = ctr.negative_share(int(first.labels.sum()), len(first.labels))
        return self._proposals(moment, self.blend, collaborative, wanted)

    def _proposals(self, moment: Moment, blend: Blend, known: Collaborative, wanted: np.ndarray) -> Proposals:
        state = moment.state
        recent = recently_bought(state) if self._log.spec.new_only else None
        found = Proposer(moment.neighbours, blend).propose(state, self._log.spec.candidates, without=recent)
        return Proposals(state, found, known, np.isin(_keys(state, found), wanted), wanted)


def wanted_after(log: Log, state: State, until: float, since: float | None = None) -> np.ndarray:
    """user · I + item of what the state's users took in [since, until) and could have been offered: int64, sorted.

    `since`: the state's instant where not given.
    """
    events = log.events if since is None else log.events.where(log.events.at >= since)
    taken = dataset.taken_after(events, state, log.goal, until)
    return np.setdiff1d(taken, recently_bought(state), assume_unique=True) if log.spec.new_only else taken


def recently_bought(state: State) -> np.ndarray:
    """user · I + item of what was bought within NEW_DAYS: int64, sorted."""
    hours = state.pairs.block[: len(state.pairs.keys), _RECENCY]
    return np.asarray(state.pairs.keys[hours <= NEW_DAYS * 24], np.int64)


def _keys(state: State, found: Candidates) -> np.ndarray:
    keys: np.ndarray = found.user.astype(np.int64) * len(state.catalogue) + found.item
    return keys


def _count(at: np.ndarray, size: int) -> np.ndarray:
    return np.bincount(at[at >= 0], minlength=size).astype(np.float64)
