"""How runs stand: for people, from the tables."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from engine.errors import UnknownName
from engine.store.tables import ARMS, DECISION_REASONS, OUTCOMES, PUSH_STATES


@dataclass(frozen=True)
class RunState:
    """A run. as_of is business time, created_at and published_at machine time; rate: users per second while planned."""

    id: int
    state: str
    as_of: datetime
    campaigns: tuple[str, ...]
    shards_done: int
    shards_total: int
    users_done: int
    users_total: int
    rate: float | None
    model_version: int | None
    policy_version: int
    seed: int
    created_at: datetime
    published_at: datetime | None
    error: str | None

    @property
    def seconds_left(self) -> float | None:
        """How long planning the rest will take at this rate; None while that is unknown, or nothing is left."""
        left = self.users_total - self.users_done
        return left / self.rate if self.state == "planning" and self.rate and left > 0 else None


@dataclass(frozen=True)
class Counts:
    """What a run decided, by each decision's latest revision: users per reason and per arm, and pushes by state; and
    how many of its users have no zone of their own."""

    reasons: dict[str, int]
    arms: dict[str, int]
    revised: int
    pushes: dict[str, int] = field(default_factory=dict)
    without_zone: int = 0


_RUNS = """
    SELECT r.*, array(SELECT DISTINCT c.name FROM occurrences o JOIN campaigns c ON c.id = o.campaign_id
                      WHERE o.run_id = r.id ORDER BY 1) AS campaigns,
           (SELECT extract(epoch FROM max(s.done_at) - r.created_at)::float8 FROM shards s WHERE s.run_id = r.id) took
    FROM runs r
"""


_MINE = "WITH mine AS (SELECT id, date, campaign_id FROM occurrences WHERE run_id = :run)"

_FIRST = text(f"""
    {_MINE}
    SELECT d.reason, d.arm, count(*) AS n
    FROM decisions d JOIN mine o ON o.id = d.occurrence_id AND o.date = d.date WHERE d.revision = 0 GROUP BY 1, 2
""")

# Only decisions that planned a push are revised, one revision after the other; one that plans none is the last.
_LATER = text(f"""
    {_MINE}
    SELECT d.reason, d.arm, count(*) AS n, count(*) FILTER (WHERE d.revision = 1) AS revised
    FROM decisions d JOIN mine o ON o.id = d.occurrence_id AND o.date = d.date WHERE d.revision > 0 GROUP BY 1, 2
""")

# What a shard decided was counted by whoever planned it, while the decisions are kept.
_COUNTED = text(f"""
    {_MINE}
    SELECT counts FROM shards WHERE run_id = :run AND state = 'done' AND EXISTS (
        SELECT FROM mine o CROSS JOIN LATERAL (
            SELECT FROM decisions d WHERE d.date = o.date AND d.occurrence_id = o.id LIMIT 1) kept)
""")

_PUSHES = text(f"""
    {_MINE}
    SELECT p.state, count(*) AS n FROM pushes p JOIN mine o ON o.id = p.occurrence_id GROUP BY 1
    UNION ALL
    SELECT x.state, count(*) FROM deliveries x JOIN mine o ON o.id = x.occurrence_id
    WHERE NOT x.test AND x.day >= (SELECT min(date) - 1 FROM mine) GROUP BY 1
""")

_WITHOUT_ZONE = text("""
    SELECT count(*) FROM users u WHERE u.timezone IS NULL AND EXISTS (
        SELECT 1 FROM decisions d JOIN occurrences o ON o.id = d.occurrence_id AND o.date = d.date
        WHERE d.user_id = u.id AND o.run_id = :run)
""")


def list_runs(connection: Connection, most: int = 20, before: int | None = None) -> list[RunState]:
    """The latest runs, newest first; of those before run `before` where given."""
    asked = f"{_RUNS} WHERE CAST(:before AS bigint) IS NULL OR r.id < :before ORDER BY r.id DESC LIMIT :most"
    return [_run(row) for row in connection.execute(text(asked), {"most": most, "before": before})]


def runs_of(connection: Connection, campaign: str, most: int = 5) -> list[RunState]:
    """The latest runs over occurrences of a campaign, newest first."""
    only = (
        "WHERE r.id IN (SELECT o.run_id FROM occurrences o JOIN campaigns c ON c.id = o.campaign_id"
        " WHERE c.name = :campaign AND o.run_id IS NOT NULL)"
    )
    query = text(f"{_RUNS} {only} ORDER BY r.id DESC LIMIT :most")
    return [_run(row) for row in connection.execute(query, {"campaign": campaign, "most": most})]


def get_run(connection: Connection, run_id: int) -> RunState:
    """A run. Raises UnknownName."""
    row = connection.execute(text(f"{_RUNS} WHERE r.id = :run"), {"run": run_id}).one_or_none()
    if row is None:
        raise UnknownName(f"there is no run {run_id}", hint="see: horae runs list")
    return _run(row)


def count_run(connection: Connection, run_id: int) -> Counts:
    """What a run decided and where its pushes are, with all that takes as long as there are decisions."""
    return replace(
        count_decisions(connection, run_id),
        pushes=count_pushes(connection, run_id),
        without_zone=int(connection.execute(_WITHOUT_ZONE, {"run": run_id}).scalar_one()),
    )


def count_pushes(connection: Connection, run_id: int) -> dict[str, int]:
    """The pushes of a run by state; every push of its days is read."""
    pushes = dict.fromkeys((*PUSH_STATES, *OUTCOMES), 0)
    for row in connection.execute(_PUSHES, {"run": run_id}):
        pushes[row.state] += row.n
    return {name: count for name, count in pushes.items() if count}


def count_decisions(connection: Connection, run_id: int) -> Counts:
    """What a run decided, from what its shards counted and what was revised since; without its pushes.

    Of a user who was erased since, the count is by what was decided first.
    """
    reasons, arms = dict.fromkeys(DECISION_REASONS, 0), dict.fromkeys(ARMS, 0)
    decided, revised = _decided(connection, run_id)
    for (reason, arm), n in decided.items():
        reasons[reason] += n
        arms[arm] += n
    return Counts(
        reasons={name: count for name, count in reasons.items() if count},
        arms={name: count for name, count in arms.items() if count},
        revised=revised,
    )


def _decided(connection: Connection, run_id: int) -> tuple[Counter[tuple[str, str]], int]:
    """How many decisions hold, by reason and arm; and how many of them are not the first of their user."""
    given = {"run": run_id}
    stored = connection.execute(_COUNTED, given).scalars().all()
    found = Counter[tuple[str, str]]()
    if stored and all(counts is not None for counts in stored):
        for counts in stored:
            for reason, arm, n in counts:
                found[reason, arm] += n
    else:
        for row in connection.execute(_FIRST, given):
            found[DECISION_REASONS[row.reason], ARMS[row.arm]] += row.n
    revised = 0
    for row in connection.execute(_LATER, given):
        reason, arm = DECISION_REASONS[row.reason], ARMS[row.arm]
        revised += row.revised
        if reason != "planned":
            found[reason, arm] += row.n
            found["planned", arm] -= row.n
    return found, revised


def _run(row: Any) -> RunState:
    return RunState(
        id=row.id,
        state=row.state,
        as_of=row.as_of,
        campaigns=tuple(row.campaigns),
        shards_done=row.shards_done,
        shards_total=row.shards_total,
        users_done=row.users_done,
        users_total=row.users_total,
        rate=row.users_done / row.took if row.took else None,
        model_version=row.model_version,
        policy_version=row.policy_version,
        seed=row.seed,
        created_at=row.created_at,
        published_at=row.published_at,
        error=row.error,
    )
