"""The latest backtests of the shop's own log, kept in the store, where every host's console finds them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

KEPT = 5


@dataclass(frozen=True)
class Kept:
    """A backtest that was kept. created_at: machine time · as_of: it saw events before this business time · report:
    what `horae backtest --json` prints."""

    id: int
    created_at: datetime
    as_of: datetime
    goal: str
    report: dict[str, Any]

    @property
    def staleness(self) -> list[tuple[int, dict[str, float]]]:
        """Measures of the model by the age in days of what it was fed, the freshest first."""
        told = self.report.get("staleness") or {}
        return sorted((int(age), measures) for age, measures in told.items())


def keep(connection: Connection, as_of: datetime, report: dict[str, Any], page: str) -> int:
    """Keep a backtest's report and its page (HTML), and forget all but the latest KEPT; its id."""
    given = {"as_of": as_of, "goal": report["goal"], "report": json.dumps(report, allow_nan=False), "page": page}
    kept = connection.execute(
        text(
            "INSERT INTO backtests (as_of, goal, report, page) VALUES (:as_of, :goal, CAST(:report AS jsonb), :page)"
            " RETURNING id"
        ),
        given,
    ).scalar_one()
    connection.execute(
        text("DELETE FROM backtests WHERE id NOT IN (SELECT id FROM backtests ORDER BY id DESC LIMIT :kept)"),
        {"kept": KEPT},
    )
    return int(kept)


def latest(connection: Connection) -> Kept | None:
    """The latest backtest; None where none was made."""
    query = text("SELECT id, created_at, as_of, goal, report FROM backtests ORDER BY id DESC LIMIT 1")
    row = connection.execute(query).one_or_none()
    return None if row is None else Kept(**row._mapping)


def page_of(connection: Connection, kept: int) -> str | None:
    """The page of a backtest that was kept, HTML; None where it is gone."""
    found = connection.execute(text("SELECT page FROM backtests WHERE id = :id"), {"id": kept}).scalar_one_or_none()
    return None if found is None else str(found)
