"""People who use the console: a name, a role, and an Argon2id hash of a password.

Names are kept in lower case. Whoever is told that a name or password is wrong learns nothing else: unknown names,
disabled users and wrong passwords take the same time and get the same answer. All instants here are machine time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import Connection, text

from engine import audit
from engine.access.roles import scopes_of
from engine.errors import BadInput, UnknownName, did_you_mean

SHORTEST, LONGEST = 12, 200
"""Characters of a password: length, not mixture, is what makes guessing hopeless (NIST SP 800-63B)."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,63}")
_HASHER = PasswordHasher()
"""Argon2id as RFC 9106 recommends for servers with little memory: 64 MiB, 3 passes."""

_COLUMNS = "id, name, role, language, created_by, created_at, last_login_at, disabled_at"


@dataclass(frozen=True)
class User:
    """A user of the console. language: what they chose, None: their browser's."""

    id: int
    name: str
    role: str
    language: str | None
    created_by: str
    created_at: datetime
    last_login_at: datetime | None
    disabled_at: datetime | None


def create_user(connection: Connection, name: str, role: str, password: str, *, author: str) -> User:
    """Make a user. Raises BadInput for a name that is taken or no name, or a weak password; UnknownName for a role."""
    name = name.strip().lower()
    if not _NAME.fullmatch(name):
        raise BadInput(
            f"{name[:70]!r} is no name for a user",
            hint="letters, digits and . _ @ + -, at most 64, beginning with a letter or digit",
        )
    scopes_of(role)  # raises for an unknown one
    hashed = _hash(name, password)
    made = connection.execute(
        text(
            "INSERT INTO console_users (name, role, password_hash, created_by) VALUES (:name, :role, :hash, :author)"
            f" ON CONFLICT (name) DO NOTHING RETURNING {_COLUMNS}"
        ),
        {"name": name, "role": role, "hash": hashed, "author": author},
    ).one_or_none()
    if made is None:
        raise BadInput(f"there is a user {name} already", hint="horae admin set-password gives a new password")
    audit.record(connection, author, "user.create", _subject(name), None, {"role": role})
    return User(*made)


def list_users(connection: Connection) -> list[User]:
    """All users by name, also those that are disabled."""
    return [User(*row) for row in connection.execute(text(f"SELECT {_COLUMNS} FROM console_users ORDER BY name"))]


def get_user(connection: Connection, name: str) -> User:
    """The user of that name. Raises UnknownName."""
    query = text(f"SELECT {_COLUMNS} FROM console_users WHERE name = :name")
    row = connection.execute(query, {"name": name.strip().lower()}).one_or_none()
    if row is None:
        names = connection.execute(text("SELECT name FROM console_users")).scalars().all()
        raise UnknownName(f"there is no user {name!r}", hint=did_you_mean(name, names) or "horae admin list-users")
    return User(*row)


def any_enabled(connection: Connection) -> bool:
    """Whether somebody can log in."""
    query = text("SELECT EXISTS (SELECT FROM console_users WHERE disabled_at IS NULL)")
    return bool(connection.execute(query).scalar_one())


def set_role(connection: Connection, name: str, role: str, *, author: str) -> User:
    """Give a user another role, from their next request on. Raises UnknownName."""
    scopes_of(role)  # raises for an unknown one
    before = get_user(connection, name)
    if before.role != role:
        _change(connection, before, "role = :role", role=role)
        audit.record(connection, author, "user.role", _subject(before.name), {"role": before.role}, {"role": role})
    return get_user(connection, name)


def set_disabled(connection: Connection, name: str, now: datetime, *, author: str, disabled: bool = True) -> User:
    """Shut a user out, or let them in again. Shut out, they are logged out everywhere. Raises UnknownName."""
    before = get_user(connection, name)
    if (before.disabled_at is not None) != disabled:
        _change(connection, before, "disabled_at = :at", at=now if disabled else None)
        action = "user.disable" if disabled else "user.enable"
        audit.record(connection, author, action, _subject(before.name))
    if disabled:
        _end_sessions(connection, before)
    return get_user(connection, name)


def set_password(connection: Connection, name: str, password: str, *, author: str) -> User:
    """Give a user a new password; they are logged out everywhere. Raises UnknownName, and BadInput for a weak one."""
    user = get_user(connection, name)
    _change(connection, user, "password_hash = :hash", hash=_hash(user.name, password))
    _end_sessions(connection, user)
    audit.record(connection, author, "user.password", _subject(user.name))
    return user


def set_language(connection: Connection, user: User, language: str | None) -> None:
    """Note the language that a user chose."""
    _change(connection, user, "language = :language", language=language)


def authenticate(connection: Connection, name: str, password: str, now: datetime) -> User | None:
    """The user whose name and password these are, or None. It takes the same time for whomever there is not."""
    row = connection.execute(
        text(f"SELECT {_COLUMNS}, password_hash FROM console_users WHERE name = :name AND disabled_at IS NULL"),
        {"name": _storable(name.strip().lower())},
    ).one_or_none()
    known = _nobody() if row is None else row.password_hash
    if not _fits(known, password) or row is None:
        return None
    user = User(*row[:-1])
    if _HASHER.check_needs_rehash(known):
        _change(connection, user, "password_hash = :hash", hash=_HASHER.hash(password))
    _change(connection, user, "last_login_at = :at", at=now)
    return user


# --- inside ----------------------------------------------------------------------------------------------------------


def _hash(name: str, password: str) -> str:
    if not SHORTEST <= len(password) <= LONGEST:
        raise BadInput(f"a password has {SHORTEST} to {LONGEST} characters", hint="four or five words do well")
    if password.lower() == name or len(set(password)) < 4:
        raise BadInput("this password is too easy to guess", hint="four or five words do well")
    return _HASHER.hash(_storable(password))


def _fits(known: str, password: str) -> bool:
    try:
        return _HASHER.verify(known, _storable(password[: LONGEST + 1]))
    except (VerificationError, InvalidHashError):
        return False


def _storable(given: str) -> str:
    """Without what neither PostgreSQL nor UTF-8 can hold: a name that has it fits nobody."""
    return given.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


@cache
def _nobody() -> str:
    """The hash that is compared for names that do not exist."""
    return _HASHER.hash("nobody has this password")


def _change(connection: Connection, user: User, what: str, **values: object) -> None:
    connection.execute(text(f"UPDATE console_users SET {what} WHERE id = :id"), {"id": user.id, **values})


def _end_sessions(connection: Connection, user: User) -> None:
    connection.execute(text("DELETE FROM console_sessions WHERE user_id = :id"), {"id": user.id})


def _subject(name: str) -> str:
    return f"console_user:{name}"
