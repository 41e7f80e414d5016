"""The just-in-time check: may this push leave now, by everything but caps?

A push may leave at `now` if it may also still arrive at `now` + δ (the attempt deadline): what is sent in the last
seconds before quiet hours or an expiry may be received after their start.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from engine.campaigns.audience import CONSENTLESS, channels_of
from engine.delivery.facts import Facts, Item, User
from engine.localtime import Hours, open_intervals


@dataclass(frozen=True)
class Refused:
    """It ends here, in `state`, for `reason`: one of ledger.REASONS[state]."""

    state: str
    reason: str


@dataclass(frozen=True)
class Later:
    """It waits for `send_at`, the next instant at which the user's clock allows it."""

    send_at: datetime


def check(facts: Facts, now: datetime, deadline: timedelta, *, needs_device: bool) -> Refused | Later | None:
    """None if the push may leave at `now` and arrive until `now` + `deadline`; else what becomes of it."""
    if facts.campaign_state == "cancelled":
        return Refused("cancelled", "campaign_cancelled")
    if now + deadline >= facts.push.end:
        return Refused("expired", "expired")
    reason = _person(facts, needs_device=needs_device) or _offer(facts, now, deadline)
    if reason is not None:
        return Refused("suppressed", reason)
    return _clock(facts, now, deadline)


def _person(facts: Facts, *, needs_device: bool) -> str | None:
    user = facts.user
    if user is None or user.stub:
        return "not_eligible"
    if not consents(user, facts.push.gateway, facts.terms.campaign.topics):
        return "no_consent"
    return "no_device" if needs_device and not facts.devices else None


def consents(user: User, gateway: str, topics: Collection[str]) -> bool:
    """Whether a push of a campaign about `topics` may go to the user through `gateway`: as the audience has it in SQL.

    A refusal, also of one topic or channel, always counts; no record is no consent unless this channel was allowed.
    """
    said = user.preferences
    if not said:  # most never chose
        return user.consent is True or (user.consent is None and gateway in CONSENTLESS)
    names = [*(f"channel:{name}" for name in channels_of(gateway)), *(f"topic:{name}" for name in topics)]
    if user.consent is False or any(said.get(name) is False for name in names):
        return False
    return user.consent is True or gateway in CONSENTLESS or said.get(f"channel:{gateway}") is True


def _offer(facts: Facts, now: datetime, deadline: timedelta) -> str | None:
    """Of marketing only: an order's confirmation is about an item that was bought, and may be the last of its kind."""
    if facts.push.item_id is None or facts.terms.transactional:
        return None
    if facts.item is None or not _available(facts.item, now, deadline):
        return "item_unavailable"
    if facts.bought:
        return "item_bought"
    return (
        "price_changed" if _dearer(facts.price_then, facts.item.price, facts.terms.campaign.price_tolerance) else None
    )


def _dearer(then: float | None, now: float | None, tolerance: float) -> bool:
    """Whether the item costs more than the plan thought. What became cheaper is no worse an offer, and the message is
    rendered with the price as it is now."""
    return then is not None and now is not None and now > then * (1 + tolerance)


def _available(item: Item, now: datetime, deadline: timedelta) -> bool:
    begun = item.available_from is None or item.available_from <= now
    lasts = item.available_until is None or item.available_until > now + deadline
    return not item.stub and begun and lasts and (item.stock is None or item.stock > 0)


def _clock(facts: Facts, now: datetime, deadline: timedelta) -> Refused | Later | None:
    user, rules = facts.user, facts.terms.rules
    if user is None or user.tz is None:
        return Refused("suppressed", "clock_unsure")
    start = next_open(user.tz, now, facts.push.end, deadline, (rules.hours, rules.quiet(user.quiet)))
    if start is None:
        return Refused("suppressed", "hours")
    return Later(start) if start > now else None


@lru_cache(4096)
def next_open(
    tz: ZoneInfo, now: datetime, end: datetime, deadline: timedelta, hours: tuple[Hours | None, Hours | None]
) -> datetime | None:
    """The first instant in [now, end) from which the clock stays open for more than `deadline`; None if there is none.

    `hours`: the allowed local hours and the quiet ones. Kept, since a group has one `now`, few zones and few ends.
    """
    allowed, quiet = hours
    for opens, closes in open_intervals(tz, now, end, allowed, quiet):
        if opens + deadline < closes:
            return opens
    return None
