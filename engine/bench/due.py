"""A store full of due pushes, for `horae bench dispatch`: users with devices, items, caps, history, one campaign.

Business time is the machine's here: the bench measures how late pushes leave. So users live in those of 24 zones in
which it is day, and quiet hours are the usual ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, text

from engine.bench.provider.launch import fcm_token
from engine.campaigns import store
from engine.campaigns.definition import Campaign
from engine.campaigns.policy import Policy
from engine.campaigns.policy_store import save_policy
from engine.store.database import Database
from engine.store.partitions import ensure_partitions

CAMPAIGN = "daily-pick"
ITEMS = 2_000
CAPS = (
    {"id": "day", "limit": 60, "window": "local_day"},
    {"id": "week", "limit": 180, "window": "local_week"},
    {"id": "own", "scope": f"campaign:{CAMPAIGN}", "limit": 60, "window": "rolling:PT24H"},
    {"id": "channel", "scope": "channel:fcm", "limit": 200, "window": "rolling:P7D"},
)
MESSAGE = {
    "title": "{{ item.title }}",
    "body": "For you, {{ user.attributes.name }}: only {{ item.price | decimals: 2 }} €{% if item.brand %} from"
    " {{ item.brand }}{% endif %}.",
    "data": {"link": "shop://item/{{ item.id }}?push={{ push.id }}"},
}


@dataclass(frozen=True)
class Due:
    """A store that pushes may be planned in."""

    database: Database
    users: int
    run_id: int
    campaign_id: int


def build_store(database: Database, users: int, now: datetime) -> Due:
    """Users with one device each, items, the policy, a campaign, and up to two earlier pushes for half of the users."""
    today = now.astimezone(UTC).date()
    ensure_partitions(database, "deliveries", today - timedelta(days=8), today + timedelta(days=1))
    definition = {
        "name": CAMPAIGN,
        "class": "marketing",
        "items": "personalised",
        "gateway": "fcm",
        "message": MESSAGE,
        "item_once_days": None,
    }
    with database.begin() as connection:
        save_policy(connection, lambda _: Policy.model_validate({"caps": list(CAPS)}))
        campaign = store.create(connection, Campaign.model_validate(definition), now).stored
        _users(connection, users, now)
        connection.execute(text(_ITEMS), {"items": ITEMS, "from": now - timedelta(days=30)})
        connection.execute(text(_HISTORY), {"now": now, "campaign": campaign.id})
        run_id = connection.execute(text(_RUN), {"now": now}).scalar_one()
    with database.autocommit() as connection:
        connection.execute(text("VACUUM ANALYZE"))
    return Due(database, users, run_id, campaign.id)


def plan(due: Due, label: str, number: int, send_at: datetime, spread: timedelta = timedelta(0)) -> None:
    """Plan `number` pushes, due evenly over `spread` from `send_at` on; users in turn, an occurrence a turn."""
    with due.database.begin() as connection:
        for turn, start in enumerate(range(0, number, due.users)):
            occurrence = connection.execute(
                text(_OCCURRENCE),
                {"campaign": due.campaign_id, "label": f"{label}/{turn}", "at": send_at, "run": due.run_id},
            ).scalar_one()
            parameters = {
                "start": start,
                "end": min(start + due.users, number),
                "number": number,
                "occurrence": occurrence,
                "campaign": due.campaign_id,
                "run": due.run_id,
                "send_at": send_at,
                "spread": spread,
                "items": ITEMS,
            }
            connection.execute(text(_PUSHES), parameters)
    with due.database.autocommit() as connection:
        connection.execute(text("ANALYZE pushes"))
        connection.execute(text("CHECKPOINT"))


def daytime_zones(now: datetime) -> list[str]:
    """The zones of whole hours in which it is between 9 and 20 o'clock at `now`."""
    hour = now.astimezone(UTC).hour
    return [f"Etc/GMT{-shift:+d}" for shift in range(-12, 13) if 9 <= (hour + shift) % 24 < 20]


def _users(connection: Connection, users: int, now: datetime) -> None:
    connection.execute(text(_USERS), {"users": users, "zones": daytime_zones(now)})
    sample = fcm_token("########")
    before, after = sample.split("########")
    connection.execute(text(_DEVICES), {"now": now, "before": before, "after": after})


_USERS = """
    INSERT INTO users (external_id, slot, timezone, tz_source, consent, locale, attributes)
    SELECT 'u' || n, n % 1024, (CAST(:zones AS text[]))[1 + n % cardinality(CAST(:zones AS text[]))], 'explicit', true,
           'en', jsonb_build_object('name', 'Ada ' || n)
    FROM generate_series(1, :users) AS n
"""
_DEVICES = """
    INSERT INTO devices (user_id, gateway, token, seen_at)
    SELECT id, 'fcm', CAST(:before AS text) || lpad(id::text, 8, '0') || CAST(:after AS text), :now FROM users
"""
_ITEMS = """
    INSERT INTO items (external_id, title, category, brand, price, available_from, stock)
    SELECT 'i' || n, 'Fresh thing number ' || n, 'category ' || n % 300, 'brand ' || n % 80, 1 + n % 100, :from, 100
    FROM generate_series(1, :items) AS n
"""
_HISTORY = """
    INSERT INTO deliveries (day, id, push_id, state, at, campaign_id, user_id, gateway, attempts, send_at, local_day,
                            counts, scopes)
    SELECT (at AT TIME ZONE 'UTC')::date, id, id, 'accepted', at, :campaign, user_id, 'fcm', 1, at,
           (at AT TIME ZONE 'UTC')::date, true, ARRAY['campaign:earlier', 'channel:fcm']
    FROM (SELECT gen_random_uuid() AS id, u.id AS user_id,
                 CAST(:now AS timestamptz) - interval '1 day' * (1 + n) - interval '1 minute' * (u.id % 600) AS at
          FROM users u CROSS JOIN generate_series(1, 2) AS n WHERE u.id % 4 < n) AS earlier
"""
_RUN = """
    INSERT INTO runs (state, as_of, seed, policy_version, shards_total)
    VALUES ('published', :now, 1, (SELECT max(version) FROM policies), 1) RETURNING id
"""
_OCCURRENCE = """
    INSERT INTO occurrences (campaign_id, version, label, date, starts_at, ends_at, run_id)
    VALUES (:campaign, 1, :label, CAST(:at AS timestamptz)::date, :at, CAST(:at AS timestamptz) + interval '1 day',
            :run)
    RETURNING id
"""
_PUSHES = """
    INSERT INTO pushes (id, state, date, occurrence_id, campaign_id, run_id, user_id, slot, item_id, revision, gateway,
                        window_start, window_end, send_at, not_after, value, price)
    SELECT gen_random_uuid(), 'planned', CAST(:send_at AS timestamptz)::date, :occurrence, :campaign, :run, u.id,
           u.slot, i.id, 0, 'fcm', CAST(:send_at AS timestamptz) - interval '1 hour',
           CAST(:send_at AS timestamptz) + interval '3 hours',
           CAST(:send_at AS timestamptz) + CAST(:spread AS interval) * (n::float8 / :number),
           CAST(:send_at AS timestamptz) + interval '1 day', 1, 0
    FROM generate_series(CAST(:start AS int), CAST(:end AS int) - 1) AS n
    JOIN users u ON u.external_id = 'u' || 1 + n - :start
    JOIN items i ON i.external_id = 'i' || 1 + n % :items
"""
