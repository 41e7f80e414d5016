"""What becomes of planned pushes that are weighed again: they stay, change, or end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

import numpy as np

from engine.planning import allocation, arms, receipt
from engine.planning.allocation import NOTHING
from engine.planning.decide import OPEN, REASON, Choice
from engine.planning.record import Decided
from engine.planning.scene import Block, Scene, Weighing, finish_block, weigh_block
from engine.store.tables import DECISION_REASONS, SLOTS

LEAST_GAIN = 0.02
"""Share by which a user's pushes must be worth more for a change: less is noise, and each change costs a revision."""

ENDINGS = ("not_eligible", "no_consent", "no_device", "no_candidate", "not_worth", "expired", "failed_input")
"""Reasons for which a planned push ends; whatever else stands in its way now is for dispatch to see."""


@dataclass(frozen=True)
class Waiting:
    """A planned push: the row, its window's start and its instant in epoch seconds."""

    id: UUID
    run_id: int
    occurrence_id: int
    user_id: int
    item_id: int | None
    revision: int
    explored: bool
    at_once: bool
    slot: float
    at: float


@dataclass(frozen=True)
class Changes:
    """ends: which of the pushes end, and for which decision reason; moves: which change, and the row of `block` that
    says into what. Both by position among `rows`."""

    rows: Sequence[Waiting]
    ends: dict[int, str]
    moves: dict[int, int]
    block: Block | None


class _Pairs(NamedTuple):
    """Pushes weighed again, arrays [p]: position among the rows, the user's row (−1: not asked for), occurrence."""

    number: np.ndarray
    row: np.ndarray
    occurrence: np.ndarray


def plan_again(scene: Scene, rows: Sequence[Waiting], numbers: Sequence[int]) -> Changes:
    """What becomes of the pushes that `scene.again` asks about; `numbers`: the position of each among `rows`."""
    assert scene.again is not None
    weighed = weigh_block(scene, (0, SLOTS)) if len(numbers) else None
    if weighed is None:  # nobody of them is in the audience any more
        return Changes(rows, dict.fromkeys(numbers, "not_eligible"), {}, None)
    users = weighed.people.users
    at = np.minimum(np.searchsorted(users, scene.again.user), len(users) - 1)
    pairs = _Pairs(np.array(numbers, np.int64), np.where(users[at] == scene.again.user, at, -1), scene.again.occurrence)
    chosen, current = allocation.best_sets(weighed.options.problem), _current(weighed, pairs, rows)
    block = finish_block(scene, weighed, _exploit(weighed, chosen))
    reason, place = _found(block.decided, pairs, len(scene.occasions))
    ends = {
        int(number): DECISION_REASONS[why]
        for number, why in zip(pairs.number, reason, strict=True)
        if DECISION_REASONS[why] in ENDINGS
    }
    moves = pairs.number[_changed(weighed, pairs, (chosen, current), reason)].tolist()
    where = dict(zip(pairs.number.tolist(), place.tolist(), strict=True))
    return Changes(rows, ends, {number: where[number] for number in moves}, block)


def _current(weighed: Weighing, pairs: _Pairs, rows: Sequence[Waiting]) -> np.ndarray:
    """int64[p]: the option that each push is now; NOTHING where it is none of those weighed."""
    item = np.array([-1 if rows[n].item_id is None else rows[n].item_id for n in pairs.number], np.int64)
    slot = np.array([rows[n].slot for n in pairs.number])
    row, o = np.maximum(pairs.row, 0), pairs.occurrence
    same_item = weighed.goods.item[row, o] == item[:, None]
    same_slot = weighed.people.table.slot[weighed.people.group[row], o] == slot[:, None]
    there = same_item.any(1) & same_slot.any(1) & (pairs.row >= 0)
    windows = weighed.options.price.shape[2]
    return np.where(there, same_item.argmax(1) * windows + same_slot.argmax(1), NOTHING)


def _exploit(weighed: Weighing, chosen: np.ndarray) -> Choice:
    """The choice of those who exploit. What was drawn at plan time is not drawn again."""
    options = weighed.options
    free = (options.code == receipt.FREE) & np.isfinite(options.value)
    return Choice(
        arm=np.full(chosen.shape, arms.EXPLOIT, np.int8),
        chosen=chosen,
        best=chosen,
        options=free.sum((2, 3)) + 1,
        drawable=np.zeros(chosen.shape, bool),
        beside=options.code,
        displaced=np.zeros((len(chosen), 0), bool),
    )


def _found(decided: Decided, pairs: _Pairs, occurrences: int) -> tuple[np.ndarray, np.ndarray]:
    """(int[p], int[p]): the decision's reason for each pair, and its row; not_eligible where nobody asked."""
    reason = np.full(len(pairs.row), REASON["not_eligible"], np.int64)
    key = decided.row * occurrences + decided.occurrence
    wanted = pairs.row * occurrences + pairs.occurrence
    place = np.minimum(np.searchsorted(key, wanted), max(len(key) - 1, 0))
    there = (pairs.row >= 0) & (key[place] == wanted) if len(key) else np.zeros(len(wanted), bool)
    reason[there] = decided.reason[place[there]]
    return reason, place


def _changed(
    weighed: Weighing, pairs: _Pairs, choices: tuple[np.ndarray, np.ndarray], reason: np.ndarray
) -> np.ndarray:
    """bool[p]: the pushes that change, of users whose pushes are then worth enough more together."""
    chosen, current = choices
    asked = pairs.row >= 0
    row, o = np.maximum(pairs.row, 0), pairs.occurrence
    flat = weighed.options.problem.net.reshape(*chosen.shape, -1)
    new = chosen[row, o]
    gain = np.where(asked & (new >= 0), flat[row, o, np.maximum(new, 0)], 0.0)
    now = np.where(current >= 0, flat[row, o, np.maximum(current, 0)], -np.inf)
    # A push has its place in the stock already.
    k = np.maximum(current, 0) // weighed.options.price.shape[2]
    now += weighed.options.charge[row, o, k]
    possible = asked & np.isfinite(now)
    users = len(weighed.people.users)
    before = np.bincount(row, np.where(possible, np.maximum(now, 0.0), 0.0), minlength=users)
    after = np.bincount(row, np.where(asked, gain, 0.0), minlength=users)
    open_to = weighed.people.reason[row, o] == OPEN
    forced = np.bincount(row, asked & open_to & ~possible, minlength=users) > 0
    planned = reason == REASON["planned"]
    ending = np.isin(reason, [REASON[name] for name in ENDINGS])
    unclear = np.bincount(row, asked & ~planned & ~ending, minlength=users) > 0
    better = (forced | (after > before * (1.0 + LEAST_GAIN))) & ~unclear
    found: np.ndarray = asked & planned & better[row] & (new != current)
    return found
