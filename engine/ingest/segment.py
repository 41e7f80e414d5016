"""Messages in Segment's specification as what Horae stores (pure).

    type                      track | identify | page | screen | alias | group
    userId, anonymousId       one at least; with both, the second is another name of the first from then on
    messageId                 makes a retry the same message; without one the message's content does, if it has a time
    timestamp, sentAt         by the client's clock: what happened `sentAt − timestamp` before it was sent happened that
                              long before it arrived, whatever that clock says; `originalTimestamp` is the same
    context.timezone          where the device is
    context.device            token, and type (ios, android, …): registers the device, as Segment's mobile SDKs send it

Events of Segment's e-commerce specification become the event types that Horae knows (COMMERCE): an order one purchase
per product. The rest of `properties` is kept as attributes. The rest of `context` (addresses, agents) is not kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

from pydantic_core import to_json

from engine import localtime
from engine.errors import BadInput
from engine.ingest.convert import LONGEST_ID
from engine.ingest.json_text import object_text

KINDS = ("track", "identify", "page", "screen", "alias", "group")

LARGEST_MESSAGE = 32_000
"""Bytes of a message, as JSON."""

SKEW = timedelta(minutes=5)
"""What is said to happen later than now by no more than this happens now."""

COMMERCE = {
    "order completed": "purchase",
    "product viewed": "view",
    "product added": "add_to_cart",
    "products searched": "search",
    "application opened": "app_open",
    "unsubscribed": "unsubscribe",
}
"""Event names of Segment's specifications, in small letters, and our types."""

_ITEM = ("product_id", "item_id", "sku")
_SHOP_WORDS = ("timezone", "country", "locale", "consent", "preferences")
"""Traits that are columns of users; the others become attributes."""


class Refused(Exception):
    """A message that is not taken, and why."""


class Message(NamedTuple):
    """A message as read.

    place: where it stood in its batch · user_id, anonymous_id: one at least · key: what makes a retry the same, None:
    nothing · events: columns of ingest.layout's events without user and instant, `attributes` as JSON text · traits: of
    identify: columns of users, `attributes` as JSON text · zone: the device's, if known · former: of alias · device:
    its (token, platform), if it says them.
    """

    place: int
    kind: str
    user_id: str | None
    anonymous_id: str | None
    at: datetime
    key: str | None
    events: tuple[Mapping[str, str | None], ...] = ()
    traits: Mapping[str, str | None] | None = None
    zone: str | None = None
    former: str | None = None
    device: tuple[str, str] | None = None


def read_message(
    place: int,
    raw: object,
    now: datetime,
    *,
    kind: str | None = None,
    sent_at: object = None,
    history: bool = False,
    fits: bool = False,
) -> Message:
    """The message that `raw` (JSON as read) is, received at `now`.

    kind: where the address says it · sent_at: the batch's · history: its times are taken as they are · fits: it is
    known to be no larger than a message may be (`all_fit`). Raises Refused.
    """
    if not isinstance(raw, dict):
        raise Refused("not an object")
    kind = kind or raw.get("type")
    if kind not in KINDS:
        raise Refused(f"type: not one of {', '.join(KINDS)}")
    if not fits:
        _check_size(raw)
    user, anonymous = _id(raw, "userId"), _id(raw, "anonymousId")
    if user is None and anonymous is None:
        raise Refused("userId, anonymousId: both missing")
    at = _instant(raw, now, None if history else (raw.get("sentAt") or sent_at))
    events, traits, former = _contents(kind, raw)
    if kind == "alias" and (user is None or former is None):
        raise Refused("an alias needs previousId and userId")
    zone = device = None
    if context := _object(raw, "context"):
        zone, device = _zone(context.get("timezone")), _device(context.get("device"))
    return Message(place, kind, user, anonymous, at, _key(raw), events, traits, zone, former, device)


def all_fit(raws: Sequence[object]) -> bool:
    """Whether no message of a part of a batch is larger than one may be, found at once where they are small."""
    try:
        return len(to_json(raws)) <= LARGEST_MESSAGE
    except ValueError:
        return False


def _check_size(raw: object) -> None:
    try:
        if len(to_json(raw)) > LARGEST_MESSAGE:
            raise Refused(f"larger than {LARGEST_MESSAGE:,} bytes")
    except ValueError:
        raise Refused("not storable as JSON") from None


def _contents(
    kind: str, raw: Mapping[str, Any]
) -> tuple[tuple[Mapping[str, str | None], ...], Mapping[str, str | None] | None, str | None]:
    """The events, the traits and the former id of a message."""
    if kind == "track":
        name = raw.get("event")
        if not isinstance(name, str) or not name.strip():
            raise Refused("event: missing, or no text")
        return _tracked(name.strip(), _object(raw, "properties")), None, None
    if kind in ("page", "screen"):
        named = {word: raw[word] for word in ("name", "category") if raw.get(word) is not None}
        return (_event(kind, {**named, **_object(raw, "properties")}),), None, None
    if kind == "group":
        group = _id(raw, "groupId")
        if group is None:
            raise Refused("groupId: missing")
        return (_event("group", {"group_id": group, **_object(raw, "traits")}),), None, None
    if kind == "identify":
        return (), _traits(_object(raw, "traits")), None
    return (), None, _id(raw, "previousId")


def _tracked(name: str, properties: Mapping[str, Any]) -> tuple[Mapping[str, str | None], ...]:
    event_type = COMMERCE.get(name.casefold(), name)
    products = properties.get("products") if event_type == "purchase" else None
    if not isinstance(products, list) or not products:
        return (_event(event_type, properties),)
    order = {word: properties[word] for word in ("order_id", "currency", "coupon") if properties.get(word) is not None}
    if not all(isinstance(product, dict) for product in products):
        raise Refused("properties.products: not objects")
    return tuple(_event(event_type, {**order, **product}) for product in products)


def _event(event_type: str, properties: Mapping[str, Any]) -> Mapping[str, str | None]:
    event: dict[str, str | None] = {"event_type": event_type}
    rest = dict(properties)
    for word in _ITEM:
        if rest.get(word) is not None:
            event["item_id"] = _id(rest, word)
            del rest[word]
            break
    if rest:
        event["value"] = _value(rest)
        for word in ("quantity", "push_id"):
            if word in rest:
                event[word] = _scalar(rest, word)
                del rest[word]
        rest.pop("value", None)
    if rest:
        event["attributes"] = _text(rest)
    return event


def _value(properties: Mapping[str, Any]) -> str | None:
    for word in ("value", "revenue", "total"):
        if properties.get(word) is not None:
            return _scalar(properties, word)
    if properties.get("price") is None:
        return None
    price, quantity = _number(properties["price"]), _number(properties.get("quantity"))
    if price is not None and quantity is not None:
        return repr(price * quantity)
    return _scalar(properties, "price")


def _traits(traits: Mapping[str, Any]) -> Mapping[str, str | None]:
    found: dict[str, str | None] = {}
    for word in _SHOP_WORDS:
        if word in traits:
            held = traits[word]
            found[word] = _text(held) if isinstance(held, dict) else _scalar(traits, word)
    found["attributes"] = _text({word: held for word, held in traits.items() if word not in _SHOP_WORDS})
    return found


def _instant(raw: Mapping[str, Any], now: datetime, sent: object) -> datetime:
    said = raw.get("timestamp") or raw.get("originalTimestamp")
    if said is None:
        return now
    at = _time(said, "timestamp", _parsed)
    try:
        if sent is not None:
            at = now - (_time(sent, "sentAt", _sent) - at)
    except OverflowError:
        raise Refused("timestamp: out of range") from None
    if at <= now:
        return at
    if at > now + SKEW:
        raise Refused("timestamp: in the future")
    return now


def _time(said: object, name: str, parsed: Callable[[str], datetime]) -> datetime:
    try:
        if not isinstance(said, str):
            raise TypeError
        return parsed(said)
    except (TypeError, ValueError, OverflowError):
        raise Refused(f"{name}: not an ISO 8601 time") from None


def _parsed(said: str) -> datetime:
    found = datetime.fromisoformat(said.strip())
    if found.tzinfo is UTC:
        return found
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


_sent = lru_cache(64)(_parsed)
"""Kept: all messages of a batch were sent at once."""


def _key(raw: Mapping[str, Any]) -> str | None:
    given = raw.get("messageId")
    if given is not None:
        return _id(raw, "messageId")
    if raw.get("timestamp") is None and raw.get("originalTimestamp") is None:
        return None
    # A retry says again what happened, and anew when it was sent.
    content = {word: held for word, held in sorted(raw.items()) if word != "sentAt"}
    return hashlib.blake2b(to_json(content), digest_size=16, person=b"horae.segment").hexdigest()


def _zone(name: object) -> str | None:
    """A device's zone; one that nobody knows is no reason to refuse what happened."""
    if not isinstance(name, str):
        return None
    try:
        localtime.zone(name)
    except BadInput:
        return None
    return name


def _device(said: object) -> tuple[str, str] | None:
    """A device's token and platform; one that says nothing of use is no reason to refuse what happened."""
    if not isinstance(said, dict):
        return None
    token, platform = said.get("token"), said.get("type")
    if not (isinstance(token, str) and isinstance(platform, str) and token.strip() and platform.strip()):
        return None
    return None if "\0" in token + platform else (token.strip(), platform.strip())


def _id(raw: Mapping[str, Any], name: str) -> str | None:
    held = raw.get(name)
    if held is None:
        return None
    if type(held) is not str and (isinstance(held, bool) or not isinstance(held, str | int)):
        raise Refused(f"{name}: neither text nor a whole number")
    text = str(held).strip()
    if "\0" in text or (4 * len(text) > LONGEST_ID and len(text.encode()) > LONGEST_ID):
        raise Refused(f"{name}: longer than {LONGEST_ID} bytes, or a NUL character")
    return text or None


def _object(raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    held = raw.get(name)
    if held is None:
        return {}
    if not isinstance(held, dict):
        raise Refused(f"{name}: not an object")
    return held


def _scalar(held: Mapping[str, Any], name: str) -> str | None:
    value = held.get(name)
    if value is None:
        return None
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    raise Refused(f"{name}: neither text nor number")


def _number(value: object) -> float | None:
    """A JSON number that is not absurd."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15
    return float(value) if known else None  # type: ignore[arg-type]


def _text(held: Mapping[str, Any]) -> str | None:
    try:
        return object_text(held)
    except ValueError as error:
        raise Refused(str(error)[:200]) from None
