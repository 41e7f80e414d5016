"""A shop with a past, for `horae bench console`: campaigns, runs, decisions, pushes and deliveries of all its users.

The first SHOP_USERS users are the shop of `horae bench plan`, with profiles and a model, and a real run over some of
them. The others are only as many, without profiles: no page reads more than one user's. Their decisions carry receipts
of the real run, so that rows are as wide as in a shop.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from sqlalchemy import Connection, text

from engine import audit
from engine.bench.loads import END, ZONES
from engine.bench.report import Tell
from engine.bench.shop import build_shop
from engine.campaigns import audience_store, store
from engine.campaigns.definition import Campaign
from engine.campaigns.loading import build
from engine.campaigns.policy import Cap
from engine.campaigns.policy_store import save_policy
from engine.campaigns.saved_audience import SavedAudience
from engine.delivery.metering import meter
from engine.planning import run as planning
from engine.planning import trigger as triggers
from engine.planning.wake import ignore
from engine.runtime import Runtime
from engine.store.bulk import copy_rows
from engine.store.database import Database
from engine.store.partitions import ensure_partitions
from engine.store.slots import slot_of
from engine.store.tables import ARMS, DECISION_REASONS, EVENT_TYPES

SHOP_USERS, LISTED = 20_000, 2_000
"""Users with profiles, and those whom the real run plans."""

CAMPAIGNS = 60
CAMPAIGN = "daily"
AUDIENCE = "gold"
COPIED = 1_000_000
"""Users stored at once: what COPY is given is made in memory."""

CAPS = (
    Cap(id="cap-1", scope="all", limit=2, window="local_day"),
    Cap(id="cap-2", scope="all", limit=6, window="local_week"),
)
MESSAGE = {
    "title": "For you",
    "body": "{{ item.title }}",
    "experiment": {"name": "words", "arms": {"plain": {"weight": 50}, "asking": {"weight": 50, "title": "Seen this?"}}},
}


def build_history(runtime: Runtime, users: int, seed: int, tell: Tell) -> dict[str, object]:
    """Fill an empty database with `users` users and about two decisions and two deliveries of each; what there is.

    Business time stands at loads.END.
    """
    database = runtime.database
    described = build_shop(database, min(users, SHOP_USERS), seed, tell)
    for table in ("decisions", "deliveries", "events"):
        ensure_partitions(database, table, (END - timedelta(days=4)).date(), (END + timedelta(days=4)).date())
    tell("adding users")
    _users(database, users - SHOP_USERS)
    with database.begin() as connection:
        save_policy(connection, lambda policy: policy.model_copy(update={"caps": CAPS, "holdout": 0.05}))
        _campaigns(connection)
    tell(f"planning {LISTED:,} users")
    real = _plan(runtime)
    for number, days in enumerate((2, 1, 0)):
        tell(f"deciding about {users:,} users, {days} days ago")
        with database.begin() as connection:
            _copy_run(connection, real, days, f"2026-02-{24 + number}T08:00")
    tell("answers")
    with database.begin() as connection:
        connection.execute(_ANSWERS, {"open": EVENT_TYPES["push_open"], "click": EVENT_TYPES["push_click"]})
    meter(database)  # as upkeep does every few minutes
    tell("vacuum")
    with database.autocommit() as connection:
        connection.execute(text("VACUUM ANALYZE"))
    return described | {"users": users, **_counted(database)}


def _users(database: Database, more: int) -> None:
    for first in range(0, max(more, 0), COPIED):
        number = np.arange(first, min(first + COPIED, more))
        names = [f"m{n:07}" for n in number.tolist()]
        with database.begin() as connection:
            copy_rows(
                connection,
                "users",
                {
                    "external_id": pa.array(names),
                    "slot": np.array([slot_of(name) for name in names], np.int16),
                    "timezone": pa.array([ZONES[n % len(ZONES)] for n in number.tolist()]),
                    "country": pa.array([("DE", "FR", "CN", "US")[n % 4] for n in number.tolist()]),
                    "consent": number % 10 != 9,
                },
            )
    with database.begin() as connection:
        connection.execute(text('UPDATE users SET attributes = \'{"tier": "gold"}\' WHERE id % 4 = 0'))
        connection.execute(_DEVICES, {"at": END - timedelta(days=2)})


def _campaigns(connection: Connection) -> None:
    common: dict[str, Any] = {"class": "marketing", "items": "personalised", "horizon": "24h", "message": MESSAGE}
    for n in range(CAMPAIGNS):
        schedule = {"cron": f"{n % 60} {8 + n % 10} * * *", "zone": ("local", "utc")[n % 2]}
        name = CAMPAIGN if n == 0 else f"campaign-{n:02}"
        made = Campaign.model_validate({**common, "name": name, "schedule": schedule, "description": f"Number {n}"})
        store.create(connection, made, END, "bench")
        if n % 5 == 1:
            store.set_state(connection, name, "paused", "bench")
    rules = {"attribute": "tier", "equals": "gold"}
    audience_store.create(connection, build(SavedAudience, {"name": AUDIENCE, "rules": rules}), "bench")
    for n in range(2_000):
        audit.record(connection, "bench", "campaign.edit", f"campaign:campaign-{n % 50:02}", {"n": n}, {"n": n + 1})


def _plan(runtime: Runtime) -> int:
    """A real run over LISTED users; the occurrence that it planned."""
    database = runtime.database
    with database.begin() as connection:
        query = text("SELECT external_id FROM users WHERE id % 7 = 0 ORDER BY id LIMIT :most")
        listed = tuple(connection.execute(query, {"most": LISTED}).scalars())
    made = triggers.trigger(database, END, CAMPAIGN, triggers.Request(users=listed), "bench")
    run_id = triggers.open_run(runtime, END, made, ignore)
    assert run_id is not None
    with database.begin() as connection:
        shards = connection.execute(text("SELECT shard FROM shards WHERE run_id = :run"), {"run": run_id}).scalars()
        numbers = list(shards)
    for shard in numbers:
        planning.plan_shard(runtime, run_id, shard, ignore)
    planning.settle(runtime, run_id, ignore)
    return made.occurrence_id


def _copy_run(connection: Connection, real: int, days: int, label: str) -> None:
    """A run over every user `days` ago, that decided as the run over occurrence `real` did; sent, where it is over."""
    given = {
        "real": real,
        "at": END - timedelta(days=days),
        "label": label,
        "planned": DECISION_REASONS.index("planned"),
        "displaced": DECISION_REASONS.index("displaced"),
        "reasons": list(DECISION_REASONS),
        "arms": list(ARMS),
    }
    occurrence = connection.execute(_OCCURRENCE, given).scalar_one()
    given["occurrence"] = occurrence
    connection.execute(_LIKE, given)
    connection.execute(_DECISIONS, given)
    connection.execute(text("DROP TABLE alike"))
    if days:
        connection.execute(_DELIVERIES, given)
    else:
        connection.execute(_PUSHES, given)
        connection.execute(_REVISED, given)
    connection.execute(_SHARD, given)


def _counted(database: Database) -> dict[str, int]:
    with database.begin() as connection:
        return {
            table: connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()
            for table in ("decisions", "pushes", "deliveries", "devices", "events", "campaigns")
        }


_DEVICES = text("""
    INSERT INTO devices (user_id, gateway, token, seen_at)
    SELECT id, CASE WHEN id % 3 = 0 THEN 'apns' ELSE 'fcm' END, 'token-' || id,
           CAST(:at AS timestamptz) - id % 100 * interval '1 day'
    FROM users WHERE id % 20 <> 0
""")

_OCCURRENCE = text("""
    WITH people AS (SELECT count(*) AS n FROM users),
    run AS (
        INSERT INTO runs (state, as_of, seed, model_version, policy_version, shards_total, shards_done, users_total,
                          users_done, prices, published_at)
        SELECT 'published', :at, r.seed, r.model_version, r.policy_version, 1, 1, n, n, r.prices, clock_timestamp()
        FROM runs r JOIN occurrences o ON o.run_id = r.id, people WHERE o.id = :real RETURNING id
    )
    INSERT INTO occurrences (campaign_id, version, label, date, starts_at, ends_at, run_id)
    SELECT campaign_id, version, :label, (CAST(:at AS timestamptz) AT TIME ZONE 'UTC')::date, :at,
           CAST(:at AS timestamptz) + interval '1 day', run.id
    FROM occurrences, run WHERE occurrences.id = :real RETURNING id
""")

_LIKE = text("""
    CREATE TEMP TABLE alike AS
    SELECT row_number() OVER () - 1 AS n, count(*) OVER () AS of, d.arm, d.reason, d.item_id, d.score, d.value, d.price,
           d.propensity, d.receipt, d.send_at - o.starts_at AS wait, d.window_start - o.starts_at AS opens
    FROM decisions d JOIN occurrences o ON o.id = d.occurrence_id
    WHERE d.occurrence_id = :real AND d.revision = 0
""")

_DECISIONS = text("""
    INSERT INTO decisions (date, occurrence_id, user_id, revision, run_id, shard, arm, reason, push_id, item_id,
                           window_start, send_at, score, value, price, propensity, receipt)
    SELECT o.date, o.id, u.id, 0, o.run_id, 0, a.arm, a.reason,
           CASE WHEN a.reason = :planned THEN gen_random_uuid() END, a.item_id, o.starts_at + a.opens,
           o.starts_at + a.wait, a.score, a.value, a.price, a.propensity, a.receipt
    FROM occurrences o CROSS JOIN users u JOIN alike a ON a.n = u.id % (SELECT max(of) FROM alike)
    WHERE o.id = :occurrence
""")

_PUSHES = text("""
    INSERT INTO pushes (id, state, date, occurrence_id, campaign_id, run_id, user_id, slot, item_id, revision, gateway,
                        window_start, window_end, send_at, not_after, value, price)
    SELECT d.push_id, 'planned', d.date, d.occurrence_id, o.campaign_id, d.run_id, d.user_id, u.slot, d.item_id, 0,
           'log', d.window_start, d.window_start + interval '3 hours', d.send_at, d.send_at + interval '2 hours',
           d.value, d.price
    FROM decisions d JOIN occurrences o ON o.id = d.occurrence_id JOIN users u ON u.id = d.user_id
    WHERE d.occurrence_id = :occurrence AND d.push_id IS NOT NULL
""")

_DELIVERIES = text("""
    INSERT INTO deliveries (day, id, push_id, state, reason, at, occurrence_id, campaign_id, user_id, item_id, gateway,
                            attempts, send_at, local_day, counts, scopes, variant, recorded_at)
    SELECT (d.send_at AT TIME ZONE 'UTC')::date, gen_random_uuid(), d.push_id,
           CASE WHEN d.user_id % 50 = 0 THEN 'suppressed' WHEN d.user_id % 70 = 0 THEN 'rejected' ELSE 'accepted' END,
           CASE WHEN d.user_id % 50 = 0 THEN 'capped' WHEN d.user_id % 70 = 0 THEN 'unregistered' END, d.send_at, o.id,
           o.campaign_id, d.user_id, d.item_id, 'log', 1, d.send_at, (d.send_at AT TIME ZONE 'UTC')::date, true,
           ARRAY['channel:log', 'campaign:daily'],
           'words:' || CASE WHEN d.user_id % 2 = 0 THEN 'plain' ELSE 'asking' END,
           clock_timestamp() - interval '1 hour'
    FROM decisions d JOIN occurrences o ON o.id = d.occurrence_id
    WHERE d.occurrence_id = :occurrence AND d.push_id IS NOT NULL AND d.send_at < o.starts_at + interval '24 hours'
""")

_REVISED = text("""
    WITH changed AS (
        DELETE FROM pushes WHERE occurrence_id = :occurrence AND user_id % 10 = 0 RETURNING id, user_id
    )
    INSERT INTO decisions (date, occurrence_id, user_id, revision, run_id, shard, arm, reason, push_id)
    SELECT d.date, d.occurrence_id, d.user_id, 1, d.run_id, -1, d.arm, :displaced, d.push_id
    FROM changed c JOIN decisions d ON d.occurrence_id = :occurrence AND d.user_id = c.user_id AND d.revision = 0
""")

_SHARD = text("""
    INSERT INTO shards (run_id, shard, slot_from, slot_until, state, users, as_of, done_at, counts)
    SELECT run_id, 0, 0, 1024, 'done', n, starts_at, clock_timestamp(), counts
    FROM occurrences, (SELECT count(*) AS n FROM users) people, (
        SELECT jsonb_agg(jsonb_build_array((CAST(:reasons AS text[]))[reason + 1], (CAST(:arms AS text[]))[arm + 1], n))
               AS counts
        FROM (SELECT reason, arm, count(*) AS n FROM decisions
              WHERE occurrence_id = :occurrence AND revision = 0 GROUP BY 1, 2) counted
    ) decided WHERE occurrences.id = :occurrence
""")

_ANSWERS = text("""
    INSERT INTO events (key, user_id, item_id, event_type, occurred_at, received_at, push_id)
    SELECT gen_random_uuid(), x.user_id, x.item_id, answer.type, x.at + interval '5 minutes',
           x.at + interval '5 minutes', x.push_id
    FROM deliveries x CROSS JOIN LATERAL (VALUES (CAST(:open AS smallint), 10), (CAST(:click AS smallint), 40))
         answer(type, every)
    WHERE x.state = 'accepted' AND x.occurrence_id IS NOT NULL AND x.user_id % answer.every = 0
      AND x.at < (SELECT max(as_of) FROM runs)
""")
