"""Circuit breakers: a provider that fails is left alone, then asked by one push, then used again (pure).

    closed ── half of at least LEAST answers failed ──► open ── until ──► probing (one push) ── answered ──► closed
                                                         ▲                     │
                                                         └────── failed ───────┘  twice as long

One breaker per gateway, which is one credential at one provider. Failed is what says nothing of the message: a refusal
for a passing reason that is not the rate, and no answer. While it is open rows wait in `planned`, and no caps are taken
for them. Machine time throughout. After M. Nygard, "Release It!"; half-open by one probe.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

WINDOW = timedelta(seconds=30)
"""Answers are counted for so long, then anew."""
LEAST = 10
"""Failures below which nothing is concluded."""
SHARE = 0.5
FIRST = timedelta(seconds=5)
LONGEST = timedelta(minutes=5)
"""How long it stays open: FIRST, twice as long each time until a whole window went well, at most LONGEST."""

Way = Literal["all", "one", "none"]


@dataclass(frozen=True, slots=True)
class Heard:
    """Answers of a provider, and how many of them were failures; `why`: what one of these said."""

    answers: int = 0
    failures: int = 0
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Breaker:
    """A breaker. `until`: of an open one, when it may be probed; of a probing one, when the probe is given up."""

    state: Literal["closed", "open", "probing"]
    since: datetime
    counted_from: datetime
    until: datetime | None = None
    trips: int = 0
    answers: int = 0
    failures: int = 0
    why: str | None = None


def new(now: datetime) -> Breaker:
    """A breaker of which nothing is known."""
    return Breaker("closed", since=now, counted_from=now)


def way(breaker: Breaker | None, now: datetime) -> Way:
    """What may go to the provider now: all, one push to probe it, or none."""
    if breaker is None or breaker.state == "closed":
        return "all"
    return "one" if breaker.until is None or breaker.until <= now else "none"


def probed(breaker: Breaker, now: datetime, longest: timedelta) -> Breaker:
    """The breaker once somebody has taken the probe, which is over within `longest`."""
    return replace(breaker, state="probing", since=now, until=now + longest)


def unprobed(breaker: Breaker, now: datetime) -> Breaker:
    """The breaker where the push that was to probe did not leave: the next one may."""
    return replace(breaker, state="open", until=now) if breaker.state == "probing" else breaker


def after(breaker: Breaker, heard: Heard, now: datetime) -> Breaker:
    """The breaker after `heard`. What an open one hears was under way when it opened, and changes nothing."""
    if breaker.state == "open" or heard.answers == 0:
        return breaker
    if breaker.state == "probing":
        if heard.failures == heard.answers:
            return _opened(breaker, heard.why, now)
        return replace(breaker, state="closed", since=now, until=None, counted_from=now, answers=0, failures=0)
    if now - breaker.counted_from > WINDOW:
        breaker = replace(breaker, counted_from=now, answers=0, failures=0, trips=0, why=None)
    counted = replace(
        breaker,
        answers=breaker.answers + heard.answers,
        failures=breaker.failures + heard.failures,
        why=heard.why or breaker.why,
    )
    if counted.failures >= LEAST and counted.failures >= SHARE * counted.answers:
        return _opened(counted, counted.why, now)
    return counted


def _opened(breaker: Breaker, why: str | None, now: datetime) -> Breaker:
    wait = min(LONGEST, FIRST * (1 << min(breaker.trips, 16)))
    return replace(
        breaker, state="open", since=now, until=now + wait, trips=breaker.trips + 1, why=why, counted_from=now,
        answers=0, failures=0,
    )  # fmt: skip
