"""Decisions weighed again over their receipts: what each remembers, as options, under any rules (pure).

A receipt keeps the choice and its five best alternatives with their values; no score is made anew. So what comes out is
exact for rules that take options away, and a lower bound for rules that allow more than was remembered.

Shapes: n users, O occurrences, P = PLACES options of a decision: the choice first, then the alternatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from engine.campaigns.policy import Cap
from engine.planning import allocation, limits, receipt
from engine.planning.allocation import NOTHING, Problem
from engine.planning.limits import Rules, Sends
from engine.planning.occasions import RunRules

PLACES = 1 + receipt.MOST_ALTERNATIVES


@dataclass(frozen=True)
class Remembered:
    """What n users' decisions of O occurrences remember, all [n, O, P]: there bool; item int64 (−1: none), category
    int32 (−1: none); at, slot, end float64 epoch seconds (NaN where not there); day int32, the ordinal of the local
    day at `at`; value, price float64; code uint8, as receipts have it."""

    there: np.ndarray
    item: np.ndarray
    category: np.ndarray
    at: np.ndarray
    slot: np.ndarray
    end: np.ndarray
    day: np.ndarray
    value: np.ndarray
    price: np.ndarray
    code: np.ndarray

    def of(self, rows: np.ndarray) -> Remembered:
        """What the users in `rows` remember."""
        return Remembered(*(values[rows] for values in vars(self).values()))

    def only(self, keep: np.ndarray) -> Remembered:
        """The same without the options outside keep bool[n, O, P]."""
        return replace(self, there=self.there & keep)


def nothing(users: int, occurrences: int) -> Remembered:
    """Room for `users` × `occurrences` decisions that remember nothing yet."""
    shape = (users, occurrences, PLACES)
    nan = np.full(shape, np.nan)
    return Remembered(
        there=np.zeros(shape, bool),
        item=np.full(shape, -1, np.int64),
        category=np.full(shape, -1, np.int32),
        at=nan.copy(),
        slot=nan.copy(),
        end=nan.copy(),
        day=np.zeros(shape, np.int32),
        value=np.zeros(shape),
        price=np.zeros(shape),
        code=np.zeros(shape, np.uint8),
    )


@dataclass(frozen=True)
class Kind:
    """What rules see of a push: its scopes, whether it counts, whether caps and gap hold for it, its campaign's own
    caps."""

    scopes: frozenset[str]
    counts: bool = True
    obeys: bool = True
    own: tuple[Cap, ...] = ()


@dataclass(frozen=True)
class Standing:
    """Pushes that users got or were to get. row int64 (of the user), at int64 (microseconds), day int32 (ordinal),
    pending bool (still to be sent), kind int32 (index into kinds); in any order."""

    row: np.ndarray
    at: np.ndarray
    day: np.ndarray
    pending: np.ndarray
    kind: np.ndarray
    kinds: Sequence[Kind]

    def sends(self, users: int, caps: RunRules, workspace: int) -> Sends:
        """As `limits` reads them, for `users` rows; the first `workspace` of the run's caps are everybody's."""
        order = np.lexsort((self.at, self.row))
        row, kind, pending = self.row[order], self.kind[order], self.pending[order]
        shape = (len(caps.caps), len(self.kinds))
        counts, binds = np.zeros(shape, bool), np.zeros(shape, bool)
        for r, cap in enumerate(caps.caps):
            for k, one in enumerate(self.kinds):
                counts[r, k] = one.counts and cap.covers(one.scopes)
                binds[r, k] = one.obeys and cap.covers(one.scopes) and (r < workspace or cap in one.own)
        counted = np.array([one.counts for one in self.kinds], bool)
        obeying = np.array([one.obeys for one in self.kinds], bool)
        return Sends(
            offsets=np.searchsorted(row, np.arange(users + 1)),
            at=self.at[order],
            day=self.day[order],
            counts=counts[:, kind],
            binds=binds[:, kind] & pending,
            gap_counts=counted[kind],
            gap_binds=obeying[kind] & pending,
        )


def standing_of_none() -> Standing:
    """No pushes."""
    none = np.zeros(0, np.int64)
    return Standing(none, none, none.astype(np.int32), none.astype(bool), none, ())


@dataclass(frozen=True)
class Solved:
    """chosen int32[n, O]: the place of each decision's option, or NOTHING; barred uint8[n, O, P]: what stands in the
    way of each option by itself (receipt codes); beside bool[n, O, P]: it could not stand beside the other choices."""

    chosen: np.ndarray
    barred: np.ndarray
    beside: np.ndarray


def solve(
    remembered: Remembered, rules: Rules, sends: Sends, once: np.ndarray, fixed: np.ndarray | None = None
) -> Solved:
    """The best set of each user among what is remembered. once bool[O]: an item once; fixed int32[n, O]: places that
    are chosen already (explored ones), NOTHING elsewhere."""
    occurrences, at = remembered.there.shape[1], np.arange(PLACES)
    problem, barred = problem_of(remembered, rules, sends, once)
    chosen = allocation.best_sets(problem, None if fixed is None else flat_of(fixed))
    beside = np.zeros(barred.shape, bool)
    for o in range(occurrences if occurrences > 1 else 0):
        others = chosen.copy()
        others[:, o] = NOTHING
        beside[:, o] = allocation.beside(problem, o, *allocation.taken_of(problem, others))[:, at, at]
    return Solved(places_of(chosen), barred, beside)


def problem_of(remembered: Remembered, rules: Rules, sends: Sends, once: np.ndarray) -> tuple[Problem, np.ndarray]:
    """The problem of choosing among what is remembered, place p being the p-th offer in the p-th window, and what bars
    each option by itself (uint8[n, O, P])."""
    micros = np.round(np.where(remembered.there, remembered.at, 0.0) * 1e6).astype(np.int64)
    room = limits.room(rules, sends, micros, remembered.day)
    net = net_in(remembered, rules, room)
    problem = Problem(net, remembered.item, remembered.category, micros, remembered.day, once, rules, room)
    return problem, barred_by(remembered, rules, room)


def net_in(remembered: Remembered, rules: Rules, room: limits.Room) -> np.ndarray:
    """float64[n, O, P, P]: what each option is worth where there is `room`, on the diagonal; −inf where barred."""
    net = np.full((*remembered.there.shape, PLACES), -np.inf)
    at = np.arange(PLACES)
    free = remembered.there & (barred_by(remembered, rules, room) == receipt.FREE)
    net[:, :, at, at] = np.where(free, remembered.value - remembered.price, -np.inf)
    return net


def flat_of(places: np.ndarray) -> np.ndarray:
    """Places as choices of `problem_of`'s problem."""
    return np.where(places == NOTHING, NOTHING, places * (PLACES + 1)).astype(np.int32)


def places_of(chosen: np.ndarray) -> np.ndarray:
    """The inverse of flat_of."""
    return np.where(chosen >= 0, chosen // (PLACES + 1), NOTHING).astype(np.int32)


def barred_by(remembered: Remembered, rules: Rules, room: limits.Room) -> np.ndarray:
    """uint8[n, O, P]: what forbids each option by itself, in the order in which planning says it; FREE: nothing."""
    code = np.zeros(remembered.there.shape, np.uint8)
    full, about_items = limits.full(rules, room), rules.about_items()
    for r in reversed(range(len(rules.rules))):
        if r not in about_items:
            code[full[r]] = receipt.FIRST_CAP + r
    code[~room.gap_free] = receipt.GAP
    for r in about_items:
        hit = full[r] & (remembered.category == rules.rules[r].category)
        code[hit & (code == receipt.FREE)] = receipt.FIRST_CAP + r
    code[remembered.code == receipt.EXPIRED] = receipt.EXPIRED
    return code


def without(rules: Rules, remembered: Remembered, code: int) -> tuple[Rules, Remembered]:
    """Rules and options with the constraint of a receipt code removed."""
    if code >= receipt.FIRST_CAP:
        binds = rules.binds.copy()
        binds[code - receipt.FIRST_CAP] = False
        return replace(rules, binds=binds), remembered
    if code == receipt.GAP:
        return replace(rules, gap=0), remembered
    if code == receipt.EXPIRED:
        freed = np.where(remembered.code == receipt.EXPIRED, receipt.FREE, remembered.code).astype(np.uint8)
        return rules, replace(remembered, code=freed)
    if code == receipt.PRICE:
        return rules, replace(remembered, price=np.zeros(remembered.price.shape))
    return rules, remembered
