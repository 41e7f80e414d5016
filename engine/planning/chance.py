"""Chance, as a pure function of who and what (pure).

Every draw of a plan (arms, ties, minutes inside a window, ids of pushes) is a keyed hash: SplitMix64's finaliser over a
key derived from the workspace's secret, a purpose and a seed. So a draw does not depend on shard, order or batch, the
same seed gives the same plan, and nobody outside can foresee an arm.

SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014; the finaliser is
Stafford's variant 13.
"""

from __future__ import annotations

import hashlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: uint64[…] → uint64[…], a bijection in which every input bit reaches every output bit."""
    x = values.astype(np.uint64, copy=True)
    x ^= x >> np.uint64(30)
    x *= _FIRST
    x ^= x >> np.uint64(27)
    x *= _SECOND
    x ^= x >> np.uint64(31)
    return x


def key_of(secret: bytes, purpose: str, seed: int = 0) -> int:
    """The 64-bit key of one kind of draw, from the workspace's secret (1–64 bytes), its purpose and a seed."""
    digest = hashlib.blake2b(f"{purpose}|{seed}".encode(), key=secret, digest_size=8).digest()
    return int.from_bytes(digest, "little")


def hashes(key: int, *ids: np.ndarray) -> np.ndarray:
    """A uint64 hash per element of the broadcast integer arrays `ids`; their order matters."""
    state = np.asarray(np.uint64(key))
    for part in ids:
        with np.errstate(over="ignore"):
            state = mix((state ^ np.asarray(part).astype(np.int64).view(np.uint64)) + _GOLDEN)
    return state


def uniform(key: int, *ids: np.ndarray) -> np.ndarray:
    """A float64 in [0, 1) per element of the broadcast integer arrays `ids`."""
    return (hashes(key, *ids) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def push_ids(secret: bytes, occurrence_id: np.ndarray, user_id: np.ndarray) -> np.ndarray:
    """The ids of the pushes of (occurrence, user): uint8[n, 16], RFC 9562 UUIDs of version 8, the same at every try."""
    high = hashes(key_of(secret, "push id, high"), occurrence_id, user_id)
    low = hashes(key_of(secret, "push id, low"), occurrence_id, user_id)
    out = np.empty((len(high), 16), np.uint8)
    out[:, :8] = high.astype(">u8").view(np.uint8).reshape(-1, 8)
    out[:, 8:] = low.astype(">u8").view(np.uint8).reshape(-1, 8)
    out[:, 6] = (out[:, 6] & 0x0F) | 0x80
    out[:, 8] = (out[:, 8] & 0x3F) | 0x80
    return out
