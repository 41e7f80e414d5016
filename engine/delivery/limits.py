"""What a push asks of its user's caps (pure).

A reservation at t stands for a receipt anywhere in [t, t + δ], δ being the attempt deadline: rolling windows and the
gap look back by δ more, and a push carries the calendar day of t + δ, so that within δ of midnight it counts for both
days (entries of a day *or a later one* count). With δ = 0 this is `campaigns.policy.admits`.

What counts and does not obey takes its place unasked. It waits until whatever of its user was admitted before it, and
counts, has certainly arrived or never will: else it could be received first, and push that one over its limit. So the
invariant holds at receipts too, in the order in which a provider sees them, with two exceptions within δ: a push that
obeys and does *not* count is held by what was there when it was admitted, and leaves no trace that a later one could
wait for; and a transactional push, should it count, waits for nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Literal, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from engine.campaigns.policy import Cap
from engine.localtime import local_day

GAP = "gap"
OVERTAKING = "overtaking"
"""The rule of what counts and does not obey: not while another may be under way. Who is refused by it waits for δ."""

_MICROSECOND = timedelta(microseconds=1)


class Attempt(NamedTuple):
    """When and where a push is tried: from `at` for at most `deadline`, by the clock of a user in `tz`."""

    at: datetime
    tz: ZoneInfo
    deadline: timedelta = timedelta(0)

    @property
    def today(self) -> date:
        """The user's calendar day."""
        return local_day(self.tz, self.at)

    @property
    def day(self) -> date:
        """The calendar day it counts for: the later one, where it may arrive on either side of midnight."""
        return local_day(self.tz, self.at + self.deadline)


@dataclass(frozen=True, slots=True)
class Limit:
    """One cap or the gap, as a push obeys it: at most `most` counting entries in `window`, among those in `scope`."""

    rule: str
    """The cap's id, or GAP."""
    most: int
    window: timedelta | Literal["local_day", "local_week"]
    """How far back, to an instant inclusive, or the user's calendar day, or their week from Monday."""
    scope: str | None = None
    """None: all."""

    def counts(self, entry: Entry, attempt: Attempt) -> bool:
        """Whether `entry` takes one of its places, seen from `attempt`: what the script asks of a log's entry."""
        if self.scope is not None and self.scope not in entry.scopes:
            return False
        if isinstance(self.window, timedelta):
            return entry.at >= attempt.at - attempt.deadline - self.window
        today = attempt.today
        return entry.day >= (today if self.window == "local_day" else today - timedelta(days=today.weekday()))


@dataclass(frozen=True, eq=False)
class Limits:
    """All that pushes with the same scopes and rules obey, in the order of refusal. Compared by identity: the script is
    compiled once for each, so whoever asks often keeps them."""

    each: tuple[Limit, ...]

    def __iter__(self) -> Iterator[Limit]:
        return iter(self.each)

    def __len__(self) -> int:
        return len(self.each)


class Entry(NamedTuple):
    """What counts toward caps: a push sent or under way."""

    push_id: UUID
    fence: int
    at: datetime
    day: date
    scopes: tuple[str, ...]


class Reservation(NamedTuple):
    """A push that asks for its place under the caps of `user_id`; `counts` says whether it takes one."""

    user_id: int
    push_id: UUID
    fence: int
    scopes: tuple[str, ...]
    attempt: Attempt
    limits: Limits
    counts: bool = True


def limits_of(caps: Iterable[Cap], gap: timedelta | None, scopes: frozenset[str], *, unasked: bool = False) -> Limits:
    """The limits of a push with `scopes` that obeys `caps` and `gap`, in the order in which `admits` looks at them.
    `unasked`: it obeys nothing but the quotas of providers, and counts all the same."""
    limits = [
        Limit(cap.id or str(cap), cap.limit, _window(cap), None if cap.scope == "all" else cap.scope)
        for cap in caps
        if cap.covers(scopes)
    ]
    if gap is not None:
        limits.append(Limit(GAP, 1, gap - _MICROSECOND))
    if unasked:
        limits.append(Limit(OVERTAKING, 1, -_MICROSECOND))
    return Limits(tuple(limits))


def horizon_of(caps: Iterable[Cap], gap: timedelta | None, deadline: timedelta) -> timedelta:
    """How far back the limits of these rules look at most; a local week and its zone changes included."""
    widths = [cap.width for cap in caps]
    return max([timedelta(days=8), gap or timedelta(0), *(width for width in widths if width)]) + deadline


def _window(cap: Cap) -> timedelta | Literal["local_day", "local_week"]:
    if cap.width is not None:
        return cap.width
    return "local_day" if cap.window == "local_day" else "local_week"
