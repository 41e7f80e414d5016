"""From proposals to what settlement does with each: kept, moved to another window, or refused (pure)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from engine.planning import arms, chance, receipt, settlement
from engine.planning.occasions import Occasion
from engine.planning.prices import Capacities, quarter_of
from engine.planning.settlement import UNLIMITED, Bids


@dataclass(frozen=True)
class Terms:
    """What settlement draws by: the workspace's secret, the run's seed, its occurrences."""

    secret: bytes
    seed: int
    occasions: Sequence[Occasion]


@dataclass(frozen=True)
class Proposals:
    """Proposals. occurrence int64 (position among the run's), user int64 ids, send_at, value, price float64;
    ids uint8[n, 16], zeros where they are not in the store."""

    ids: np.ndarray
    occurrence: np.ndarray
    user: np.ndarray
    send_at: np.ndarray
    value: np.ndarray
    price: np.ndarray


@dataclass(frozen=True)
class Allotment:
    """Positions of proposals that were moved and `to` which alternative (receipt.ALTERNATIVE), and of those refused."""

    moved: np.ndarray
    to: np.ndarray
    refused: np.ndarray


Alternatives = Callable[[np.ndarray], Sequence[np.ndarray]]
"""The alternatives (arrays of receipt.ALTERNATIVE) in the receipts of proposals at some positions, in that order."""


def allot(
    terms: Terms, capacities: Capacities, proposals: Proposals, alternatives: Alternatives, now: datetime
) -> Allotment:
    """Give the capacity there is to the proposals by value − price, then what is left to the losers' alternatives.

    Of a user who lost several pushes only the first is moved: alternatives were found beside the others' choice.
    """
    bids = bids_of(terms, capacities, proposals)
    left = capacities.left.reshape(-1)
    granted = settlement.accept(bids, left)
    lost = np.flatnonzero(~granted)
    movable = lost[np.sort(np.unique(proposals.user[lost], return_index=True)[1])]
    found = alternatives(movable)
    owner = np.repeat(movable, [len(each) for each in found]).astype(np.int64)
    options = np.concatenate([*found, np.zeros(0, receipt.ALTERNATIVE)])
    keep = (options["code"] == receipt.FREE) & (options["send_at"] > now.timestamp())
    options, owner = options[keep], owner[keep]
    wanted = Bids(
        resource=resources(capacities, proposals.occurrence[owner], options["send_at"]),
        net=options["value"].astype(np.float64),  # what is left over costs nothing
        first=np.zeros(len(owner), bool),
        tie=bids.tie[owner],
    )
    chosen = settlement.refill(wanted, owner, settlement.remaining(bids, granted, left))
    return Allotment(owner[chosen], options[chosen], np.setdiff1d(lost, owner[chosen]))


def bids_of(terms: Terms, capacities: Capacities, proposals: Proposals) -> Bids:
    """The proposals as bids for (capacity row, quarter), explored ones first."""
    shares = np.array([occasion.exploration for occasion in terms.occasions])[proposals.occurrence]
    campaigns = np.array([occasion.campaign_id for occasion in terms.occasions], np.int64)[proposals.occurrence]
    return Bids(
        resource=resources(capacities, proposals.occurrence, proposals.send_at),
        net=proposals.value - proposals.price,
        first=arms.explores(terms.secret, terms.seed, proposals.user, shares[:, None]).reshape(-1),
        tie=chance.hashes(chance.key_of(terms.secret, "settle", terms.seed), proposals.user, campaigns),
    )


def resources(capacities: Capacities, occurrence: np.ndarray, send_at: np.ndarray) -> np.ndarray:
    """int64: what each push uses up, an index into the flattened `capacities.left`; UNLIMITED."""
    row = capacities.of[occurrence].astype(np.int64)
    quarters = capacities.left.shape[1]
    quarter = np.clip(quarter_of(send_at) - capacities.first, 0, quarters - 1)
    return np.where(row >= 0, row * quarters + quarter, UNLIMITED)
