"""What the allocation is measured against: the linear program over everybody, and simpler ways to allocate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

from engine.bench.market import CLOSE, Market
from engine.planning import settlement
from engine.planning.decide import Choice, Options
from engine.planning.settlement import ORDINARY, Bids


@dataclass(frozen=True)
class Proposed:
    """A plan: row (of the user), occurrence, item int64, send_at, value float64."""

    row: np.ndarray
    occurrence: np.ndarray
    item: np.ndarray
    send_at: np.ndarray
    value: np.ndarray


@dataclass(frozen=True)
class Columns:
    """Pushes that may be: user (row), occurrence, window, item int64, at (microseconds) int64, value float64, resource
    int64 (capacity row by quarter)."""

    user: np.ndarray
    occurrence: np.ndarray
    window: np.ndarray
    item: np.ndarray
    at: np.ndarray
    value: np.ndarray
    resource: np.ndarray


def columns_of(here: Market, options: Options) -> Columns:
    """The best two offers of each user, campaign and window.

    No more are needed: offers of one window use the same capacity and caps, and the user's other push can only take
    the item of one of them.
    """
    problem = options.problem
    occurrences = problem.net.shape[1]
    ranked = np.argsort(-options.value, axis=2, kind="stable")[:, :, :2]
    value = np.take_along_axis(options.value, ranked, 2)
    user, occurrence, place, window = np.nonzero(value > 0)
    item = problem.item[user, occurrence, ranked[user, occurrence, place, window]]
    theirs = problem.item[user, 1 - occurrence] if occurrences == 2 else np.zeros((len(user), 0))
    first_item = problem.item[user, occurrence, ranked[user, occurrence, 0, window]]
    contested = (theirs == first_item[:, None]).any(1)
    keep = (place == 0) | contested
    user, occurrence, place, window, item = (each[keep] for each in (user, occurrence, place, window, item))
    send_at = options.at[user, occurrence, window]
    return Columns(
        user, occurrence, window, item, problem.at[user, occurrence, window], value[user, occurrence, place, window],
        here.capacities.resources(occurrence, send_at, item)[:, 0],
    )  # fmt: skip


def lp_value(here: Market, columns: Columns) -> float:
    """The optimum of the program in which pushes may be fractions: no plan is worth more."""
    count = len(columns.user)
    left = here.capacities.flat()
    positions = np.arange(count)
    ones = np.ones(count)
    capacity = sparse.csr_matrix((ones, (columns.resource, positions)), (len(left), count))
    occurrences = int(columns.occurrence.max()) + 1
    own = columns.user * occurrences + columns.occurrence
    once = sparse.csr_matrix((ones, (own, positions)), (int(own.max()) + 1, count))
    _, pair = np.unique(np.stack([columns.user, columns.item]), axis=1, return_inverse=True)
    items = sparse.csr_matrix((ones, (pair.reshape(-1), positions)), (int(pair.max()) + 1, count))
    rows = sparse.vstack([capacity, once, items, _together(columns)]).tocsr()
    bound = np.concatenate([left.astype(float), np.ones(rows.shape[0] - len(left))])
    several = np.diff(rows.indptr) > 1
    several[: len(left)] = np.diff(rows.indptr)[: len(left)] > 0
    used = np.flatnonzero(several)
    matrix: Any = rows[used]  # scipy's stubs do not know that A_ub may be sparse
    result = linprog(-columns.value, A_ub=matrix, b_ub=bound[used], bounds=(0, 1), method="highs-ipm")
    if result.status != 0:
        raise RuntimeError(f"HiGHS did not solve the program: {result.message}")
    return float(-result.fun)


def _together(columns: Columns) -> sparse.csr_matrix:
    """One row for every largest set of pushes of a user no two of which may both leave: within CLOSE of each other.

    Such sets are intervals of time, one beginning at each push.
    """
    order = np.lexsort((columns.at, columns.user))
    key = columns.user[order] * (1 << 50) + (columns.at[order] - columns.at.min())
    last = np.searchsorted(key, key + CLOSE, side="right")
    first_of_user = np.append(True, np.diff(columns.user[order]) > 0)
    largest = first_of_user | np.append(True, last[1:] > last[:-1])
    starts = np.flatnonzero(largest)
    sizes = last[starts] - starts
    row = np.repeat(np.arange(len(starts)), sizes)
    within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    column = order[np.repeat(starts, sizes) + within]
    return sparse.csr_matrix((np.ones(len(row)), (row, column)), (len(starts), len(order)))


# --- simpler ways ----------------------------------------------------------------------------------------------------


def favourites(here: Market, choice: Choice, options: Options) -> Proposed:
    """Every user's best set as if nothing were scarce; capacity then goes to the most valuable of these."""
    user, occurrence = np.nonzero(choice.chosen >= 0)
    k, w = np.divmod(choice.chosen[user, occurrence], options.price.shape[2])
    item, send_at = options.problem.item[user, occurrence, k], options.at[user, occurrence, w]
    value = options.value[user, occurrence, k, w]
    bids = Bids(
        here.capacities.resources(occurrence, send_at, item),
        value,
        np.full(len(user), ORDINARY, np.int8),
        np.arange(len(user)).astype(np.uint64),
    )
    kept = settlement.accept(bids, here.capacities.flat())
    return Proposed(user[kept], occurrence[kept], item[kept], send_at[kept], value[kept])


def greedy(here: Market, columns: Columns, order: np.ndarray) -> Proposed:
    """Pushes in `order` (positions), each where capacity and the user's rules still allow it."""
    left = here.capacities.flat().tolist()
    got: dict[int, list[tuple[int, int, int]]] = {}
    user, occurrence, item, at, resource = (
        getattr(columns, name).tolist() for name in ("user", "occurrence", "item", "at", "resource")
    )
    taken = []
    for i in order.tolist():
        if left[resource[i]] <= 0:
            continue
        mine = got.setdefault(user[i], [])
        if all(o != occurrence[i] and k != item[i] and abs(t - at[i]) > CLOSE for o, k, t in mine):
            mine.append((occurrence[i], item[i], at[i]))
            left[resource[i]] -= 1
            taken.append(i)
    at_ = np.array(taken, np.int64)
    return Proposed(
        columns.user[at_], columns.occurrence[at_], columns.item[at_], columns.at[at_] / 1e6, columns.value[at_]
    )


def violations(here: Market, plan: Proposed) -> int:
    """How many rules a plan breaks: capacities, a push per occurrence, an item once, pushes within CLOSE."""
    used = here.capacities.resources(plan.occurrence, plan.send_at, plan.item)[:, 0]
    left = here.capacities.flat()
    over = int(np.maximum(np.bincount(used, minlength=len(left)) - left, 0).sum())
    twice = len(plan.row) - len(np.unique(np.stack([plan.row, plan.occurrence]), axis=1).T)
    same = len(plan.row) - len(np.unique(np.stack([plan.row, plan.item]), axis=1).T)
    micros = np.round(plan.send_at * 1e6).astype(np.int64)
    order = np.lexsort((micros, plan.row))
    row, at = plan.row[order], micros[order]
    close = int(((np.diff(row) == 0) & (np.diff(at) <= CLOSE)).sum())
    return over + twice + same + close
