"""What a run fixes when it is opened, and the scene that it is planned in.

A run fixes its occurrences with the versions of their campaigns, one seed, one model version and one policy version. A
preview is the same without rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import Connection, bindparam, text

from engine import __version__, clock
from engine.campaigns import store
from engine.campaigns.policy_store import policy_version
from engine.features.logged import REGIMES
from engine.learning.scoring import load_scorer
from engine.planning import chance
from engine.planning.decide import Terms
from engine.planning.occasions import Occasion, run_rules
from engine.planning.prices import QUARTER, UNLIMITED, Capacities, Prices, free
from engine.planning.scene import Scene, read_allowed
from engine.store.database import Snapshot

_MAJOR, _MINOR, _PATCH = (int(part) for part in __version__.split(".")[:3])
LIBRARY = (_MAJOR, _MINOR, _PATCH)
"""The version of this code, for receipts."""

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


def set_scene(snapshot: Snapshot, gateways: Mapping[str, Any], spec: RunSpec) -> Scene:
    """The scene of a run on `snapshot`, at prices of zero. `gateways`: those configured, by name."""
    connection = snapshot.connection
    as_of = max(spec.as_of, clock.business_now(connection))
    policy = policy_version(connection, spec.policy_version)
    scorer = load_scorer(connection, spec.model_version)
    catalogue = scorer.catalogue(snapshot, as_of)
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
    )


def at_prices(scene: Scene, prices: Prices) -> Scene:
    """The same scene at `prices`."""
    return replace(scene, terms=replace(scene.terms, prices=prices))


_TAKEN = text("""
    SELECT campaign_id, floor(extract(epoch FROM at) / 900)::bigint AS quarter, count(*) AS taken FROM (
        SELECT campaign_id, send_at AS at FROM pushes
        WHERE campaign_id IN :campaigns AND run_id <> :run AND state <> 'proposed'
        UNION ALL
        SELECT campaign_id, at FROM deliveries
        WHERE campaign_id IN :campaigns AND day >= CAST(:since AS date) - 1 AND at >= :since
          AND NOT test AND state IN ('accepted', 'unknown')
    ) used GROUP BY 1, 2
""").bindparams(bindparam("campaigns", expanding=True))


def read_capacities(connection: Connection, spec: RunSpec, as_of: datetime) -> Capacities:
    """What the run's campaigns may still send in each UTC quarter-hour, less what is planned or was sent in it."""
    bounded = {
        occasion.campaign_id: occasion.definition.capacity_per_quarter
        for occasion in spec.occasions
        if occasion.definition.capacity_per_quarter is not None
    }
    row = {campaign: number for number, campaign in enumerate(sorted(bounded))}
    of = np.array([row.get(occasion.campaign_id, UNLIMITED) for occasion in spec.occasions], np.int32)
    first = int(as_of.timestamp() // QUARTER)
    last = max((int(occasion.ends_at.timestamp() // QUARTER) for occasion in spec.occasions), default=first)
    left = np.zeros((len(row), max(last - first + 1, 1)), np.int64)
    for campaign, number in row.items():
        left[number] = bounded[campaign]
    if row:
        since = datetime.fromtimestamp(first * QUARTER, as_of.tzinfo)
        used = connection.execute(_TAKEN, {"campaigns": list(row), "run": spec.run_id, "since": since})
        for campaign, quarter, taken in used:
            if 0 <= quarter - first < left.shape[1]:
                left[row[campaign], quarter - first] -= taken
    return Capacities(first, np.maximum(left, 0), of)
