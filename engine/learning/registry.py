"""The model registry: artifacts and metrics in the table `models`, at most one of them champion."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from engine.errors import UnknownName
from engine.features import schema
from engine.learning.model import Model, digest, libraries, pack, unpack


@dataclass(frozen=True)
class Entry:
    """A registered model, without its artifact. state: champion | challenger | retired."""

    version: int
    state: str
    regime: str
    as_of: datetime
    created_at: datetime
    sha256: str
    size: int
    metrics: dict[str, Any]
    libraries: dict[str, str]


_ENTRY = (
    "SELECT version, state, regime, as_of, created_at, sha256, length(artifact) AS size, metrics, libraries FROM models"
)


def register(connection: Connection, model: Model, metrics: dict[str, Any]) -> int:
    """Store `model` as a challenger; returns its version."""
    artifact = pack(model)
    return int(
        connection.execute(
            text(
                "INSERT INTO models (state, regime, artifact, sha256, feature_schema, metrics, libraries, as_of)"
                " VALUES ('challenger', :regime, :artifact, :sha256, CAST(:schema AS jsonb), CAST(:metrics AS jsonb),"
                " CAST(:libraries AS jsonb), :as_of) RETURNING version"
            ),
            {
                "regime": model.regime,
                "artifact": artifact,
                "sha256": digest(artifact),
                "schema": json.dumps(schema.definition()),
                "metrics": json.dumps(metrics, allow_nan=False),
                "libraries": json.dumps(libraries()),
                "as_of": model.as_of,
            },
        ).scalar_one()
    )


def promote(connection: Connection, version: int) -> None:
    """Make `version` the champion and retire the one before, in this transaction; the artifact is checked first.

    Raises UnknownName for no such version, ModelRefused where its artifact fails its checks.
    """
    load(connection, version)
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('horae.models'))"))
    connection.execute(
        text("UPDATE models SET state = 'retired' WHERE state = 'champion' AND version <> :version"),
        {"version": version},
    )
    connection.execute(text("UPDATE models SET state = 'champion' WHERE version = :version"), {"version": version})


def rollback(connection: Connection) -> int:
    """Promote the newest retired model that was champion before the present one; its version.

    Raises UnknownName where there is none, ModelRefused where its artifact fails its checks.
    """
    version = connection.execute(
        text(
            "SELECT version FROM models WHERE state = 'retired'"
            " AND version < coalesce((SELECT version FROM models WHERE state = 'champion'), 2147483647)"
            " ORDER BY version DESC LIMIT 1"
        )
    ).scalar()
    if version is None:
        raise UnknownName("there is no earlier champion to go back to", hint="horae models list shows what there is")
    promote(connection, int(version))
    return int(version)


def champion(connection: Connection) -> int | None:
    """The champion's version, None while there is none."""
    return connection.execute(text("SELECT version FROM models WHERE state = 'champion'")).scalar()


def load(connection: Connection, version: int) -> Model:
    """The model of `version`. Raises UnknownName, ModelRefused."""
    row = connection.execute(
        text("SELECT artifact, sha256 FROM models WHERE version = :version"), {"version": version}
    ).one_or_none()
    if row is None:
        raise _unknown(version)
    return unpack(bytes(row.artifact), row.sha256)


def entries(connection: Connection) -> list[Entry]:
    """Every registered model, newest first."""
    return [Entry(**row._mapping) for row in connection.execute(text(f"{_ENTRY} ORDER BY version DESC"))]


def entry(connection: Connection, version: int) -> Entry:
    """One registered model. Raises UnknownName."""
    row = connection.execute(text(f"{_ENTRY} WHERE version = :version"), {"version": version}).one_or_none()
    if row is None:
        raise _unknown(version)
    return Entry(**row._mapping)


def _unknown(version: int) -> UnknownName:
    return UnknownName(f"there is no model {version}", hint="horae models list shows what there is")
