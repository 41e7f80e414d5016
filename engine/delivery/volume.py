"""The volume breaker: a campaign that sends far too much, or mostly into errors, is paused (pure; business time).

It catches what no rule of the campaign itself would: a loop that triggers it again and again, a message that the
provider refuses, a provider that takes pushes and does not answer. A provider that says `later` is not an error of
the campaign: its circuit breaker holds the pushes, and nothing of them is lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

WINDOW = timedelta(minutes=15)
TIMES = 10
"""More pushes than so many for each user that the campaign can reach, within WINDOW, are a mistake."""
SHARE = 0.2
"""More errors than this share of the pushes that ended at the provider, within WINDOW."""
LEAST = 50
"""Pushes that must have ended before a share says anything."""


@dataclass(frozen=True, slots=True)
class Volume:
    """A campaign's pushes within WINDOW. sent: accepted or unknown · ended: at the provider, however · errors: refused
    for good (but for dead devices), given up, or unknown."""

    sent: int
    ended: int
    errors: int


def too_many_errors(volume: Volume) -> str | None:
    """Why the campaign should pause, by its errors."""
    if volume.ended < LEAST or volume.errors <= SHARE * volume.ended:
        return None
    share = volume.errors / volume.ended
    return f"{share:.0%} of {volume.ended:,} pushes within 15 minutes ended in provider errors"


def too_much(volume: Volume, reachable: int) -> str | None:
    """Why the campaign should pause, by how much it sent; `reachable`: users that it can reach."""
    if volume.sent <= TIMES * reachable:
        return None
    return f"{volume.sent:,} pushes within 15 minutes are more than {TIMES} for each of {reachable:,} reachable users"


def may_be_too_much(volume: Volume, occurrences: int) -> bool:
    """Whether reachable users need counting at all: a user gets one push of an occurrence, so that only more than TIMES
    `occurrences` can send more than TIMES pushes for each."""
    return occurrences > TIMES and volume.sent > TIMES
