"""Erases a user: rows, profiles, queues, receipts and the caps' log; what remains cannot be led back to them.

- Ledgers keep their rows under a pseudonym, a hash keyed with the workspace's key, so that counts go on adding up.
  Receipts go: explanations and replay of these decisions are not possible any more, and say so.
- Events about items stay as events of nobody, with new keys, so that items keep what is known of them; all others go.
- A tombstone, another keyed hash, keeps out whatever comes in about them later.
- Planned pushes end. One that is just being sent may still arrive; its outcome is written under the pseudonym.

One transaction, under the locks of folding and of the user's slot: nobody folds or plans them meanwhile. Repeating it
changes nothing.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import Connection, text

from engine import audit
from engine.delivery.epoch import current_epoch
from engine.delivery.reserve import CapStore
from engine.errors import RedisUnavailable, UnknownName
from engine.ingest.erased import audit_subject, lock_erasure, name_hash
from engine.ingest.profiles import take_fold_lock
from engine.planning import locks
from engine.privacy.held import LEDGERS, tables_of_users
from engine.store import endings
from engine.store.partitions import ensure_partitions

if TYPE_CHECKING:
    from engine.runtime import Runtime

_PERSON = b"horae.pseudonym"

# In doubt or not, nothing may leave any more; what is in `sending` may have left and ends by its own outcome.
_ERASED_STATE = "CASE WHEN p.in_doubt THEN 'unknown' ELSE 'suppressed' END"
_ERASED_REASON = "CASE WHEN p.in_doubt THEN 'no_answer' ELSE 'not_eligible' END"
_END_PUSHES = text(f"""
    WITH gone AS (
        DELETE FROM pushes p WHERE p.user_id = :user AND p.state <> 'sending' RETURNING p.*
    )
    {endings.into_ledger("gone p WHERE p.state <> 'proposed'", _ERASED_STATE, _ERASED_REASON)} RETURNING 1
""")

_PSEUDONYMS = {
    "deliveries": "user_id = :pseudonym, provider_id = NULL, detail = NULL, local_day = NULL",
    "decisions": "user_id = :pseudonym, receipt = NULL",
    "pushes": "user_id = :pseudonym",
}

# An event's key may be a hash of its content, the user's id included: it is replaced by one that says nothing.
_NAMELESS = (
    "DELETE FROM event_keys k USING events e WHERE e.key = k.key AND e.user_id = :user",
    "UPDATE unfolded_events q SET key = md5(q.key::text || :salt)::uuid"
    " WHERE q.user_id = :user AND EXISTS (SELECT FROM events e WHERE e.key = q.key AND e.user_id = :user)",
    "UPDATE unfolded_events SET user_id = NULL, slot = -1 WHERE user_id = :user AND item_id IS NOT NULL",
    "UPDATE events SET user_id = NULL, key = md5(key::text || :salt)::uuid, attributes = NULL, push_id = NULL"
    " WHERE user_id = :user AND item_id IS NOT NULL",
)


@dataclass(frozen=True)
class Erased:
    """What an erasure did. rows: deleted or made nameless, by table; kept: rows that stay under the pseudonym, by
    table; caps: whether the caps' log is gone (False: their Redis did not answer, and forgets it within two days)."""

    rows: dict[str, int]
    kept: dict[str, int]
    caps: bool


def erase_user(runtime: Runtime, name: str, now: datetime, actor: str | None = None) -> Erased:
    """Erase the user with the shop's id `name` at business time `now`. Again, it changes nothing.

    Raises UnknownName where there is nobody of that name and there never was a tombstone: a typing error is likelier.
    """
    today = now.astimezone(UTC).date()
    ensure_partitions(runtime.database, "deliveries", today, today)
    with runtime.database.begin() as connection:
        lock_erasure(connection)
        take_fold_lock(connection)
        secret = bytes(connection.execute(text("SELECT hash_key FROM workspace")).scalar_one())
        tombstone, pseudonym = name_hash(secret, name), pseudonym_of(secret, name)
        user = connection.execute(
            text("SELECT id, slot FROM users WHERE external_id = :name FOR UPDATE"), {"name": name}
        ).one_or_none()
        if user is None and not _known(connection, tombstone):
            raise UnknownName(f"there is no user {name!r}", hint="the id as it was ingested, letter by letter")
        found = Erased({}, {}, caps=True)
        if user is not None:
            locks.lock_some(connection, [user.slot])
            found = _erase(connection, user.id, pseudonym, now)
        connection.execute(
            text("INSERT INTO erased_users (name_hash, pseudonym) VALUES (:hash, :pseudonym) ON CONFLICT DO NOTHING"),
            {"hash": tombstone, "pseudonym": pseudonym},
        )
        if user is not None:
            after = {"rows": found.rows, "kept": found.kept}
            audit.record(connection, actor, "user.erase", audit_subject(connection, name), None, after)
    if user is None:
        return found
    return Erased(found.rows, found.kept, caps=_forget_caps(runtime, user.id))


def pseudonym_of(secret: bytes, name: str) -> int:
    """The id under which ledgers keep rows of the erased user `name`: negative, as no user's is."""
    digest = hashlib.blake2b(name.encode(), digest_size=8, key=secret, person=_PERSON).digest()
    return -(int.from_bytes(digest) >> 1) - 1


def _known(connection: Connection, tombstone: bytes) -> bool:
    query = text("SELECT EXISTS (SELECT FROM erased_users WHERE name_hash = :hash)")
    return bool(connection.execute(query, {"hash": tombstone}).scalar_one())


def _erase(connection: Connection, user: int, pseudonym: int, now: datetime) -> Erased:
    given = {"user": user, "pseudonym": pseudonym, "now": now, "salt": secrets.token_hex(16)}
    rows = {"pushes": connection.execute(_END_PUSHES, given).rowcount}
    for statement in _NAMELESS:
        table = statement.split()[1] if statement.startswith("UPDATE") else "event_keys"
        rows[table] = max(rows.get(table, 0), connection.execute(text(statement), given).rowcount)
    kept = {
        table: connection.execute(text(f"UPDATE {table} SET {changes} WHERE user_id = :user"), given).rowcount
        for table, changes in _PSEUDONYMS.items()
    }
    for table, columns in tables_of_users():
        if table in LEDGERS or table == "pushes":
            continue
        where = " OR ".join(f"{column} = :user" for column in columns)
        rows[table] = (
            rows.get(table, 0) + connection.execute(text(f"DELETE FROM {table} WHERE {where}"), given).rowcount
        )
    rows["users"] = connection.execute(text("DELETE FROM users WHERE id = :user"), given).rowcount
    return Erased(_some(rows), _some(kept), caps=False)


def _some(counts: dict[str, int]) -> dict[str, int]:
    return {table: number for table, number in sorted(counts.items()) if number}


def _forget_caps(runtime: Runtime, user: int) -> bool:
    try:
        caps = CapStore(runtime.caps)
        caps.forget_user(current_epoch(runtime.database, caps, timedelta(0)), user)
    except RedisUnavailable:
        return False
    return True
