"""What late binding changed of a run's pushes: how many, how, and some of them before and after."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from engine.campaigns.policy import Policy
from engine.campaigns.policy_store import current_policy
from engine.localtime import wall_clock, zone
from engine.planning.rewriting import REFRESHED
from engine.store.tables import DECISION_REASONS

PLANNED = DECISION_REASONS.index("planned")

MOST = 20
"""Examples, the latest first."""


@dataclass(frozen=True)
class Side:
    """What a revision said. item: the shop's id, title: the item's; local: the user's clock when it was to leave; all
    None where nothing was to be sent."""

    reason: str
    item: str | None
    title: str | None
    local: datetime | None
    value: float | None


@dataclass(frozen=True)
class Changed:
    """One change. user: the shop's id, None of one who was erased; at: machine time."""

    user: str | None
    campaign: str
    at: datetime
    before: Side
    after: Side


@dataclass(frozen=True)
class Rebound:
    """Changes of a run's pushes after it was published. item: to another item, time: only to another instant, worth:
    only in value, which before was reckoned on what was known then; ended: pushes that ended, by reason."""

    item: int
    time: int
    worth: int
    ended: dict[str, int]
    examples: tuple[Changed, ...]

    @property
    def total(self) -> int:
        """How many changes there were."""
        return self.item + self.time + self.worth + sum(self.ended.values())


_BEFORE = """
    CROSS JOIN LATERAL (
        SELECT reason, item_id, send_at, value FROM decisions
        WHERE date = d.date AND occurrence_id = d.occurrence_id AND user_id = d.user_id AND revision < d.revision
        ORDER BY revision DESC LIMIT 1
    ) b
"""

_PAIRS = f"""
    FROM occurrences o JOIN decisions d ON d.date = o.date AND d.occurrence_id = o.id AND d.revision > 0
    {_BEFORE} WHERE o.run_id = :run AND d.shard = :refreshed
"""

_COUNTS = text(f"""
    SELECT d.reason, d.item_id IS DISTINCT FROM b.item_id AS item, d.send_at IS DISTINCT FROM b.send_at AS moved,
           count(*) AS n
    {_PAIRS} GROUP BY 1, 2, 3
""")

_EXAMPLES = text(f"""
    SELECT e.*, u.external_id AS "user", u.timezone, c.name AS campaign, i.external_id AS item, i.title,
           was.external_id AS item_before, was.title AS title_before
    FROM (
        SELECT o.campaign_id, d.user_id, d.created_at, d.reason, d.item_id, d.send_at, d.value,
               b.reason AS reason_before, b.item_id AS item_id_before, b.send_at AS send_at_before,
               b.value AS value_before
        FROM (
            SELECT d.* FROM occurrences o JOIN decisions d ON d.date = o.date AND d.occurrence_id = o.id
            WHERE o.run_id = :run AND d.revision > 0 AND d.shard = :refreshed ORDER BY d.created_at DESC LIMIT :most
        ) d JOIN occurrences o ON o.id = d.occurrence_id {_BEFORE}
    ) e JOIN campaigns c ON c.id = e.campaign_id LEFT JOIN users u ON u.id = e.user_id
    LEFT JOIN items i ON i.id = e.item_id LEFT JOIN items was ON was.id = e.item_id_before
    ORDER BY e.created_at DESC, e.user_id
""")


def rebound(connection: Connection, run_id: int) -> Rebound:
    """What late binding changed of run `run_id`."""
    given = {"run": run_id, "refreshed": REFRESHED}
    item = time = worth = 0
    ended: dict[str, int] = {}
    for row in connection.execute(_COUNTS, given):
        if row.reason != PLANNED:
            name = DECISION_REASONS[row.reason]
            ended[name] = ended.get(name, 0) + row.n
            continue
        item, time = item + row.n * row.item, time + row.n * (row.moved and not row.item)
        worth += row.n * (not row.item and not row.moved)
    _, policy = current_policy(connection)
    rows = connection.execute(_EXAMPLES, given | {"most": MOST})
    return Rebound(item, time, worth, dict(sorted(ended.items())), tuple(_changed(row, policy) for row in rows))


def _changed(row: Any, policy: Policy) -> Changed:
    tz = zone(row.timezone or policy.default_timezone)

    def side(reason: int, item: str | None, title: str | None, send_at: datetime | None, value: float | None) -> Side:
        return Side(DECISION_REASONS[reason], item, title, None if send_at is None else wall_clock(tz, send_at), value)

    before = side(row.reason_before, row.item_before, row.title_before, row.send_at_before, row.value_before)
    after = side(row.reason, row.item, row.title, row.send_at, row.value)
    return Changed(row.user, row.campaign, row.created_at, before, after)
