"""Token buckets: what a provider, a campaign's rate or a retry budget lets leave (pure; machine time).

A bucket is a level at an instant; it fills with time up to its burst. An instant ahead of now means that it is empty
until then, which is how a provider's Retry-After is kept, also where no rate is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

RETRY_SHARE = 0.1
"""A provider gets at most so many repeats per first attempt, and one a second however few those are: where a part of
all fails, repeating all of it at once is what keeps a provider down."""

UNLIMITED = float("inf")
_BURST_PARTS = 12


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `burst` at once, `per_second` on average; `first`: what is there at the beginning."""

    burst: float
    per_second: float
    first: float


RETRIES = Rate(burst=1_000, per_second=1.0, first=10)
"""The retry budget but for RETRY_SHARE, which is added as first attempts are made."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """`level` tokens at `at`."""

    level: float
    at: datetime


def per_minute(most: int) -> Rate:
    """The rate of which no minute, wherever it begins, sees more than `most` (≥ 1): five seconds' worth at once, and
    the rest of the minute's over the minute."""
    burst = max(1, most // _BURST_PARTS)
    return Rate(burst, (most - burst + 1) / 60, burst)


def level(bucket: Bucket | None, rate: Rate | None, now: datetime) -> float:
    """What may be taken now; UNLIMITED without a rate, unless the bucket is to stay empty for a while."""
    if bucket is not None and bucket.at > now:
        return 0.0
    if rate is None:
        return UNLIMITED
    if bucket is None:
        return rate.first
    return min(rate.burst, bucket.level + rate.per_second * (now - bucket.at).total_seconds())


def changed(bucket: Bucket | None, rate: Rate | None, number: float, now: datetime) -> Bucket:
    """The bucket with `number` more in it (less, where negative)."""
    if bucket is not None and bucket.at > now:
        return bucket
    here = level(bucket, rate, now)
    return Bucket(0.0 if rate is None else min(rate.burst, here + number), now)


def emptied(bucket: Bucket | None, until: datetime) -> Bucket:
    """The bucket, empty until `until` or as long as it was to be."""
    return Bucket(0.0, max(until, bucket.at) if bucket is not None else until)


def admit(wants: Sequence[Mapping[str, int]], levels: Mapping[str, float]) -> list[str | None]:
    """Who gets all that they want, in their order: None for these, else the key that has too little left for them.

    Who gets nothing takes nothing, so that later and smaller wants may still fit.
    """
    left, out = dict(levels), list[str | None]()
    for want in wants:
        short = next((key for key, number in want.items() if left.get(key, UNLIMITED) < number), None)
        if short is None:
            for key, number in want.items():
                if key in left:
                    left[key] -= number
        out.append(short)
    return out
