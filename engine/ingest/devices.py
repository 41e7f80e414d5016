"""Registrations of devices into the store. A token belongs to one user: the one of its newest registration.

A dead device lives again by a registration that is newer than its death, and by nothing else. A row that does not say
when it was registered makes a device that is not known yet and changes none: whoever exports the same table every night
would otherwise wake the dead.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
from sqlalchemy import Connection, text

from engine.ingest.device_rows import DeviceRows
from engine.ingest.erased import without_erased
from engine.ingest.identities import resolve_users
from engine.store.bulk import jsonb, stage_rows

_STAGED = (
    "position integer, user_id bigint, gateway text, token text, platform text, seen_at timestamptz, attributes jsonb"
)

_NEWEST = """
    newest AS MATERIALIZED (
        SELECT DISTINCT ON (gateway, token) user_id, gateway, token, seen_at,
               coalesce(attributes, '{}') || jsonb_strip_nulls(jsonb_build_object('platform', platform)) AS attributes
        FROM staged_devices ORDER BY gateway, token, seen_at DESC NULLS LAST, position DESC)
"""

_UPDATE = text(f"""
    WITH {_NEWEST}
    UPDATE devices d
    SET user_id = n.user_id, seen_at = n.seen_at, attributes = d.attributes || n.attributes,
        dead_at = CASE WHEN n.seen_at > d.dead_at THEN NULL ELSE d.dead_at END,
        dead_reason = CASE WHEN n.seen_at > d.dead_at THEN NULL ELSE d.dead_reason END
    FROM newest n
    WHERE d.gateway = n.gateway AND d.token = n.token
      AND (n.seen_at > d.seen_at OR (n.seen_at = d.seen_at AND d.attributes || n.attributes <> d.attributes))
""")

_INSERT = text(f"""
    WITH {_NEWEST}
    INSERT INTO devices (user_id, gateway, token, attributes, seen_at)
    SELECT user_id, gateway, token, attributes, coalesce(seen_at, :now) FROM newest ORDER BY gateway, token
    ON CONFLICT DO NOTHING
""")


@dataclass(frozen=True)
class StoredDevices:
    """What became of some registrations."""

    created: int
    updated: int
    unchanged: int
    user_stubs: int


def store_devices(connection: Connection, rows: DeviceRows, now: datetime) -> StoredDevices:
    """Register these devices; `now` (business time) is when those were seen that do not say it."""
    rows = without_erased(connection, rows)
    if not len(rows):
        return StoredDevices(0, 0, 0, 0)
    coded = rows.user.dictionary_encode()
    users = resolve_users(connection, coded.dictionary)
    staged = {
        "position": np.arange(len(rows), dtype=np.int32),
        "user_id": users.id[coded.indices.to_numpy()],
        "gateway": rows.gateway,
        "token": rows.token,
        "platform": rows.platform,
        "seen_at": rows.seen_at,
        "attributes": jsonb(pa.nulls(len(rows), pa.string()) if rows.attributes is None else rows.attributes),
    }
    stage_rows(connection, "staged_devices", _STAGED, staged)
    updated = connection.execute(_UPDATE).rowcount
    created = connection.execute(_INSERT, {"now": now}).rowcount
    return StoredDevices(created, updated, len(rows) - created - updated, users.stubs)
