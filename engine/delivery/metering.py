"""Outcomes and lateness as totals that only grow, without ever counting the ledger anew.

Upkeep adds what was recorded since the last time to the store's counters and moves a mark; whoever asks adds the few
minutes since the mark, which the index on `recorded_at` finds. The mark stays LAG behind the clock: a delivery bears
the time at which its transaction began, and transactions of dispatch end long before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

from engine.store import counters
from engine.store.database import Transactions

LAG = timedelta(minutes=2)

LATENESS = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)
"""Upper bounds (seconds) of the histogram of how late accepted pushes left; above the last: another."""

# The database's clock, as it is the one that stamps `recorded_at`.
_MARK = text("SELECT metered_until, business_now IS NOT NULL, clock_timestamp() FROM workspace")
_MOVE = text("UPDATE workspace SET metered_until = :until")

# Machine and business time are one unless the clock is virtual: then a record's day says nothing of when it was made.
_COUNT = """
    SELECT gateway, state, coalesce(reason, '') AS reason,
           CASE WHEN state = 'accepted' THEN width_bucket(
               greatest(extract(epoch FROM at - send_at), 0)::float8, CAST(:bounds AS float8[])) END AS late,
           count(*) AS n,
           sum(greatest(extract(epoch FROM at - send_at), 0)) FILTER (WHERE state = 'accepted') AS seconds
    FROM deliveries
    WHERE recorded_at > :since AND recorded_at <= :until AND NOT test {days} GROUP BY 1, 2, 3, 4
"""
_COUNTED = {
    False: text(_COUNT.format(days="AND day BETWEEN CAST(:first AS date) AND CAST(:last AS date)")),
    True: text(_COUNT.format(days="")),
}


@dataclass(frozen=True)
class Lateness:
    """Accepted pushes of a gateway by how late they left: `buckets` pushes up to each bound of LATENESS and above the
    last, not added up; their seconds together."""

    buckets: tuple[int, ...] = (0,) * (len(LATENESS) + 1)
    seconds: float = 0.0


@dataclass(frozen=True)
class Totals:
    """Pushes that ended, by (gateway, state, reason or ""); lateness by gateway."""

    outcomes: Mapping[tuple[str, str, str], int] = field(default_factory=dict)
    lateness: Mapping[str, Lateness] = field(default_factory=dict)


def meter(database: Transactions) -> int:
    """Add what was recorded since the mark to the counters, and move it; how many deliveries. Safe to repeat."""
    with database.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('horae.metering'))"))
        since, virtual, clock = connection.execute(_MARK).one()
        until = clock - LAG
        if until <= since:
            return 0
        outcomes, late, seconds = _counted(connection, since, until, virtual)
        connection.execute(_MOVE, {"until": until})
        counters.add(connection, "lateness", late)
        counters.add(connection, "lateness_ms", seconds)
        counters.add(connection, "outcomes", outcomes)
    return sum(outcomes.values())


def totals(connection: Connection, stored: Mapping[str, Mapping[str, int]]) -> Totals:
    """The totals now; `stored`: the counters, as store.counters.read gives them."""
    since, virtual, clock = connection.execute(_MARK).one()
    fresh = _counted(connection, since, clock, virtual)
    outcomes, late, seconds = (
        _sum(stored.get(name, {}), new)
        for name, new in zip(("outcomes", "lateness", "lateness_ms"), fresh, strict=True)
    )
    by_gateway: dict[str, list[int]] = {}
    for label, number in late.items():
        gateway, _, bucket = label.partition("|")
        by_gateway.setdefault(gateway, [0] * (len(LATENESS) + 1))[int(bucket)] += number
    return Totals(
        {_three(label): number for label, number in sorted(outcomes.items())},
        {name: Lateness(tuple(found), seconds.get(name, 0) / 1000) for name, found in sorted(by_gateway.items())},
    )


def _counted(
    connection: Connection, since: datetime, until: datetime, virtual: bool
) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """Of deliveries recorded in (since, until]: pushes by "gateway|state|reason" and by "gateway|bucket of LATENESS",
    milliseconds late by gateway."""
    outcomes, late, seconds = dict[str, int](), dict[str, int](), dict[str, int]()
    given = {"since": since, "until": until, "bounds": list(LATENESS)}
    if not virtual:
        day = timedelta(days=1)
        given |= {"first": (since - day).date(), "last": (until + day).date()}
    for row in connection.execute(_COUNTED[virtual], given):
        label = f"{row.gateway}|{row.state}|{row.reason}"
        outcomes[label] = outcomes.get(label, 0) + row.n
        if row.late is not None:
            late[f"{row.gateway}|{row.late}"] = row.n
            seconds[row.gateway] = seconds.get(row.gateway, 0) + round(1000 * float(row.seconds))
    return outcomes, late, seconds


def _sum(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {label: one.get(label, 0) + other.get(label, 0) for label in {**one, **other}}


def _three(label: str) -> tuple[str, str, str]:
    gateway, state, reason = label.split("|")
    return gateway, state, reason
