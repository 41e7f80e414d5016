"""The model registry: artifacts and metrics in the table `models`, at most one of them champion.

Whoever decides asks for the champion's version; a run keeps the version it was opened with. So a promotion swaps models
in running workers without a restart: the next run has the new one, what is under way ends with its own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from engine import audit
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
    promoted_at: datetime | None
    sha256: str
    size: int
    metrics: dict[str, Any]
    libraries: dict[str, str]

    @property
    def portrait(self) -> dict[str, Any]:
        """learning.portrait of what its regime predicts; empty for a model that was made before there was one."""
        of_clicks = (self.metrics.get("clicks") or {}).get("portrait")
        return of_clicks or self.metrics.get("portrait") or {}

    @property
    def measures(self) -> dict[str, Any]:
        """Its measures on what it was tested on (learning.evaluation); empty where it was not."""
        return self.metrics.get("model") or self.metrics.get("after") or {}


_COLUMNS = "version, state, regime, as_of, created_at, promoted_at, sha256, metrics, libraries"
_ENTRY = f"SELECT {_COLUMNS}, length(artifact) AS size FROM models"


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


def promote(connection: Connection, version: int, author: str | None = None) -> None:
    """Make `version` the champion and retire the one before, in this transaction; the artifact is checked first.

    author: who asked for it, for the audit log; training itself asks without.

    Raises UnknownName for no such version, ModelRefused where its artifact fails its checks.
    """
    load(connection, version)
    _lock(connection)
    before = champion(connection)
    _crown(connection, version, "promoted_at = clock_timestamp()")
    _note(connection, author, "model.promote", (before, version))


def rollback(connection: Connection, author: str | None = None) -> int:
    """Make the champion before the present one champion again; its version. Doing so twice goes back two.

    The one that is left is forgotten as a champion: only promoting it again brings it back. Raises UnknownName where
    there was none before, ModelRefused where the earlier one's artifact fails its checks.
    """
    _lock(connection)
    version = earlier_champion(connection)
    if version is None:
        raise UnknownName("there is no earlier champion to go back to", hint="horae models list shows what there is")
    load(connection, version)
    before = champion(connection)
    connection.execute(text("UPDATE models SET promoted_at = NULL WHERE state = 'champion'"))
    _crown(connection, version, "promoted_at = promoted_at")
    _note(connection, author, "model.rollback", (before, version))
    return version


def earlier_champion(connection: Connection) -> int | None:
    """The version that `rollback` would go back to, None where there is none."""
    found: int | None = connection.execute(
        text(
            "SELECT version FROM models WHERE state = 'retired' AND promoted_at IS NOT NULL"
            " ORDER BY promoted_at DESC, version DESC LIMIT 1"
        )
    ).scalar()
    return found


def _note(connection: Connection, author: str | None, action: str, champions: tuple[int | None, int]) -> None:
    before, after = champions
    if before != after:
        was = None if before is None else {"champion": before}
        audit.record(connection, author, action, f"model:{after}", was, {"champion": after})


def _lock(connection: Connection) -> None:
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('horae.models'))"))


def _crown(connection: Connection, version: int, when: str) -> None:
    connection.execute(
        text("UPDATE models SET state = 'retired' WHERE state = 'champion' AND version <> :version"),
        {"version": version},
    )
    query = text(f"UPDATE models SET state = 'champion', {when} WHERE version = :version")
    connection.execute(query, {"version": version})


KEPT = 20
"""Models that are kept besides those that runs were planned with: six warm updates a day would fill a disk."""


def prune(connection: Connection) -> int:
    """Delete models older than the newest KEPT that never decided, or whose runs are forgotten; how many.

    The champion, the one before it, and every model that a run refers to stay.
    """
    return connection.execute(
        text(
            "DELETE FROM models m WHERE m.state <> 'champion'"
            " AND m.version NOT IN (SELECT version FROM models ORDER BY version DESC LIMIT :kept)"
            " AND m.version NOT IN (SELECT version FROM models WHERE state = 'retired' AND promoted_at IS NOT NULL"
            " ORDER BY promoted_at DESC LIMIT 2)"
            " AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.model_version = m.version)"
        ),
        {"kept": KEPT},
    ).rowcount


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
