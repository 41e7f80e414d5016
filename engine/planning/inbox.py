"""The whole inbox: a run's offers compete with the pushes that the same users are already planned to get (pure).

A planned push is a rival: an offer with one instant, one item and the value it was planned with. Where the best set of
offers and rivals together is worth more than the rivals and what fits beside them, it is chosen, and the rivals that
are not in it give way. What is explored, transactional, due soon or of a run not yet settled is no rival: it stands.

Shapes: n users, D rivals of a user; otherwise as in `allocation`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from engine.planning import allocation, limits
from engine.planning.allocation import NOTHING, Problem
from engine.planning.limits import Room, Rules, Sends

LEAST_GAIN = 0.05
"""Share by which the new set must be worth more: scores are estimates, and a change for less is mostly noise."""


@dataclass(frozen=True)
class Rivals:
    """Planned pushes that may be displaced, in columns that are alike in their rules.

    occurrence int64[n, D], ids, value float64[n, D] (−inf: none), at int64[n, D], day int32[n, D], item int64[n, D],
    category int32[n, D], send int64[n, D]: its position in the users' sends (−1: none). binds, counted bool[R, D] and
    gap_binds, gap_counted bool[D] as of `limits.Rules`.
    """

    occurrence: np.ndarray
    value: np.ndarray
    at: np.ndarray
    day: np.ndarray
    item: np.ndarray
    category: np.ndarray
    send: np.ndarray
    binds: np.ndarray
    counted: np.ndarray
    gap_binds: np.ndarray
    gap_counted: np.ndarray

    def of(self, rows: np.ndarray) -> Rivals:
        """The rivals of the users in `rows` alone."""
        mine = ("occurrence", "value", "at", "day", "item", "category", "send")
        return replace(self, **{name: getattr(self, name)[rows] for name in mine})


def no_rivals(users: int, rules: int) -> Rivals:
    """Nobody has any."""
    none, kinds = np.zeros((users, 0)), np.zeros((rules, 0), bool)
    whole, small = none.astype(np.int64), none.astype(np.int32)
    return Rivals(whole, none, whole, small, whole, small, whole, kinds, kinds, np.zeros(0, bool), np.zeros(0, bool))


@dataclass(frozen=True)
class Contest:
    """The rules, which occurrences may displace (bool[O]), what users get anyway, and the rivals among it."""

    rules: Rules
    displaces: np.ndarray
    sends: Sends
    rivals: Rivals


NetIn = Callable[[np.ndarray, Room], np.ndarray]
"""What the options of users (rows) are worth in another room: float64[len(rows), O, K, W]."""


def compete(contest: Contest, problem: Problem, best: np.ndarray, net_in: NetIn) -> tuple[np.ndarray, np.ndarray]:
    """(int32[n, O], bool[n, D]): the choices, and the rivals that give way to them. best int32[n, O]: what fits beside
    all rivals."""
    out, displaced = best.copy(), np.zeros(contest.rivals.value.shape, bool)
    rows = np.flatnonzero(np.isfinite(contest.rivals.value).any(1))
    if not len(rows) or not contest.displaces.any():
        return out, displaced
    joint, known = _joint(contest, problem, rows, net_in)
    occurrences = len(contest.displaces)
    hope = joint.net[:, :occurrences].max((2, 3)) > problem.net[rows].max((2, 3))
    some = np.flatnonzero(hope.any(1))
    if not len(some):
        return out, displaced
    joint, rows, known = joint.of(some), rows[some], known.of(some)
    chosen = allocation.best_sets(joint)
    there = np.isfinite(known.value)
    standing = np.where(there, known.value, 0.0).sum(1)
    before = standing + _worth(problem.net[rows], best[rows])
    better = _worth(joint.net, chosen) > before * (1.0 + LEAST_GAIN)
    gone = there & (chosen[:, occurrences:] == NOTHING)
    better &= gone.any(1)
    out[rows[better]] = chosen[better, :occurrences]
    displaced[rows[better]] = gone[better]
    return out, displaced


def _joint(contest: Contest, problem: Problem, rows: np.ndarray, net_in: NetIn) -> tuple[Problem, Rivals]:
    """The problem of users `rows` with their rivals as further occurrences, each with one option."""
    rivals, rules = contest.rivals.of(rows), contest.rules
    m, kinds = rivals.value.shape
    occurrences, offers, windows = problem.net.shape[1:]
    joined = Rules(
        rules.rules,
        np.concatenate([rules.binds, rivals.binds], axis=1),
        np.concatenate([rules.counted, rivals.counted], axis=1),
        rules.gap,
        np.append(rules.gap_binds, rivals.gap_binds),
        np.append(rules.gap_counted, rivals.gap_counted),
    )
    shape = (m, kinds, windows)
    at = np.concatenate([problem.at[rows], np.broadcast_to(rivals.at[..., None], shape)], axis=1)
    day = np.concatenate([problem.day[rows], np.broadcast_to(rivals.day[..., None], shape)], axis=1)
    room = limits.room(joined, _without(contest, rows), at, day)
    ours = Room(room.used[:, :, :occurrences], room.later[:, :, :occurrences], room.gap_free[:, :occurrences])
    alone = problem.net[rows]
    net = np.full((m, occurrences + kinds, offers, windows), -np.inf)
    net[:, :occurrences] = np.where(contest.displaces[None, :, None, None], net_in(rows, ours), alone)
    net[:, occurrences:, 0, 0] = rivals.value
    item = np.broadcast_to(rivals.item[..., None], (m, kinds, offers))
    category = np.broadcast_to(rivals.category[..., None], (m, kinds, offers))
    joint = Problem(
        net,
        np.concatenate([problem.item[rows], item], axis=1),
        np.concatenate([problem.category[rows], category], axis=1),
        at,
        day,
        np.append(problem.once, np.zeros(kinds, bool)),
        joined,
        room,
    )
    return joint, rivals


def _without(contest: Contest, rows: np.ndarray) -> Sends:
    """What users `rows` get anyway, their rivals left out."""
    sends, send = contest.sends, contest.rivals.send
    keep = np.ones(len(sends.at), bool)
    keep[send[send >= 0]] = False
    return limits.sends_of(sends, rows, keep)


def _worth(net: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """float64[n]: the value of choices int32[n, O]; what is below its price counts nothing."""
    flat = net.reshape(*chosen.shape, -1)
    value = np.take_along_axis(flat, np.maximum(chosen, 0)[..., None].astype(np.int64), 2)[..., 0]
    total: np.ndarray = np.where((chosen >= 0) & (value > 0), value, 0.0).sum(1)
    return total
