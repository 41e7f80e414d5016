"""What a run fixes when it is opened: its occurrences with their campaigns' versions, seed, model and policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from engine.campaigns import audience_store, store
from engine.planning import chance
from engine.planning.occasions import Occasion

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
            audience_store.resolved(connection, store.get_version(connection, o.campaign_id, o.version), o.audiences),
            o.at_once, o.listed,
        ) for o in found
    )  # fmt: skip
    return RunSpec(row.id, row.as_of, row.seed, row.model_version, row.policy_version, occasions)
