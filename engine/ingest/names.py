"""Other names of users, and the zones of their devices, as the event API is told them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import pyarrow as pa
from sqlalchemy import Connection, text

from engine.ingest.erased import erased_among
from engine.ingest.hours import refold_hours
from engine.ingest.identities import default_zone, resolve_users
from engine.ingest.profiles import take_fold_lock

_LINK = text("""
    INSERT INTO identities AS known (alias, user_id)
    SELECT given.alias, u.id FROM unnest(CAST(:aliases AS text[]), CAST(:names AS text[])) AS given (alias, name)
    JOIN users u ON u.external_id = given.name ORDER BY given.alias
    ON CONFLICT (alias) DO UPDATE SET user_id = excluded.user_id, linked_at = now()
    WHERE known.user_id <> excluded.user_id
""")

_GIVEN = "unnest(CAST(:names AS text[]), CAST(:zones AS text[])) AS given (name, zone)"

# What the shop itself says stands above what a device says.
_MOVED = f"""
    SELECT u.id, u.timezone AS before, given.zone FROM users u JOIN {_GIVEN} ON u.external_id = given.name
    WHERE u.tz_source IS DISTINCT FROM 'explicit' AND u.timezone IS DISTINCT FROM given.zone
"""

_SET = """
    UPDATE users u SET timezone = moved.zone, tz_source = 'device', updated_at = now()
    FROM ({found} ORDER BY u.id FOR UPDATE OF u) moved WHERE u.id = moved.id
    RETURNING u.id, coalesce(moved.before, :default) <> moved.zone AS moved
"""


def known_names(connection: Connection, aliases: Collection[str]) -> dict[str, str]:
    """Of these names those that are another name of a user: name → the user's external id."""
    query = text(
        "SELECT i.alias, u.external_id FROM identities i JOIN users u ON u.id = i.user_id WHERE i.alias = ANY(:aliases)"
    )
    return dict(connection.execute(query, {"aliases": sorted(set(aliases))}).all()) if aliases else {}


def link_names(connection: Connection, links: Mapping[str, str]) -> None:
    """Make each name (key) another name of the user with this external id, of whom a stub is made if need be.

    What happened under that name before stays with it. Names of erased users are not kept.
    """
    gone = erased_among(connection, links.values()) if links else set()
    kept = {alias: name for alias, name in links.items() if name not in gone}
    if not kept:
        return
    resolve_users(connection, pa.array(sorted(set(kept.values())), pa.string()))
    connection.execute(_LINK, {"aliases": list(kept), "names": list(kept.values())})


def say_new_zones(connection: Connection, zones: Mapping[str, str]) -> None:
    """Give the users whom this very transaction made the zones of their devices: no profile knows their hours yet."""
    if zones:
        made = f"{_MOVED} AND u.stub AND u.created_at = now() AND u.timezone IS NULL"
        connection.execute(text(_SET.format(found=made)), _given(connection, zones))


def say_device_zones(connection: Connection, zones: Mapping[str, str]) -> None:
    """Give users the zones of their devices, and move their hours; what the shop said of them stands above it."""
    given = _given(connection, zones)
    if not zones or not connection.execute(text(f"SELECT EXISTS ({_MOVED})"), given).scalar_one():
        return
    take_fold_lock(connection)
    changed = connection.execute(text(_SET.format(found=_MOVED)), given).all()
    refold_hours(connection, np.array([row.id for row in changed if row.moved], np.int64))


def _given(connection: Connection, zones: Mapping[str, str]) -> dict[str, object]:
    return {"names": list(zones), "zones": list(zones.values()), "default": default_zone(connection)}
