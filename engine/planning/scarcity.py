"""What is scarce for a run: rates of campaigns and gateways, budgets, stock, and who uses them up already."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
from sqlalchemy import Connection, text

from engine.campaigns.policy_store import policy_version
from engine.planning.allotment import Incumbents
from engine.planning.prices import QUARTER, Capacities
from engine.planning.roster import FROZEN
from engine.planning.runspec import RunSpec
from engine.planning.usage import NOTHING_SHORT, Pushes, Stock, Taken, about_items, capacities_of, incumbents_of

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


def read_capacities(connection: Connection, spec: RunSpec, as_of: datetime) -> Capacities:
    """What may still be sent at business time `as_of`, less what is planned or was sent: by the run's campaigns and
    gateways in each UTC quarter-hour, by campaigns in all, and about each item that is short.

    An item with more in stock than there are users is no constraint and is left out.
    """
    policy = policy_version(connection, spec.policy_version)
    campaigns = [o.campaign_id for o in spec.occasions if o.definition.per_quarter is not None]
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


_KINDS = (np.int64, np.int64, np.int64, object, np.int64, np.float64, np.float64)
"""Types of the columns of Pushes."""


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
