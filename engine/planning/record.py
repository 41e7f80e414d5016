"""What a block's decisions leave behind: one row per user and occurrence asked for, with its receipt (pure)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.planning import arms, receipt
from engine.planning.allocation import NOTHING
from engine.planning.decide import NOT_ASKED, OPEN, REASON, Choice, Goods, Options, People, Terms, outcome
from engine.planning.offers import NO_ITEM


@dataclass(frozen=True)
class Decided:
    """m decisions, users ascending; what belongs to a choice is NaN (item NO_ITEM) where nothing was chosen.

    row, occurrence int64, positions; user int64 ids; arm, reason int8; item int64 id, place int32 in the catalogue,
    related float32, cell int8; slot, send_at, end, until, score, value, price float64; propensity float64, NaN where no
    choice was made; head and alternatives: the receipt without features.
    """

    row: np.ndarray
    occurrence: np.ndarray
    user: np.ndarray
    arm: np.ndarray
    reason: np.ndarray
    item: np.ndarray
    place: np.ndarray
    related: np.ndarray
    cell: np.ndarray
    slot: np.ndarray
    send_at: np.ndarray
    end: np.ndarray
    until: np.ndarray
    score: np.ndarray
    value: np.ndarray
    price: np.ndarray
    propensity: np.ndarray
    head: np.ndarray
    alternatives: np.ndarray

    @property
    def planned(self) -> np.ndarray:
        """bool[m]: the decisions that propose a push."""
        planned: np.ndarray = self.reason == REASON["planned"]
        return planned


@dataclass(frozen=True)
class Weighed:
    """A block after its choices."""

    people: People
    goods: Goods
    options: Options
    choice: Choice


def record(terms: Terms, weighed: Weighed, as_of: float) -> Decided:
    """The decisions of a block whose snapshot has business time `as_of` (epoch seconds)."""
    people, goods, options, choice = weighed.people, weighed.goods, weighed.options, weighed.choice
    reasons, codes = outcome(people, options, choice)
    row, occurrence = np.nonzero(reasons != NOT_ASKED)
    reason, code = reasons[row, occurrence], codes[row, occurrence]
    chosen = np.where(reason == REASON["planned"], choice.chosen[row, occurrence], NOTHING)
    windows_count = options.price.shape[2]
    some, k, w = chosen >= 0, np.maximum(chosen, 0) // windows_count, np.maximum(chosen, 0) % windows_count
    table, group = people.table, people.group[row]

    def of_choice(values: np.ndarray) -> np.ndarray:
        return np.where(some, values, np.nan)

    until = np.minimum(goods.until[row, occurrence, k], table.until[group, occurrence])
    return Decided(
        row=row,
        occurrence=occurrence,
        user=people.users[row],
        arm=choice.arm[row, occurrence],
        reason=reason,
        item=np.where(some, goods.item[row, occurrence, k], NO_ITEM),
        place=np.where(some, goods.place[row, occurrence, k], NO_ITEM),
        related=goods.related[row, occurrence, k],
        cell=np.where(some, table.cell[group, occurrence, w], 0).astype(np.int8),
        slot=of_choice(table.slot[group, occurrence, w]),
        send_at=of_choice(options.at[row, occurrence, w]),
        end=of_choice(np.minimum(table.end[group, occurrence, w], until)),
        until=of_choice(until),
        score=of_choice(goods.score[row, occurrence, k, w]),
        value=of_choice(options.value[row, occurrence, k, w]),
        price=of_choice(options.price[row, occurrence, w] + options.charge[row, occurrence, k]),
        propensity=np.where(
            people.reason[row, occurrence] == OPEN, _propensity(terms, choice, (row, occurrence)), np.nan
        ),
        head=_head(terms, weighed, (row, occurrence), code, as_of),
        alternatives=_alternatives(weighed, (row, occurrence), chosen),
    )


def _propensity(terms: Terms, choice: Choice, at: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    options = np.maximum(choice.options[at], 1)
    drawn = np.where(options > 1, terms.exploration[at[1]], 0.0)
    return arms.propensity(drawn, options, choice.chosen[at] == choice.best[at], choice.drawable[at])


def _head(
    terms: Terms, weighed: Weighed, at: tuple[np.ndarray, np.ndarray], code: np.ndarray, as_of: float
) -> np.ndarray:
    row, occurrence = at
    best = weighed.choice.best[at]
    windows_count = weighed.options.price.shape[2]
    k, w = np.maximum(best, 0) // windows_count, np.maximum(best, 0) % windows_count
    slot = weighed.people.table.slot[weighed.people.group[row], occurrence, w]
    return receipt.headers(
        len(row),
        code=code,
        as_of=as_of,
        model=terms.model,
        regime=terms.regime,
        policy=terms.policy,
        library=terms.library,
        campaign=terms.versions[occurrence],
        options=weighed.choice.options[at],
        exploit_item=np.where(best >= 0, weighed.goods.item[row, occurrence, k], NO_ITEM),
        exploit_slot=np.where(best >= 0, slot, np.nan),
    )


def _alternatives(weighed: Weighed, at: tuple[np.ndarray, np.ndarray], chosen: np.ndarray) -> np.ndarray:
    """ALTERNATIVE[m, 5]: the best offer of each other window, and the second best of the chosen one: the best that may
    be sent first, and, last, the best that may not, so that the nearest miss and what bound it are kept.

    Unused places have slot NaN and stand at the end.
    """
    row, occurrence = at
    options, goods, people = weighed.options, weighed.goods, weighed.people
    windows_count = options.price.shape[2]
    value = options.value[row, occurrence]
    code = weighed.choice.beside[row, occurrence]
    picked = np.flatnonzero(chosen >= 0)
    flat = value.reshape(len(row), -1)
    flat[picked, chosen[picked]] = -np.inf
    free = code == receipt.FREE
    shown = np.where(free.any(1)[:, None, :], np.where(free, value, -np.inf), value)
    k = np.argmax(shown, 1)
    best = np.take_along_axis(value, k[:, None, :], 1)[:, 0]
    best_code = np.take_along_axis(code, k[:, None, :], 1)[:, 0]
    rows = np.arange(len(row))[:, None]
    price = options.price[row, occurrence] + options.charge[row, occurrence][rows, k]
    net = best - price
    # Ranked as they were weighed, with jitter: at prices that make many indifferent, they remember different windows.
    weighed_net = options.problem.net[row, occurrence][rows, k, np.arange(windows_count)[None, :]]
    ranked = np.where(np.isfinite(weighed_net), weighed_net, net)
    w = _five(ranked, (best_code == receipt.FREE) & np.isfinite(net))
    group = people.group[row][:, None]
    out = np.zeros(w.shape, receipt.ALTERNATIVE)
    there = np.isfinite(net[rows, w])
    out["item"] = np.where(there, goods.item[row[:, None], occurrence[:, None], k[rows, w]], NO_ITEM)
    out["slot"] = np.where(there, people.table.slot[group, occurrence[:, None], w], np.nan)
    out["send_at"] = np.where(there, options.at[row[:, None], occurrence[:, None], w], np.nan)
    until = goods.until[row[:, None], occurrence[:, None], k[rows, w]]
    out["end"] = np.where(there, np.minimum(people.table.end[group, occurrence[:, None], w], until), np.nan)
    out["value"] = np.where(there, best[rows, w], 0.0)
    out["price"] = np.where(there, price[rows, w], 0.0)
    out["score"] = np.where(there, goods.score[row[:, None], occurrence[:, None], k[rows, w], w], 0.0)
    out["code"] = best_code[rows, w]
    if w.shape[1] < receipt.MOST_ALTERNATIVES:
        missing = receipt.MOST_ALTERNATIVES - w.shape[1]
        out = np.concatenate([out, np.zeros((len(row), missing), receipt.ALTERNATIVE)], axis=1)
        out["slot"][:, windows_count:] = np.nan
    return out


def _five(net: np.ndarray, free: np.ndarray) -> np.ndarray:
    """int64[m, ≤ 5]: the windows shown: free ones by net value, then the others; the best of those last but always."""
    kept = min(receipt.MOST_ALTERNATIVES, net.shape[1])
    ranked = np.lexsort((-net, ~free), axis=1)[:, :kept]
    blocked = np.where(free, -np.inf, net)
    hidden = (free.sum(1) >= kept) & np.isfinite(blocked.max(1))
    ranked[hidden, -1] = np.argmax(blocked[hidden], 1)
    return ranked
