"""What is scarce for a run: rates of campaigns and gateways, budgets, stock, and who uses them up already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np
from sqlalchemy import Connection, text

from engine.campaigns.policy import Policy
from engine.campaigns.policy_store import policy_version
from engine.planning.allotment import Incumbents
from engine.planning.occasions import Occasion
from engine.planning.prices import QUARTER, UNLIMITED, Capacities, quarter_of
from engine.planning.roster import FROZEN
from engine.planning.runspec import RunSpec

STOCK_DAY = timedelta(days=1)
"""Pushes of so long ago may still be followed by a purchase that the stock does not show yet."""

_TAKEN = text("""
    SELECT campaign_id, gateway, floor(extract(epoch FROM at) / 900)::bigint AS quarter, count(*) AS taken FROM (
        SELECT campaign_id, gateway, send_at AS at FROM pushes WHERE run_id <> :run AND state <> 'proposed'
        UNION ALL
        SELECT campaign_id, gateway, at FROM deliveries
        WHERE day >= CAST(:since AS date) - 1 AND at >= :since AND NOT test AND state IN ('accepted', 'unknown')
    ) used WHERE at >= :since AND (campaign_id = ANY(:campaigns) OR gateway = ANY(:gateways)) GROUP BY 1, 2, 3
""")

_SPENT = text("""
    SELECT campaign_id, sum(n)::bigint AS spent FROM (
        SELECT campaign_id, count(*) AS n FROM pushes
        WHERE campaign_id = ANY(:campaigns) AND run_id <> :run AND state <> 'proposed' GROUP BY 1
        UNION ALL
        SELECT campaign_id, count(*) FROM deliveries
        WHERE campaign_id = ANY(:campaigns) AND NOT test AND state IN ('accepted', 'unknown') GROUP BY 1
    ) used GROUP BY 1
""")

_STOCK = text("""
    WITH used AS (
        SELECT item_id, count(*) AS n FROM (
            SELECT item_id FROM pushes WHERE run_id <> :run AND state <> 'proposed' AND item_id IS NOT NULL
            UNION ALL
            SELECT item_id FROM deliveries
            WHERE day >= CAST(:yesterday AS date) AND at >= :yesterday AND NOT test AND item_id IS NOT NULL
              AND state IN ('accepted', 'unknown')
        ) pushed GROUP BY 1
    )
    SELECT i.id, greatest(i.stock * CAST(:each AS bigint) - coalesce(u.n, 0), 0)::bigint AS room
    FROM items i LEFT JOIN used u ON u.item_id = i.id
    WHERE i.stock > 0 AND i.stock <= CAST(:enough AS bigint) ORDER BY i.id
""")


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
    of_campaign: dict[int | str, int | None] = {o.campaign_id: o.definition.capacity_per_quarter for o in occasions}
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


def read_capacities(connection: Connection, spec: RunSpec, as_of: datetime) -> Capacities:
    """What may still be sent at business time `as_of`, less what is planned or was sent: by the run's campaigns and
    gateways in each UTC quarter-hour, by campaigns in all, and about each item that is short.

    An item with more in stock than there are users is no constraint and is left out.
    """
    policy = policy_version(connection, spec.policy_version)
    campaigns = [o.campaign_id for o in spec.occasions if o.definition.capacity_per_quarter is not None]
    gateways = [name for name in {o.definition.gateway for o in spec.occasions} if policy.per_quarter(name) is not None]
    taken: list[Taken] = []
    if campaigns or gateways:
        since = datetime.fromtimestamp(as_of.timestamp() // QUARTER * QUARTER, as_of.tzinfo)
        asked = {"campaigns": campaigns, "gateways": gateways, "run": spec.run_id, "since": since}
        taken = [Taken(*row) for row in connection.execute(_TAKEN, asked)]
    budgeted = [o.campaign_id for o in spec.occasions if o.definition.budget is not None]
    spent: dict[int, int] = {}
    if budgeted:
        found = connection.execute(_SPENT, {"campaigns": budgeted, "run": spec.run_id})
        spent = {row.campaign_id: int(row.spent) for row in found}
    stock = _stock(connection, spec, policy.pushes_per_stock, as_of)
    return capacities_of(spec.occasions, policy, as_of, taken, spent, stock)


def _stock(connection: Connection, spec: RunSpec, each: int | None, as_of: datetime) -> Stock:
    if each is None or not about_items(spec.occasions):
        return NOTHING_SHORT
    users = int(connection.execute(text("SELECT count(*) FROM users")).scalar_one())
    given = {"run": spec.run_id, "yesterday": as_of - STOCK_DAY, "each": each, "enough": -(-users // each)}
    found = connection.execute(_STOCK, given).all()
    return Stock(np.array([row.id for row in found], np.int64), np.array([row.room for row in found], np.int64))


_INCUMBENTS = text("""
    SELECT p.occurrence_id, p.user_id, p.campaign_id, p.gateway, coalesce(p.item_id, -1) AS item,
           extract(epoch FROM p.send_at)::float8 AS send_at, p.value
    FROM pushes p JOIN occurrences o ON o.id = p.occurrence_id
    JOIN campaign_versions v ON v.campaign_id = o.campaign_id AND v.version = o.version
    WHERE p.state = 'planned' AND NOT p.explored AND p.run_id <> :run AND p.send_at > :frozen
      AND v.definition->>'class' = 'marketing'
      AND (p.campaign_id = ANY(:campaigns) OR p.gateway = ANY(:gateways) OR p.item_id = ANY(:items))
    ORDER BY p.occurrence_id, p.user_id
""")


def read_incumbents(connection: Connection, spec: RunSpec, capacities: Capacities, now: datetime) -> Incumbents:
    """Planned pushes of earlier runs that use up what is scarce for this one, and may be displaced at `now`."""
    rows = connection.execute(
        _INCUMBENTS,
        {
            "run": spec.run_id,
            "frozen": now + FROZEN,
            "campaigns": sorted({occasion.campaign_id for occasion in spec.occasions}),
            "gateways": sorted({occasion.definition.gateway for occasion in spec.occasions}),
            "items": capacities.stock_items[capacities.stock <= 0].tolist(),
        },
    ).all()
    return incumbents_of(
        spec.occasions,
        capacities,
        Pushes(
            *(
                np.array([getattr(row, name) for row in rows], kind)
                for name, kind in zip(Pushes._fields, _KINDS, strict=True)
            )
        ),
    )


_KINDS = (np.int64, np.int64, np.int64, object, np.int64, np.float64, np.float64)


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
