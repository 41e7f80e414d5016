"""The best set of pushes of each user under their own caps (pure, vectorised over users).

A user gets at most one push per occurrence. Up to two pushes the set is the best one there is; beyond, greedy by value
with one improvement pass. Shared constraints (capacity) act through prices, which are already taken off the values.

Exactness of a pair: for every (window of A, window of B) that may stand side by side, the best two offers per window
decide unless a category rule binds the two items together; where the best pair so found breaks one, that user's pairs
are enumerated in full. (Beside a *later* planned push with room for exactly one more, pairs are refused a little too
often; never too rarely.)

Shapes: n users, O occurrences, K offers of an occurrence, W windows. A choice is k · W + w, or −1 for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from engine.planning import limits
from engine.planning.limits import Candidates, Room, Rules, Taken

NOTHING = -1
_AT_ONCE = 1024
"""Users whose pairs are weighed at a time: their W² sums stay in the cache."""

_ENUMERATED = 128
"""Users enumerated in full at a time: (K · W)² pairs each."""


@dataclass(frozen=True)
class Problem:
    """What may be sent to whom, when, and what it is worth.

    net float64[n, O, K, W]: value less prices; −inf where the push may not be sent, also by the caps alone.
    item int64[n, O, K] (−1: without an item), category int32[n, O, K]; at int64[n, O, W] (microseconds since 1970),
    day int32[n, O, W] (ordinal of the local day). once bool[O]: the occurrence's campaign sends an item once.
    """

    net: np.ndarray
    item: np.ndarray
    category: np.ndarray
    at: np.ndarray
    day: np.ndarray
    once: np.ndarray
    rules: Rules
    room: Room

    def of(self, rows: np.ndarray) -> Problem:
        """The problem of the users in `rows` alone."""
        given = Room(self.room.used[:, rows], self.room.later[:, rows], self.room.gap_free[rows])
        return Problem(
            self.net[rows], self.item[rows], self.category[rows], self.at[rows], self.day[rows],
            self.once, self.rules, given,
        )  # fmt: skip


def best_sets(problem: Problem, fixed: np.ndarray | None = None) -> np.ndarray:
    """int32[n, O]: the chosen offer and window of each occurrence, or NOTHING.

    fixed int32[n, O]: choices already made (−1: none) that the others must fit beside; they are returned unchanged.
    A push is chosen only where its net value is positive.
    """
    n, occurrences = problem.net.shape[:2]
    chosen = np.full((n, occurrences), NOTHING, np.int32) if fixed is None else fixed.astype(np.int32, copy=True)
    best = problem.net.max((2, 3), initial=-np.inf)
    wants = (best > 0) & (chosen == NOTHING)
    has_fixed = (chosen != NOTHING).any(1)
    number = wants.sum(1)
    alone = np.flatnonzero((number == 1) & ~has_fixed)
    if len(alone):
        one = np.argmax(wants[alone], 1)
        chosen[alone, one] = _best(problem.net[alone, one])
    for first in range(occurrences):
        for second in range(first + 1, occurrences):
            rows = np.flatnonzero((number == 2) & ~has_fixed & wants[:, first] & wants[:, second])
            if len(rows):
                chosen[rows[:, None], [first, second]] = _pairs(problem.of(rows), first, second)
    several = np.flatnonzero((number > 2) | (has_fixed & (number > 0)))
    if len(several):
        chosen[several] = _greedy(problem.of(several), wants[several], chosen[several])
    return chosen


def beside(problem: Problem, occurrence: int, taken: Taken, items: np.ndarray) -> np.ndarray:
    """bool[n, K, W]: a push of `occurrence` may not stand beside `taken` (whose items are int64[n, E])."""
    at, day = problem.at[:, occurrence], problem.day[:, occurrence]
    by_window = limits.gap_clash(problem.rules, occurrence, at, taken)
    blocked = np.zeros(problem.net[:, occurrence].shape, bool)
    for r, rule in enumerate(problem.rules.rules):
        given = Candidates(problem.room.used[r, :, occurrence], problem.room.later[r, :, occurrence], at, day)
        bad = limits.clash(problem.rules, r, occurrence, given, taken)
        if rule.category < 0:
            by_window |= bad
        else:
            blocked |= (problem.category[:, occurrence] == rule.category)[:, :, None] & bad[:, None, :]
    once = taken.valid & (problem.once[occurrence] | problem.once[taken.occurrence]) & (items >= 0)
    same = (problem.item[:, occurrence][:, :, None] == items[:, None, :]) & once[:, None, :]
    blocked |= by_window[:, None, :] | same.any(2)[:, :, None]
    return blocked


def taken_of(problem: Problem, choices: np.ndarray) -> tuple[Taken, np.ndarray]:
    """The pushes of `choices` int32[n, O] as (Taken, their items int64[n, O])."""
    n, occurrences = choices.shape
    windows = problem.net.shape[3]
    rows, columns = np.arange(n)[:, None], np.arange(occurrences)[None, :]
    safe = np.maximum(choices, 0)
    k, w = safe // windows, safe % windows
    taken = Taken(
        valid=choices >= 0,
        at=problem.at[rows, columns, w],
        day=problem.day[rows, columns, w],
        occurrence=np.broadcast_to(columns, choices.shape),
        category=problem.category[rows, columns, k],
        used=problem.room.used[:, rows, columns, w],
    )
    return taken, problem.item[rows, columns, k]


def _best(net: np.ndarray) -> np.ndarray:
    """The position of the largest of net[n, K, W] in each row, flattened; NOTHING where none is positive."""
    flat = net.reshape(len(net), -1)
    at = np.argmax(flat, 1)
    return np.where(flat[np.arange(len(flat)), at] > 0, at, NOTHING).astype(np.int32)


def _pairs(problem: Problem, first: int, second: int) -> np.ndarray:
    """int32[n, 2]: the best choice for two occurrences together."""
    parts = [
        _pairs_of(problem.of(np.arange(start, min(start + _AT_ONCE, len(problem.net)))), first, second)
        for start in range(0, len(problem.net), _AT_ONCE)
    ]
    return _mend(problem, first, second, np.concatenate(parts))


def _pairs_of(problem: Problem, first: int, second: int) -> np.ndarray:
    n, _, _, windows = problem.net.shape
    rows = np.arange(n)
    best_a, best_b = _best(problem.net[:, first]), _best(problem.net[:, second])
    only_a, only_b = _value(problem, first, best_a), _value(problem, second, best_b)
    a_wins = only_a >= only_b
    pair = np.stack([np.where(a_wins, best_a, NOTHING), np.where(a_wins, NOTHING, best_b)], 1).astype(np.int32)
    a, b = _two_best(problem, first), _two_best(problem, second)
    total = a.net[0][:, :, None] + b.net[0][:, None, :]
    same = (a.item[0][:, :, None] == b.item[0][:, None, :]) & (a.item[0] >= 0)[:, :, None]
    if not (problem.once[first] or problem.once[second]):
        same[:] = False
    at = np.nonzero(same)
    first_kept = a.net[0][at[:2]] + b.net[1][at[0], at[2]]
    second_kept = a.net[1][at[:2]] + b.net[0][at[0], at[2]]
    total[at] = np.maximum(first_kept, second_kept)
    total[limits.pair_clash(problem.rules, (first, second), problem.room, problem.at, problem.day)] = -np.inf
    best = np.argmax(total.reshape(n, -1), 1)
    wa, wb = best // windows, best % windows
    swap = same[rows, wa, wb]
    keeps_first = a.net[0][rows, wa] + b.net[1][rows, wb] >= a.net[1][rows, wa] + b.net[0][rows, wb]
    better = total.reshape(n, -1)[rows, best] > np.maximum(only_a, only_b)
    ka = np.where(swap & ~keeps_first, a.offer[1][rows, wa], a.offer[0][rows, wa])
    kb = np.where(swap & keeps_first, b.offer[1][rows, wb], b.offer[0][rows, wb])
    pair[better] = np.stack([ka * windows + wa, kb * windows + wb], 1)[better]
    return pair


def _value(problem: Problem, occurrence: int, choice: np.ndarray) -> np.ndarray:
    flat = problem.net[:, occurrence].reshape(len(choice), -1)
    value: np.ndarray = np.where(choice >= 0, flat[np.arange(len(choice)), np.maximum(choice, 0)], 0.0)
    return value


class _Two(NamedTuple):
    """The best and the second best offer of each window, each (best, second): offer, net and item [n, W]."""

    offer: tuple[np.ndarray, np.ndarray]
    net: tuple[np.ndarray, np.ndarray]
    item: tuple[np.ndarray, np.ndarray]


def _two_best(problem: Problem, occurrence: int) -> _Two:
    net, item = problem.net[:, occurrence], problem.item[:, occurrence]
    first = np.argmax(net, 1)
    best = np.take_along_axis(net, first[:, None], 1)[:, 0]
    rest = net.copy()
    np.put_along_axis(rest, first[:, None], -np.inf, 1)
    second = np.argmax(rest, 1)
    runner_up = np.take_along_axis(rest, second[:, None], 1)[:, 0]
    items = (np.take_along_axis(item, first, 1), np.take_along_axis(item, second, 1))
    return _Two((first, second), (best, runner_up), items)


def _mend(problem: Problem, first: int, second: int, pair: np.ndarray) -> np.ndarray:
    """Enumerate all pairs of the users whose best pair breaks a rule about items."""
    both = (pair >= 0).all(1)
    if not problem.rules.about_items() or not both.any():
        return pair
    choices = np.full((len(pair), problem.net.shape[1]), NOTHING, np.int32)
    choices[:, first] = pair[:, 0]
    taken, items = taken_of(problem, choices)
    blocked = beside(problem, second, taken, items).reshape(len(pair), -1)
    broken = np.flatnonzero(both & blocked[np.arange(len(pair)), np.maximum(pair[:, 1], 0)])
    for start in range(0, len(broken), _ENUMERATED):
        rows = broken[start : start + _ENUMERATED]
        pair[rows] = _enumerate(problem.of(rows), first, second)
    return pair


def _enumerate(problem: Problem, first: int, second: int) -> np.ndarray:
    n, occurrences, offers, windows = problem.net.shape
    rows = np.arange(n)
    best_a, best_b = _best(problem.net[:, first]), _best(problem.net[:, second])
    only_a, only_b = _value(problem, first, best_a), _value(problem, second, best_b)
    value = np.maximum(only_a, only_b)
    pair = np.stack([np.where(only_a >= only_b, best_a, NOTHING), np.where(only_a >= only_b, NOTHING, best_b)], 1)
    net_b = problem.net[:, second].reshape(n, -1)
    for option in range(offers * windows):
        net_a = problem.net[:, first].reshape(n, -1)[:, option]
        choices = np.full((n, occurrences), NOTHING, np.int32)
        choices[:, first] = np.where(net_a > 0, option, NOTHING)
        taken, items = taken_of(problem, choices)
        blocked = beside(problem, second, taken, items).reshape(n, -1)
        total = np.where(blocked, -np.inf, net_b) + net_a[:, None]
        at = np.argmax(total, 1)
        better = (total[rows, at] > value) & (net_a > 0) & (net_b[rows, at] > 0)
        value = np.where(better, total[rows, at], value)
        pair[better] = np.stack([np.full(n, option), at], 1)[better]
    return pair.astype(np.int32)


def _greedy(problem: Problem, wants: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The most valuable push first, again and again; then each push once more, given all the others."""
    chosen = chosen.copy()
    rows = np.arange(len(chosen))
    for _ in range(int(wants.sum(1).max())):
        offered = np.stack([_next(problem, o, chosen, wants) for o in range(chosen.shape[1])], 1)
        values = np.stack([_value(problem, o, offered[:, o]) for o in range(chosen.shape[1])], 1)
        values[offered < 0] = -np.inf
        best = np.argmax(values, 1)
        found = values[rows, best] > 0
        if not found.any():
            break
        chosen[rows[found], best[found]] = offered[rows[found], best[found]]
    for o in range(chosen.shape[1]):
        others = chosen.copy()
        others[wants[:, o], o] = NOTHING
        again = _next(problem, o, others, wants)
        chosen[:, o] = np.where(wants[:, o], again, chosen[:, o])
    return chosen


def _next(problem: Problem, occurrence: int, chosen: np.ndarray, wants: np.ndarray) -> np.ndarray:
    """The best push of `occurrence` beside `chosen`, for those who want one and have none yet."""
    taken, items = taken_of(problem, chosen)
    blocked = beside(problem, occurrence, taken, items)
    open_to = wants[:, occurrence] & (chosen[:, occurrence] == NOTHING)
    return np.where(open_to, _best(np.where(blocked, -np.inf, problem.net[:, occurrence])), NOTHING).astype(np.int32)
