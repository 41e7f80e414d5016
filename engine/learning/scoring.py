"""Scores for planning: the one interface between what was learned and what is decided.

`load_scorer` gives the champion model's scorer, or `Baseline` while there is none. A scorer is used on one snapshot:
    catalogue = scorer.catalogue(snapshot, as_of)
    state = scorer.state(snapshot, (slot_from, slot_until), as_of, catalogue)
    candidates = scorer.candidates(state, 50, allowed)
    goal = scorer.goal(state, candidates.user, candidates.item)            # stage 1
    offers = scorer.offers(state, user, item, cell)                        # stage 2, the best few × windows
Every number depends on its own row only: bit-equal at any batch, shard or worker. Ties are the caller's to break.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from datetime import datetime
from weakref import WeakKeyDictionary

import numpy as np
from sqlalchemy import Connection, text

from engine.features import matrix
from engine.features.catalogue import Catalogue
from engine.features.matrix import WindowCurves
from engine.features.state import P_120D, State
from engine.learning import reading, registry, related, tastes, windows
from engine.learning.candidates import Blend, Candidates, Proposer, Shelf
from engine.learning.model import Model
from engine.learning.tastes import Collaborative, Tastes
from engine.learning.windows import WindowModel
from engine.store.database import Snapshot

ROWS = 8192
"""Feature rows held at a time: 2.4 MB, made and scored before the next."""


class Scorer(ABC):
    """What planning asks of a model. `version` is None for the baseline; `regime` is goal, click or baseline."""

    def __init__(self, version: int | None, model: Model | None) -> None:
        self.version, self.regime = version, "baseline" if model is None else model.regime
        self._learned = model
        self._blend = Blend() if model is None else model.blend
        self._tastes_of: tuple[np.ndarray, Tastes] | None = None
        self._collaborative: WeakKeyDictionary[State, Collaborative] = WeakKeyDictionary()
        self._proposer_of: tuple[np.ndarray, Proposer] | None = None
        self._curves: WeakKeyDictionary[State, WindowCurves] = WeakKeyDictionary()

    def catalogue(self, snapshot: Snapshot, as_of: datetime) -> Catalogue:
        """Every item as of τ = `as_of`; read once per run or shard."""
        habits = None if self._learned is None else self._learned.tastes.habits
        return reading.read_catalogue(snapshot, as_of, habits)

    def state(
        self,
        snapshot: Snapshot,
        slots: tuple[int, int],
        as_of: datetime,
        catalogue: Catalogue,
        user_ids: np.ndarray | None = None,
    ) -> State:
        """The state at τ of the users of slots [from, until), sorted by id; of `user_ids` (int64) only, where given.

        Read `as_of` (business time) after the snapshot began: then no stored profile holds a later event.
        """
        return reading.read_state(snapshot, slots, as_of, catalogue, user_ids)

    def candidates(self, state: State, k: int, allowed: np.ndarray | None = None) -> Candidates:
        """At most k items per user, best first, of those `allowed` (bool[I]; None: all) and available at τ."""
        return self._proposer(state.catalogue).propose(state, k, allowed)

    def shelf(self, catalogue: Catalogue, k: int, allowed: np.ndarray | None = None) -> Shelf:
        """What `candidates` prepares from the catalogue alone, to be kept where users come one by one."""
        return self._proposer(catalogue).shelf(catalogue, k, allowed)

    def candidates_of(self, state: State, shelf: Shelf) -> Candidates:
        """What `candidates` says, from a shelf of the state's catalogue."""
        return self._proposer(state.catalogue).propose_of(state, shelf)

    def features(
        self,
        state: State,
        user: np.ndarray,
        item: np.ndarray,
        cell: np.ndarray | None = None,
        related_scores: np.ndarray | None = None,
    ) -> np.ndarray:
        """Feature rows float32[n, F] of positions `user`, `item` [, window `cell`]: what the model scores.

        related_scores: float32[n] from `Candidates.related`, looked up where None. Without `cell` the window columns
        are NaN.
        """
        if related_scores is None:
            related_scores = related.lookup(state, self._proposer(state.catalogue).neighbours, user, item)
        rows = matrix.build(state, user, item, related_scores, self._collaborate(state).of(user, item))
        return rows if cell is None else matrix.with_windows(rows, user, cell, self._window_curves(state))

    @abstractmethod
    def goal(
        self, state: State, user: np.ndarray, item: np.ndarray, related_scores: np.ndarray | None = None
    ) -> np.ndarray:
        """Stage 1, float32[n] in [0, 1]: P(goal | user, item); click regime: P(click) in the best window."""

    def windows(self, state: State) -> np.ndarray:
        """p(cell | user), float32[U, 16]: each row sums to 1. cell = day type × 8 + local hour // 3."""
        return self.curves(state).preference

    def curves(self, state: State) -> WindowCurves:
        """When the state's users are likely to act, and how much is known of it."""
        return self._window_curves(state)

    def offers(
        self,
        state: State,
        user: np.ndarray,
        item: np.ndarray,
        cell: np.ndarray,
        related_scores: np.ndarray | None = None,
    ) -> np.ndarray:
        """Stage 2, float32[n] in [0, 1]: the score of (user, item, window); equal (user, item) best side by side.

        Goal and baseline regimes: P(goal | user, item) · the window's rate over the user's best window's.
        """
        first, of_row = runs(user, item)
        goal = self.goal(state, user[first], item[first], None if related_scores is None else related_scores[first])
        relative = self._window_curves(state).rate[user[first]]
        return np.asarray(goal[of_row] * relative[of_row, cell], np.float32)

    def _proposer(self, catalogue: Catalogue) -> Proposer:
        """The proposer for these items; the last one is kept, as most catalogues have the same items."""
        if self._proposer_of is None or not np.array_equal(self._proposer_of[0], catalogue.ids):
            learned = related.nothing(catalogue.ids) if self._learned is None else self._learned.related
            self._proposer_of = (catalogue.ids, Proposer(learned.aligned(catalogue), self._blend))
        return self._proposer_of[1]

    def _window_model(self, catalogue: Catalogue) -> WindowModel:
        del catalogue
        assert self._learned is not None
        return self._learned.windows

    def _collaborate(self, state: State) -> Collaborative:
        """What the model's tastes say of the state's users; once per state."""
        if state not in self._collaborative:
            ids = state.catalogue.ids
            if self._tastes_of is None or not np.array_equal(self._tastes_of[0], ids):
                learned = tastes.nothing(ids) if self._learned is None else self._learned.tastes
                self._tastes_of = (ids, learned.aligned(state.catalogue))
            self._collaborative[state] = self._tastes_of[1].collaborate(state)
        return self._collaborative[state]

    def _window_curves(self, state: State) -> WindowCurves:
        if state not in self._curves:
            self._curves[state] = windows.curves(self._window_model(state.catalogue), state.hours, len(state))
        return self._curves[state]

    @property
    def model(self) -> Model | None:
        """What was learned; None for the baseline."""
        return self._learned


class Baseline(Scorer):
    """What Horae does before it has learned: own history, popularity and the global curve."""

    def __init__(self, users: int) -> None:
        """`users`: how many share the items' popularity."""
        super().__init__(None, None)
        self._users = max(users, 1)

    def catalogue(self, snapshot: Snapshot, as_of: datetime) -> Catalogue:
        """Every item as of τ = `as_of`, and with it everybody's curve, which no model has learned yet."""
        catalogue = reading.read_catalogue(snapshot, as_of)
        return replace(catalogue, hours=reading.read_everybody(snapshot, as_of))

    def _window_model(self, catalogue: Catalogue) -> WindowModel:
        return windows.with_everybody(catalogue.hours)

    def goal(
        self, state: State, user: np.ndarray, item: np.ndarray, related_scores: np.ndarray | None = None
    ) -> np.ndarray:
        """1 − exp(−r): r is the week's rate that the pair's and the item's decayed counts stand for."""
        del related_scores
        at = state.pairs.find(np.asarray(user, np.int64) * len(state.catalogue) + item)
        own = np.append(state.interest[:, P_120D], np.float32(0))[at]
        popular = state.catalogue.popularity[item] / np.float32(self._users)
        rate = np.float32(np.log(2) * 7 / 120) * own + np.float32(np.log(2)) * popular
        return np.asarray(-np.expm1(-rate), np.float32)


def runs(user: np.ndarray, item: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Runs of equal (user, item): the first row of each, and each row's run."""
    changes = np.ones(len(user), bool)
    changes[1:] = (user[1:] != user[:-1]) | (item[1:] != item[:-1])
    return np.flatnonzero(changes), np.cumsum(changes) - 1


class Learned(Scorer):
    """A registered model, in its own regime: goal, as above; click, whose head scores (offer, window) itself."""

    def __init__(self, version: int, model: Model) -> None:
        super().__init__(version, model)
        self._model, self._head = model, model.head

    def goal(
        self, state: State, user: np.ndarray, item: np.ndarray, related_scores: np.ndarray | None = None
    ) -> np.ndarray:
        """Stage 1, float32[n] in [0, 1]: P(goal | user, item); click regime: P(click) in the best window."""
        scores = np.empty(len(user), np.float32)
        favourite = None if self._head is None else self._window_curves(state).rate.argmax(axis=1)
        for part in _parts(len(user)):
            given = None if related_scores is None else related_scores[part]
            rows = self.features(state, user[part], item[part], None, given)
            scores[part] = self._model.predict(rows)
            if self._head is not None and favourite is not None:
                rows = matrix.with_windows(rows, user[part], favourite[user[part]], self._window_curves(state))
                scores[part] = self._head.predict(rows, scores[part])
        return scores

    def offers(
        self,
        state: State,
        user: np.ndarray,
        item: np.ndarray,
        cell: np.ndarray,
        related_scores: np.ndarray | None = None,
    ) -> np.ndarray:
        """Stage 2, float32[n] in [0, 1]: the score of (user, item, window); equal (user, item) best side by side."""
        if self._head is None:
            return super().offers(state, user, item, cell, related_scores)
        scores = np.empty(len(user), np.float32)
        curves = self._window_curves(state)
        for part in _parts(len(user)):
            first, of_row = runs(user[part], item[part])
            given = None if related_scores is None else related_scores[part][first]
            pairs = self.features(state, user[part][first], item[part][first], None, given)
            rows = matrix.with_windows(pairs[of_row], user[part], cell[part], curves)
            scores[part] = self._head.predict(rows, self._model.predict(pairs)[of_row])
        return scores


def load_scorer(connection: Connection, version: int | None = None) -> Scorer:
    """The scorer of model `version`, by default of the champion, and Baseline while there is none.

    Learned scorers are kept per process by their artifact's hash. Raises UnknownName, ModelRefused.
    """
    version = registry.champion(connection) if version is None else version
    if version is None:
        return Baseline(_user_count(connection))
    sha256 = registry.entry(connection, version).sha256
    if (version, sha256) not in _loaded:
        while len(_loaded) >= _KEPT:
            _loaded.pop(next(iter(_loaded)))
        _loaded[version, sha256] = Learned(version, registry.load(connection, version))
    return _loaded[version, sha256]


_KEPT = 3
_loaded: dict[tuple[int, str], Scorer] = {}


def _parts(rows: int) -> list[slice]:
    return [slice(start, min(start + ROWS, rows)) for start in range(0, rows, ROWS)]


def _user_count(connection: Connection) -> int:
    return int(connection.execute(text("SELECT count(*) FROM users")).scalar_one())
