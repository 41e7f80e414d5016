"""Steps through a log and says at each instant who would be offered what, and what they then took."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from engine.features import schema
from engine.features.state import State
from engine.learning import ctr, dataset, sources, tastes
from engine.learning.backtest.log import Log
from engine.learning.blending import fit_blend
from engine.learning.candidates import Blend, Candidates, Proposer
from engine.learning.dataset import Proposals
from engine.learning.replay import Moment, Replay
from engine.learning.timeline import ATTRIBUTION
from engine.learning.walk import MOST_USERS
from engine.learning.window_fit import Visits

NEW_DAYS = 30.0
"""An item is new to a user who has not bought it for so long."""

SOURCE_DEPTH = 50
"""Items a user that each source is asked for where its recall is told."""

_RECENCY = schema.group_names("pair").index("pair_hours_since_purchase")


@dataclass(frozen=True, eq=False)
class Taken:
    """A snapshot: proposals with outcomes.

    sold: float64[I], goal events of each item so far · spent: float64[U] · neighbours: of items, as of then.
    """

    instant: datetime
    proposals: Proposals
    visits: Visits
    sold: np.ndarray
    spent: np.ndarray
    neighbours: Any

    def recall_by_source(self) -> dict[str, float]:
        """Share of what was taken that each source alone proposes, SOURCE_DEPTH items a user."""
        state, found = self.proposals.state, self.proposals
        every = sources.standard(self.neighbours, found.collaborative)
        return sources.recall_by_source(state, every, SOURCE_DEPTH, state.catalogue.available, found.taken)


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
        collaborative = tastes.learn(moment, log.spec.seed).collaborate(state)
        wanted = dataset.taken_after(log.events, state, log.goal, until)
        recent = recently_bought(state) if log.spec.new_only else np.zeros(0, np.int64)
        wanted = np.setdiff1d(wanted, recent, assume_unique=True)
        if self.blend is None:
            first = self._candidates(moment, Blend(), recent)
            labels = np.isin(_keys(state, first), wanted)
            self.blend = fit_blend(state, first, labels)
            self.negative_share = ctr.negative_share(int(labels.sum()), len(labels))
        found = self._candidates(moment, self.blend, recent)
        labels = np.isin(_keys(state, found), wanted)
        before = (log.events.at < tau) & (log.events.event_type == log.goal)
        return Taken(
            instant,
            Proposals(state, found, collaborative, labels, wanted),
            dataset.visits_after(log.events, state, until),
            _count(state.catalogue.positions(log.events.item[before]), len(state.catalogue)),
            _count(_positions(state.users, log.events.user[before]), len(state)),
            moment.neighbours,
        )

    def _candidates(self, moment: Moment, blend: Blend, recent: np.ndarray) -> Candidates:
        return Proposer(moment.neighbours, blend).propose(moment.state, self._log.spec.candidates, without=recent)


def recently_bought(state: State) -> np.ndarray:
    """user · I + item of what was bought within NEW_DAYS: int64, sorted."""
    hours = state.pairs.block[: len(state.pairs.keys), _RECENCY]
    return np.asarray(state.pairs.keys[hours <= NEW_DAYS * 24], np.int64)


def _keys(state: State, found: Candidates) -> np.ndarray:
    keys: np.ndarray = found.user.astype(np.int64) * len(state.catalogue) + found.item
    return keys


def _positions(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    at = np.minimum(np.searchsorted(ids, wanted), max(len(ids) - 1, 0))
    return np.where(ids[at] == wanted, at, -1) if len(ids) else np.full(len(wanted), -1)


def _count(at: np.ndarray, size: int) -> np.ndarray:
    return np.bincount(at[at >= 0], minlength=size).astype(np.float64)
