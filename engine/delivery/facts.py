"""What is true now of pushes that are about to leave: their users, items, campaigns and devices, read in one query.

Read after the claim, so that what changed since the plan (consent, zone, stock, a purchase, a pause) decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, text

from engine.campaigns.definition import Campaign
from engine.campaigns.policy import Policy
from engine.campaigns.rules import own_hours
from engine.campaigns.template import Compiled, item_fields, user_fields
from engine.delivery.claim import Claimed, array_of
from engine.delivery.gateways import Device, Gateway
from engine.delivery.messages import NOTHING
from engine.delivery.prices import Looked, prices_then
from engine.delivery.terms import Book, Standing, Terms
from engine.errors import BadInput
from engine.localtime import Hours, zone
from engine.store.tables import EVENT_TYPES

LATE_PURCHASE = timedelta(days=1)
"""A purchase that became known after the plan counts where it happened at most this long before it."""


class User(NamedTuple):
    """A user as the store knows them now."""

    external_id: str
    tz: ZoneInfo | None
    """Their zone, else the workspace's; None where it is no zone at all."""
    timezone: str | None
    locale: str | None
    country: str | None
    attributes: Mapping[str, Any]
    consent: bool | None
    stub: bool
    quiet: Hours | None
    preferences: Mapping[str, bool] = NOTHING
    """By `channel:NAME` and `topic:NAME`: what they allowed, or turned off."""

    def fields(self) -> dict[str, Any]:
        """What templates see."""
        return user_fields(self.external_id, self.locale, self.country, self.timezone, self.attributes)


class Item(NamedTuple):
    """An item as the store knows it now."""

    external_id: str
    title: str | None
    price: float | None
    category: str | None
    brand: str | None
    attributes: Mapping[str, Any] | None
    """None: it has none."""
    available_from: datetime | None
    available_until: datetime | None
    stock: int | None
    stub: bool

    def fields(self) -> dict[str, Any]:
        """What templates see."""
        return item_fields(
            self.external_id,
            title=self.title,
            price=self.price,
            category=self.category,
            brand=self.brand,
            attributes=self.attributes or NOTHING,
        )


class Facts(NamedTuple):
    """A claimed push and what is true of it now."""

    push: Claimed
    terms: Terms
    campaign_state: str
    user: User | None
    """None: erased."""
    item: Item | None
    """None: the push is about no item, or the item is gone (then push.item_id says so)."""
    data: Mapping[str, Any]
    bought: bool
    """Whether the user bought the item since the plan looked."""
    devices: tuple[Device, ...] = ()
    """Live devices that the push may go to, newest first."""
    price_then: float | None = None
    """What the item cost when the plan looked; None: nothing is known, or it had no price."""
    held: bool = False
    """Whether the user has devices, but all of gateways that are stopped, or whose breaker is open."""

    @property
    def chosen(self) -> tuple[Device, ...]:
        """The devices that the next attempt goes to."""
        devices = self.devices
        return devices if len(devices) < 2 else chosen_devices(self.terms.campaign, devices)

    @property
    def message(self) -> Compiled:
        """What its user is told: the message, or their variant of it."""
        split = self.terms.split
        return self.terms.message if split is None else self.terms.message.of(split.arm(self.push.user_id))

    @property
    def variant(self) -> str | None:
        """EXPERIMENT:ARM of its message; None: nothing is under test."""
        return None if self.terms.split is None else self.terms.split.label(self.push.user_id)

    @property
    def standing(self) -> Standing:
        """How caps see it."""
        return self.terms.standing(self.item.category if self.item else None)


USER_COLUMNS = """
    u.id, u.external_id, u.timezone, u.locale, u.country, u.attributes, u.consent, u.stub, u.quiet_from, u.quiet_until,
    (SELECT jsonb_object_agg(f.kind || ':' || f.name, f.allowed) FROM preferences f WHERE f.user_id = u.id)"""
"""What `user_of` reads, from `users u`."""
_ITEM = 11
"""The place after them."""

ITEM_COLUMNS = """
    i.external_id, i.title, i.price, i.category, i.brand, NULLIF(i.attributes, '{}'), i.available_from,
    i.available_until, i.stock, i.stub"""
"""The fields of an Item, from `items i`."""

_FACTS = text(f"""
    SELECT mine.place, c.state, o.version, NULLIF(o.data, '{{}}'), p.revision, COALESCE(s.as_of, r.as_of),
           EXISTS (SELECT 1 FROM events e
                   WHERE e.user_id = p.user_id AND e.item_id = p.item_id AND e.event_type = :purchase
                     AND e.occurred_at >= COALESCE(s.as_of, r.as_of) - :late AND e.occurred_at <= :now
                     AND e.received_at >= COALESCE(s.as_of, r.as_of)),
           {USER_COLUMNS}, {ITEM_COLUMNS}
    FROM unnest(CAST(:ids AS uuid[])) WITH ORDINALITY AS mine (id, place)
    JOIN pushes p ON p.id = mine.id
    JOIN campaigns c ON c.id = p.campaign_id
    JOIN occurrences o ON o.id = p.occurrence_id
    LEFT JOIN runs r ON r.id = p.run_id
    LEFT JOIN shards s ON s.run_id = p.run_id AND p.slot >= s.slot_from AND p.slot < s.slot_until
    LEFT JOIN users u ON u.id = p.user_id
    LEFT JOIN items i ON i.id = p.item_id
""")

_DEVICES = text("""
    SELECT d.user_id, d.id, d.token, d.gateway, d.seen_at, NULLIF(d.attributes, '{}'),
           EXISTS (SELECT 1 FROM switches s WHERE s.scope = 'gateway:' || d.gateway)
           OR EXISTS (SELECT 1 FROM breakers b WHERE b.gateway = d.gateway AND b.state <> 'closed'
                      AND b.until > clock_timestamp()) AS stopped
    FROM devices d
    WHERE d.user_id = ANY(CAST(:users AS bigint[])) AND d.gateway = ANY(:gateways) AND d.dead_at IS NULL
      AND NOT EXISTS (SELECT 1 FROM preferences f WHERE f.user_id = d.user_id AND f.kind = 'channel'
                      AND f.name = d.gateway AND NOT f.allowed)
    ORDER BY d.seen_at DESC, d.id DESC
""")

Reach = Mapping[str, frozenset[str]]
"""Of each gateway that needs devices, the gateways whose devices it reaches."""


def reach_of(gateways: Mapping[str, Gateway]) -> Reach:
    """What the configured `gateways` reach."""
    return {
        name: frozenset(getattr(gateway, "members", (name,)))
        for name, gateway in gateways.items()
        if gateway.needs_device
    }


def chosen_devices(campaign: Campaign, devices: tuple[Device, ...]) -> tuple[Device, ...]:
    """Those of a user's live devices, newest first, that a push of `campaign` goes to."""
    return devices if campaign.devices == "all" else devices[:1]


def load_facts(
    connection: Connection, pushes: Sequence[Claimed], book: Book, now: datetime, reach: Reach
) -> list[Facts]:
    """The facts of `pushes` at business time `now`, in the order of `send_at`; devices for the gateways of `reach`."""
    book.refresh(connection)
    parameters = {
        "ids": array_of(pushes),
        "purchase": EVENT_TYPES["purchase"],
        "late": LATE_PURCHASE,
        "now": now,
    }
    rows = connection.execute(_FACTS, parameters).all()
    devices = _devices(connection, {push.user_id for push in pushes if push.gateway in reach}, reach)
    then = prices_then(connection, _looked(pushes, rows))
    policy, facts = book.policy, []
    for place, state, version, data, _, _, bought, *more in rows:
        push = pushes[place - 1]
        owned, reached = devices.get(push.user_id, ()), reach.get(push.gateway, ())
        live = tuple([device for device, stopped in owned if not stopped and device.gateway in reached])
        item = None if more[_ITEM] is None else Item._make(more[_ITEM:])
        price = None if item is None else item.price
        facts.append(
            Facts(
                push,
                book.terms(connection, push.campaign_id, version),
                state,
                None if more[0] is None else user_of(more[:_ITEM], policy),
                item,
                data or {},
                bought,
                live,
                then.get(push.id, price) if then else price,
                bool(owned) and not live and any(device.gateway in reached for device, _ in owned),
            )
        )
    facts.sort(key=lambda one: one.push.send_at)
    return facts


def _looked(pushes: Sequence[Claimed], rows: Iterable[Sequence[Any]]) -> list[Looked]:
    """When the plan looked at each item that is offered."""
    found = []
    for row in rows:
        push, as_of = pushes[row[0] - 1], row[5]
        if push.item_id is not None and as_of is not None:
            found.append(Looked(push.id, push.item_id, as_of, row[4] > 0))
    return found


def _devices(connection: Connection, users: set[int], reach: Reach) -> dict[int, list[tuple[Device, bool]]]:
    """The live devices of `users`, newest first, each with whether its gateway is stopped."""
    found: dict[int, list[tuple[Device, bool]]] = {}
    if not users:
        return found
    names = sorted({name for names in reach.values() for name in names})
    parameters = {"users": f"{{{','.join(map(str, users))}}}", "gateways": names}
    for user_id, number, token, gateway, seen_at, attributes, stopped in connection.execute(_DEVICES, parameters).all():
        device = Device(number, token, gateway, seen_at, attributes or NOTHING)
        found.setdefault(user_id, []).append((device, stopped))
    return found


def user_of(row: Sequence[Any], policy: Policy) -> User:
    """The user of a row of USER_COLUMNS."""
    _, name, timezone, locale, country, attributes, consent, stub, quiet_from, quiet_until, preferences = row
    tz, quiet = _zone(timezone or policy.default_timezone), own_hours(quiet_from, quiet_until)
    return User(name, tz, timezone, locale, country, attributes, consent, stub, quiet, preferences or NOTHING)


def _zone(name: str) -> ZoneInfo | None:
    try:
        return zone(name)
    except BadInput:
        return None
