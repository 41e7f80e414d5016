"""Devices as arrays (pure)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from engine.errors import did_you_mean
from engine.ingest.block import Strings

LONGEST_TOKEN = 2_000
"""Bytes: tokens are unique, and an index entry holds 2,704. A browser's endpoint has a few hundred."""

GATEWAY_OF = {
    "android": "fcm", "ios": "apns", "ipados": "apns", "macos": "apns", "web": "webpush", "browser": "webpush",
}  # fmt: skip
"""What reaches a platform where a file names no gateway."""


@dataclass(frozen=True)
class DeviceRows:
    """n registrations: user, gateway, token (text) · platform (text or null) · seen_at: datetime64[us] (UTC), NaT where
    the file does not say when · attributes: JSON objects or null; None: none at all."""

    user: Strings
    gateway: Strings
    token: Strings
    platform: Strings
    seen_at: np.ndarray
    attributes: Strings | None

    def __len__(self) -> int:
        return len(self.seen_at)

    def take(self, rows: np.ndarray) -> DeviceRows:
        """The rows at these positions (int64)."""
        at = pa.array(rows)
        attributes = None if self.attributes is None else self.attributes.take(at)
        user, gateway, token, platform = (
            column.take(at) for column in (self.user, self.gateway, self.token, self.platform)
        )
        return DeviceRows(user, gateway, token, platform, self.seen_at[rows], attributes)


def gateways_of(
    named: Strings, platform: Strings, known: Collection[str]
) -> tuple[Strings, dict[int, tuple[str, str]]]:
    """Each row's gateway, as named or by its platform; and of the rows without one, the problem and a detail."""
    found: list[str | None] = []
    problems: dict[int, tuple[str, str]] = {}
    for row, (name, system) in enumerate(zip(named.to_pylist(), platform.to_pylist(), strict=True)):
        gateway = name if name is not None else GATEWAY_OF.get((system or "").casefold())
        found.append(gateway)
        if gateway is None:
            problem = "gateway, platform: both missing" if system is None else "platform: unknown"
            problems[row] = (problem, system or "")
        elif gateway not in known:
            hint = did_you_mean(gateway, known) or f"known are {', '.join(sorted(known))}"
            problems[row] = ("gateway: unknown", f"{gateway}: {hint}")
    return pa.array(found, pa.string()), problems
