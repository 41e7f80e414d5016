"""What a model knows of items and users beyond their profiles: habits, factors, users alike; kept with the artifact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.features import habits as habits_of_items
from engine.features.catalogue import Catalogue
from engine.features.habits import Habits
from engine.features.state import State
from engine.learning import alike, factors
from engine.learning.alike import Alike
from engine.learning.factors import Factors
from engine.learning.related import sparse
from engine.learning.replay import Moment, scrambled


@dataclass(frozen=True, eq=False)
class Tastes:
    """habits: how items are bought again · factors: of what all users took · alike: sampled users."""

    habits: Habits
    factors: Factors
    alike: Alike

    def aligned(self, catalogue: Catalogue) -> Tastes:
        """The same by position in `catalogue`."""
        return Tastes(self.habits, self.factors.aligned(catalogue.ids), self.alike.aligned(catalogue.ids))

    def collaborate(self, state: State) -> Collaborative:
        """What they say of each of the state's users; align first."""
        return Collaborative(state, self)


class Collaborative:
    """The collaborative scores of a state's users, ready to be looked up."""

    def __init__(self, state: State, tastes: Tastes) -> None:
        """`tastes` aligned with the state's catalogue."""
        self._factors, self._size = tastes.factors, max(len(state.catalogue), 1)
        self._vectors = factors.user_vectors(state, tastes.factors)
        self.alike: Any = alike.table(state, tastes.alike)
        self._known = tastes.alike.profile.shape[0] > 0
        row = np.repeat(np.arange(self.alike.shape[0]), np.diff(self.alike.indptr))
        self._keys = row * self._size + self.alike.indices

    def of(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """float32[n, 2]: what the factors and the users alike say of `item` for `user` (positions); NaN: nothing."""
        scores = np.empty((len(user), 2), np.float32)
        scores[:, 0] = self.of_factors(user, item)
        scores[:, 1] = self._alike(np.asarray(user, np.int64), item) if self._known else np.nan
        return scores

    def of_factors(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """What the factors alone say, float32[n]."""
        return factors.scores(self._vectors, self._factors, user, item)

    def of_everything(self, users: slice) -> np.ndarray:
        """What the factors say of every item for some users, float32[users, I]: by BLAS, so not for decisions."""
        vectors = self._vectors[users]
        if not vectors.shape[1]:
            return np.zeros((len(vectors), self._size), np.float32)
        fits: np.ndarray = vectors @ self._factors.offered.T
        return fits

    def _alike(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        if not len(user) or not len(self._keys):
            return np.zeros(len(user), np.float32)
        low, high = self.alike.indptr[int(user.min())], self.alike.indptr[int(user.max()) + 1]
        keys = self._keys[low:high]
        if not len(keys):
            return np.zeros(len(user), np.float32)
        wanted = user * self._size + item
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where(keys[at] == wanted, self.alike.data[low:high][at], np.float32(0))


def nothing(ids: np.ndarray) -> Tastes:
    """What there is before anything was learned of the items `ids`."""
    return Tastes(habits_of_items.nothing(), factors.nothing(ids), alike.nothing(ids))


def unknown() -> Tastes:
    """The same for items that are not known either."""
    return nothing(np.zeros(0, np.int64))


def learn(moment: Moment, seed: int, threads: int = 1) -> Tastes:
    """The tastes as of a moment; the same seed and moment give the same."""
    state = moment.state
    found = factors.fit_implicit(state, seed, threads) if factors.installed() else factors.nothing(state.catalogue.ids)
    return Tastes(moment.habits, found, alike.fit(state, scrambled(state.users)))


_MATRICES = ("alike_profile", "alike_takes")


def to_arrays(tastes: Tastes) -> dict[str, np.ndarray]:
    """The arrays of an artifact."""
    arrays = {
        "habit_ids": tastes.habits.ids,
        "habit_log_gap": tastes.habits.log_gap,
        "habit_deviation": tastes.habits.deviation,
        "habit_prior": np.array(tastes.habits.prior),
        "factor_ids": tastes.factors.ids,
        "factor_taken": tastes.factors.taken,
        "factor_offered": tastes.factors.offered,
        "alike_ids": tastes.alike.ids,
        "alike_idf": tastes.alike.idf,
    }
    for name, matrix in zip(_MATRICES, (tastes.alike.profile, tastes.alike.takes), strict=True):
        arrays |= {f"{name}_start": matrix.indptr.astype(np.int64), f"{name}_item": matrix.indices.astype(np.int32)}
        arrays[f"{name}_value"] = matrix.data.astype(np.float32)
    return arrays


def from_arrays(arrays: dict[str, np.ndarray]) -> Tastes:
    """Tastes from the arrays of an artifact. Raises ValueError where they contradict each other, KeyError for gaps."""
    items = len(arrays["alike_ids"])
    matrices = []
    for name in _MATRICES:
        start, item, value = (arrays[f"{name}_{part}"] for part in ("start", "item", "value"))
        fits = len(start) > 0 and start[-1] == len(item) == len(value) and np.all(np.diff(start) >= 0)
        if not fits or (len(item) and (item.min() < 0 or item.max() >= items)) or not np.isfinite(value).all():
            raise ValueError(f"{name} is not a matrix of {items} items")
        matrices.append(sparse.csr_array((value, item, start), shape=(len(start) - 1, items)))
    habits = Habits(
        arrays["habit_ids"],
        arrays["habit_log_gap"],
        arrays["habit_deviation"],
        (float(arrays["habit_prior"][0]), float(arrays["habit_prior"][1])),
    )
    found = Factors(arrays["factor_ids"], arrays["factor_taken"], arrays["factor_offered"])
    consistent = (
        len(habits.ids) == len(habits.log_gap) == len(habits.deviation)
        and bool(np.all(habits.deviation > 0))
        and found.taken.shape == found.offered.shape
        and len(found.ids) == len(found.taken)
        and bool(np.isfinite(found.taken).all() and np.isfinite(found.offered).all())
        and len(arrays["alike_idf"]) == items
    )
    if not consistent:
        raise ValueError("habits, factors and users alike do not fit together")
    return Tastes(habits, found, Alike(arrays["alike_ids"], arrays["alike_idf"], *matrices))
