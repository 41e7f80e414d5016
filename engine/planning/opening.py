"""What a run fixes when it is opened, and the scene that it is planned in.

A run fixes its occurrences with the versions of their campaigns, one seed, one model version and one policy version. A
preview is the same without rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from sqlalchemy import Connection, text

from engine import __version__, clock
from engine.campaigns import store
from engine.campaigns.policy_store import policy_version
from engine.errors import ModelRefused
from engine.features.logged import REGIMES
from engine.learning.scoring import Baseline, Scorer, load_scorer
from engine.planning import chance
from engine.planning.allotment import Incumbents
from engine.planning.decide import Terms
from engine.planning.occasions import Occasion, run_rules
from engine.planning.prices import QUARTER, UNLIMITED, Capacities, Prices, free, quarter_of
from engine.planning.roster import FROZEN
from engine.planning.scene import Scene, read_allowed
from engine.planning.worth import Weights
from engine.store.database import Snapshot

_MAJOR, _MINOR, _PATCH = (int(part) for part in __version__.split(".")[:3])
LIBRARY = (_MAJOR, _MINOR, _PATCH)
"""The version of this code, for receipts."""

_STOCK_DAY = timedelta(days=1)
"""Pushes of so long ago may still be followed by a purchase that the stock does not show yet."""

TRIGGER = "trigger:"
"""Labels of triggered occurrences begin so."""


@dataclass(frozen=True)
class RunSpec:
    """What a run fixed; run_id is 0 in a preview. model_version None: the baseline."""

    run_id: int
    as_of: datetime
    seed: int
    model_version: int | None
    policy_version: int
    occasions: tuple[Occasion, ...]


def secret_of(connection: Connection) -> bytes:
    """The workspace's key of all draws."""
    return bytes(connection.execute(text("SELECT hash_key FROM workspace")).scalar_one())


def seed_of(secret: bytes, as_of: datetime, occasions: Sequence[Occasion]) -> int:
    """The seed of a run over `occasions` opened at `as_of`: the same for the plan and its preview. 63 bits."""
    named = sorted((o.campaign_id, TRIGGER if o.label.startswith(TRIGGER) else o.label) for o in occasions)
    return chance.key_of(secret, f"run {as_of.isoformat()} {named}") >> 1


def read_run(connection: Connection, run_id: int) -> RunSpec:
    """What run `run_id` fixed. Raises NoResultFound where it does not exist."""
    row = connection.execute(text("SELECT * FROM runs WHERE id = :run"), {"run": run_id}).one()
    found = connection.execute(
        text("SELECT * FROM occurrences WHERE run_id = :run ORDER BY starts_at, id"), {"run": run_id}
    ).all()
    occasions = tuple(
        Occasion(
            o.id, o.campaign_id, o.version, o.label, o.starts_at, o.ends_at,
            store.get_version(connection, o.campaign_id, o.version), o.at_once, o.listed,
        ) for o in found
    )  # fmt: skip
    return RunSpec(row.id, row.as_of, row.seed, row.model_version, row.policy_version, occasions)


def set_scene(snapshot: Snapshot, gateways: Mapping[str, Any], spec: RunSpec, known: Scene | None = None) -> Scene:
    """The scene of a run on `snapshot`, at prices of zero. `gateways`: those configured, by name; `known`: another
    scene of the same model, whose scorer and catalogue are taken over."""
    connection = snapshot.connection
    as_of = max(spec.as_of, clock.business_now(connection))
    policy = policy_version(connection, spec.policy_version)
    scorer, refused = (known.scorer, known.refused) if known is not None else _scorer(connection, spec.model_version)
    catalogue = scorer.catalogue(snapshot, as_of) if known is None else known.catalogue
    caps = run_rules(policy, spec.occasions, catalogue.items.categories)
    definitions = [occasion.definition for occasion in spec.occasions]
    terms = Terms(
        secret=secret_of(connection),
        seed=spec.seed,
        campaigns=np.array([occasion.campaign_id for occasion in spec.occasions], np.int64),
        versions=np.array([occasion.version for occasion in spec.occasions], np.int32),
        holdout=np.array([occasion.holdout for occasion in spec.occasions]),
        everywhere=policy.holdout,
        exploration=np.array([occasion.exploration for occasion in spec.occasions]),
        once=np.array([bool(definition.item_once_days) for definition in definitions]),
        displaces=np.array([occasion.displaces for occasion in spec.occasions], bool),
        weights=Weights(
            *(
                np.array([float(getattr(definition, name)) for definition in definitions])
                for name in ("value_click", "margin", "cost_disturb", "fatigue", "priority")
            )
        ),
        rules=caps.rules,
        prices=free(read_capacities(connection, spec, as_of)),
        model=spec.model_version or 0,
        regime=REGIMES.index(scorer.regime),
        policy=spec.policy_version,
        library=LIBRARY,
    )
    return Scene(
        snapshot=snapshot,
        as_of=as_of,
        terms=terms,
        policy=policy,
        caps=caps,
        occasions=spec.occasions,
        needs_device=tuple(getattr(gateways.get(d.gateway), "needs_device", False) for d in definitions),
        scorer=scorer,
        catalogue=catalogue,
        allowed=tuple(read_allowed(snapshot, spec.occasions, catalogue)),
        refused=refused,
    )


def _scorer(connection: Connection, version: int | None) -> tuple[Scorer, str | None]:
    """The scorer of a model, and why it cannot be used: then the baseline's reads the store, and nothing is scored."""
    try:
        return load_scorer(connection, version), None
    except ModelRefused as error:
        return Baseline(1), str(error)


def at_prices(scene: Scene, prices: Prices) -> Scene:
    """The same scene at `prices`."""
    return replace(scene, terms=replace(scene.terms, prices=prices))


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
    definitions = [occasion.definition for occasion in spec.occasions]
    of_campaign = {
        o.campaign_id: o.definition.per_quarter for o in spec.occasions if o.definition.per_quarter is not None
    }
    of_gateway = {d.gateway: limit for d in definitions if (limit := policy.per_quarter(d.gateway)) is not None}
    names: list[int | str] = [*sorted(of_campaign), *sorted(of_gateway)]
    rows = {name: row for row, name in enumerate(names)}
    first = int(as_of.timestamp() // QUARTER)
    last = max((int(occasion.ends_at.timestamp() // QUARTER) for occasion in spec.occasions), default=first)
    left = np.zeros((len(rows), max(last - first + 1, 1)), np.int64)
    for limits in (of_campaign, of_gateway):
        for name, limit in limits.items():
            left[rows[name]] = limit
    if rows:
        since = datetime.fromtimestamp(first * QUARTER, as_of.tzinfo)
        asked = {"campaigns": list(of_campaign), "gateways": list(of_gateway), "run": spec.run_id, "since": since}
        for campaign, gateway, quarter, taken in connection.execute(_TAKEN, asked):
            if 0 <= quarter - first < left.shape[1]:
                for row in (rows.get(campaign), rows.get(gateway)):
                    if row is not None:
                        left[row, quarter - first] -= taken
    of = [
        [rows.get(o.campaign_id, UNLIMITED) for o in spec.occasions],
        [rows.get(d.gateway, UNLIMITED) for d in definitions],
    ]
    budget, budget_of = _budgets(connection, spec)
    items, stock = _stock(connection, spec, policy.pushes_per_stock, as_of)
    return Capacities(
        first=first,
        left=np.maximum(left, 0),
        of=np.array(of, np.int32).reshape(2, len(spec.occasions)),
        budget=budget,
        budget_of=budget_of,
        stock=stock,
        stock_items=items,
    )


def _budgets(connection: Connection, spec: RunSpec) -> tuple[np.ndarray, np.ndarray]:
    """What is left of each campaign's budget, int64[B], and the budget of each occurrence, int32[O]."""
    limits = {o.campaign_id: o.definition.budget for o in spec.occasions if o.definition.budget is not None}
    row = {campaign: number for number, campaign in enumerate(sorted(limits))}
    left = np.array([limits[campaign] for campaign in row], np.int64)
    if row:
        for campaign, spent in connection.execute(_SPENT, {"campaigns": list(row), "run": spec.run_id}):
            left[row[campaign]] -= spent
    of = np.array([row.get(occasion.campaign_id, UNLIMITED) for occasion in spec.occasions], np.int32)
    return np.maximum(left, 0), of


def _stock(connection: Connection, spec: RunSpec, each: int | None, as_of: datetime) -> tuple[np.ndarray, np.ndarray]:
    """Items that are short (ids, sorted) and how many more pushes may be about each, int64."""
    none = np.zeros(0, np.int64)
    if each is None or all(occasion.definition.items.kind == "none" for occasion in spec.occasions):
        return none, none
    users = int(connection.execute(text("SELECT count(*) FROM users")).scalar_one())
    given = {"run": spec.run_id, "yesterday": as_of - _STOCK_DAY, "each": each, "enough": -(-users // each)}
    found = connection.execute(_STOCK, given).all()
    return np.array([row.id for row in found], np.int64), np.array([row.room for row in found], np.int64)


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
    of_campaign = {o.campaign_id: number for number, o in enumerate(spec.occasions)}
    of_gateway = {o.definition.gateway: number for number, o in enumerate(spec.occasions)}
    rows = connection.execute(
        _INCUMBENTS,
        {
            "run": spec.run_id,
            "frozen": now + FROZEN,
            "campaigns": list(of_campaign),
            "gateways": list(of_gateway),
            "items": capacities.stock_items[capacities.stock <= 0].tolist(),
        },
    ).all()
    at = np.array([row.send_at for row in rows], np.float64)
    item = np.array([row.item for row in rows], np.int64)
    ours = np.array([of_campaign.get(row.campaign_id, -1) for row in rows], np.int64)
    beside = np.array([of_gateway.get(row.gateway, -1) for row in rows], np.int64)
    resource = capacities.resources(np.where(ours >= 0, ours, np.maximum(beside, 0)), at, item)
    quarter = quarter_of(at) - capacities.first
    resource[(quarter < 0) | (quarter >= capacities.left.shape[1]), :2] = UNLIMITED
    resource[ours < 0, 0] = UNLIMITED  # another campaign's: of the gateway and the item alone
    resource[ours < 0, 2] = UNLIMITED
    resource[(ours < 0) & (beside < 0), 1] = UNLIMITED
    some = np.flatnonzero((resource >= 0).any(1))
    return Incumbents(
        np.array([row.occurrence_id for row in rows], np.int64)[some],
        np.array([row.user_id for row in rows], np.int64)[some],
        resource[some],
        np.array([row.value for row in rows], np.float64)[some],
    )
