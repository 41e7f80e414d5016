"""The workspace's rules, and the one function that applies them to a push (pure).

The invariant of caps: *when an obeying push is admitted, the counting pushes in each of its windows, itself included,
are ≤ limit.* A rolling window of length w at instant t is [t − w, t], both ends counted; a calendar window is the
user's calendar day or week (from Monday), by the local day that each push kept when it was sent, so that a later change
of zone neither frees nor doubles a place. The minimum gap holds between any two counting pushes; exactly the gap apart
is enough.

`admits` decides for planning, preview, explanation and the check of a provider's journal; the Lua script of delivery
and the vectorised twin of planning are held equal to it by property tests. For planning, `sent` may hold pushes later
than the one asked about (planned, not yet sent): then no window that ends at one of those may overflow either.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import cached_property
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, model_validator

from engine.campaigns.fields import (
    Duration,
    LocalHours,
    Name,
    Share,
    Strict,
    ZoneName,
    duration_text,
    in_words,
    parse_duration,
)
from engine.localtime import Hours, in_hours, local_day

LONGEST_WINDOW = timedelta(days=92)
"""Of a rolling cap and of the gap: what delivery must remember of each user."""

PER_MINUTE = {"fcm": 600_000}
"""What providers take of one sender in a minute where nothing else is set: FCM's default quota of a project
(firebase.google.com/docs/cloud-messaging/scale-fcm)."""

SCOPES = ("channel", "campaign", "tag", "category")


def _check_scope(value: str) -> str:
    kind, _, name = value.partition(":")
    if value != "all" and (kind not in SCOPES or not name.strip() or any(ord(c) < 32 for c in name)):
        raise ValueError("must be all, channel:NAME, campaign:NAME, tag:NAME or category:NAME")
    return value


def _check_window(value: str) -> str:
    if value in ("local_day", "local_week"):
        return value
    kind, _, length = value.partition(":")
    if kind != "rolling":
        raise ValueError("must be local_day, local_week or rolling:DURATION (rolling:PT24H)")
    width = parse_duration(length)
    if width > LONGEST_WINDOW:
        raise ValueError(f"a rolling window is at most {in_words(LONGEST_WINDOW)}")
    return f"rolling:{duration_text(width)}"


def window_of(per: str, *, rolling: bool = False) -> str:
    """A window as people say it: day, week (the user's calendar, or the last 24 hours and 7 days), or a duration."""
    calendar = {"day": ("local_day", "PT24H"), "week": ("local_week", "P7D")}.get(per.strip().lower())
    if calendar is None:
        return f"rolling:{per.strip()}"
    return f"rolling:{calendar[1]}" if rolling else calendar[0]


def _check_gap(value: timedelta) -> timedelta:
    if value > LONGEST_WINDOW:
        raise ValueError(f"is at most {in_words(LONGEST_WINDOW)}")
    return value


class Cap(Strict):
    """At most `limit` counting pushes per user in each window, among the pushes in scope."""

    id: str = Field("", description="Given when the cap is added; names it in refusals and for removal.")
    scope: Annotated[str, AfterValidator(_check_scope)] = Field(
        "all", description="Which pushes: all, channel:GATEWAY, campaign:NAME, tag:NAME or category:ITEM CATEGORY."
    )
    limit: int = Field(ge=0, le=10_000, description="The most pushes; 0 allows none.")
    window: Annotated[str, AfterValidator(_check_window)] = Field(
        description="local_day, local_week (from Monday), both the user's own calendar, or rolling:PT24H."
    )

    @cached_property
    def width(self) -> timedelta | None:
        """The length of a rolling window; None of a calendar one."""
        return parse_duration(self.window.partition(":")[2]) if self.window.startswith("rolling:") else None

    def covers(self, scopes: frozenset[str]) -> bool:
        """Whether a push with these scopes is in this cap's scope."""
        return self.scope == "all" or self.scope in scopes

    def __str__(self) -> str:
        width = self.width
        per = f"in any {in_words(width)}" if width else "a local day" if self.window == "local_day" else "a local week"
        return f"at most {self.limit} {per}" + ("" if self.scope == "all" else f" of {self.scope}")


class GatewayRule(Strict):
    """What a gateway's provider takes."""

    gateway: Name = Field(description="log, webhook, …")
    per_quarter: int | None = Field(
        None, ge=1, description="The most pushes in each UTC quarter of an hour, all campaigns together."
    )
    per_minute: int | None = Field(
        None, ge=1, description="The most messages in any minute, all campaigns together; kept as they leave."
    )
    per_device_day: int | None = Field(
        None, ge=1, description="The most marketing pushes a device gets on a local day; as many as its user then."
    )

    def __str__(self) -> str:
        parts = (
            f"{self.per_quarter} a quarter of an hour" if self.per_quarter else "",
            f"{self.per_minute} a minute" if self.per_minute else "",
            f"{self.per_device_day} a device and local day" if self.per_device_day else "",
        )
        return f"{self.gateway}: at most {', '.join(part for part in parts if part)}"

    @model_validator(mode="after")
    def _says_something(self) -> GatewayRule:
        if self.per_quarter is None and self.per_minute is None and self.per_device_day is None:
            raise ValueError("needs per_quarter, per_minute or per_device_day")
        return self


class Policy(Strict):
    """What holds for every campaign of the workspace."""

    default_timezone: ZoneName = Field("UTC", description="The zone of users who have none.")
    quiet_hours: LocalHours | None = Field(
        (time(22), time(8)), description="No push leaves in these local hours; a user's own win."
    )
    caps: tuple[Cap, ...] = Field((), description="Frequency caps; all must hold.")
    min_gap: Annotated[Duration, AfterValidator(_check_gap)] | None = Field(
        None, description="The least time between two counting pushes to a user."
    )
    holdout: Share = Field(0.0, description="Share of users who get no marketing push at all, sticky.")
    gateways: tuple[GatewayRule, ...] = Field((), description="What providers take.", max_length=50)
    pushes_per_stock: int | None = Field(
        10,
        ge=1,
        le=1_000_000,
        description="The most pushes about an item for each piece in stock, those of the last day included; none: stock"
        " is no limit. About one push in ten or more leads to a purchase.",
    )

    approvals: Literal["off", "required", "four_eyes"] = Field(
        "off",
        description="Whether a version of a campaign needs an approval before it is launched, triggered or takes the"
        " place of a launched one; four_eyes: by somebody who wrote none of what is approved.",
    )
    keep_events_days: int | None = Field(
        None,
        ge=93,
        le=36_500,
        description="Months of events that ended so many days ago are dropped; profiles stay. None: never.",
    )
    keep_deliveries_days: int | None = Field(
        None, ge=93, le=36_500, description="The same of deliveries, day by day. Caps look back 92 days at most."
    )
    keep_decisions_days: int | None = Field(
        None, ge=62, le=36_500, description="The same of decisions with their receipts, of which models learn 56 days."
    )

    @model_validator(mode="after")
    def _one_rule_a_gateway(self) -> Policy:
        names = [rule.gateway for rule in self.gateways]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"gateways name {', '.join(twice)} twice")
        return self

    def quotas(self) -> tuple[Cap, ...]:
        """What providers allow each device a day, as caps: a user's devices all get what the user gets. They hold for
        every marketing push, also of campaigns that do not obey caps."""
        return tuple(
            Cap(
                id=f"{rule.gateway}.quota",
                scope=f"channel:{rule.gateway}",
                limit=rule.per_device_day,
                window="local_day",
            )
            for rule in self.gateways
            if rule.per_device_day is not None
        )

    def per_quarter(self, gateway: str) -> int | None:
        """The most pushes that a gateway takes in a UTC quarter-hour; None: no limit. A rate a minute that is set is
        one too: nothing is planned that could not leave."""
        rule = self._rule(gateway)
        return None if rule is None else least(rule.per_quarter, minutes_of(rule.per_minute))

    def per_minute(self, gateway: str) -> int | None:
        """The most messages that a gateway takes in any minute: as set, or what its provider is known to take; None: no
        limit."""
        rule = self._rule(gateway)
        set_to = rule.per_minute if rule is not None else None
        return PER_MINUTE.get(gateway) if set_to is None else set_to

    def _rule(self, gateway: str) -> GatewayRule | None:
        return next((rule for rule in self.gateways if rule.gateway == gateway), None)


def minutes_of(per_minute: int | None) -> int | None:
    """A rate a minute as one of a quarter of an hour."""
    return None if per_minute is None else per_minute * 15


def least(*limits: int | None) -> int | None:
    """The tightest of some limits, None being none."""
    return min((limit for limit in limits if limit is not None), default=None)


@dataclass(frozen=True)
class Sent:
    """A push of a user that was sent, or is planned: what caps and the gap look at."""

    at: datetime
    scopes: frozenset[str]
    local_day: date
    """The user's calendar day at `at`, as kept when it was sent."""
    counts: bool = True
    """Whether it counts toward caps and the gap."""
    obeys: bool = True
    """Whether caps and the gap hold for it: of interest where it is still to be sent."""


@dataclass(frozen=True)
class Refusal:
    """Why a push may not leave at an instant; `cap` is the one that bound."""

    reason: Literal["capped", "gap", "quiet_hours"]
    cap: Cap | None = None

    def __str__(self) -> str:
        return str(self.cap) if self.cap else {"gap": "the minimum gap", "quiet_hours": "quiet hours"}[self.reason]


def admits(
    policy: Policy,
    caps: Sequence[Cap],
    sent: Sequence[Sent],
    at: datetime,
    scopes: frozenset[str],
    tz: ZoneInfo,
    own_quiet: Hours | None = None,
) -> Refusal | None:
    """None if a push may leave at `at` (aware) under `caps` and the policy's gap and quiet hours; else why not.

    `caps` are those the push obeys (`rules.rules_of`); those that do not cover its `scopes` are passed over. `sent` are
    the user's other pushes in any order. `own_quiet` are the user's own quiet hours, which win over the workspace's.
    """
    quiet = own_quiet or policy.quiet_hours
    if quiet and in_hours(tz, at, *quiet):
        return Refusal("quiet_hours")
    today = local_day(tz, at)
    for cap in caps:
        if cap.covers(scopes) and not _room(cap, [push for push in sent if cap.covers(push.scopes)], at, today):
            return Refusal("capped", cap)
    if policy.min_gap is not None and any(_too_close(push, at, policy.min_gap) for push in sent):
        return Refusal("gap")
    return None


def _room(cap: Cap, sent: list[Sent], at: datetime, today: date) -> bool:
    """Whether one more at `at` keeps every window of `cap` within its limit."""
    counting = [push for push in sent if push.counts]
    if cap.width is None:
        unit = today if cap.window == "local_day" else _monday(today)
        days = [push.local_day if cap.window == "local_day" else _monday(push.local_day) for push in counting]
        return days.count(unit) < cap.limit
    ends = [at, *(push.at for push in sent if push.obeys and at < push.at <= at + cap.width)]
    return all(sum(end - cap.width <= push.at <= end for push in counting) < cap.limit for end in ends)


def _too_close(push: Sent, at: datetime, gap: timedelta) -> bool:
    return (push.counts and timedelta() <= at - push.at < gap) or (push.obeys and timedelta() < push.at - at < gap)


def _monday(day: date) -> date:
    return day - timedelta(days=day.weekday())


# --- the check of a journal ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Journalled:
    """A push as a provider received it."""

    user: str
    at: datetime
    scopes: frozenset[str]
    tz: ZoneInfo
    """The user's zone at that time."""
    own_quiet: Hours | None = None
    counts: bool = True
    obeys: bool = True


@dataclass(frozen=True)
class Violation:
    """A push that should not have left."""

    user: str
    at: datetime
    refusal: Refusal

    def __str__(self) -> str:
        return f"user {self.user} at {self.at.isoformat()}: {self.refusal}"


def check_journal(policy: Policy, sends: Iterable[Journalled]) -> list[Violation]:
    """The pushes in a provider's journal that broke a cap, the gap or quiet hours, in order of time per user.

    Counted from what the provider received alone; pushes of one instant stand in the order given.
    """
    by_user: dict[str, list[Journalled]] = defaultdict(list)
    for send in sorted(sends, key=lambda send: send.at):
        by_user[send.user].append(send)
    return [violation for pushes in by_user.values() for violation in _check_user(policy, pushes)]


def _check_user(policy: Policy, pushes: list[Journalled]) -> list[Violation]:
    violations, sent = [], list[Sent]()
    for push in pushes:
        held = policy if push.obeys else policy.model_copy(update={"caps": (), "min_gap": None})
        recent = [before for before in sent if before.at >= push.at - LONGEST_WINDOW]
        refusal = admits(held, held.caps, recent, push.at, push.scopes, push.tz, push.own_quiet)
        if refusal:
            violations.append(Violation(push.user, push.at, refusal))
        sent = [*recent, Sent(push.at, push.scopes, local_day(push.tz, push.at), push.counts, push.obeys)]
    return violations
