"""What a definition would say, and to about how many: quick looks while it is being written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, select, text

from engine.campaigns.audience import AudienceQuery, audience_select, count_audience, items_select
from engine.campaigns.audience_store import resolve
from engine.campaigns.definition import Campaign
from engine.campaigns.policy_store import current_policy
from engine.campaigns.template import Compiled, arm_names, compile_message, item_fields, nearest, render, user_fields
from engine.errors import BadInput
from engine.store.tables import SLOTS, items, users

COUNTED = 50_000
"""Users looked at: of more, so many are, and their number is scaled."""

SHOWN, LOOKED_AT = 4, 500
"""Messages shown, and users of the audience among whom those for them are chosen."""

_PUSH_ID = "00000000-0000-4000-8000-000000000000"

# The planner's own estimate: counting a million rows takes as long as the answer is worth.
_USERS = text("SELECT reltuples::bigint FROM pg_class WHERE oid = 'users'::regclass")


@dataclass(frozen=True)
class AudienceSize:
    """Users by what stands in their way, `eligible` first; share: of all users who were looked at, 1 where all were."""

    counts: dict[str, int]
    share: float

    @property
    def asked(self) -> int:
        """How many users it is for."""
        return sum(self.counts.values())


@dataclass(frozen=True)
class Said:
    """A message as one user would read it. item: title of what it is about; written: the locale of the text that they
    read, "" for the message's own; variant: the arm under test; fault: why it cannot be made for them."""

    user: str
    locale: str | None
    item: str | None
    title: str = ""
    body: str = ""
    written: str = ""
    variant: str | None = None
    fault: str | None = None


def audience_size(
    connection: Connection, gateways: Mapping[str, Any], campaign: Campaign, now: datetime
) -> AudienceSize:
    """How many users a definition is for, at `now`; estimated from a share of them, by hash, where there are many."""
    query, share = _asked(connection, gateways, campaign, now)
    counted = count_audience(connection, query)
    return AudienceSize({name: round(n / share) for name, n in counted.items()}, share)


def said_to(
    connection: Connection, campaign: Campaign, whom: Sequence[tuple[str, str | None, str | None]]
) -> list[Said]:
    """The message of a definition for each (user, item, arm under test), users and items by the shop's ids; those that
    are not there are left out."""
    people = {
        row.external_id: row
        for row in connection.execute(_people().where(users.c.external_id.in_([u for u, _, _ in whom])))
    }
    things = {
        row.external_id: row
        for row in connection.execute(_things().where(items.c.external_id.in_([i for _, i, _ in whom if i])))
    }
    compiled = compile_message(campaign.message)
    return [
        _said(campaign.name, compiled.of(arm), people[user], things.get(item) if item else None, arm)
        for user, item, arm in whom
        if user in people
    ]


def said_to_some(
    connection: Connection, gateways: Mapping[str, Any], campaign: Campaign, now: datetime, most: int = SHOWN
) -> list[Said]:
    """The message of a definition for a few users whom it would reach, with some item that it may be about: first one
    of each locale that it is written in; arms under test in turn."""
    query, _ = _asked(connection, gateways, campaign, now)
    reached = audience_select(query).subquery()
    found = connection.execute(
        select(reached.c.external_id, reached.c.locale)
        .where(reached.c.refusal.is_(None))
        .order_by(reached.c.slot, reached.c.id)
        .limit(LOOKED_AT)
    ).all()
    texts = {"": None, **campaign.message.locales}
    first: dict[str, str] = {}
    for row in found:
        first.setdefault(nearest(row.locale, texts), row.external_id)
    chosen = list(dict.fromkeys((*first.values(), *(row.external_id for row in found))))[: max(most, len(first))]
    things: Sequence[str] = ()
    if campaign.items.kind != "none":
        inner = items_select(campaign.items).limit(most).subquery()
        things = (
            connection.execute(select(items.c.external_id).where(items.c.id.in_(select(inner.c.id)))).scalars().all()
        )
        if not things:
            return []
    arms = arm_names(campaign.message)
    asked = [
        (user, things[n % len(things)] if things else None, arms[n % len(arms)] if arms else None)
        for n, user in enumerate(chosen)
    ]
    return said_to(connection, campaign, asked)


def _asked(
    connection: Connection, gateways: Mapping[str, Any], campaign: Campaign, now: datetime
) -> tuple[AudienceQuery, float]:
    """The audience of a definition, of a share of all users where there are many; and that share."""
    known = int(connection.execute(_USERS).scalar_one())
    until = SLOTS if known <= COUNTED else max(1, round(SLOTS * COUNTED / known))
    query = AudienceQuery(
        resolve(connection, campaign.audience),
        now,
        campaign.gateway,
        getattr(gateways.get(campaign.gateway), "needs_device", False),
        current_policy(connection)[1].default_timezone,
        slots=None if until == SLOTS else (0, until),
        topics=campaign.topics,
    )
    return query, until / SLOTS


def _people() -> Any:
    return select(users.c.external_id, users.c.locale, users.c.country, users.c.timezone, users.c.attributes)


def _things() -> Any:
    columns = (items.c.external_id, items.c.title, items.c.price, items.c.category, items.c.brand, items.c.attributes)
    return select(*columns)


def _said(name: str, compiled: Compiled, user: Row[Any], item: Row[Any] | None, arm: str | None) -> Said:
    about = None if item is None else item.title or item.external_id
    fields = None if item is None else item_fields(
        item.external_id, title=item.title, price=item.price, category=item.category, brand=item.brand,
        attributes=item.attributes,
    )  # fmt: skip
    try:
        message = render(
            compiled,
            user_fields(user.external_id, user.locale, user.country, user.timezone, user.attributes),
            fields,
            {},
            user.locale,
            campaign={"name": name},
            push={"id": _PUSH_ID},
        )
    except BadInput as error:
        return Said(user.external_id, user.locale, about, variant=arm, fault=error.message)
    written = nearest(user.locale, compiled.variants)
    return Said(user.external_id, user.locale, about, message.title, message.body, written, arm)
