"""Sessions of the console: an opaque random token in a cookie, of which the store holds a SHA-256 hash.

A session ends IDLE after it was last used, LONGEST after it began, when its user logs out, is disabled or gets another
password. A page that refreshes itself is no use. All instants here are machine time.
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

from engine.access.users import User

IDLE = timedelta(hours=4)
LONGEST = timedelta(hours=24)

SEEN_TO_THE = timedelta(minutes=1)
"""A use is not noted more often."""

_FIND = text("""
    SELECT u.id, u.name, u.role, u.language, u.created_by, u.created_at, u.last_login_at, u.disabled_at, s.seen_at
    FROM console_sessions s JOIN console_users u ON u.id = s.user_id
    WHERE s.hash = :hash AND s.expires_at > :now AND s.seen_at > :idle AND u.disabled_at IS NULL
""")


def new_token() -> str:
    """A token that nobody can guess."""
    return secrets.token_urlsafe(32)


def open_session(connection: Connection, user: User, now: datetime) -> str:
    """Begin a session and return its token. Sessions that are over are swept on the way."""
    connection.execute(
        text("DELETE FROM console_sessions WHERE expires_at <= :now OR seen_at <= :idle"),
        {"now": now, "idle": now - IDLE},
    )
    token = new_token()
    connection.execute(
        text("INSERT INTO console_sessions (hash, user_id, seen_at, expires_at) VALUES (:hash, :user, :now, :end)"),
        {"hash": _hash(token), "user": user.id, "now": now, "end": now + LONGEST},
    )
    return token


def find_session(connection: Connection, token: str, now: datetime, *, used: bool = True) -> User | None:
    """Whose session this is, or None where it is none or over; `used`: a person did something."""
    given = {"hash": _hash(token), "now": now, "idle": now - IDLE}
    row = connection.execute(_FIND, given).one_or_none()
    if row is None:
        return None
    if used and row.seen_at <= now - SEEN_TO_THE:
        connection.execute(text("UPDATE console_sessions SET seen_at = :now WHERE hash = :hash"), given)
    return User(*row[:-1])


def end_session(connection: Connection, token: str) -> None:
    """End a session; one that is none stays so."""
    connection.execute(text("DELETE FROM console_sessions WHERE hash = :hash"), {"hash": _hash(token)})


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
