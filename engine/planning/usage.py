"""What pushes use up of what is scarce, and what is left of it for the occurrences of a run (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import numpy as np

from engine.campaigns.policy import Policy
from engine.planning.allotment import Incumbents
from engine.planning.occasions import Occasion
from engine.planning.prices import QUARTER, UNLIMITED, Capacities, quarter_of


class Taken(NamedTuple):
    """Pushes that use up rates: how many of a campaign (id), through a gateway, in a UTC quarter-hour."""

    campaign: int
    gateway: str
    quarter: int
    pushes: int


class Stock(NamedTuple):
    """Items that are short (int64 ids, sorted) and how many more pushes may be about each, int64."""

    items: np.ndarray
    room: np.ndarray


NOTHING_SHORT = Stock(np.zeros(0, np.int64), np.zeros(0, np.int64))


def capacities_of(
    occasions: Sequence[Occasion],
    policy: Policy,
    as_of: datetime,
    taken: Iterable[Taken],
    spent: Mapping[int, int],
    stock: Stock,
) -> Capacities:
    """What occasions may still send at `as_of`: by their campaigns and gateways in each UTC quarter-hour less `taken`,
    by campaigns in all less `spent` (pushes by campaign id), and about items that are short."""
    of_campaign: dict[int | str, int | None] = {o.campaign_id: o.definition.per_quarter for o in occasions}
    of_gateway: dict[int | str, int | None] = {
        o.definition.gateway: policy.per_quarter(o.definition.gateway) for o in occasions
    }
    bounded = [
        name for limits in (of_campaign, of_gateway) for name in sorted(limits, key=str) if limits[name] is not None
    ]
    rows = {name: row for row, name in enumerate(bounded)}
    first = int(as_of.timestamp() // QUARTER)
    last = max((int(occasion.ends_at.timestamp() // QUARTER) for occasion in occasions), default=first)
    left = np.zeros((len(rows), max(last - first + 1, 1)), np.int64)
    for limits in (of_campaign, of_gateway):
        for name, limit in limits.items():
            if limit is not None:
                left[rows[name]] = limit
    for one in taken:
        if 0 <= one.quarter - first < left.shape[1]:
            for row in (rows.get(one.campaign), rows.get(one.gateway)):
                if row is not None:
                    left[row, one.quarter - first] -= one.pushes
    of = [
        [rows.get(o.campaign_id, UNLIMITED) for o in occasions],
        [rows.get(o.definition.gateway, UNLIMITED) for o in occasions],
    ]
    budget, budget_of = _budgets(occasions, spent)
    return Capacities(
        first=first,
        left=np.maximum(left, 0),
        of=np.array(of, np.int32).reshape(2, len(occasions)),
        budget=budget,
        budget_of=budget_of,
        stock=stock.room,
        stock_items=stock.items,
    )


def _budgets(occasions: Sequence[Occasion], spent: Mapping[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """What is left of each campaign's budget, int64[B], and the budget of each occurrence, int32[O]."""
    limits = {o.campaign_id: o.definition.budget for o in occasions if o.definition.budget is not None}
    row = {campaign: number for number, campaign in enumerate(sorted(limits))}
    left = np.array([limits[campaign] - spent.get(campaign, 0) for campaign in row], np.int64)
    of = np.array([row.get(occasion.campaign_id, UNLIMITED) for occasion in occasions], np.int32)
    return np.maximum(left, 0), of


def about_items(occasions: Sequence[Occasion]) -> bool:
    """Whether any of the occasions sends items, which stock may bound."""
    return any(occasion.definition.items.kind != "none" for occasion in occasions)


class Pushes(NamedTuple):
    """Planned pushes: occurrence_id, user_id, campaign_id int64, gateway (names), item int64 (−1: none), send_at epoch
    seconds and value float64."""

    occurrence_id: np.ndarray
    user_id: np.ndarray
    campaign_id: np.ndarray
    gateway: np.ndarray
    item: np.ndarray
    send_at: np.ndarray
    value: np.ndarray


def incumbents_of(occasions: Sequence[Occasion], capacities: Capacities, planned: Pushes) -> Incumbents:
    """Those of `planned`, which may be displaced, that use up what `capacities` of `occasions` say is scarce."""
    of_campaign = {o.campaign_id: number for number, o in enumerate(occasions)}
    of_gateway = {o.definition.gateway: number for number, o in enumerate(occasions)}
    ours = np.array([of_campaign.get(campaign, -1) for campaign in planned.campaign_id.tolist()], np.int64)
    beside = np.array([of_gateway.get(gateway, -1) for gateway in planned.gateway.tolist()], np.int64)
    at, position = planned.send_at, np.where(ours >= 0, ours, np.maximum(beside, 0))
    resource = capacities.resources(position, at, planned.item)
    quarter = quarter_of(at) - capacities.first
    resource[(quarter < 0) | (quarter >= capacities.left.shape[1]), :2] = UNLIMITED
    resource[ours < 0, 0] = UNLIMITED  # another campaign's: of the gateway and the item alone
    resource[ours < 0, 2] = UNLIMITED
    resource[(ours < 0) & (beside < 0), 1] = UNLIMITED
    some = np.flatnonzero((resource >= 0).any(1))
    return Incumbents(planned.occurrence_id[some], planned.user_id[some], resource[some], planned.value[some])
