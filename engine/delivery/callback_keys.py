"""The workspace's keys of callback tokens: the newest signs, all there are verify.

They are kept in the database, so that every dispatcher signs with the same and a new one needs no restart: dispatch
reads the newest with each batch.
"""

from __future__ import annotations

import secrets

from sqlalchemy import Connection, text

from engine.delivery.callback_token import TOKEN_LIFE, CallbackKey

SECRET_BYTES = 32
_NUMBERS = 256

_NEWEST = text("SELECT id, secret FROM callback_keys ORDER BY id DESC LIMIT 1")
_ALL = text("SELECT id, secret FROM callback_keys ORDER BY id")
_ADD = text("""
    INSERT INTO callback_keys (id, secret) SELECT coalesce(max(id), 0) + 1, :secret FROM callback_keys RETURNING id
""")
# A key may go once every token it has signed has ended: the next one has been signing for so long.
_DROP = text("""
    DELETE FROM callback_keys k WHERE k.id < :newest AND (:all OR EXISTS (
        SELECT FROM callback_keys n WHERE n.id > k.id AND n.created_at < clock_timestamp() - CAST(:life AS interval)))
""")


def signing_key(connection: Connection) -> CallbackKey:
    """The key that signs now."""
    number, secret = connection.execute(_NEWEST).one()
    return CallbackKey(number % _NUMBERS, bytes(secret))


def verifying_keys(connection: Connection) -> dict[int, CallbackKey]:
    """The keys whose tokens are taken, by the number that tokens carry."""
    rows = connection.execute(_ALL).all()
    return {number % _NUMBERS: CallbackKey(number % _NUMBERS, bytes(secret)) for number, secret in rows}


def rotate(connection: Connection, *, revoke: bool = False) -> int:
    """Sign with a new key from now on; how many old keys were dropped.

    Old keys stay as long as their tokens live; `revoke`: none stays, and answers to pushes that are out already are
    refused as forged.
    """
    connection.execute(text("LOCK TABLE callback_keys IN SHARE ROW EXCLUSIVE MODE"))
    newest = connection.execute(_ADD, {"secret": secrets.token_bytes(SECRET_BYTES)}).scalar_one()
    return connection.execute(_DROP, {"newest": newest, "all": revoke, "life": TOKEN_LIFE}).rowcount
