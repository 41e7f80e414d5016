"""Caps and the minimum gap for many users at once: the vectorised twin of `campaigns.policy.admits` (pure).

A plan is not made in order of time, so both also look forward: a push must not take the place of a later one that is
already planned. `admits` judges one push; the twin also judges it beside others of the same plan (`clash`).

Instants and widths are whole microseconds (int64), so that window ends are exact.

Shapes: n users, O occurrences of the run, W windows of an occurrence, R rules, S earlier pushes of all users.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

NO_LIMIT = np.int32(1 << 20)
"""Room where no later push stands in the way."""

Kind = Literal["rolling", "day", "week"]


@dataclass(frozen=True)
class Rule:
    """One cap: at most `limit` counting pushes in its window; `width` in microseconds, of rolling windows.

    `category` is the catalogue's code of the category it is about, −1 where it is not about items.
    """

    limit: int
    kind: Kind
    width: int = 0
    category: int = -1


@dataclass(frozen=True)
class Rules:
    """The caps of a run, and whom they concern.

    binds[R, O]: pushes of the occurrence obey the rule; counted[R, O]: they count toward it (of a category rule: where
    the item is of the category). `gap` in microseconds; gap_binds[O], gap_counted[O] likewise.
    """

    rules: tuple[Rule, ...]
    binds: np.ndarray
    counted: np.ndarray
    gap: int
    gap_binds: np.ndarray
    gap_counted: np.ndarray

    def about_items(self) -> list[int]:
        """The positions of the category rules."""
        return [r for r, rule in enumerate(self.rules) if rule.category >= 0]


@dataclass(frozen=True)
class Sends:
    """Pushes of the users that were sent or are planned, grouped by user row: user i owns offsets[i] : offsets[i+1].

    at int64[S] (microseconds since 1970), day int32[S] (ordinal of the user's local day), counts bool[R, S] toward each
    rule, binds bool[R, S] (planned: must still pass the rule when it leaves), gap_counts bool[S], gap_binds bool[S].
    """

    offsets: np.ndarray
    at: np.ndarray
    day: np.ndarray
    counts: np.ndarray
    binds: np.ndarray
    gap_counts: np.ndarray
    gap_binds: np.ndarray


def no_sends(users: int, rules: int) -> Sends:
    """Nothing sent, nothing planned."""
    none = np.zeros(0, bool)
    matrix = np.zeros((rules, 0), bool)
    return Sends(
        np.zeros(users + 1, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int32), matrix, matrix, none, none
    )


def sends_of(sends: Sends, rows: np.ndarray, keep: np.ndarray) -> Sends:
    """The pushes of the users in `rows` (int[m], ascending) alone, those where keep bool[S]."""
    counts = np.diff(sends.offsets)
    wanted = np.zeros(len(counts), bool)
    wanted[rows] = True
    owner, begin = np.repeat(np.arange(len(counts)), counts), int(sends.offsets[0])
    some = np.flatnonzero(wanted[owner] & keep[begin : begin + len(owner)])
    offsets = np.append(0, np.cumsum(np.bincount(np.searchsorted(rows, owner[some]), minlength=len(rows))))
    at = some + begin
    return Sends(
        offsets.astype(np.int64), sends.at[at], sends.day[at], sends.counts[:, at], sends.binds[:, at],
        sends.gap_counts[at], sends.gap_binds[at],
    )  # fmt: skip


@dataclass(frozen=True)
class Room:
    """What earlier pushes leave: used int32[R, n, O, W] pushes in the window that ends at the candidate instant;
    later int32[R, n, O, W] pushes that still fit before a later planned push would be over its limit (NO_LIMIT: none
    there); gap_free bool[n, O, W]."""

    used: np.ndarray
    later: np.ndarray
    gap_free: np.ndarray


def bucket(day: np.ndarray, kind: Kind) -> np.ndarray:
    """The calendar window of a local day's ordinal (1 January of year 1, a Monday, is 1): the day or its week."""
    return (day - 1) // 7 if kind == "week" else day


def room(rules: Rules, sends: Sends, at: np.ndarray, day: np.ndarray) -> Room:
    """What `sends` leave at the candidate instants at int64[n, O, W], day int32[n, O, W]."""
    n = at.shape[0]
    flat_at, flat_day = at.reshape(n, -1), day.reshape(n, -1)
    used = np.zeros((len(rules.rules), *flat_at.shape), np.int32)
    later = np.full_like(used, NO_LIMIT)
    for r, rule in enumerate(rules.rules):
        used[r] = _used(rule, sends, sends.counts[r], flat_at, flat_day)
        if sends.binds[r].any():
            later[r] = _later(rule, sends, r, flat_at)
    gap_free = np.ones(flat_at.shape, bool)
    if rules.gap > 0:
        asked = np.repeat(rules.gap_binds, at.shape[2])
        for rows, index in rounds(sends.offsets):
            apart = flat_at[rows] - sends.at[index][:, None]
            standing = np.where(apart >= 0, sends.gap_counts[index][:, None], sends.gap_binds[index][:, None])
            gap_free[rows] &= ~((np.abs(apart) < rules.gap) & standing & asked)
    shape = (len(rules.rules), *at.shape)
    return Room(used.reshape(shape), later.reshape(shape), gap_free.reshape(at.shape))


def full(rules: Rules, given: Room) -> np.ndarray:
    """bool[R, n, O, W]: one more push of the occurrence would break the rule (of a category rule: for its items)."""
    limits = np.array([rule.limit for rule in rules.rules], np.int32).reshape(-1, 1, 1, 1)
    broken: np.ndarray = rules.binds[:, None, :, None] & ((given.used + 1 > limits) | (given.later < 1))
    return broken


@dataclass(frozen=True)
class Taken:
    """Pushes that the plan has already given the same users: E per user, `valid` bool[n, E].

    at int64, day int32, occurrence int32, category int32, all [n, E]; used int32[R, n, E] of their own windows.
    """

    valid: np.ndarray
    at: np.ndarray
    day: np.ndarray
    occurrence: np.ndarray
    category: np.ndarray
    used: np.ndarray


class Candidates(NamedTuple):
    """Candidate instants of one occurrence, as one rule sees them, all [n, W]: Room's used and later, at, day."""

    used: np.ndarray
    later: np.ndarray
    at: np.ndarray
    day: np.ndarray


def clash(rules: Rules, r: int, occurrence: int, given: Candidates, taken: Taken) -> np.ndarray:
    """bool[n, W]: rule r forbids a push of `occurrence` beside `taken` (of a category rule: for its items)."""
    rule = rules.rules[r]
    used, later, at, day = given
    counts = taken.valid & rules.counted[r][taken.occurrence] & _of(rule, taken.category)
    binds = taken.valid & rules.binds[r][taken.occurrence] & _of(rule, taken.category)
    before, after = _beside(rule, taken, at, day)
    near = (before | after) & counts[:, None, :]
    bad = np.zeros(at.shape, bool)
    if rules.binds[r, occurrence]:
        total = used + (before & counts[:, None, :]).sum(2) + 1
        bad |= (total > rule.limit) | (later - near.sum(2) < 1)
    if rules.counted[r, occurrence] or rules.binds[r, occurrence]:
        for e in range(taken.at.shape[1]):
            others = _others(rule, taken, e, counts)
            over = taken.used[r][:, e] + others + 2 > rule.limit
            bad |= after[:, :, e] & (binds[:, e] & over)[:, None]
    return bad


def pair_clash(rules: Rules, pair: tuple[int, int], given: Room, at: np.ndarray, day: np.ndarray) -> np.ndarray:
    """bool[n, W, W]: a push of the first occurrence in one window and one of the second in another cannot stand side by
    side, by the gap or a rule that is not about items. at, day [n, O, W] as in `room`.

    The same as `clash` of each pair; only where a window has no room for two is there anything to compute.
    """
    a, b = pair
    n, _, windows = at.shape
    apart = at[:, b][:, None, :] - at[:, a][:, :, None]
    blocked = np.zeros((n, windows, windows), bool)
    if rules.gap > 0:
        near = np.abs(apart) < rules.gap
        a_first = rules.gap_binds[b] and rules.gap_counted[a]
        b_first = rules.gap_binds[a] and (rules.gap_counted[b] or rules.gap_binds[b])
        blocked |= near & np.where(apart >= 0, a_first, b_first)
    for r, rule in enumerate(rules.rules):
        binds_a, binds_b, counted_a, counted_b = (flags[r, o] for flags in (rules.binds, rules.counted) for o in pair)
        tight_b = (given.used[r, :, b] + 2 > rule.limit) & (binds_b and counted_a)
        tight_a = (given.used[r, :, a] + 2 > rule.limit) & (binds_a and (counted_b or binds_b))
        late_b = (given.later[r, :, b] < 2) & (binds_b and counted_a)
        if rule.category >= 0 or not (tight_a.any() or tight_b.any() or late_b.any()):
            continue
        if rule.kind == "rolling":
            before, after = (apart >= 0) & (apart <= rule.width), (apart < 0) & (apart >= -rule.width)
        else:
            before = bucket(day[:, b], rule.kind)[:, None, :] == bucket(day[:, a], rule.kind)[:, :, None]
            after = before
        blocked |= (before & tight_b[:, None, :]) | (after & tight_a[:, :, None])
        if late_b.any():
            blocked |= (before | after) & late_b[:, None, :]
    return blocked


def gap_clash(rules: Rules, occurrence: int, at: np.ndarray, taken: Taken) -> np.ndarray:
    """bool[n, W]: a push of `occurrence` at at[n, W] would come too close to one of `taken`."""
    if rules.gap <= 0:
        return np.zeros(at.shape, bool)
    apart = at[:, :, None] - taken.at[:, None, :]
    near = (np.abs(apart) < rules.gap) & taken.valid[:, None, :]
    counted = rules.gap_counted[taken.occurrence][:, None, :]
    binds = rules.gap_binds[taken.occurrence][:, None, :]
    mine = rules.gap_binds[occurrence] & counted & (apart >= 0)
    theirs = (rules.gap_counted[occurrence] | rules.gap_binds[occurrence]) & binds & (apart < 0)
    clashing: np.ndarray = (near & (mine | theirs)).any(2)
    return clashing


def _of(rule: Rule, category: np.ndarray) -> np.ndarray:
    return np.ones(category.shape, bool) if rule.category < 0 else category == rule.category


def _beside(rule: Rule, taken: Taken, at: np.ndarray, day: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """bool[n, W, E] twice: the taken push lies in the candidate's window; the candidate lies in the taken push's."""
    if rule.kind == "rolling":
        apart = at[:, :, None] - taken.at[:, None, :]
        return (apart >= 0) & (apart <= rule.width), (apart < 0) & (apart >= -rule.width)
    same = bucket(day, rule.kind)[:, :, None] == bucket(taken.day, rule.kind)[:, None, :]
    return same, same


def _others(rule: Rule, taken: Taken, e: int, counts: np.ndarray) -> np.ndarray:
    """int[n]: the other taken pushes in the window of taken push e."""
    if rule.kind == "rolling":
        apart = taken.at[:, e][:, None] - taken.at
        inside = (apart >= 0) & (apart <= rule.width)
    else:
        inside = bucket(taken.day, rule.kind) == bucket(taken.day[:, e], rule.kind)[:, None]
    inside = inside & counts
    inside[:, e] = False
    others: np.ndarray = inside.sum(1)
    return others


def rounds(offsets: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The sends of all users in rounds: (rows, index of each one's next send). The work is the number of sends, also
    where one user has thousands."""
    counts = np.diff(offsets)
    order = np.argsort(-counts, kind="stable")
    sizes = np.searchsorted(-counts[order], -np.arange(counts.max(initial=0)), side="left")
    return [(order[:size], offsets[order[:size]] + s) for s, size in enumerate(sizes)]


def _used(rule: Rule, sends: Sends, counts: np.ndarray, at: np.ndarray, day: np.ndarray) -> np.ndarray:
    used = np.zeros(at.shape, np.int32)
    wanted = None if rule.kind == "rolling" else bucket(day, rule.kind)
    for rows, index in rounds(sends.offsets):
        if wanted is None:
            apart = at[rows] - sends.at[index][:, None]
            inside = (apart >= 0) & (apart <= rule.width)
        else:
            inside = wanted[rows] == bucket(sends.day[index], rule.kind)[:, None]
        used[rows] += inside & counts[index][:, None]
    return used


def _later(rule: Rule, sends: Sends, r: int, at: np.ndarray) -> np.ndarray:
    """Room before later planned pushes of rolling rules; calendar windows have counted them already."""
    room_left = np.full(at.shape, NO_LIMIT, np.int32)
    if rule.kind != "rolling":
        return room_left
    for rows, index in rounds(sends.offsets):
        binding = sends.binds[r][index]
        rows, index = rows[binding], index[binding]  # noqa: PLW2901 - only those that must still pass the rule
        if not len(rows):
            continue
        mine = sends.at[index][:, None]
        own = np.zeros(len(rows), np.int32)
        begin, end = sends.offsets[rows], sends.offsets[rows + 1]
        for s in range(int((end - begin).max())):
            other = np.minimum(begin + s, end - 1)
            apart = mine[:, 0] - sends.at[other]
            own += (begin + s < end) & sends.counts[r][other] & (apart >= 0) & (apart <= rule.width)
        ahead = (mine > at[rows]) & (mine <= at[rows] + rule.width)
        left = (rule.limit - own)[:, None]
        room_left[rows] = np.where(ahead, np.minimum(room_left[rows], left), room_left[rows])
    return room_left
