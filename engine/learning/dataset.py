"""Training rows: candidates as of past instants, their features then, and what the user did afterwards.

Negatives are generated candidates that were not taken, a random share of them; `ctr` corrects for the share.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.features import matrix
from engine.features.readings import positions
from engine.features.state import State
from engine.ingest.profiles import FoldRows
from engine.learning.candidates import Candidates, Proposer
from engine.learning.replay import Moment
from engine.learning.tastes import Collaborative
from engine.learning.window_fit import Visits, first_of_visits
from engine.localtime import local_hours
from engine.store.tables import EVENT_TYPES

CANDIDATES = 100
"""Proposals per user to learn from and to be judged by."""


@dataclass(frozen=True)
class Proposals:
    """Candidates at an instant and what became of them.

    labels: bool[n], by candidate · taken: int64[m], user · I + item of everything taken, proposed or not, sorted ·
    collaborative: what the tastes as of then say of the users.
    """

    state: State
    candidates: Candidates
    collaborative: Collaborative
    labels: np.ndarray
    taken: np.ndarray

    @property
    def keys(self) -> np.ndarray:
        """user · I + item of each candidate, int64[n]."""
        keys: np.ndarray = self.candidates.user.astype(np.int64) * len(self.state.catalogue) + self.candidates.item
        return keys

    @property
    def recall(self) -> float:
        """Share of what was taken that had been proposed; NaN where nothing was taken."""
        return float(np.isin(self.taken, self.keys).mean()) if len(self.taken) else float("nan")

    def rows(self, chosen: np.ndarray) -> np.ndarray:
        """Feature rows float32[m, F] of the candidates at `chosen` (int positions)."""
        found = self.candidates
        user, item = found.user[chosen], found.item[chosen]
        return matrix.build(self.state, user, item, found.related[chosen], self.collaborative.of(user, item))


@dataclass(frozen=True)
class Sample:
    """Rows to learn from.

    rows: float32[n, F] · labels: float32[n] · group: int64[n], ascending: which rows one user chose among, where known.
    """

    rows: np.ndarray
    labels: np.ndarray
    group: np.ndarray | None = None


def propose(moment: Moment, proposer: Proposer, collaborative: Collaborative, taken: np.ndarray) -> Proposals:
    """Candidates of everybody at a moment, with what they took afterwards (int64 keys, sorted)."""
    state = moment.state
    candidates = proposer.propose(state, CANDIDATES)
    keys = candidates.user.astype(np.int64) * len(state.catalogue) + candidates.item
    return Proposals(state, candidates, collaborative, np.isin(keys, taken), taken)


def taken_after(events: FoldRows, state: State, event_type: int, until: float) -> np.ndarray:
    """user · I + item of what the state's users took by events of `event_type` in [τ, until): int64, sorted."""
    rows = (events.at >= state.as_of) & (events.at < until) & (events.event_type == event_type)
    user = positions(state.users, events.user[rows])
    item = state.catalogue.positions(events.item[rows])
    known = (user >= 0) & (item >= 0)
    return np.unique(user[known] * len(state.catalogue) + item[known])


def visits_after(events: FoldRows, state: State, until: float) -> Visits:
    """The visits of the state's users in [τ, until); what says nothing of when they like to act is left out."""
    silent = [EVENT_TYPES[name] for name in ("push_dismiss", "unsubscribe", "push_sent", "push_received")]
    rows = np.flatnonzero((events.at >= state.as_of) & (events.at < until) & ~np.isin(events.event_type, silent))
    user = positions(state.users, events.user[rows])
    rows, user = rows[user >= 0], user[user >= 0]
    begins = first_of_visits(user, events.at[rows])
    at = rows[begins]
    return Visits(user[begins], local_hours(events.at[at], events.zone[at], events.zones).astype(np.int64))


def sample(proposals: Proposals, negative_share: float, rng: np.random.Generator) -> Sample:
    """All positives and a random share of the negatives, with their features."""
    kept = np.flatnonzero(proposals.labels | (rng.random(len(proposals.labels)) < negative_share))
    labels = proposals.labels[kept].astype(np.float32)
    return Sample(proposals.rows(kept), labels, proposals.candidates.user[kept].astype(np.int64))


def joined(samples: list[Sample]) -> Sample:
    """Samples of several instants as one, in order; `samples` is emptied on the way, so that memory holds them once."""
    ends = np.cumsum([len(one.labels) for one in samples])
    rows = np.empty((int(ends[-1]), samples[0].rows.shape[1]), np.float32)
    labels = np.empty(int(ends[-1]), np.float32)
    group = np.empty(int(ends[-1]), np.int64)
    grouped, next_group = True, 0
    for end in ends:
        one = samples.pop(0)
        part = slice(int(end) - len(one.labels), int(end))
        rows[part], labels[part] = one.rows, one.labels
        grouped = grouped and one.group is not None
        if one.group is not None and len(one.group):
            group[part] = one.group + next_group
            next_group = int(group[part][-1]) + 1
    return Sample(rows, labels, group if grouped else None)
