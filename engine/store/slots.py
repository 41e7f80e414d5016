"""Users hash into 1,024 fixed slots; a shard is a range of slots."""

from __future__ import annotations

import zlib

from engine.store.tables import SLOTS


def slot_of(user_id: str) -> int:
    """The fixed slot (0 … 1023) of a user, by the CRC-32 of the shop's own id: the same in every store and version."""
    return zlib.crc32(user_id.encode()) % SLOTS


def shard_ranges(width: int) -> list[tuple[int, int]]:
    """The slots cut into shards of `width` slots: (first, one past the last)."""
    return [(start, min(start + width, SLOTS)) for start in range(0, SLOTS, width)]
