"""Keys and certificates of a provider: an authority of its own, made anew at each start, and what clients need."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

PROJECT = "shop-1234"
TEAM_ID, KEY_ID, TOPIC = "ABCDE12345", "KEY1234567", "com.example.shop"
EMAIL = f"horae@{PROJECT}.iam.gserviceaccount.com"
SUBJECT = "mailto:push@shop.example.com"


@dataclass(frozen=True)
class Files:
    """What the provider is started with, and what its clients are given."""

    folder: Path

    @property
    def authority(self) -> Path:
        """PEM of the authority that clients trust."""
        return self.folder / "authority.pem"

    @property
    def certificate(self) -> Path:
        """PEM of the server's certificate."""
        return self.folder / "server.pem"

    @property
    def server_key(self) -> Path:
        """PEM of the server's key."""
        return self.folder / "server.key"

    @property
    def service_account(self) -> Path:
        """The key file of a Google service account."""
        return self.folder / "service-account.json"

    @property
    def apns_key(self) -> Path:
        """Apple's .p8."""
        return self.folder / "AuthKey.p8"

    @property
    def vapid_key(self) -> Path:
        """The application server's key."""
        return self.folder / "vapid.pem"

    def public(self, name: str) -> bytes:
        """PEM of the public key that the provider checks `fcm`, `apns` or `vapid` by."""
        return (self.folder / f"{name}.public.pem").read_bytes()


def make_files(folder: Path, port: int, now: datetime) -> Files:
    """Make all keys and certificates for a provider on localhost:`port`; `now` is machine time."""
    files = Files(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _make_certificates(files, now)
    google = rsa.generate_private_key(65537, 2048)
    account = {
        "type": "service_account",
        "project_id": PROJECT,
        "private_key_id": "0123456789abcdef",
        "private_key": pem_of(google).decode(),
        "client_email": EMAIL,
        "client_id": "1",
        "token_uri": f"https://localhost:{port}/token",
    }
    files.service_account.write_text(json.dumps(account))
    apple, own = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    files.apns_key.write_bytes(pem_of(apple))
    files.vapid_key.write_bytes(pem_of(own))
    for name, key in (("fcm", google), ("apns", apple), ("vapid", own)):
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (folder / f"{name}.public.pem").write_bytes(public)
    return files


def pem_of(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as PKCS #8 PEM."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _make_certificates(files: Files, now: datetime) -> None:
    authority, server = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Horae's test authority")])
    root = (
        _certificate(issuer, issuer, authority, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(authority, SHA256())
    )
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    leaf = (
        _certificate(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]), issuer, server, now)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(authority, SHA256())
    )
    files.authority.write_bytes(root.public_bytes(Encoding.PEM))
    files.certificate.write_bytes(leaf.public_bytes(Encoding.PEM))
    files.server_key.write_bytes(pem_of(server))


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=7))
    )
