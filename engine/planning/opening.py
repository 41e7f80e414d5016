"""The scene that a run is planned in: everybody's rules, weights, model and items, on one snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from sqlalchemy import Connection

from engine import __version__, clock
from engine.campaigns.policy_store import policy_version
from engine.errors import ModelRefused
from engine.features.logged import REGIMES
from engine.learning.scoring import Baseline, Scorer, load_scorer
from engine.planning.decide import Terms
from engine.planning.occasions import run_rules
from engine.planning.prices import Prices, free
from engine.planning.runspec import RunSpec, secret_of
from engine.planning.scarcity import read_capacities
from engine.planning.scene import Scene, read_allowed
from engine.planning.worth import Weights
from engine.store.database import Snapshot

_MAJOR, _MINOR, _PATCH = (int(part) for part in __version__.split(".")[:3])
LIBRARY = (_MAJOR, _MINOR, _PATCH)
"""The version of this code, for receipts."""


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
