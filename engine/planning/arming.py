"""Triggers of event-triggered campaigns: armed by what happened to a user, called off by what happened after.

A trigger is a row with the instant at which it is due (`armed_triggers`); the queues of news (`trigger_events`,
`item_news`) are filled in the transaction that takes an event or an item in, and emptied in the one that arms. So each
of them is followed once, whatever crashes or runs beside it; of one campaign the same happening arms once
(`campaign_id, source` is unique).
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, select, text

from engine.campaigns.audience import item_condition
from engine.campaigns.store import Stored
from engine.campaigns.triggers import NEVER_ACTIVITY, Trigger
from engine.planning.following import Follow, Followed, Happening, Known, follow
from engine.store import endings
from engine.store.tables import items

AT_ONCE = 20_000
"""Events followed in one transaction."""

SILENCE_EVERY = timedelta(hours=1)
"""Business time between two looks for silences: each reads every user's last event."""

OLDEST_SILENCE = timedelta(days=1)
"""After downtime, silences that were complete earlier than this are not looked for any more."""

_EVENTS = text("""
    SELECT n.key, n.user_id, n.item_id, t.name AS type, extract(epoch FROM n.occurred_at)::float8 AS at
    FROM trigger_events n JOIN event_types t ON t.id = n.event_type ORDER BY n.occurred_at, n.key LIMIT :most
""")

_FIRST = text("""
    SELECT n.key FROM trigger_events n JOIN event_types t ON t.id = n.event_type
    WHERE n.key = ANY(CAST(:keys AS uuid[])) AND t.name <> ALL(:never) AND NOT EXISTS (
        SELECT 1 FROM events e JOIN event_types o ON o.id = e.event_type
        WHERE e.user_id = n.user_id AND o.name <> ALL(:never) AND (e.occurred_at, e.key) < (n.occurred_at, n.key))
""")

_KNOWN = text("""
    SELECT id, user_id, item_id, state, extract(epoch FROM happened_at)::float8 AS at FROM armed_triggers
    WHERE campaign_id = :campaign AND user_id = ANY(:users) AND state IN ('armed', 'fired')
""")

_ARM = text("""
    INSERT INTO armed_triggers (campaign_id, version, user_id, item_id, source, happened_at, due_at, state)
    SELECT :campaign, :version, r.user_id, r.item_id, r.source, r.at, r.at + CAST(:delay AS interval), 'armed'
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r (user_id bigint, item_id bigint, source text, at timestamptz)
    ON CONFLICT (campaign_id, source) DO NOTHING
""")

_CALL_OFF = text("""
    UPDATE armed_triggers SET state = 'cancelled', closed_at = :now WHERE id = ANY(:ids) AND state = 'armed'
""")

# A push that is being sent is left alone: only what is still planned ends, with a revision of its decision.
_END_PUSHES = text(f"""
    WITH hit AS (
        DELETE FROM pushes p USING armed_triggers a
        WHERE a.id = ANY(:ids) AND a.state = 'fired' AND p.occurrence_id = a.occurrence_id AND p.user_id = a.user_id
          AND p.state = 'planned' AND NOT p.in_doubt RETURNING p.*
    ), told AS ({endings.last_revision("hit p", ":reason", "-1")})
    {endings.into_ledger("hit p", "'cancelled'", "'called_off'")}
""")

_NOT_ELIGIBLE = 3
"""Of DECISION_REASONS: whose trigger was called off is not in the audience any more."""

_CHANGED = text("""
    SELECT item_id, version, extract(epoch FROM at)::float8 AS at, price_before, price, restocked FROM item_news
    ORDER BY at, item_id, version
""")

_INTERESTED = text("""
    SELECT p.user_id, p.item_id, max(p.last_at) AS last_at FROM user_item_profiles p
    JOIN event_types t ON t.id = p.event_type
    WHERE p.item_id = ANY(:items) AND t.name = ANY(:types) AND p.last_at >= :since
      AND NOT EXISTS (SELECT 1 FROM user_item_profiles o JOIN event_types c ON c.id = o.event_type
                      WHERE o.slot = p.slot AND o.user_id = p.user_id AND c.name = ANY(:cancelling)
                        AND o.item_id = p.item_id AND o.last_at >= p.last_at)
    GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2
""")

_SILENT = text("""
    SELECT p.user_id, max(p.last_at) AS last_at FROM user_profiles p
    JOIN event_types t ON t.id = p.event_type WHERE t.name <> ALL(:never)
    GROUP BY 1 HAVING max(p.last_at) >= :since AND max(p.last_at) < :until
""")


class News(NamedTuple):
    """An accepted event: key (text), ids, the type's name, epoch seconds."""

    key: str
    user_id: int
    item_id: int | None
    type: str
    at: float


def arm(connection: Connection, campaigns: Sequence[Stored], now: datetime) -> Counter[str]:
    """Follow the news for these campaigns at business time `now`; counts of `armed`, `called_off`, `limited`, `ended`.

    The caller holds the triggers' lock; partitions of today's deliveries exist.
    """
    counts: Counter[str] = Counter()
    news = [News(str(key), *rest) for key, *rest in connection.execute(_EVENTS, {"most": AT_ONCE})]
    changed = connection.execute(_CHANGED).all()
    for stored in campaigns:
        trigger = stored.definition.trigger
        if trigger is None:
            continue
        happened = _from_events(connection, trigger, news)
        if trigger.kind in ("price_drop", "back_in_stock"):
            _add(happened, _from_items(connection, trigger, changed, now))
        if trigger.kind == "inactive_for":
            _add(happened, _from_silence(connection, stored, now))
        counts += _follow(connection, stored, happened, now)
    keys = {"keys": [each.key for each in news]}
    connection.execute(text("DELETE FROM trigger_events WHERE key = ANY(CAST(:keys AS uuid[]))"), keys)
    seen = json.dumps([{"item_id": row.item_id, "version": row.version} for row in changed])
    connection.execute(
        text(
            "DELETE FROM item_news n USING jsonb_to_recordset(CAST(:seen AS jsonb)) AS s (item_id bigint, version int)"
            " WHERE n.item_id = s.item_id AND n.version = s.version"
        ),
        {"seen": seen},
    )
    counts["events"] = len(news)
    return counts


def called_off(connection: Connection, trigger: Trigger, ids: Sequence[int], now: datetime) -> set[int]:
    """Which of these triggers something of `cancel_if` has called off by `now`, whether it was news or not."""
    silent = trigger.kind == "inactive_for"
    if not trigger.cancel_if and not silent:
        return set()
    which = "t.name <> ALL(:types)" if silent else "t.name = ANY(:types)"
    same = "AND e.item_id = a.item_id" if trigger.cancels_by_item else ""
    query = text(
        "SELECT a.id FROM armed_triggers a WHERE a.id = ANY(:ids) AND EXISTS ("
        " SELECT 1 FROM events e JOIN event_types t ON t.id = e.event_type WHERE e.user_id = a.user_id"
        f" AND e.occurred_at > a.happened_at AND e.occurred_at <= :now AND {which} {same})"
    )
    types = list(NEVER_ACTIVITY if silent else trigger.cancel_if)
    return set(connection.execute(query, {"ids": list(ids), "now": now, "types": types}).scalars())


Happened = defaultdict[int, list[Happening]]
"""What happened, by user."""


def _add(happened: Happened, more: Iterable[tuple[int, Happening]]) -> None:
    for user, each in more:
        happened[user].append(each)


def _from_events(connection: Connection, trigger: Trigger, news: Sequence[News]) -> Happened:
    first = _first(connection, news) if trigger.kind == "first_event" else set()
    fits = None
    if trigger.kind == "event" and trigger.where is not None:
        about = {one.item_id for one in news if one.type == trigger.event and one.item_id is not None}
        fits = _fitting(connection, trigger, about)
    happened: Happened = defaultdict(list)
    for one in news:
        arms = one.key in first
        if trigger.kind == "event" and one.type == trigger.event:
            arms = fits is None or one.item_id in fits
        cancels = one.type in trigger.cancel_if
        if trigger.kind == "inactive_for":
            cancels = one.type not in NEVER_ACTIVITY
        if arms or cancels:
            happened[one.user_id].append(Happening(one.at, one.item_id, f"event:{one.key}", arms, cancels))
    return happened


def _first(connection: Connection, news: Sequence[News]) -> set[str]:
    given = {"keys": [one.key for one in news], "never": list(NEVER_ACTIVITY)}
    return {str(key) for key in connection.execute(_FIRST, given).scalars()}


def _fitting(connection: Connection, trigger: Trigger, ids: Collection[int]) -> set[int]:
    """Which items `where` holds for."""
    query = select(items.c.id).where(items.c.id.in_(list(ids)))
    if trigger.where is not None:
        query = query.where(item_condition(trigger.where))
    return set(connection.execute(query).scalars())


def _from_items(
    connection: Connection, trigger: Trigger, changed: Sequence[Any], now: datetime
) -> list[tuple[int, Happening]]:
    if trigger.kind == "price_drop":
        least = trigger.price_drop or 0.0
        some = [r for r in changed if r.price_before and r.price is not None and 1 - r.price / r.price_before >= least]
    else:
        some = [r for r in changed if r.restocked]
    latest = {row.item_id: row for row in some}
    fits = _fitting(connection, trigger, latest) if latest else set()
    if not fits:
        return []
    asked = {
        "items": sorted(fits),
        "types": list(trigger.concerns.events),
        "since": (now - trigger.concerns.within).timestamp(),
        "cancelling": list(trigger.cancel_if) if trigger.cancels_by_item else [],
    }
    found = []
    for user, item, _ in connection.execute(_INTERESTED, asked):
        row = latest[item]
        found.append((user, Happening(row.at, item, f"item:{item}:{row.version}:{user}", arms=True, cancels=False)))
    return found


def _from_silence(connection: Connection, stored: Stored, now: datetime) -> list[tuple[int, Happening]]:
    trigger = stored.definition.trigger
    long = trigger.inactive_for if trigger is not None else None
    if long is None:
        return []
    key = {"campaign": stored.id}
    seen = connection.execute(text("SELECT until FROM silence_checks WHERE campaign_id = :campaign"), key).scalar()
    if seen is not None and now - seen < SILENCE_EVERY:
        return []
    connection.execute(
        text(
            "INSERT INTO silence_checks (campaign_id, until) VALUES (:campaign, :now)"
            " ON CONFLICT (campaign_id) DO UPDATE SET until = excluded.until"
        ),
        {**key, "now": now},
    )
    if seen is None:  # who was silent before the campaign ran is no news
        return []
    since, until = max(seen, now - OLDEST_SILENCE) - long, now - long
    given = {"never": list(NEVER_ACTIVITY), "since": since.timestamp(), "until": until.timestamp()}
    return [
        (user, Happening(last + long.total_seconds(), None, f"silence:{user}:{last:.6f}", arms=True, cancels=False))
        for user, last in connection.execute(_SILENT, given)
    ]


def _follow(connection: Connection, stored: Stored, happened: Happened, now: datetime) -> Counter[str]:
    trigger = stored.definition.trigger
    if trigger is None or not happened:
        return Counter()
    known: defaultdict[int, list[Known]] = defaultdict(list)
    for row in connection.execute(_KNOWN, {"campaign": stored.id, "users": list(happened)}):
        known[row.user_id].append(Known(row.id, row.at, row.item_id, row.state == "fired"))
    again = trigger.again
    rules = Follow(trigger.cancels_by_item, again.limit, again.per.total_seconds() if again.per else None)
    followed = {user: follow(rules, known[user], each) for user, each in happened.items()}
    return _write(connection, stored, followed, now)


def _write(connection: Connection, stored: Stored, followed: dict[int, Followed], now: datetime) -> Counter[str]:
    trigger = stored.definition.trigger
    rows = [
        {"user_id": user, "item_id": one.item, "source": one.source, "at": _iso(min(one.at, now.timestamp()))}
        for user, each in followed.items()
        for one in each.armed
    ]
    delay = trigger.delay if trigger is not None and trigger.delay else timedelta()
    given = {"campaign": stored.id, "version": stored.version, "delay": delay, "rows": json.dumps(rows)}
    armed = connection.execute(_ARM, given).rowcount if rows else 0
    ids = [number for each in followed.values() for number in each.cancelled]
    off = ended = 0
    if ids:
        ended = connection.execute(_END_PUSHES, {"ids": ids, "now": now, "reason": _NOT_ELIGIBLE}).rowcount
        off = connection.execute(_CALL_OFF, {"ids": ids, "now": now}).rowcount
    refused = sum(each.refused for each in followed.values())
    return Counter(armed=armed, called_off=off, ended=ended, limited=refused)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
