"""Tombstones of erased users: what comes in about them later is not taken.

The shop's id itself is gone; a keyed hash of it (BLAKE2b-128, the workspace's key, person `horae.erased`) is what is
compared. Without the key nobody can try ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TypeVar

import numpy as np
import pyarrow as pa
from sqlalchemy import Connection, text

from engine.ingest.device_rows import DeviceRows
from engine.ingest.entity_rows import EntityRows
from engine.ingest.event_rows import EventRows
from engine.store.bulk import fetch

ERASED = "user_id: erased"
"""The problem of rows about erased users."""

_PERSON = b"horae.erased"
_LOCK = 7_420
"""The project's own advisory lock, beside FOLD_LOCK and those of planning."""

Rows = TypeVar("Rows", EventRows, EntityRows, DeviceRows)


def name_hash(secret: bytes, name: str) -> bytes:
    """What a tombstone holds of the shop's id `name`; `secret` is the workspace's key."""
    return hashlib.blake2b(name.encode(), digest_size=16, key=secret, person=_PERSON).digest()


def audit_subject(connection: Connection, name: str) -> str:
    """What the audit log, which forgets nothing, calls the user with the shop's id `name`."""
    secret = bytes(connection.execute(text("SELECT hash_key FROM workspace")).scalar_one())
    return f"user:{name_hash(secret, name).hex()}"


def lock_erasure(connection: Connection) -> None:
    """Wait for whoever takes something in, and keep them waiting until this transaction ends."""
    connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))


def erased_among(connection: Connection, names: Iterable[str]) -> set[str]:
    """Which of these ids (the shop's) were erased. Nobody is erased meanwhile, until this transaction ends."""
    fetch(connection, f"SELECT pg_advisory_xact_lock_shared({_LOCK})")
    if not any_erased(connection):
        return set()
    secret = bytes(connection.execute(text("SELECT hash_key FROM workspace")).scalar_one())
    by_hash = {name_hash(secret, name): name for name in names}
    found = connection.execute(
        text("SELECT name_hash FROM erased_users WHERE name_hash = ANY(CAST(:hashes AS bytea[]))"),
        {"hashes": list(by_hash)},
    )
    return {by_hash[bytes(each)] for each in found.scalars()}


def any_erased(connection: Connection) -> bool:
    """Whether anybody was erased so far; nobody is kept from erasing meanwhile."""
    return bool(fetch(connection, "SELECT EXISTS (SELECT 1 FROM erased_users)")[0][0])


def without_erased(connection: Connection, rows: Rows) -> Rows:
    """The rows that are not about an erased user."""
    names = rows.ids if isinstance(rows, EntityRows) else rows.user
    gone = erased_among(connection, (name for name in names.unique().to_pylist() if name is not None))
    if not gone:
        return rows
    there = np.asarray(pa.compute.is_in(names, value_set=pa.array(sorted(gone))))
    return rows.take(np.flatnonzero(~there))
