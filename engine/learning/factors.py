"""Matrix factorisation: implicit feedback for candidates and features, explicit feedback for ratings.

Implicit (Hu, Koren, Volinsky 2008) by the `implicit` package: alternating least squares on decayed purchases. A user's
vector is not stored: it is the sum over the user's items of (YᵀY + λ)⁻¹ y_j · weight, a folding-in that is linear in
what the user did, so that fresh events count at once, training and serving do the same, and no solver stands on the
decision path. Products there are sparse or row by row in a fixed order: bit-equal at any batch size.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from engine.errors import HoraeError
from engine.features.readings import positions
from engine.features.state import P_120D, State
from engine.learning.related import sparse

SIZE = 48
ITERATIONS = 8
REGULARISATION = 5.0
CONFIDENCE = 8.0
LEAST_USERS, LEAST_ITEMS = 50, 10


@dataclass(frozen=True, eq=False)
class Factors:
    """ids: int64[I], sorted · taken: float32[I, k], what having taken an item adds to a user · offered: float32[I, k],
    what a user's vector is multiplied with. k is 0 where there was too little to learn from."""

    ids: np.ndarray
    taken: np.ndarray
    offered: np.ndarray

    def aligned(self, ids: np.ndarray) -> Factors:
        """The same by position in `ids` (int64, sorted); zeros for items that were not there."""
        if np.array_equal(ids, self.ids):
            return self
        at = positions(self.ids, ids)
        blank = np.zeros((1, self.taken.shape[1]), np.float32)
        return Factors(ids, np.concatenate([self.taken, blank])[at], np.concatenate([self.offered, blank])[at])


def installed() -> bool:
    """Whether the package `implicit` is there; training goes on without factors where it is not."""
    return find_spec("implicit") is not None


def nothing(ids: np.ndarray) -> Factors:
    """No factors: what there is before anything was learned."""
    empty = np.zeros((len(ids), 0), np.float32)
    return Factors(ids, empty, empty)


def profile_matrix(state: State) -> Any:
    """Decayed interest (half-life 120 days) of users in items: CSR float32 [U, I]."""
    shape = (len(state), len(state.catalogue))
    return sparse.csr_array((state.interest[:, P_120D], state.pair_item, state.pair_start), shape=shape)


def fit_implicit(state: State, seed: int, threads: int = 1) -> Factors:
    """Factors of what the state's users took; the same seed and state give the same factors.

    Raises HoraeError where the package `implicit` is missing.
    """
    items = _als_items(state, seed, threads)
    if items is None:
        return nothing(state.catalogue.ids)
    size = items.shape[1]
    gram = items.astype(np.float64).T @ items + REGULARISATION * np.eye(size)
    taken = np.linalg.solve(gram, items.T.astype(np.float64)).T
    return Factors(state.catalogue.ids, taken.astype(np.float32), items.astype(np.float32))


def _als_items(state: State, seed: int, threads: int) -> np.ndarray | None:
    """The textbook ALS' float32[I, k]; None for too little data."""
    if len(state) < LEAST_USERS or len(state.catalogue) < LEAST_ITEMS or not state.interest.any():
        return None
    if not installed():
        raise HoraeError("matrix factorisation needs the package implicit", hint="pip install 'horae[learning]'")
    model: Any = import_module("implicit.cpu.als")  # optional, untyped, and it loads OpenBLAS
    # scipy's csr_array lacks what the package asks of a csr_matrix
    matrix = sparse.csr_matrix(profile_matrix(state))
    matrix.sort_indices()
    with threadpool_limits(1, "blas"):  # threads of BLAS inside those of the package slow both down
        als = model.AlternatingLeastSquares(
            factors=min(SIZE, len(state.catalogue) - 1),
            iterations=ITERATIONS,
            regularization=REGULARISATION,
            alpha=CONFIDENCE,
            num_threads=threads,
            random_state=seed,
        )
        als.fit(matrix, show_progress=False)
    return np.asarray(als.item_factors)


def user_vectors(state: State, factors: Factors) -> np.ndarray:
    """The users' vectors, float32[U, k]. `factors` aligned with the state's catalogue."""
    if not factors.taken.shape[1]:
        return np.zeros((len(state), 0), np.float32)
    weights = np.log1p(np.float32(CONFIDENCE) * state.interest[:, P_120D])
    shape = (len(state), len(state.catalogue))
    # CSR times dense adds row by row in the order of the entries: no BLAS
    vectors: np.ndarray = sparse.csr_array((weights, state.pair_item, state.pair_start), shape=shape) @ factors.taken
    return vectors


def scores(vectors: np.ndarray, factors: Factors, user: np.ndarray, item: np.ndarray) -> np.ndarray:
    """How `item` fits `user` (positions): float32[n]; NaN without factors."""
    if not factors.offered.shape[1]:
        return np.full(len(user), np.nan, np.float32)
    fits = np.einsum("nk,nk->n", vectors[user], factors.offered[item])
    return np.asarray(fits, np.float32)


def fit_explicit(
    ratings: np.ndarray,
    observed: np.ndarray,
    size: int = 2,
    regularisation: float = 0.01,
    rounds: int = 200,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Factors (users float64[U, k], items float64[I, k]) of a ratings matrix float64[U, I]: ratings ≈ users · itemsᵀ.

    Minimises L = ½ Σ (r − uᵀv)² + ½ λ (Σ|u|² + Σ|v|²) over entries where `observed` (bool[U, I]) only, by alternating
    least squares: each half-step is exact, so L never rises.
    """
    rng = np.random.default_rng(seed)
    users = rng.normal(0, 0.1, (ratings.shape[0], size)) + 0.5
    items = rng.normal(0, 0.1, (ratings.shape[1], size)) + 0.5
    for _ in range(rounds):
        users = _half_step(ratings, observed, items, regularisation)
        items = _half_step(ratings.T, observed.T, users, regularisation)
    return users, items


def explicit_loss(ratings: np.ndarray, observed: np.ndarray, users: np.ndarray, items: np.ndarray, lam: float) -> float:
    """The L of `fit_explicit` with λ = `lam`."""
    residual = (ratings - users @ items.T)[observed]
    return float(0.5 * (residual**2).sum() + 0.5 * lam * ((users**2).sum() + (items**2).sum()))


def _half_step(ratings: np.ndarray, observed: np.ndarray, fixed: np.ndarray, lam: float) -> np.ndarray:
    """The best rows for the other side's `fixed` factors; rows without any observation are zeros."""
    best = np.zeros((len(ratings), fixed.shape[1]))
    for row, (values, seen) in enumerate(zip(ratings, observed, strict=True)):
        if seen.any():
            design = fixed[seen]
            best[row] = np.linalg.solve(design.T @ design + lam * np.eye(fixed.shape[1]), design.T @ values[seen])
    return best
