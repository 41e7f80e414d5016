"""What a report is made of: decisions by reason, pushes with what followed, users with and without the campaign.

A push is opened and clicked by what its user did within a day of it: by the answer that names the push (callbacks do),
else by one that names none, which belongs to the last push before it, whosever campaign. It has converted by the goal
within the attribution window: about its item, by the last push about that item; about anything where it has no item; or
by one that names the push.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import text

from engine.learning.pushes import CLICKED_WITHIN, RECORDED_WITHIN
from engine.learning.timeline import ATTRIBUTION
from engine.store.database import Snapshot
from engine.store.tables import ARMS, DECISION_REASONS, EVENT_TYPES

MEGABYTES = 128
"""Memory for each sort and hash table of these queries: they join each decision with what became of it."""

BEFORE_THE_DRAW = ("not_eligible", "no_consent", "no_device", "failed_input")
"""Reasons that are given before the holdout is drawn: such users are in neither of the groups compared."""


@dataclass(frozen=True)
class Asked:
    """Which part of a campaign's life: occurrences of UTC dates [first, until), seen at business time `now`; goal: the
    event type of a conversion (its id); zone: of users who have none (IANA); whose: a condition of SQL on occurrences,
    of a campaign or of a run."""

    whose: str
    first: date
    until: date
    now: datetime
    goal: int
    zone: str


@dataclass(frozen=True)
class Sent:
    """n pushes that a provider accepted. user: int64 · arm: int8, index into ARMS · variant: int32, index into
    `variants` (EXPERIMENT:ARM), −1 where nothing was under test · hour: int8, of the user's local day
    · opened, clicked, dismissed, converted: bool · at: float64, epoch seconds."""

    user: np.ndarray
    arm: np.ndarray
    hour: np.ndarray
    at: np.ndarray
    opened: np.ndarray
    clicked: np.ndarray
    dismissed: np.ndarray
    converted: np.ndarray
    variant: np.ndarray
    variants: tuple[str, ...] = ()


@dataclass(frozen=True)
class Group:
    """Users of the audience who were, or were not, held out: how many, how many of them reached the goal, the value of
    all they did to reach it."""

    users: int = 0
    converted: int = 0
    value: float = 0.0


_OURS = """
    d.date >= DATE '{first}' AND d.date < DATE '{until}' AND d.occurrence_id IN (
        SELECT id FROM occurrences WHERE {whose} AND date >= DATE '{first}' AND date < DATE '{until}')
"""
_LAST = """
    NOT EXISTS (SELECT FROM decisions n WHERE n.date = d.date AND n.occurrence_id = d.occurrence_id
                AND n.user_id = d.user_id AND n.revision > d.revision AND n.revision > 0)
"""

_REASONS = f"""
    SELECT d.reason, x.state, x.reason AS why, d.push_id IS NOT NULL AND p.id IS NOT NULL AS waits,
           coalesce(x.attempts, 0) > 0 AS tried, count(*) AS n
    FROM decisions d
    LEFT JOIN deliveries x ON x.push_id = d.push_id AND x.day >= d.date - 1 AND x.day >= DATE '{{before}}'
                              AND NOT x.test AND d.reason = {{planned}}
    LEFT JOIN pushes p ON p.id = d.push_id AND d.reason = {{planned}}
    WHERE {_OURS} AND {_LAST} GROUP BY 1, 2, 3, 4, 5
"""

# Told are the few events that may answer a push, met: each beside the pushes that it may answer. One that names no push
# belongs to the last push before it, so not to one with another between the two.
_SENT = f"""
    WITH ours AS MATERIALIZED (
        SELECT d.user_id, d.arm, x.variant, x.push_id, x.item_id, x.at
        FROM decisions d
        JOIN deliveries x ON x.push_id = d.push_id AND x.day >= d.date - 1 AND x.day >= DATE '{{before}}'
                             AND NOT x.test AND x.state = 'accepted'
        WHERE {_OURS} AND {_LAST} AND d.reason = {{planned}}
    ), told AS MATERIALIZED (
        SELECT user_id, item_id, event_type, occurred_at, push_id FROM events
        WHERE user_id IS NOT NULL AND occurred_at <= TIMESTAMPTZ '{{now}}' AND occurred_at >= TIMESTAMPTZ '{{before}}'
              AND event_type IN ({{open}}, {{click}}, {{dismiss}}, {{leave}}, {{goal}})
    ), met AS MATERIALIZED (
        SELECT row_number() OVER () AS number, o.user_id, o.push_id, o.item_id, o.at, v.event_type, v.occurred_at,
               v.push_id IS NOT NULL AS named, v.item_id = o.item_id OR o.item_id IS NULL AS about_it
        FROM ours o JOIN told v ON v.user_id = o.user_id
        WHERE v.occurred_at >= o.at - interval '{{early}} seconds'
              AND v.occurred_at < o.at + interval '{{week}} seconds'
              AND (v.push_id = o.push_id OR v.push_id IS NULL AND v.occurred_at >= o.at)
    ), between_them AS (
        SELECT m.number, bool_or(n.item_id = m.item_id OR m.item_id IS NULL) AS about_it
        FROM met m JOIN deliveries n ON n.user_id = m.user_id AND n.at > m.at AND n.at <= m.occurred_at
        WHERE NOT m.named AND n.day >= DATE '{{before}}' AND n.state = 'accepted' AND NOT n.test GROUP BY 1
    ), judged AS (
        SELECT m.push_id, m.event_type,
               m.occurred_at < m.at + interval '{{day}} seconds' AND (m.named OR b.number IS NULL) AS answers,
               m.event_type = {{goal}} AND (m.named OR m.about_it AND b.about_it IS NOT TRUE) AS converts
        FROM met m LEFT JOIN between_them b USING (number)
    ), found AS (
        SELECT push_id, bool_or(answers AND event_type IN ({{open}}, {{click}})) AS opened,
               bool_or(answers AND event_type = {{click}}) AS clicked,
               bool_or(answers AND event_type IN ({{dismiss}}, {{leave}})) AS dismissed, bool_or(converts) AS converted
        FROM judged GROUP BY 1
    )
    SELECT o.user_id, o.arm, o.variant, extract(epoch FROM o.at)::float8 AS at,
           extract(hour FROM o.at AT TIME ZONE coalesce(u.timezone, '{{zone}}'))::smallint AS hour,
           coalesce(f.opened, false) AS opened, coalesce(f.clicked, false) AS clicked,
           coalesce(f.dismissed, false) AS dismissed, coalesce(f.converted, false) AS converted
    FROM ours o LEFT JOIN found f USING (push_id) LEFT JOIN users u ON u.id = o.user_id
"""

# Intention to treat: everybody drawn for the campaign counts from the first occurrence they were drawn for, whether a
# push reached them or not, so both groups begin alike. Who was once in each (the shares were changed) is in neither.
_GROUPS = f"""
    WITH drawn AS (
        SELECT d.user_id, bool_or(d.arm = {{holdout}}) AS held, bool_and(d.arm = {{holdout}}) AS always,
               min(o.starts_at) AS begins
        FROM decisions d JOIN occurrences o ON o.id = d.occurrence_id
        WHERE {_OURS} AND d.revision = 0 AND d.reason NOT IN ({{outside}}) GROUP BY d.user_id
    )
    , reached AS (
        SELECT e.user_id, sum(e.value) AS value
        FROM drawn r JOIN events e ON e.user_id = r.user_id AND e.occurred_at >= r.begins
        WHERE e.occurred_at < TIMESTAMPTZ '{{closes}}' AND e.occurred_at >= TIMESTAMPTZ '{{before}}'
              AND e.event_type = {{goal}} GROUP BY 1
    )
    SELECT r.held, r.always, count(*) AS users, count(g.user_id) AS converted,
           coalesce(sum(g.value), 0)::float8 AS value
    FROM drawn r LEFT JOIN reached g USING (user_id) GROUP BY 1, 2
"""


def _filled(query: str, asked: Asked) -> str:
    return query.format(
        first=asked.first.isoformat(),
        until=asked.until.isoformat(),
        before=(asked.first - timedelta(days=2)).isoformat(),
        whose=asked.whose,
        now=asked.now.isoformat(),
        closes=closes(asked).isoformat(),
        zone=asked.zone.replace("'", "''"),
        goal=int(asked.goal),
        planned=DECISION_REASONS.index("planned"),
        holdout=ARMS.index("holdout"),
        outside=", ".join(str(DECISION_REASONS.index(name)) for name in BEFORE_THE_DRAW),
        open=EVENT_TYPES["push_open"],
        click=EVENT_TYPES["push_click"],
        dismiss=EVENT_TYPES["push_dismiss"],
        leave=EVENT_TYPES["unsubscribe"],
        day=int(CLICKED_WITHIN.total_seconds()),
        week=int(ATTRIBUTION.total_seconds()),
        early=int(RECORDED_WITHIN.total_seconds()),
    )


def of_campaign(campaign_id: int) -> str:
    """`Asked.whose` of a campaign."""
    return f"campaign_id = {int(campaign_id)}"


def of_run(run_id: int) -> str:
    """`Asked.whose` of a run."""
    return f"run_id = {int(run_id)}"


def closes(asked: Asked) -> datetime:
    """Until when goals count for the comparison with the holdout: an attribution window after the last date, or now."""
    end = datetime.combine(asked.until, datetime.min.time(), asked.now.tzinfo) + ATTRIBUTION
    return min(end, asked.now)


@dataclass(frozen=True)
class Ends:
    """How decisions ended: `reasons` of those without a push, `states` of pushes ("accepted", "suppressed: capped", …;
    "waiting" for those that have not ended), `tried`: pushes that were put to a provider at least once."""

    reasons: dict[str, int]
    states: dict[str, int]
    tried: int


def read_ends(snapshot: Snapshot, asked: Asked) -> Ends:
    """The decisions asked for, by how they ended."""
    reasons, states, tried = dict[str, int](), dict[str, int](), 0
    for row in snapshot.connection.execute(text(_filled(_REASONS, asked))):
        name = DECISION_REASONS[row.reason]
        if name != "planned":
            reasons[name] = reasons.get(name, 0) + row.n
            continue
        state = row.state or ("waiting" if row.waits else "lost")
        named = f"{state}: {row.why}" if row.why else state
        states[named] = states.get(named, 0) + row.n
        tried += row.n if state in ("accepted", "unknown", "rejected") and row.tried else 0
    return Ends(dict(sorted(reasons.items())), dict(sorted(states.items())), tried)


def read_sent(snapshot: Snapshot, asked: Asked) -> Sent:
    """The pushes asked for that were accepted, and what followed."""
    rows = snapshot.arrow(_filled(_SENT, asked))

    def flags(name: str) -> np.ndarray:
        return np.asarray(pc.cast(rows[name], pa.int8()), np.int8).astype(bool)

    tested = rows["variant"].combine_chunks().dictionary_encode()
    return Sent(
        user=np.asarray(rows["user_id"], np.int64),
        arm=np.asarray(rows["arm"], np.int8),
        hour=np.asarray(rows["hour"], np.int8),
        at=np.asarray(rows["at"], np.float64),
        opened=flags("opened"),
        clicked=flags("clicked"),
        dismissed=flags("dismissed"),
        converted=flags("converted"),
        variant=np.asarray(tested.indices.fill_null(-1), np.int32),
        variants=tuple(tested.dictionary.to_pylist()),
    )


def read_groups(snapshot: Snapshot, asked: Asked) -> tuple[Group, Group, int]:
    """Users drawn for the campaign, users held out of it, and how many were in both and count in neither."""
    treated = held = Group()
    mixed = 0
    for row in snapshot.connection.execute(text(_filled(_GROUPS, asked))):
        group = Group(row.users, row.converted, row.value)
        if row.always:
            held = group
        elif row.held:
            mixed = row.users
        else:
            treated = group
    return treated, held, mixed
