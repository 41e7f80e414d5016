"""A message tried on users and items that are in the store, before anybody gets it.

A sample cannot prove that a message is right for everybody; it finds what is wrong for many. What is too long for
providers even once, or can be rendered for nobody, is an error; fields that some lack are a warning.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select

from engine.campaigns.audience import items_select
from engine.campaigns.definition import Campaign
from engine.campaigns.template import (
    Compiled,
    TooLong,
    arm_names,
    compile_message,
    item_fields,
    render,
    sources,
    user_fields,
)
from engine.errors import BadInput
from engine.store.tables import items, users

USERS, ITEMS = 200, 40

_DATA = re.compile(r"\bdata\.([A-Za-z_][A-Za-z0-9_]*)")
_PUSH_ID = "0" * 8 + "-0000-4000-8000-" + "0" * 12


@dataclass(frozen=True)
class Tried:
    """What rendering for a sample found."""

    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def try_message(connection: Connection, campaign: Campaign) -> Tried:
    """Render a campaign's message for up to USERS users, each with one of up to ITEMS of its items."""
    people = _people(connection)
    things = _things(connection, campaign) if campaign.items.kind != "none" else [None]
    if not people or not things:
        return Tried()
    data = {name: "x" for _, source in sources(campaign.message) for name in _DATA.findall(source)}
    compiled, tried = compile_message(campaign.message), []
    for arm in (None, *arm_names(campaign.message)):
        if arm is None and campaign.message.experiment is not None:
            continue  # the message itself is nobody's: each user gets an arm
        place = "message" if arm is None else f"message.experiment.arms.{arm}"
        tried.append(_tried(campaign, (place, compiled.of(arm)), (people, things), data))
    return Tried(
        tuple(error for one in tried for error in one.errors), tuple(text for one in tried for text in one.warnings)
    )


def _tried(
    campaign: Campaign,
    said: tuple[str, Compiled],
    sample: tuple[Sequence[tuple[dict[str, Any], str | None]], Sequence[dict[str, Any] | None]],
    data: dict[str, str],
) -> Tried:
    """Render one message, which is defined at a place, for each user of the sample with one of its items."""
    (place, message), (people, things) = said, sample
    faults, long = Counter[str](), ""
    for number, (user, locale) in enumerate(people):
        try:
            render(
                message,
                user,
                things[number % len(things)],
                data,
                locale,
                campaign={"name": campaign.name},
                push={"id": _PUSH_ID},
            )
        except TooLong as error:
            long = long or f"{place}: for user {user['id']} {error.message.removeprefix('the message ')}"
        except BadInput as error:
            faults[error.message] += 1
    # With made-up data a fault proves nothing but excess.
    return Tried((long,) if long else ()) if data else _judged(place, long, faults, len(people))


def _judged(place: str, long: str, faults: Counter[str], tried: int) -> Tried:
    errors, warnings = [long] if long else [], []
    if faults:
        failed, (said, _) = faults.total(), faults.most_common(1)[0]
        if failed == tried:
            errors.append(f"{place}: for none of {tried} users in the store it can be rendered: {said}")
        else:
            warnings.append(f"{place}: for {failed} of {tried} users in the store it cannot be rendered: {said}")
    return Tried(tuple(errors), tuple(warnings))


def _people(connection: Connection) -> Sequence[tuple[dict[str, Any], str | None]]:
    """Users by slot: as good as by chance, and the same ones each time."""
    columns = (users.c.external_id, users.c.locale, users.c.country, users.c.timezone, users.c.attributes)
    rows = connection.execute(
        select(*columns).where(users.c.stub.is_(False)).order_by(users.c.slot, users.c.id).limit(USERS)
    ).all()
    return [(user_fields(*row), row.locale) for row in rows]


def _things(connection: Connection, campaign: Campaign) -> list[dict[str, Any] | None]:
    """Of the campaign's items those with the longest titles, and some others."""
    chosen = items_select(campaign.items).subquery()
    columns = (items.c.external_id, items.c.title, items.c.price, items.c.category, items.c.brand, items.c.attributes)
    query = select(*columns).where(items.c.id.in_(select(chosen.c.id)))
    longest = query.order_by(func.length(items.c.title).desc().nulls_last(), items.c.id).limit(ITEMS // 4)
    first = query.order_by(items.c.id).limit(ITEMS)
    rows = {row.external_id: row for each in (longest, first) for row in connection.execute(each).all()}
    return [
        item_fields(
            row.external_id,
            title=row.title,
            price=row.price,
            category=row.category,
            brand=row.brand,
            attributes=row.attributes,
        )
        for row in rows.values()
    ]
