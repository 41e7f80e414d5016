"""Signing JSON Web Tokens (RFC 7515, 7518), as much of them as push services ask for (pure).

ES256 is deterministic here (RFC 6979): the same key and claims give the same token in every process, so that what a
provider wants to see rarely (APNs: a new token at most every 20 minutes) needs no store that processes share.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.hashes import SHA256

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def encode_base64url(value: bytes) -> str:
    """Base64url without padding."""
    return urlsafe_b64encode(value).rstrip(b"=").decode()


def sign_token(key: Key, claims: Mapping[str, Any], **header: str) -> str:
    """A signed token with `claims`: RS256 with an RSA key, ES256 with one of the curve P-256."""
    algorithm = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"
    signed = f"{_part({'alg': algorithm, 'typ': 'JWT', **header})}.{_part(claims)}"
    return f"{signed}.{encode_base64url(_signature(key, signed.encode()))}"


def _part(value: Mapping[str, Any]) -> str:
    return encode_base64url(json.dumps(value, separators=(",", ":")).encode())


def _signature(key: Key, content: bytes) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(content, padding.PKCS1v15(), SHA256())
    first, second = utils.decode_dss_signature(key.sign(content, ec.ECDSA(SHA256(), deterministic_signing=True)))
    return first.to_bytes(32) + second.to_bytes(32)
