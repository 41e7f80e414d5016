"""What events make of one user's triggers of one campaign: which are armed, which called off (pure).

Times are epoch seconds. An event first calls off what it may, then arms: so an event type that is both (each further
add_to_cart, with `cancel_if: [add_to_cart]`) starts the delay anew.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Follow:
    """A campaign's rules: cancel_by_item: only events about the same item call off; limit in any stretch of `per`
    seconds (None: ever)."""

    cancel_by_item: bool
    limit: int
    per: float | None


@dataclass(frozen=True)
class Happening:
    """Something that happened to a user: whether it arms (and under which name), whether it calls off."""

    at: float
    item: int | None
    source: str
    arms: bool
    cancels: bool


@dataclass(frozen=True)
class Known:
    """A trigger that is there: id, what it is about, when it happened, and whether it was handed on already."""

    id: int
    at: float
    item: int | None
    fired: bool


@dataclass(frozen=True)
class Followed:
    """armed: what is new; cancelled: ids of known ones that are called off; refused: how many the limit kept out."""

    armed: tuple[Happening, ...]
    cancelled: tuple[int, ...]
    refused: int


def follow(rules: Follow, known: Sequence[Known], happened: Sequence[Happening]) -> Followed:
    """What becomes of a user's triggers, in the order in which things happened, whatever the order they came in.

    What is called off before it was handed on leaves its place under the limit.
    """
    standing = {each.id: each for each in known}
    fresh: list[Happening] = []
    cancelled: list[int] = []
    refused = 0
    for event in sorted(happened, key=lambda each: (each.at, not each.cancels, each.source)):
        if event.cancels:
            hit = [one.id for one in standing.values() if _calls_off(rules, event, one.at, one.item)]
            cancelled += [number for number in hit if number not in cancelled]
            for number in hit:
                if not standing[number].fired:
                    del standing[number]
            fresh = [one for one in fresh if not _calls_off(rules, event, one.at, one.item)]
        if event.arms:
            times = [one.at for one in standing.values()] + [one.at for one in fresh]
            if room_for(times, event.at, rules.limit, rules.per):
                fresh.append(event)
            else:
                refused += 1
    return Followed(tuple(fresh), tuple(cancelled), refused)


def room_for(times: Sequence[float], at: float, limit: int, per: float | None) -> bool:
    """Whether one more at `at` leaves at most `limit` in every stretch [t, t + per) of time (per None: ever)."""
    if per is None:
        return len(times) < limit
    near = sorted([each for each in times if at - per < each < at + per] + [at])
    return all(bisect_right(near, start + per - _INSTANT) - first <= limit for first, start in enumerate(near))


_INSTANT = 1e-6
"""The store's instants are whole microseconds: [t, t + per) ends one before."""


def _calls_off(rules: Follow, event: Happening, at: float, item: int | None) -> bool:
    return event.at > at and (not rules.cancel_by_item or (event.item is not None and event.item == item))
