"""95 % intervals of rates and of their difference (pure).

Rates are of pushes, but users are what was drawn: a user's pushes hang together. So the number of pushes is first made
the number of independent ones that would say as much (n times variance under independence over variance by users, the
ratio estimator's linearisation), and Wilson's interval is that number's. It stays inside 0 to 1 and has a width where
nothing, or everything, was opened.
Sources: Wilson 1927; Korn and Graubard 1998 (effective sample size); Newcombe 1998, method 10 (difference).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Z = 1.959964
"""The normal quantile of 95 %."""


@dataclass(frozen=True)
class Rate:
    """`hits` of `n`, as a share with its interval; None: of nothing."""

    hits: int
    n: int
    rate: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Difference:
    """One rate less another, with its interval; `noise`: it holds 0."""

    difference: float
    low: float
    high: float
    noise: bool


def rate_of(hits: int, n: int, effective: float | None = None) -> Rate:
    """A rate with Wilson's interval for `effective` independent trials; None: all n are."""
    if n == 0:
        return Rate(hits, n)
    low, high = wilson(hits / n, n if effective is None else effective)
    return Rate(hits, n, hits / n, low, high)


def clustered_rate(user: np.ndarray, hit: np.ndarray) -> Rate:
    """The rate of `hit` (bool[n]) among pushes of users (int64[n])."""
    return clustered_rates(user, {"": hit})[""]


def clustered_rates(user: np.ndarray, hits: Mapping[str, np.ndarray]) -> dict[str, Rate]:
    """The rate of each of `hits` (bool[n]) among pushes of users (int64[n]), by its name."""
    _, of = np.unique(user, return_inverse=True)
    return {name: rate_of(int(hit.sum()), len(hit), effective(of, hit)) for name, hit in hits.items()}


def effective(of: np.ndarray, hit: np.ndarray) -> float:
    """How many independent pushes would say as much about the rate as these do: at most n, at least one a user where
    the rate is 0 or 1. of: whose push, users being numbered from 0."""
    n = len(hit)
    if n == 0:
        return 0.0
    pushes, hits = np.bincount(of), np.bincount(of, hit)
    users, rate = len(pushes), hits.sum() / n
    off = hits - rate * pushes
    variance = users / max(users - 1, 1) * float(off @ off) / n**2
    if variance <= 0 or users < 2:
        return float(users)
    return min(float(rate * (1 - rate) / variance), float(n))


def wilson(rate: float, n: float) -> tuple[float, float]:
    """Wilson's interval of a rate seen in n independent trials (n > 0)."""
    spread = Z * math.sqrt(rate * (1 - rate) / n + Z * Z / (4 * n * n))
    middle, scale = rate + Z * Z / (2 * n), 1 + Z * Z / n
    return max((middle - spread) / scale, 0.0), min((middle + spread) / scale, 1.0)


def difference(ours: Rate, theirs: Rate) -> Difference | None:
    """ours − theirs of independent groups; None where one is empty. Newcombe's interval from both Wilson intervals."""
    numbers = (ours.rate, ours.low, ours.high, theirs.rate, theirs.low, theirs.high)
    if None in numbers:
        return None
    p, low, high, q, other_low, other_high = (float(number or 0.0) for number in numbers)
    found = p - q
    below = found - math.hypot(p - low, other_high - q)
    above = found + math.hypot(high - p, q - other_low)
    return Difference(found, below, above, below <= 0 <= above)
