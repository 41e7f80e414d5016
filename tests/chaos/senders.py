"""A shop's servers that send events: again with the same messageIds until they are told that it is accepted."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import Any

LOST = 0
"""The status of a request that nobody answered."""


def post(port: int, key: str, body: bytes, path: str = "/v1/batch") -> tuple[int, Mapping[str, str], Any]:
    """Send a batch on a connection of its own: status, headers, JSON; LOST where the other side went away."""
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        line.request("POST", path, body, {"Authorization": f"Bearer {key}", "Content-Type": "application/json"})
        reply = line.getresponse()
        read = reply.read()
        return reply.status, dict(reply.getheaders()), json.loads(read) if read else None
    except (OSError, http.client.HTTPException):
        return LOST, {}, None
    finally:
        line.close()


class Sender(threading.Thread):
    """Sends batches one after the other, each to any of `ports` until it is accepted; stops early at `stop`."""

    def __init__(self, ports: Sequence[int], key: str, batches: Iterable[list[dict[str, Any]]], seed: int) -> None:
        super().__init__(daemon=True)
        self._ports, self._key, self._batches, self._rng = ports, key, batches, Random(seed)
        self.stop = threading.Event()
        self.accepted: list[dict[str, Any]] = []
        """Messages of those batches that were answered with 202."""
        self.answers: Counter[int] = Counter()

    def run(self) -> None:
        """Send."""
        for batch in self._batches:
            if self.stop.is_set():
                return
            self._deliver(batch)

    def _deliver(self, batch: list[dict[str, Any]]) -> None:
        body = json.dumps({"batch": batch}).encode()
        while True:
            status, _, _ = post(self._rng.choice(self._ports), self._key, body)
            self.answers[status] += 1
            if status == 202:
                self.accepted += batch
                if self._rng.random() < 0.1:  # as a client whose answer was lost
                    self.answers[post(self._rng.choice(self._ports), self._key, body)[0]] += 1
                return
            assert status in (LOST, 429, 503), status
            time.sleep(0.1)
