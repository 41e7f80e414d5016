"""From proposals to what settlement does with each: kept, in another's place, in another window, refused (pure)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from engine.planning import arms, chance, receipt, settlement
from engine.planning.decide import REASON
from engine.planning.occasions import Occasion
from engine.planning.prices import Capacities
from engine.planning.settlement import EXPLORED, ORDINARY, TRANSACTIONAL, Bids


@dataclass(frozen=True)
class Terms:
    """What settlement draws by: the workspace's secret, the run's seed, its occurrences."""

    secret: bytes
    seed: int
    occasions: Sequence[Occasion]


@dataclass(frozen=True)
class Proposals:
    """Proposals. occurrence int64 (position among the run's), user, item int64 ids (−1: no item), send_at, value, price
    float64; ids uint8[n, 16], zeros where they are not in the store."""

    ids: np.ndarray
    occurrence: np.ndarray
    user: np.ndarray
    item: np.ndarray
    send_at: np.ndarray
    value: np.ndarray
    price: np.ndarray


@dataclass(frozen=True)
class Incumbents:
    """Planned pushes of earlier runs that use up the same capacity and may be displaced: occurrence (an id), user
    int64, resource int64[m, D], value float64[m]."""

    occurrence: np.ndarray
    user: np.ndarray
    resource: np.ndarray
    value: np.ndarray


@dataclass(frozen=True)
class Allotment:
    """Positions of proposals that were moved and `to` which alternative (receipt.ALTERNATIVE), of those refused with
    their `reasons` (int8), and pairs of those that take a place and whose: `heirs`, and the incumbent's occurrence and
    user, int64[p, 2]."""

    moved: np.ndarray
    to: np.ndarray
    refused: np.ndarray
    reasons: np.ndarray
    heirs: np.ndarray
    displaced: np.ndarray


Alternatives = Callable[[np.ndarray], Sequence[np.ndarray]]
"""The alternatives (arrays of receipt.ALTERNATIVE) in the receipts of proposals at some positions, in that order."""


def allot(
    terms: Terms,
    capacities: Capacities,
    proposals: Proposals,
    alternatives: Alternatives,
    incumbents: Callable[[], Incumbents],
    now: datetime,
) -> Allotment:
    """Give the capacity there is to the proposals by value − price; the losers get what their campaign's overflow says.

    What was explored and lost is not moved: another window has another propensity.
    """
    bids = bids_of(terms, capacities, proposals)
    left = capacities.flat()
    granted = settlement.accept(bids, left)
    left = settlement.remaining(bids, granted, left)
    heirs, displaced, left = _replaced(
        terms, proposals, bids.of(np.flatnonzero(~granted)), ~granted, (left, incumbents)
    )
    granted[heirs] = True
    lost = np.flatnonzero(~granted)
    stays = np.array([occasion.definition.overflow == "drop" for occasion in terms.occasions])[proposals.occurrence]
    wants = lost[(bids.first[lost] == ORDINARY) & ~stays[lost]]
    # Alternatives that only another push of the run stood in the way of are free for who lost all of them, which is
    # known where every occurrence of the run was a bid.
    alone = np.zeros(len(bids.net), bool)
    if capacities.all_bounded():
        alone = ~np.isin(proposals.user, proposals.user[granted])
    moved, to, left = _moved(capacities, proposals, bids, wants, (left, alternatives, now.timestamp(), alone))
    refused = np.setdiff1d(lost, moved)
    spent = bids.uses[refused] >= capacities.rates
    spent &= left[np.maximum(bids.uses[refused], 0)] <= 0
    reasons = np.where(spent.any(1), REASON["budget"], REASON["capacity"]).astype(np.int8)
    return Allotment(moved, to, refused, reasons, heirs, displaced)


def _moved(
    capacities: Capacities,
    proposals: Proposals,
    bids: Bids,
    wants: np.ndarray,
    given: tuple[np.ndarray, Alternatives, float, np.ndarray],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(proposals that are moved, to which alternatives, what is left then), of those at `wants`.

    Alternatives were found beside the user's other choices: of a user who lost several pushes one is moved, the second
    only where there was no room for the first. `given`: what is left, alternatives, now, and who has no push (bool).
    """
    left, alternatives, now, alone = given
    moved, to = [np.zeros(0, np.int64)], [np.zeros(0, receipt.ALTERNATIVE)]
    while len(wants):
        first = np.sort(np.unique(proposals.user[wants], return_index=True)[1])
        movable = wants[first]
        found = alternatives(movable)
        owner = np.repeat(movable, [len(each) for each in found]).astype(np.int64)
        options = np.concatenate([*found, np.zeros(0, receipt.ALTERNATIVE)])
        free = (options["code"] == receipt.FREE) | ((options["code"] == receipt.BESIDE) & alone[owner])
        keep = free & (options["send_at"] > now)
        options, owner = options[keep], owner[keep]
        wanted = Bids(
            resource=capacities.resources(proposals.occurrence[owner], options["send_at"], options["item"]),
            net=options["value"].astype(np.float64),  # what is left over costs nothing
            first=np.full(len(owner), ORDINARY, np.int8),
            tie=bids.tie[owner],
        )
        chosen = settlement.refill(wanted, owner, left)
        left = settlement.remaining(wanted, np.isin(np.arange(len(owner)), chosen), left)
        moved.append(owner[chosen])
        to.append(options[chosen])
        wants = np.delete(wants, first)
        wants = wants[~np.isin(proposals.user[wants], proposals.user[owner[chosen]])]
    return np.concatenate(moved), np.concatenate(to), left


def _replaced(
    terms: Terms,
    proposals: Proposals,
    losers: Bids,
    lost: np.ndarray,
    scarce: tuple[np.ndarray, Callable[[], Incumbents]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(proposals that take a place, whose, what is left then)."""
    left, incumbents = scarce
    displaces = np.array([occasion.displaces for occasion in terms.occasions])[proposals.occurrence[lost]]
    some = np.flatnonzero(displaces & (losers.first == ORDINARY))
    none = np.zeros(0, np.int64), np.zeros((0, 2), np.int64), left
    if not len(some):
        return none
    known = incumbents()
    if not len(known.value):
        return none
    key = chance.key_of(terms.secret, "settle", terms.seed)
    standing = Bids(
        known.resource,
        known.value,
        np.full(len(known.value), ORDINARY, np.int8),
        chance.hashes(key, known.user, known.occurrence),
    )
    # The place is paid with what the other was worth, not with the price of what was left.
    asking = replace(losers.of(some), net=proposals.value[lost][some])
    loser, incumbent = settlement.replace(asking, standing, left)
    freed = left + settlement.count(standing.uses[incumbent], len(left))
    left = np.maximum(freed - settlement.count(asking.uses[loser], len(left)), 0)
    whose = np.stack([known.occurrence[incumbent], known.user[incumbent]], axis=1)
    return np.flatnonzero(lost)[some[loser]], whose, left


def bids_of(terms: Terms, capacities: Capacities, proposals: Proposals) -> Bids:
    """The proposals as bids for capacity, transactional and explored ones first."""
    shares = np.array([occasion.exploration for occasion in terms.occasions])[proposals.occurrence]
    campaigns = np.array([occasion.campaign_id for occasion in terms.occasions], np.int64)[proposals.occurrence]
    first = [occasion.definition.class_ == "transactional" for occasion in terms.occasions]
    explored = arms.explores(terms.secret, terms.seed, proposals.user, shares[:, None]).reshape(-1)
    order = np.where(explored, EXPLORED, ORDINARY)
    return Bids(
        resource=capacities.resources(proposals.occurrence, proposals.send_at, proposals.item),
        net=proposals.value - proposals.price,
        first=np.where(np.array(first, bool)[proposals.occurrence], TRANSACTIONAL, order).astype(np.int8),
        tie=chance.hashes(chance.key_of(terms.secret, "settle", terms.seed), proposals.user, campaigns),
    )
