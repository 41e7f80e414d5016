"""Credentials of providers: read from the files that settings name, and checked before anything is sent."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from engine.errors import BadInput


@dataclass(frozen=True)
class ServiceAccount:
    """A Google service account."""

    project: str
    email: str
    key_id: str
    token_url: str
    key: rsa.RSAPrivateKey = field(repr=False)


def read_service_account(path: Path, setting: str) -> ServiceAccount:
    """The service account of a JSON key file. Raises BadInput naming `setting` and the fault."""
    try:
        found = json.loads(_read(path, setting))
    except ValueError as error:
        raise BadInput(f"{setting}: {path} is not JSON", hint=_FROM_CONSOLE) from error
    if not isinstance(found, dict) or found.get("type") != "service_account":
        raise BadInput(f"{setting}: {path} is no key of a service account", hint=_FROM_CONSOLE)
    values = {name: found.get(name) for name in ("project_id", "client_email", "private_key_id", "token_uri")}
    for name, value in values.items():
        if not isinstance(value, str) or not value:
            raise BadInput(f"{setting}: {path} lacks {name}", hint=_FROM_CONSOLE)
    url = str(values["token_uri"])
    if not url.startswith("https://"):
        raise BadInput(f"{setting}: token_uri of {path} must be https")
    key = _private_key(str(found.get("private_key", "")).encode(), path, setting)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise BadInput(f"{setting}: private_key of {path} is no RSA key", hint=_FROM_CONSOLE)
    return ServiceAccount(
        project=str(values["project_id"]),
        email=str(values["client_email"]),
        key_id=str(values["private_key_id"]),
        token_url=url,
        key=key,
    )


def read_p256_key(path: Path, setting: str) -> ec.EllipticCurvePrivateKey:
    """The P-256 private key of a PEM file (Apple's .p8 is one). Raises BadInput naming `setting` and the fault."""
    key = _private_key(_read(path, setting), path, setting)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise BadInput(f"{setting}: {path} is no private key of the curve P-256 (ES256)")
    return key


_FROM_CONSOLE = "Firebase console → project settings → service accounts → generate new private key"


def _read(path: Path, setting: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{setting}: {path} cannot be read: {error.strerror}") from error


def _private_key(pem: bytes, path: Path, setting: str) -> object:
    try:
        return load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # their texts may quote the key
        raise BadInput(f"{setting}: {path} holds no unencrypted PEM private key") from None
