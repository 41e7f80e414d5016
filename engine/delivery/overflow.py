"""Where a push goes that cannot leave in its window: into the best one that is left, or nowhere (pure).

What the plan remembers of a push' other possibilities is in the receipt of its decision: of each other window the best
offer, with its instant and its value. Those that nothing stood in the way of, and whose time has not come, are what is
left. A campaign's `overflow` says whether it wants them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from engine.campaigns.definition import Campaign
from engine.delivery.limits import Attempt, Entry, Limit
from engine.planning import receipt

REASONS = ("capped", "gap", "hours")
"""Refusals that another window may cure."""

SOON = timedelta(minutes=1)
"""A window that is over sooner than this after its push is due is none."""


@dataclass(frozen=True, slots=True)
class Place:
    """Another window of a push: its offer and instant. Instants aware UTC."""

    item_id: int | None
    window_start: datetime
    window_end: datetime
    send_at: datetime
    score: float
    value: float
    price: float


def wants_another(campaign: Campaign) -> bool:
    """Whether pushes of this campaign go to the next best window, instead of being dropped."""
    return campaign.overflow != "drop"


def places(stored: bytes | None, now: datetime) -> list[Place]:
    """What is left of the windows that a receipt remembers at business time `now`, the best first."""
    found = []
    for one in receipt.alternatives_of(stored):
        send_at, end = _instant(one["send_at"]), _instant(one["end"])
        if one["code"] == receipt.FREE and send_at is not None and end is not None and now < send_at < end - SOON:
            start = _instant(one["slot"]) or send_at
            item = None if one["item"] < 0 else int(one["item"])
            found.append(
                Place(item, start, end, send_at, float(one["score"]), float(one["value"]), float(one["price"]))
            )
    return sorted(found, key=lambda place: (place.price - place.value, place.send_at))


def first_free(found: Iterable[Place], admits: Callable[[Place], bool]) -> Place | None:
    """The best place that is admitted."""
    return next((place for place in found if admits(place)), None)


def within(limits: Iterable[Limit], entries: Sequence[Entry], attempt: Attempt) -> bool:
    """Whether one more push keeps all `limits`, counted over `entries`: what the reservation would say."""
    return all(sum(limit.counts(entry, attempt) for entry in entries) < limit.most for limit in limits)


def _instant(seconds: float) -> datetime | None:
    return None if seconds != seconds else datetime.fromtimestamp(float(seconds), UTC)  # noqa: PLR0124 - NaN
