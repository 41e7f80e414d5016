"""The token by which a push' callbacks are authenticated (pure).

A phone keeps no secret: whatever is built into an app is public. So each push carries its own proof that it was sent:

    key number (1 byte) · expiry, epoch seconds (4) · first 16 bytes of HMAC-SHA256(key, domain, number, expiry, push)

as base64url without padding: 28 characters. It says nothing but "this push was sent to somebody, and its answers are
taken until then"; who holds it can answer for that one push, and for no other. 128 bits of a keyed hash cannot be
guessed (RFC 2104, section 5: half of the hash is enough).
"""

from __future__ import annotations

import hmac
import struct
from base64 import b64encode, urlsafe_b64decode
from binascii import Error
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from uuid import UUID

TOKEN_LIFE = timedelta(days=30)
"""Business time after the attempt for which a push' answers are taken: four attribution windows."""

TOKEN_LENGTH = 28
"""Characters."""

_DOMAIN = b"horae.callback.1"
_HEAD = struct.Struct(">BI")
_BLOCK = 64
"""Bytes that SHA-256 takes in at once."""
_MAC_BYTES = 16


@dataclass(frozen=True, slots=True)
class CallbackKey:
    """A workspace's secret; tokens name it by its number, so that a new one does not end the tokens of the old."""

    number: int
    """0 to 255."""
    secret: bytes = field(repr=False)

    def sign(self, push_id: UUID, at: datetime) -> str:
        """The token of a push attempted at `at` (aware, business time)."""
        return self.signer(at)(push_id)

    def signer(self, at: datetime) -> Callable[[UUID], str]:
        """Gives the tokens of many pushes attempted at `at`: what they have in common is hashed once (RFC 2104,
        section 4)."""
        head = _HEAD.pack(self.number, int((at + TOKEN_LIFE).timestamp()))
        secret = self.secret if len(self.secret) <= _BLOCK else sha256(self.secret).digest()
        inner, outer = (sha256(bytes(byte ^ pad for byte in secret.ljust(_BLOCK, b"\0"))) for pad in (0x36, 0x5C))
        inner.update(_DOMAIN + head)

        def token(push_id: UUID) -> str:
            within, whole = inner.copy(), outer.copy()
            within.update(push_id.bytes)
            whole.update(within.digest())
            return b64encode(head + whole.digest()[:_MAC_BYTES], b"-_").decode()

        return token


class Forged(Exception):
    """The token is none of this push', or none at all."""


def read_token(token: str, push_id: UUID, keys: Mapping[int, CallbackKey]) -> datetime:
    """When the token ends (aware UTC), by which key of `keys` (by number) it was signed. Raises Forged."""
    try:
        raw = urlsafe_b64decode(token) if len(token) == TOKEN_LENGTH else b""
    except (Error, ValueError) as error:
        raise Forged from error
    key = keys.get(raw[0]) if raw else None
    if key is None or not hmac.compare_digest(raw[_HEAD.size :], _mac(key.secret, raw[: _HEAD.size], push_id)):
        raise Forged
    return datetime.fromtimestamp(_HEAD.unpack_from(raw)[1], UTC)


def _mac(secret: bytes, head: bytes, push_id: UUID) -> bytes:
    return hmac.digest(secret, _DOMAIN + head + push_id.bytes, "sha256")[:_MAC_BYTES]
