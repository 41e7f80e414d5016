"""Promotions into the store: every announcement that says something new is kept.

Announcing again what was last announced changes nothing, so that running a file twice is running it once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sqlalchemy import Connection, text

from engine.ingest.promotion_rows import PromotionRows
from engine.store.bulk import stage_rows


@dataclass(frozen=True)
class Stored:
    """What became of some promotions; `unknown` are positions in their block of rows about no known item."""

    created: int
    updated: int
    unknown: tuple[int, ...] = ()


_DEFINITION = (
    "position integer, external_id text, kind text, starts_at timestamptz, ends_at timestamptz, weight float8,"
    " announced_at timestamptz"
)

_UNKNOWN = """
DELETE FROM staged_promotions AS given
WHERE NOT EXISTS (SELECT FROM items WHERE items.external_id = given.external_id) RETURNING position
"""

# Of rows of one announcement the last wins. What was in force at its announcement, by an earlier row or the store:
# the newest announcement up to then.
_ANNOUNCE = """
WITH given AS (
    SELECT DISTINCT ON (i.id, g.kind, g.starts_at, g.announced_at)
           i.id AS item_id, g.kind, g.starts_at, g.ends_at, g.weight, g.announced_at
    FROM staged_promotions g JOIN items i USING (external_id)
    ORDER BY i.id, g.kind, g.starts_at, g.announced_at, g.position DESC
), known AS (
    SELECT p.item_id, p.kind, p.starts_at, p.ends_at, p.weight, p.announced_at
    FROM promotions p WHERE (p.item_id, p.kind, p.starts_at) IN (SELECT item_id, kind, starts_at FROM given)
      AND (p.item_id, p.kind, p.starts_at, p.announced_at) NOT IN
          (SELECT item_id, kind, starts_at, announced_at FROM given)
), told AS (
    SELECT *, lag(ends_at) OVER line AS ends_before, lag(weight) OVER line AS weight_before FROM (
        SELECT *, true AS fresh FROM given UNION ALL SELECT *, false FROM known
    ) AS every
    WINDOW line AS (PARTITION BY item_id, kind, starts_at ORDER BY announced_at)
), saved AS (
    INSERT INTO promotions (item_id, kind, starts_at, ends_at, weight, announced_at)
    SELECT item_id, kind, starts_at, ends_at, weight, announced_at FROM told
    WHERE fresh AND (ends_at, weight) IS DISTINCT FROM (ends_before, weight_before)
    ON CONFLICT (item_id, kind, starts_at, announced_at)
    DO UPDATE SET ends_at = excluded.ends_at, weight = excluded.weight
    WHERE (promotions.ends_at, promotions.weight) <> (excluded.ends_at, excluded.weight)
    RETURNING item_id, kind, starts_at, announced_at
)
SELECT count(*) FILTER (WHERE ends_before IS NULL) AS created, count(ends_before) AS updated
FROM told JOIN saved USING (item_id, kind, starts_at, announced_at)
"""


def store_promotions(connection: Connection, rows: PromotionRows) -> Stored:
    """Keep these announcements."""
    stage_rows(
        connection,
        "staged_promotions",
        _DEFINITION,
        {
            "position": np.arange(len(rows), dtype=np.int32),
            "external_id": rows.item,
            "kind": rows.kind,
            "starts_at": rows.starts_at,
            "ends_at": rows.ends_at,
            "weight": rows.weight,
            "announced_at": rows.announced_at,
        },
    )
    unknown = connection.execute(text(_UNKNOWN)).scalars().all()
    told = connection.execute(text(_ANNOUNCE)).one()
    return Stored(told.created, told.updated, tuple(sorted(rows.origin[list(unknown)].tolist())))
