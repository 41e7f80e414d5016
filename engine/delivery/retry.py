"""When to try again (pure): capped exponential backoff with full jitter, and the provider's own wish."""

from __future__ import annotations

from datetime import timedelta

FIRST_WAIT = timedelta(seconds=2)
LONGEST_WAIT = timedelta(minutes=10)
SPREAD = 0.1
MOST_ATTEMPTS = 10
"""After this many attempts a push is given up, whatever its window."""


def backoff(attempts: int, asked: timedelta | None, luck: float) -> timedelta:
    """How long to wait after attempt number `attempts` (≥ 1) failed in a way that may pass.

    `luck`, drawn from [0, 1), spreads it evenly between 0 and min(LONGEST_WAIT, FIRST_WAIT · 2^(attempts − 1)) ("full
    jitter": AWS Architecture Blog, "Exponential backoff and jitter"). Where the provider `asked` for a wait it is never
    shorter, and longer by up to SPREAD of it: all whom it asked at once do not come back at once.
    """
    most = min(LONGEST_WAIT, FIRST_WAIT * (1 << min(attempts - 1, 30)))
    return max(most * luck, asked + asked * (SPREAD * luck) if asked is not None else timedelta(0))
