"""Callbacks as they are written: what one must say, and what is refused before anything is looked up (pure)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from engine.delivery.callback_token import CallbackKey, Forged, read_token
from engine.errors import did_you_mean

EVENTS = {
    "received": "push_received",
    "opened": "push_open",
    "clicked": "push_click",
    "dismissed": "push_dismiss",
    "converted": "purchase",
    "uninstalled": "unsubscribe",
}
"""What a callback may say, and the type of event that it becomes."""

REFUSALS = {
    "malformed": "not a JSON object of the documented form",
    "unknown_event": "an event that callbacks do not have",
    "forged": "the token was not made for this push, or by a key that was revoked",
    "expired": "the token's time is over",
    "unknown_push": "there is no such push (any more)",
    "foreign_push": "the push is another user's",
    "not_delivered": "the push ended without having been delivered",
    "before_delivery": "it happened before the push was delivered",
    "from_the_future": "it has not happened yet",
}
"""The closed list of reasons for which a callback is refused."""

_LONGEST = 256
_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)


class Refused(Exception):
    """The callback is not taken: `reason` is of REFUSALS."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, slots=True)
class Callback:
    """A callback whose token is right."""

    push_id: UUID
    event: str
    ends: datetime
    """When its token ends, business time."""
    at: datetime | None = None
    user_id: str | None = None
    item_id: str | None = None
    value: float | None = None
    quantity: float | None = None
    event_type: str = ""
    id: str | None = None
    device_token: str | None = field(default=None, repr=False)

    @property
    def event_id(self) -> str:
        """What makes it one event, however often it comes."""
        return self.id if self.id is not None else f"{self.push_id}:{self.event}"

    @property
    def attributes(self) -> str | None:
        """JSON of what its event type does not say."""
        return '{"uninstalled":true}' if self.event == "uninstalled" else None


def read_callback(raw: object, keys: Mapping[int, CallbackKey], now: datetime) -> Callback:
    """A callback as read from JSON, checked as far as it can be alone, at business time `now`. Raises Refused.

    keys: those whose tokens are taken. Members that are not documented are ignored: apps are older than servers.
    """
    if not isinstance(raw, Mapping):
        raise Refused("malformed", "not a JSON object")
    push_id = _push_id(raw.get("push_id"))
    token = _text(raw, "callback_token")
    if token is None:
        raise Refused("malformed", "callback_token: missing")
    try:
        ends = read_token(token, push_id, keys)
    except Forged:
        raise Refused("forged", "this push carried another token") from None
    if now >= ends:
        raise Refused("expired", f"answers were taken until {ends.isoformat()}")
    event = _text(raw, "event")
    if event is None:
        raise Refused("malformed", "event: missing")
    if event not in EVENTS:
        raise Refused("unknown_event", did_you_mean(event, EVENTS) or f"known are {', '.join(EVENTS)}")
    at, user_id = _instant(raw.get("at")), _text(raw, "user_id")
    if event == "uninstalled":
        return Callback(push_id, event, ends, at, user_id, event_type=EVENTS[event],
                        device_token=_text(raw, "device_token", 2_000))  # fmt: skip
    if event != "converted":
        return Callback(push_id, event, ends, at, user_id, event_type=EVENTS[event])
    return Callback(
        push_id,
        event,
        ends,
        at,
        user_id,
        item_id=_text(raw, "item_id"),
        value=_number(raw, "value"),
        quantity=_number(raw, "quantity"),
        event_type=_goal(_text(raw, "event_type")),
        id=_text(raw, "id"),
    )


def _push_id(value: object) -> UUID:
    try:
        return UUID(value) if isinstance(value, str) else value if isinstance(value, UUID) else UUID("")
    except ValueError:
        raise Refused("malformed", "push_id: not a UUID") from None


def _text(raw: Mapping[Any, object], name: str, longest: int = _LONGEST) -> str | None:
    value = raw.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not value or len(value) > longest or "\x00" in value or not value.isprintable():
        raise Refused("malformed", f"{name}: not a text of 1 to {longest} printable characters")
    return value


def _number(raw: Mapping[Any, object], name: str) -> float | None:
    value = raw.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Refused("malformed", f"{name}: not a number")
    return float(value)


def _instant(value: object) -> datetime | None:
    if value is None:
        return None
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
        offset = found.utcoffset() if found is not None else None
        if found is None or offset is None or abs(offset) > timedelta(hours=24):
            raise Refused("malformed", "at: not an ISO 8601 time with an offset")
        if found < _EARLIEST:
            raise Refused("malformed", "at: before 2000")
        return found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise Refused("malformed", "at: not an ISO 8601 time with an offset") from None


def _goal(given: str | None) -> str:
    """The event type of a conversion. What pushes themselves cause is no goal, nor is what phones cannot know."""
    if given is None:
        return EVENTS["converted"]
    if given.startswith("push_") or given == "unsubscribe":
        raise Refused("malformed", f"event_type: {given} is no goal")
    return given
