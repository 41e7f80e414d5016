"""What a definition would say, and to about how many: quick looks while it is being written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, select, text

from engine.campaigns.audience import AudienceQuery, count_audience, items_select
from engine.campaigns.definition import Campaign
from engine.campaigns.policy_store import current_policy
from engine.campaigns.template import compile_message, item_fields, render, user_fields
from engine.errors import BadInput
from engine.store.tables import SLOTS, items, users

COUNTED = 100_000
"""Users looked at: of more, so many are, and their number is scaled."""

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
    """A message as one user would read it. item: title of what it is about; fault: why it cannot be made for them."""

    user: str
    locale: str | None
    item: str | None
    title: str = ""
    body: str = ""
    fault: str | None = None


def audience_size(
    connection: Connection, gateways: Mapping[str, Any], campaign: Campaign, now: datetime
) -> AudienceSize:
    """How many users a definition is for, at `now`; estimated from a share of them, by hash, where there are many."""
    known = int(connection.execute(_USERS).scalar_one())
    until = SLOTS if known <= COUNTED else max(1, round(SLOTS * COUNTED / known))
    policy = current_policy(connection)[1]
    query = AudienceQuery(
        campaign.audience,
        now,
        campaign.gateway,
        getattr(gateways.get(campaign.gateway), "needs_device", False),
        policy.default_timezone,
        slots=None if until == SLOTS else (0, until),
        topics=campaign.topics,
    )
    counted = count_audience(connection, query)
    return AudienceSize({name: round(n * SLOTS / until) for name, n in counted.items()}, until / SLOTS)


def said_to(connection: Connection, campaign: Campaign, pairs: Sequence[tuple[str, str | None]]) -> list[Said]:
    """The message of a definition for each (user, item), by the shop's ids; those that are not there are left out."""
    people = {
        row.external_id: row
        for row in connection.execute(_people().where(users.c.external_id.in_([u for u, _ in pairs])))
    }
    things = {
        row.external_id: row
        for row in connection.execute(_things().where(items.c.external_id.in_([i for _, i in pairs if i])))
    }
    return [_said(campaign, people[user], things.get(item) if item else None) for user, item in pairs if user in people]


def said_to_some(connection: Connection, campaign: Campaign, most: int = 3) -> list[Said]:
    """The message of a definition for a few users, as good as by chance, with some item that it may be about."""
    people = connection.execute(
        _people().where(users.c.stub.is_(False)).order_by(users.c.slot, users.c.id).limit(most)
    ).all()
    things: Sequence[Row[Any]] = ()
    if campaign.items.kind != "none":
        chosen = items_select(campaign.items).limit(most).subquery()
        things = connection.execute(_things().where(items.c.id.in_(select(chosen.c.id)))).all()
        if not things:
            return []
    return [_said(campaign, row, things[n % len(things)] if things else None) for n, row in enumerate(people)]


def _people() -> Any:
    return select(users.c.external_id, users.c.locale, users.c.country, users.c.timezone, users.c.attributes)


def _things() -> Any:
    columns = (items.c.external_id, items.c.title, items.c.price, items.c.category, items.c.brand, items.c.attributes)
    return select(*columns)


def _said(campaign: Campaign, user: Row[Any], item: Row[Any] | None) -> Said:
    about = None if item is None else item.title or item.external_id
    fields = None if item is None else item_fields(
        item.external_id, title=item.title, price=item.price, category=item.category, brand=item.brand,
        attributes=item.attributes,
    )  # fmt: skip
    try:
        message = render(
            compile_message(campaign.message),
            user_fields(*user),
            fields,
            {},
            user.locale,
            campaign={"name": campaign.name},
            push={"id": _PUSH_ID},
        )
    except BadInput as error:
        return Said(user.external_id, user.locale, about, fault=error.message)
    return Said(user.external_id, user.locale, about, message.title, message.body)
