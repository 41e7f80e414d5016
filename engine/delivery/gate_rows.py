"""The rows of breakers and buckets: read and written under locks that everybody takes in one order."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, text

from engine.delivery import breaker
from engine.delivery.breaker import Breaker
from engine.delivery.buckets import Bucket, Rate

_BREAKER = "gateway, state, since, counted_from, until, trips, answers, failures, why"

_LOCK_BREAKERS = text(f"""
    SELECT {_BREAKER} FROM breakers
    WHERE gateway = ANY(CAST(:names AS text[])) ORDER BY gateway FOR UPDATE
""")
_SAVE_BREAKER = text(f"""
    INSERT INTO breakers ({_BREAKER})
    VALUES (:gateway, :state, :since, :counted_from, :until, :trips, :answers, :failures, :why)
    ON CONFLICT (gateway) DO UPDATE SET state = excluded.state, since = excluded.since, until = excluded.until,
        counted_from = excluded.counted_from, trips = excluded.trips, answers = excluded.answers,
        failures = excluded.failures, why = excluded.why
""")

_MAKE_BUCKETS = text("""
    INSERT INTO buckets (key, level, at)
    SELECT key, first, clock_timestamp() FROM unnest(CAST(:keys AS text[]), CAST(:first AS float8[])) AS b (key, first)
    ON CONFLICT (key) DO NOTHING
""")
_LOCK_BUCKETS = text("""
    SELECT key, level, at FROM buckets WHERE key = ANY(CAST(:keys AS text[])) ORDER BY key FOR UPDATE
""")

# Read once the rows are locked, so that it is after whatever they hold. What is lost of this in a crash of the server
# is worth no wait for the disk.
_CLOCK = text("SELECT clock_timestamp() FROM (SELECT set_config('synchronous_commit', 'off', true)) AS _")
_SAVE_BUCKETS = text("""
    UPDATE buckets b SET level = n.level, at = n.at
    FROM unnest(CAST(:keys AS text[]), CAST(:levels AS float8[]), CAST(:ats AS timestamptz[])) AS n (key, level, at)
    WHERE b.key = n.key
""")


def gateway_key(name: str) -> str:
    """The bucket of a gateway's provider."""
    return f"gateway:{name}"


def campaign_key(campaign_id: int) -> str:
    """The bucket of a campaign's rate."""
    return f"campaign:{campaign_id}"


def retries_key(name: str) -> str:
    """The bucket of a gateway's retry budget."""
    return f"retries:{name}"


def breaker_of(row: Row[Any]) -> Breaker:
    """The breaker in a row of `breakers`."""
    return Breaker(
        state=row.state,
        since=row.since,
        counted_from=row.counted_from,
        until=row.until,
        trips=row.trips,
        answers=row.answers,
        failures=row.failures,
        why=row.why,
    )


def lock_breakers(connection: Connection, names: Collection[str]) -> tuple[dict[str, Breaker], datetime]:
    """The breakers of some gateways, new ones where there are none, locked in one order; and the database's clock."""
    rows = connection.execute(_LOCK_BREAKERS, {"names": sorted(names)}).all()
    now = connection.execute(_CLOCK).scalar_one()
    return {name: breaker.new(now) for name in names} | {row.gateway: breaker_of(row) for row in rows}, now


def save_breaker(connection: Connection, name: str, state: Breaker) -> None:
    """Write a gateway's breaker."""
    values = {field: getattr(state, field) for field in Breaker.__dataclass_fields__}
    connection.execute(_SAVE_BREAKER, {"gateway": name, **values})


def lock_buckets(
    connection: Connection, keys: Sequence[str], rates: Mapping[str, Rate]
) -> tuple[dict[str, Bucket], datetime]:
    """The buckets `keys`, made where there are none, locked in one order; and the database's clock once they are."""
    given = {"keys": sorted(keys)}
    rows = connection.execute(_LOCK_BUCKETS, given).all() if keys else []
    if len(rows) < len(keys):
        first = [float(rates[key].first) if key in rates else 0.0 for key in sorted(keys)]
        connection.execute(_MAKE_BUCKETS, {**given, "first": first})
        rows = connection.execute(_LOCK_BUCKETS, given).all()
    now = connection.execute(_CLOCK).scalar_one()
    return {row.key: Bucket(row.level, row.at) for row in rows}, now


def save_buckets(connection: Connection, levels: Mapping[str, Bucket]) -> None:
    """Write some locked buckets."""
    if levels:
        values = {
            "keys": list(levels),
            "levels": [float(bucket.level) for bucket in levels.values()],
            "ats": [bucket.at for bucket in levels.values()],
        }
        connection.execute(_SAVE_BUCKETS, values)
