"""Plain tables of the store, to look through: which columns, which filters, a page of rows at a time, by key.

Each table is read in the order of a key that an index or a partition gives, so that a page costs the same at the
beginning and at the end of a large table: rows are never counted, and never skipped by number. Tables that are
partitioned by time show one UTC day. Shown are the shop's own ids; what is secret (tokens of devices, hashes) is not
here at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, FromClause, Select, Uuid, null, select, tuple_
from sqlalchemy.types import Date, DateTime, Double, Integer

from engine.errors import BadInput, UnknownName, did_you_mean
from engine.store.tables import (
    ARMED_STATES,
    OUTCOMES,
    PUSH_STATES,
    armed_triggers,
    campaigns,
    deliveries,
    event_types,
    events,
    items,
    occurrences,
    promotions,
    pushes,
    users,
)


@dataclass(frozen=True)
class Filter:
    """What rows may be chosen by: equality with `column`. choices: its values, where they are few."""

    name: str
    column: ColumnElement[Any]
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Browsable:
    """A table that may be looked through.

    columns: what is shown, by name · key: what orders the rows and names one, all descending or all ascending ·
    day: the column whose UTC day is chosen, where the table is partitioned by time · always: a filter that is set
    where nobody sets it.
    """

    name: str
    source: FromClause
    columns: Mapping[str, ColumnElement[Any]]
    key: tuple[ColumnElement[Any], ...]
    filters: tuple[Filter, ...]
    newest_first: bool = True
    day: ColumnElement[Any] | None = None
    always: tuple[str, str] | None = None


@dataclass(frozen=True)
class Row:
    """A row. key: what `browse` takes as `after` to go on behind it · values: in the order of the table's columns."""

    key: str
    values: Sequence[Any]


_USER_ID = users.c.external_id
_ITEM_ID = items.c.external_id

_BY_USER = Filter("user_id", _USER_ID)
_BY_ITEM = Filter("item_id", _ITEM_ID)
_BY_CAMPAIGN = Filter("campaign", campaigns.c.name)

TABLES = {
    table.name: table
    for table in (
        Browsable(
            "users",
            users,
            {
                "user_id": _USER_ID,
                "timezone": users.c.timezone,
                "country": users.c.country,
                "locale": users.c.locale,
                "consent": users.c.consent,
                "attributes": users.c.attributes,
                "updated_at": users.c.updated_at,
            },
            (users.c.id,),
            (_BY_USER, Filter("country", users.c.country)),
        ),
        Browsable(
            "items",
            items,
            {
                "item_id": _ITEM_ID,
                "title": items.c.title,
                "category": items.c.category,
                "brand": items.c.brand,
                "price": items.c.price,
                "stock": items.c.stock,
                "available_from": items.c.available_from,
                "available_until": items.c.available_until,
                "attributes": items.c.attributes,
            },
            (items.c.id,),
            (_BY_ITEM, Filter("category", items.c.category)),
        ),
        Browsable(
            "promotions",
            promotions.join(items, items.c.id == promotions.c.item_id),
            {
                "item_id": _ITEM_ID,
                "kind": promotions.c.kind,
                "starts_at": promotions.c.starts_at,
                "ends_at": promotions.c.ends_at,
                "weight": promotions.c.weight,
                "announced_at": promotions.c.announced_at,
            },
            (promotions.c.item_id, promotions.c.kind, promotions.c.starts_at, promotions.c.announced_at),
            (_BY_ITEM, Filter("kind", promotions.c.kind, ("advert", "placement", "discount"))),
        ),
        Browsable(
            "events",
            events.join(event_types, event_types.c.id == events.c.event_type)
            .outerjoin(users, users.c.id == events.c.user_id)
            .outerjoin(items, items.c.id == events.c.item_id),
            {
                "occurred_at": events.c.occurred_at,
                "event": event_types.c.name,
                "user_id": _USER_ID,
                "item_id": _ITEM_ID,
                "value": events.c.value,
                "quantity": events.c.quantity,
                "attributes": events.c.attributes,
                "received_at": events.c.received_at,
            },
            (events.c.occurred_at, events.c.key),
            (_BY_USER, _BY_ITEM, Filter("event", event_types.c.name)),
            day=events.c.occurred_at,
        ),
        Browsable(
            "occurrences",
            occurrences.join(campaigns, campaigns.c.id == occurrences.c.campaign_id),
            {
                "campaign": campaigns.c.name,
                "version": occurrences.c.version,
                "label": occurrences.c.label,
                "starts_at": occurrences.c.starts_at,
                "ends_at": occurrences.c.ends_at,
                "run": occurrences.c.run_id,
                "created_at": occurrences.c.created_at,
            },
            (occurrences.c.id,),
            (_BY_CAMPAIGN,),
        ),
        Browsable(
            "waiting",
            pushes.join(campaigns, campaigns.c.id == pushes.c.campaign_id)
            .join(users, users.c.id == pushes.c.user_id)
            .outerjoin(items, items.c.id == pushes.c.item_id),
            {
                "send_at": pushes.c.send_at,
                "state": pushes.c.state,
                "campaign": campaigns.c.name,
                "user_id": _USER_ID,
                "item_id": _ITEM_ID,
                "gateway": pushes.c.gateway,
                "window_end": pushes.c.window_end,
                "value": pushes.c.value,
                "attempts": pushes.c.attempts,
            },
            (pushes.c.send_at, pushes.c.id),
            (Filter("state", pushes.c.state, PUSH_STATES), _BY_CAMPAIGN, _BY_USER),
            newest_first=False,
            always=("state", "planned"),
        ),
        Browsable(
            "deliveries",
            deliveries.join(campaigns, campaigns.c.id == deliveries.c.campaign_id)
            .outerjoin(users, users.c.id == deliveries.c.user_id)
            .outerjoin(items, items.c.id == deliveries.c.item_id),
            {
                "at": deliveries.c.at,
                "state": deliveries.c.state,
                "reason": deliveries.c.reason,
                "campaign": campaigns.c.name,
                "user_id": _USER_ID,
                "item_id": _ITEM_ID,
                "gateway": deliveries.c.gateway,
                "attempts": deliveries.c.attempts,
                "test": deliveries.c.test,
                "detail": deliveries.c.detail,
            },
            (deliveries.c.at, deliveries.c.id),
            (Filter("state", deliveries.c.state, OUTCOMES), _BY_CAMPAIGN, _BY_USER),
            day=deliveries.c.day,
        ),
        Browsable(
            "triggers",
            armed_triggers.join(campaigns, campaigns.c.id == armed_triggers.c.campaign_id)
            .join(users, users.c.id == armed_triggers.c.user_id)
            .outerjoin(items, items.c.id == armed_triggers.c.item_id),
            {
                "happened_at": armed_triggers.c.happened_at,
                "due_at": armed_triggers.c.due_at,
                "state": armed_triggers.c.state,
                "campaign": campaigns.c.name,
                "user_id": _USER_ID,
                "item_id": _ITEM_ID,
                "closed_at": armed_triggers.c.closed_at,
            },
            (armed_triggers.c.id,),
            (Filter("state", armed_triggers.c.state, ARMED_STATES), _BY_CAMPAIGN, _BY_USER),
        ),
    )
}


def browse(
    connection: Connection,
    name: str,
    most: int,
    *,
    chosen: Mapping[str, str],
    day: date | None = None,
    after: str | None = None,
) -> list[Row]:
    """Up to `most` rows of the table `name` behind the row `after` (None: from the first).

    chosen: values of its filters by name, those that are not its own being passed over · day: the UTC day of a table
    that shows one. Raises UnknownName for a table that there is not, BadInput for a key that is none.
    """
    if name not in TABLES:
        raise UnknownName(f"there is no table {name!r}", hint=did_you_mean(name, TABLES) or ", ".join(TABLES))
    table = TABLES[name]
    query = select(*table.key, *(column.label(f"shown_{n}") for n, column in enumerate(table.columns.values())))
    query = _choose(query.select_from(table.source), table, chosen, day)
    if after is not None:
        behind = tuple_(*_read_key(table, after), types=[column.type for column in table.key])
        at = tuple_(*table.key)
        query = query.where(at < behind if table.newest_first else at > behind)
    order = [column.desc() if table.newest_first else column for column in table.key]
    rows = connection.execute(query.order_by(*order).limit(most))
    width = len(table.key)
    return [Row(_write_key(row[:width]), tuple(row[width:])) for row in rows]


def _choose(query: Select[Any], table: Browsable, chosen: Mapping[str, str], day: date | None) -> Select[Any]:
    for one in table.filters:
        value = chosen.get(one.name)
        if value:
            query = query.where(one.column == value)
        elif table.always is not None and table.always[0] == one.name:
            query = query.where(one.column == table.always[1])
    if table.day is not None and day is not None:
        if isinstance(table.day.type, Date):
            return query.where(table.day == day)
        first = datetime(day.year, day.month, day.day, tzinfo=UTC)
        return query.where(table.day >= first, table.day < first + timedelta(days=1))
    return query


def _write_key(values: Sequence[Any]) -> str:
    return json.dumps([value.isoformat() if isinstance(value, datetime) else str(value) for value in values])


def _read_key(table: Browsable, written: str) -> list[Any]:
    try:
        values = json.loads(written)
        if not isinstance(values, list) or len(values) != len(table.key):
            raise ValueError("of another table")
        return [_typed(column, value) for column, value in zip(table.key, values, strict=True)]
    except (ValueError, TypeError) as error:
        raise BadInput("these rows are not known", hint="begin with the first") from error


def _typed(column: ColumnElement[Any], value: str) -> Any:
    if isinstance(column.type, DateTime):
        return datetime.fromisoformat(value)
    if isinstance(column.type, Uuid):
        return UUID(value)
    if isinstance(column.type, Integer):
        return int(value)
    return float(value) if isinstance(column.type, Double) else null() if value is None else str(value)
