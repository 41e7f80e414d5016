"""Prices of scarce capacity, from an exact linear program over a sample of users (pure).

Capacity counts pushes of a campaign per UTC quarter-hour. Every user then weighs value − price on their own, so shards
need not know of each other, and settlement corrects what a sample cannot know. Against the exact optimum of everybody
together, first come first served reached 0.86–0.92, capacity split over shards 0.94–0.99, this scheme 0.9956–1.0.

In the program a push uses the quarters of its window evenly, because within the window its minute is a keyed hash: so
prices are smooth, and quarters that every window treats alike are one constraint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

QUARTER = 900.0
"""Seconds of a quarter-hour."""

UNLIMITED = -1
SAMPLE_USERS = 2_000
JITTER = 0.02
"""Sampled values are moved by up to this share, by hash: equal values would give one price to all or to none."""


def quarter_of(at: np.ndarray) -> np.ndarray:
    """The UTC quarter-hours (int64, since 1970) of instants in epoch seconds."""
    return np.floor(at / QUARTER).astype(np.int64)


@dataclass(frozen=True)
class Capacities:
    """What may still be sent: left int64[C, Q] pushes of capacity row c in quarter first + q; of int32[O]: the row of
    each occurrence, UNLIMITED for those without a capacity."""

    first: int
    left: np.ndarray
    of: np.ndarray

    def bounded(self) -> bool:
        """Whether any occurrence has a capacity."""
        return bool((self.of >= 0).any())


@dataclass(frozen=True)
class Prices:
    """table float64[C, Q] ≥ 0: what a push of capacity row c in quarter first + q has to be worth; of int32[O]."""

    first: int
    table: np.ndarray
    of: np.ndarray

    def at(self, instants: np.ndarray) -> np.ndarray:
        """The price of each candidate instant, float64[n, O, W], of instants [n, O, W] in epoch seconds."""
        if not self.table.any():
            return np.zeros(instants.shape)
        columns = np.clip(quarter_of(instants) - self.first, 0, self.table.shape[1] - 1)
        priced = self.table[np.maximum(self.of, 0)[None, :, None], columns]
        return np.where((self.of >= 0)[None, :, None], priced, 0.0)

    def to_json(self) -> dict[str, Any]:
        """For `runs.prices`: exact, since JSON keeps float64."""
        return {"first": self.first, "of": self.of.tolist(), "table": self.table.tolist()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Prices:
        """The inverse of to_json."""
        return cls(int(stored["first"]), np.array(stored["table"], np.float64), np.array(stored["of"], np.int32))


def free(capacities: Capacities) -> Prices:
    """Prices of zero."""
    return Prices(capacities.first, np.zeros(capacities.left.shape), capacities.of)


@dataclass(frozen=True)
class Sample:
    """Sampled users: value float64[n, O, W] of the best offer of each window (−inf: none), begin, end of the instants
    at which it may be sent, float64[n, O, W], most int[n]: pushes that the user's caps allow together."""

    value: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    most: np.ndarray


def solve_prices(sample: Sample, capacities: Capacities, share: float) -> Prices:
    """The prices at which demand meets capacity: dual values of the program in which the sample, `share` of all users,
    has that share of every capacity."""
    none = free(capacities)
    sample = replace(sample, value=_needed(sample.value, capacities))
    columns = np.nonzero(np.isfinite(sample.value) & (sample.value > 0))
    if not capacities.bounded() or not len(columns[0]):
        return none
    usage, pattern_of = _usage(sample, columns, capacities)
    bound = _bounds(pattern_of, capacities, usage.shape[0]) * share
    if not _demand_exceeds(sample, columns, usage, bound):
        return none
    duals = _duals(sample, columns, usage, bound)
    table = np.zeros(capacities.left.shape)
    known = pattern_of >= 0
    table[known] = duals[pattern_of[known]]
    return Prices(capacities.first, table, capacities.of)


def _needed(value: np.ndarray, capacities: Capacities) -> np.ndarray:
    """The values that can matter: of an occurrence without a capacity only each user's best window."""
    out = value.copy()
    for o in np.flatnonzero(capacities.of == UNLIMITED):
        best = np.argmax(value[:, o], 1)
        out[:, o] = -np.inf
        np.put_along_axis(out[:, o], best[:, None], np.take_along_axis(value[:, o], best[:, None], 1), 1)
    return out


def _usage(
    sample: Sample, columns: tuple[np.ndarray, ...], capacities: Capacities
) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Shares of each constraint that each column uses (constraints × columns) and the constraint of each quarter.

    pattern_of int[C, Q]: quarters of one capacity row that every window uses alike share a constraint; −1: unused.
    """
    users, occurrence, window = columns
    begin, end = sample.begin[users, occurrence, window], sample.end[users, occurrence, window]
    row = capacities.of[occurrence]
    kinds, kind = np.unique(np.stack([row, begin, end]), axis=1, return_inverse=True)
    quarters = (capacities.first + np.arange(capacities.left.shape[1])) * QUARTER
    overlap = np.minimum(kinds[2][:, None], quarters + QUARTER) - np.maximum(kinds[1][:, None], quarters)
    length = np.maximum(kinds[2] - kinds[1], 1e-9)
    shares = np.clip(overlap, 0, None) / length[:, None]
    pattern_of = np.full(capacities.left.shape, -1, np.int64)
    blocks, known = [], 0
    for c in range(capacities.left.shape[0]):
        mine = np.where((kinds[0] == c)[:, None], shares, 0.0)
        signature = np.concatenate([np.round(mine, 9), capacities.left[c][None, :]])
        _, first_of, index = np.unique(signature, axis=1, return_index=True, return_inverse=True)
        pattern_of[c] = known + index.reshape(-1)
        unused = ~mine.any(0)
        pattern_of[c][unused] = -1
        blocks.append(np.stack([mine[:, pattern_of[c] == known + p].sum(1) for p in range(len(first_of))]))
        known += len(first_of)
    by_kind = sparse.csr_matrix(np.concatenate(blocks))
    return by_kind[:, kind.reshape(-1)].tocsr(), pattern_of


def _bounds(pattern_of: np.ndarray, capacities: Capacities, constraints: int) -> np.ndarray:
    used = pattern_of >= 0
    return np.bincount(pattern_of[used], capacities.left[used], minlength=constraints)


def _demand_exceeds(
    sample: Sample, columns: tuple[np.ndarray, ...], usage: sparse.csr_matrix, bound: np.ndarray
) -> bool:
    """Whether, at prices of zero, the sample would ask for more than there is."""
    favourite = np.zeros(sample.value.shape, bool)
    best = np.argmax(sample.value, 2)
    np.put_along_axis(favourite, best[:, :, None], True, 2)
    demand = usage @ favourite[columns].astype(float)
    return bool((demand > bound).any())


def _duals(sample: Sample, columns: tuple[np.ndarray, ...], usage: sparse.csr_matrix, bound: np.ndarray) -> np.ndarray:
    users, occurrence, _ = columns
    n, occurrences, _ = sample.value.shape
    count = len(users)
    position = np.arange(count)
    ones = np.ones(count)
    once = sparse.csr_matrix((ones, (users * occurrences + occurrence, position)), (n * occurrences, count))
    most = sparse.csr_matrix((ones, (users, position)), (n, count))
    limits = np.concatenate([bound, np.ones(n * occurrences), sample.most.astype(float)])
    rows = sparse.vstack([usage, once, most]).tocsr()
    bind = np.diff(rows.indptr) > 0
    bind[usage.shape[0] + n * occurrences :] &= np.isfinite(sample.value).any(2).sum(1) > sample.most
    used = np.flatnonzero(bind)
    # scipy's stubs do not know that A_ub may be sparse. Interior point (with crossover) is five times faster here than
    # the dual simplex that "highs" would choose.
    matrix: Any = rows[used]
    result = linprog(-sample.value[columns], A_ub=matrix, b_ub=limits[used], bounds=(0, None), method="highs-ipm")
    duals = np.zeros(rows.shape[0])
    if result.status == 0:
        duals[used] = -result.ineqlin.marginals
    return np.maximum(duals[: len(bound)], 0.0)
