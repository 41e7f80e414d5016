"""Starting a provider in a process of its own, telling it what to do, and reading what it received."""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
import sys
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from time import sleep
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from engine.bench.provider.authority import KEY_ID, SUBJECT, TEAM_ID, TOPIC, Files
from engine.clock import monotonic
from engine.delivery.gateways.exchange import Answer, Request
from engine.delivery.gateways.transport import Transport, Wire
from engine.errors import Unavailable

START = 20.0


@dataclass(frozen=True)
class Subscription:
    """A browser's subscription: what the shop stores as a device of gateway `webpush`."""

    endpoint: str
    p256dh: str
    auth: str


class Provider:
    """A running provider. Its keys and certificates are in `files`; `origin` is its address, `rough` the address where
    streams and connections may break."""

    def __init__(self, folder: Path) -> None:
        self.port, self._rough_port = _free_ports()
        self.files = Files(folder)
        self.origin = f"https://localhost:{self.port}"
        self.rough = f"https://localhost:{self._rough_port}"
        self.journal_path = folder / "journal.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "engine.bench.provider", str(folder), str(self.port), str(self._rough_port)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE)  # noqa: S603 - our own module
        try:
            self._wait(folder / "ready")
            self._transport = Transport(Wire(timedelta(seconds=10), http2=True, authority=self.files.authority))
            self.tell()
        except BaseException:
            self._process.kill()
            raise

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    def tell(self, **what: Any) -> None:
        """Tell it what to do: see `desk.Desk`."""
        request = Request(f"{self.origin}/control", {}, json.dumps(what).encode())
        begun = monotonic()
        while not isinstance(answer := self._transport.post_many([request], monotonic() + 5)[0], Answer):
            if monotonic() > begun + START:
                raise Unavailable(f"the local provider does not answer: {answer.why}")
            sleep(0.02)
        if answer.status != 200:
            raise Unavailable(f"the local provider answers {answer.status}: {answer.body}")

    def behave(self) -> None:
        """Forget everything that it was told."""
        self.tell(faults={}, gone={}, foreign=[])

    def subscribe(self) -> Subscription:
        """Make a browser's subscription that it knows."""
        key, secret = ec.generate_private_key(ec.SECP256R1()), secrets.token_bytes(16)
        path = f"/wp/{secrets.token_urlsafe(24)}"
        number = key.private_numbers().private_value.to_bytes(32)
        self.tell(subscriptions={path: [_text(number), _text(secret)]})
        point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        return Subscription(self.origin + path, _text(point), _text(secret))

    def settings(self) -> dict[str, Any]:
        """Settings of a Horae that sends here."""
        return {
            "fcm_credentials": self.files.service_account,
            "fcm_url": self.origin,
            "apns_key": self.files.apns_key,
            "apns_key_id": KEY_ID,
            "apns_team_id": TEAM_ID,
            "apns_topic": TOPIC,
            "apns_url": self.origin,
            "webpush_key": self.files.vapid_key,
            "webpush_subject": SUBJECT,
            "webpush_hosts": f"localhost:{self.port},localhost:{self._rough_port}",
            "provider_ca": self.files.authority,
        }

    def received(self, since: int = 0) -> list[dict[str, Any]]:
        """What it received, oldest first, from line `since` of its journal on."""
        lines = self.journal_path.read_bytes().splitlines() if self.journal_path.exists() else []
        return [json.loads(line) for line in lines[since:]]

    def close(self) -> None:
        """Stop it."""
        self._transport.close()
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _wait(self, ready: Path) -> None:
        begun = monotonic()
        while not ready.exists():
            if self._process.poll() is not None or monotonic() > begun + START:
                raise Unavailable("the local provider did not start")
            sleep(0.02)


def fcm_token(name: str) -> str:
    """A registration token as FCM's look."""
    return f"horae-{name:>08}".replace(" ", "0") + ":APA91b" + "x" * 120


def apns_token(number: int) -> str:
    """A device token as APNs' look."""
    return f"{number:064x}"


def _free_ports() -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        for one in (first, second):
            one.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]


def _text(value: bytes) -> str:
    return urlsafe_b64encode(value).rstrip(b"=").decode()
