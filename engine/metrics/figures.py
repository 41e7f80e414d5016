"""The numbers, read from the tables. None of them counts a table that grows with users, events or history:

due pushes            ix_pushes_due (send_at)                        as many rows as are due
under way, expired    ix_pushes_due (send_at)                        as many as are due or under way
outcomes, lateness    counters, ix_deliveries_recorded_at            what was recorded in the last minutes
unknown in a day      ix_deliveries_unknown (at, of unknown ones)    as many as are unknown
events that wait      unfolded_events, at most MOST of it
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, text

from engine.delivery import health, metering
from engine.delivery.health import GatewayHealth
from engine.delivery.metering import Totals
from engine.delivery.switches import HORAE, stopped
from engine.store import counters

MOST = 100_000
"""Rows of a queue counted: beyond, it is at least so long."""

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Model:
    """The champion. as_of: business time of its newest training row."""

    version: int
    regime: str
    as_of: datetime


@dataclass(frozen=True)
class Figures:
    """How the store stands at business time `now`. Ages are seconds, 0 where there is nothing.

    due: planned pushes whose instant has come, by gateway · under_way: by state (claimed, sending) · leases_expired: of
    those, whose worker is late or dead · totals: of pushes that ended, since the store exists · unknown_last_day ·
    events_unfolded: at most MOST; unfolded_age: of one of the oldest, machine time · changed_users: waiting for a
    refresh, at most MOST · runs: in progress, by state · stopped: switch to why ("" where no reason was given) ·
    stopped_by_horae: those of these that Horae itself turned off · campaigns: by state · providers: how
    each gateway's does, with its circuit breaker · ticks: seconds since each of beat's tasks last ended well, machine
    time · counters: see store.counters.
    """

    now: datetime
    virtual: bool
    due: Mapping[str, int]
    oldest_due_seconds: float
    under_way: Mapping[str, int]
    leases_expired: int
    totals: Totals
    unknown_last_day: int
    events_unfolded: int
    unfolded_age_seconds: float
    changed_users: int
    runs: Mapping[str, int]
    stopped: Mapping[str, str]
    stopped_by_horae: Mapping[str, str]
    campaigns: Mapping[str, int]
    providers: Sequence[GatewayHealth]
    ticks: Mapping[str, float]
    counters: Mapping[str, Mapping[str, int]]
    model: Model | None


_DUE = text("""
    SELECT gateway, count(*), extract(epoch FROM CAST(:now AS timestamptz) - min(send_at))::float8 FROM pushes
    WHERE state = 'planned' AND send_at <= :now GROUP BY 1 ORDER BY 1
""")
_UNDER_WAY = text("""
    SELECT state, count(*), count(*) FILTER (WHERE lease_until < clock_timestamp()) FROM pushes
    WHERE state IN ('claimed', 'sending') AND send_at <= :now GROUP BY 1 ORDER BY 1
""")
_UNKNOWN = text("""
    SELECT count(*) FROM deliveries WHERE state = 'unknown' AND NOT test AND day >= :day AND at > :since
""")
_UNFOLDED = text(f"""
    SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0)::float8
    FROM (SELECT created_at FROM unfolded_events LIMIT {MOST}) x
""")
_CHANGED = text(f"SELECT count(*) FROM (SELECT 1 FROM changed_users LIMIT {MOST}) x")
_RUNS = text("SELECT state, count(*) FROM runs WHERE state IN ('planning', 'settling') GROUP BY 1 ORDER BY 1")
_CAMPAIGNS = text("SELECT state, count(*) FROM campaigns GROUP BY 1 ORDER BY 1")
_TICKS = text("""
    SELECT task, extract(epoch FROM clock_timestamp() - done_at)::float8 FROM tick_marks ORDER BY task
""")
_MODEL = text("SELECT version, regime, as_of FROM models WHERE state = 'champion'")
_VIRTUAL = text("SELECT business_now IS NOT NULL FROM workspace")


def read_figures(connection: Connection, now: datetime) -> Figures:
    """The figures at business time `now`."""
    due = connection.execute(_DUE, {"now": now}).all()
    under_way = connection.execute(_UNDER_WAY, {"now": now}).all()
    unfolded, unfolded_age = connection.execute(_UNFOLDED).one()
    stored = counters.read(connection)
    off = stopped(connection)
    model = connection.execute(_MODEL).first()
    unknown = {"day": (now - DAY).date(), "since": now - DAY}
    return Figures(
        now=now,
        virtual=connection.execute(_VIRTUAL).scalar_one(),
        due={gateway: n for gateway, n, _ in due},
        oldest_due_seconds=max((late for _, _, late in due), default=0.0),
        under_way={state: n for state, n, _ in under_way},
        leases_expired=sum(n for _, _, n in under_way),
        totals=metering.totals(connection, stored),
        unknown_last_day=connection.execute(_UNKNOWN, unknown).scalar_one(),
        events_unfolded=unfolded,
        unfolded_age_seconds=unfolded_age,
        changed_users=connection.execute(_CHANGED).scalar_one(),
        runs=_pairs(connection, _RUNS),
        stopped={switch.scope: switch.why or "" for switch in off},
        stopped_by_horae={switch.scope: switch.why or "no reason given" for switch in off if switch.author == HORAE},
        campaigns=_pairs(connection, _CAMPAIGNS),
        providers=health.gateways(connection),
        ticks=_pairs(connection, _TICKS),
        counters=stored,
        model=None if model is None else Model(*model),
    )


def _pairs(connection: Connection, query: Any) -> dict[str, Any]:
    return {row[0]: row[1] for row in connection.execute(query)}
