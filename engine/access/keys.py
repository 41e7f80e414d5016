"""API keys: `horae_ID_SECRET`, of which the store holds the readable ID and a SHA-256 hash.

A secret is 32 random bytes and a checksum of the whole (CRC-32), in base 62: high entropy, so a fast hash is enough,
and a mistyped or cut key is told apart without asking the store. What a key may is its scopes: see engine.access.roles.
All instants here are machine time.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

from engine import audit
from engine.access.roles import SCOPES, Grant
from engine.errors import BadInput, UnknownName, did_you_mean

USED_TO_THE = timedelta(minutes=1)
"""`last_used_at` is not written more often: one row would otherwise be written by every request."""

LONGEST_NAME = 100
_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SHAPE = re.compile(r"(horae_([a-z0-9]{8})_[0-9A-Za-z]{43})([0-9A-Za-z]{6})")


@dataclass(frozen=True)
class Key:
    """A key as it is listed: everything but the secret."""

    id: str
    name: str
    scopes: tuple[str, ...]
    rate: int | None
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None

    def state(self, now: datetime) -> str:
        """live, expired or revoked at `now`."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "live"


_COLUMNS = "id, name, scopes, rate, created_by, created_at, expires_at, last_used_at, revoked_at"


def create_key(
    connection: Connection,
    name: str,
    scopes: Collection[str],
    *,
    author: str,
    rate: int | None = None,
    expires_at: datetime | None = None,
) -> str:
    """Make a key and return it: it is shown this once. Raises BadInput for unknown scopes or none, a rate below 1, and
    for a name that is empty or too long."""
    if not name.strip() or len(name) > LONGEST_NAME or "\0" in name:
        raise BadInput(f"a key's name has 1 to {LONGEST_NAME} characters", hint="say who will use it")
    for scope in scopes:
        if scope not in SCOPES:
            raise BadInput(f"unknown scope {scope!r}", hint=did_you_mean(scope, SCOPES) or ", ".join(SCOPES))
    if not scopes:
        raise BadInput("a key needs a scope", hint="write for events, read for recommendations, operate for campaigns")
    if rate is not None and rate < 1:
        raise BadInput(f"a rate of {rate} messages a second lets nothing in", hint="1 or more")
    key_id, key = _draw()
    given = {
        "id": key_id,
        "name": name,
        "hash": _hash(key),
        "scopes": sorted(set(scopes)),
        "rate": rate,
        "author": author,
        "expires": expires_at,
    }
    connection.execute(
        text(
            "INSERT INTO api_keys (id, name, hash, scopes, rate, created_by, expires_at)"
            " VALUES (:id, :name, :hash, :scopes, :rate, :author, :expires)"
        ),
        given,
    )
    said = {"name": name, "scopes": given["scopes"], "expires_at": expires_at}
    audit.record(connection, author, "key.create", f"key:{key_id}", None, said)
    return key


def revoke_key(connection: Connection, key_id: str, *, author: str, now: datetime) -> Key:
    """End a key at `now`; one that has ended stays as it is. Raises UnknownName."""
    known = {key.id: key for key in list_keys(connection)}
    if key_id not in known:
        raise UnknownName(f"there is no key {key_id!r}", hint=did_you_mean(key_id, known) or "horae admin list-keys")
    done = connection.execute(
        text("UPDATE api_keys SET revoked_at = :now WHERE id = :id AND revoked_at IS NULL"), {"now": now, "id": key_id}
    )
    if done.rowcount:
        audit.record(connection, author, "key.revoke", f"key:{key_id}", {"revoked_at": None}, {"revoked_at": now})
    return known[key_id]


def list_keys(connection: Connection) -> list[Key]:
    """All keys, oldest first."""
    rows = connection.execute(text(f"SELECT {_COLUMNS} FROM api_keys ORDER BY created_at, id"))
    return [Key(row.id, row.name, tuple(row.scopes), *tuple(row)[3:]) for row in rows]


def any_live(connection: Connection, now: datetime) -> bool:
    """Whether there is a key that is neither revoked nor expired at `now`."""
    query = "SELECT EXISTS (SELECT FROM api_keys WHERE revoked_at IS NULL AND coalesce(expires_at > :now, true))"
    return bool(connection.execute(text(query), {"now": now}).scalar_one())


def find_grant(connection: Connection, key: str, now: datetime) -> Grant | None:
    """What the bearer of `key` may do at `now`; None where it is no key, or one that has ended. Notes its use."""
    shape = _SHAPE.fullmatch(key)
    if shape is None or shape[3] != _checksum(shape[1]):
        return None
    row = connection.execute(
        text("SELECT hash, scopes, rate, expires_at, last_used_at, revoked_at FROM api_keys WHERE id = :id"),
        {"id": shape[2]},
    ).one_or_none()
    if row is None or not hmac.compare_digest(bytes(row.hash), _hash(key)):
        return None
    if row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= now):
        return None
    if row.last_used_at is None or row.last_used_at <= now - USED_TO_THE:
        connection.execute(text("UPDATE api_keys SET last_used_at = :now WHERE id = :id"), {"now": now, "id": shape[2]})
    return Grant(f"key:{shape[2]}", frozenset(row.scopes), shape[2], row.rate)


def _draw() -> tuple[str, str]:
    """A new id, and the key with it."""
    key_id = "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(8))
    body = f"horae_{key_id}_{_base62(secrets.randbits(256), 43)}"
    return key_id, body + _checksum(body)


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), 6)


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits.append(_BASE62[digit])
    return "".join(reversed(digits))


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
