"""Which push a response answers, and which accounts are machines.

A response credits the last push that its user got before it, never an earlier one, and only within a while. Accounts
that respond more often than people can (scanners that open everything they are sent) say nothing about people.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.features.readings import positions
from engine.ingest.profiles import FoldRows
from engine.learning.answering import ANSWER_HOURS, Answers, Tally
from engine.localtime import CELLS, WINDOWS_A_DAY, local_hours
from engine.store.tables import EVENT_TYPES

HALF_LIFE_DAYS = 120.0
_DAY = 86_400.0

LEAST_RESPONSES = 20
"""Responses of an account below which it is not called a machine."""

MOST_A_DAY = 20.0
QUICKEST_SECONDS = 2.0
MOST_PER_PUSH = 1.5
"""A machine: so many opens on its median day, or so little between them, or so many per push."""


@dataclass(frozen=True)
class Sent:
    """Pushes whose answers are known. user: int64 ids · at: float64, epoch seconds · cell: int64, of the user's week ·
    answered: bool."""

    user: np.ndarray
    at: np.ndarray
    cell: np.ndarray
    answered: np.ndarray


def last_before(user: np.ndarray, at: np.ndarray, told_user: np.ndarray, told_at: np.ndarray) -> np.ndarray:
    """For each response (told_*: user, epoch seconds) the last push (user, at) of its user not after it: int64[m]
    positions, −1 for none."""
    n, m = len(user), len(told_user)
    who, when = np.concatenate([user, told_user]), np.concatenate([at, told_at])
    order = np.lexsort((np.arange(n + m) >= n, when, who))
    newest = np.maximum.accumulate(np.where(order < n, np.arange(n + m), -1))
    push = np.where(newest >= 0, order[newest], -1)
    response = order >= n
    found = np.full(m, -1, np.int64)
    found[order[response] - n] = push[response]
    theirs = (found >= 0) & (user[np.maximum(found, 0)] == told_user) if n else np.zeros(m, bool)
    return np.where(theirs, found, -1)


def answered(user: np.ndarray, at: np.ndarray, told_user: np.ndarray, told_at: np.ndarray, within: float) -> np.ndarray:
    """Which pushes were answered within so many seconds, bool[n]."""
    push = last_before(user, at, told_user, told_at)
    credited = push[(push >= 0) & (told_at - at[np.maximum(push, 0)] < within)] if len(user) else push[:0]
    hit = np.zeros(len(user), bool)
    hit[credited] = True
    return hit


def sent_pushes(events: FoldRows, now: float) -> Sent:
    """The pushes among events whose time to be answered in was over at `now` (epoch seconds); machines' left out."""
    responses = np.isin(events.event_type, [EVENT_TYPES["push_open"], EVENT_TYPES["push_click"]]) & (events.user >= 0)
    sends = (events.event_type == EVENT_TYPES["push_sent"]) & (events.user >= 0)
    machines = robots(events.user[responses], events.at[responses], events.event_type[responses], events.user[sends])
    sends &= (events.at <= now - ANSWER_HOURS * 3600) & ~np.isin(events.user, machines)
    rows = events.where(np.flatnonzero(sends))
    hit = answered(rows.user, rows.at, events.user[responses], events.at[responses], ANSWER_HOURS * 3600.0)
    hour = local_hours(rows.at, rows.zone, rows.zones).astype(np.int64)
    return Sent(rows.user, rows.at, hour // (24 // WINDOWS_A_DAY), hit)


def everybodys(sent: Sent, now: float) -> Answers:
    """What pushes to everybody met with, decayed."""
    weight = np.exp2(-(now - sent.at) / (HALF_LIFE_DAYS * _DAY))
    of_all = np.bincount(sent.cell, weight, minlength=CELLS)
    return Answers(of_all, np.bincount(sent.cell, weight * sent.answered, minlength=CELLS))


def tally_of(sent: Sent, users: np.ndarray, since: float, until: float) -> Tally:
    """Pushes to `users` (ids, sorted) in [since, until), by cell."""
    at = positions(users, sent.user)
    rows = np.flatnonzero((at >= 0) & (sent.at >= since) & (sent.at < until))
    key, size = at[rows] * CELLS + sent.cell[rows], len(users) * CELLS
    counts = (np.bincount(key, weight, minlength=size) for weight in (np.ones(len(rows)), sent.answered[rows]))
    all_sent, hit = (found.reshape(len(users), CELLS).astype(np.float64) for found in counts)
    return Tally(all_sent, hit)


def robots(user: np.ndarray, at: np.ndarray, kind: np.ndarray, sent_to: np.ndarray) -> np.ndarray:
    """Ids of accounts that respond as no person does: int64, sorted.

    user, at, kind: of every open and click · sent_to: the user of every push.
    """
    got, pushes = np.unique(sent_to, return_counts=True)
    found = []
    for one in np.unique(kind):
        of = np.flatnonzero(kind == one)
        order = of[np.lexsort((at[of], user[of]))]
        ids, start, count = np.unique(user[order], return_index=True, return_counts=True)
        place = positions(got, ids)
        for n in np.flatnonzero(count >= LEAST_RESPONSES):
            theirs = at[order[start[n] : start[n] + count[n]]]
            per_push = count[n] / pushes[place[n]] if place[n] >= 0 else 0.0
            if per_push > MOST_PER_PUSH or _too_quick(theirs):
                found.append(ids[n])
    return np.unique(np.array(found, np.int64))


def _too_quick(at: np.ndarray) -> bool:
    a_day = np.unique(at // _DAY, return_counts=True)[1]
    return bool(np.median(a_day) > MOST_A_DAY or np.median(np.diff(at)) < QUICKEST_SECONDS)
