"""Who a campaign is for, in SQL: filters as SQLAlchemy expressions, every value a parameter.

The audience is every user the filter holds for (or, of a triggered send with a list, every user of the list), and each
comes with what stands in the way, so that all of them end in exactly one reason. Behaviour is read from `events` as of
`now`: nothing at or after it counts. Filters hold or do not hold, never NULL: each condition is coalesced to false.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Connection,
    FromClause,
    Numeric,
    Select,
    and_,
    case,
    cast,
    exists,
    false,
    func,
    literal,
    not_,
    null,
    or_,
    select,
    true,
)

from engine.campaigns.definition import Items
from engine.campaigns.filters import (
    AttributeIs,
    Comparison,
    EventCount,
    Filter,
    InAudience,
    ItemFieldIs,
    ItemFilter,
    SeenWithin,
    UserFieldIs,
)
from engine.store.tables import (
    EVENT_TYPES,
    devices,
    event_types,
    events,
    items,
    occurrence_users,
    preferences,
    users,
)

REFUSALS = ("not_eligible", "no_consent", "no_device")
"""What `refusal` may be: the decision reasons of users who are in the audience and may not be sent anything."""

CONSENTLESS = frozenset({"log"})
"""Gateways that reach nobody: a missing consent record does not stop them, an explicit refusal does."""

ANY_DEVICE = "push"
"""The gateway that reaches a user by whatever gateway their devices are registered for."""

DEVICE_GATEWAYS = ("fcm", "apns", "webpush")
"""Those that it goes through; turned off, it turns them off too."""

_NUMBER = r"^[-+]?[0-9]{1,30}(\.[0-9]{1,30})?$"


@dataclass(frozen=True)
class AudienceQuery:
    """Whom to select: the users of `where` (None: all), or those listed for the occurrence `listed`.

    `now` (aware UTC) is the instant as of which behaviour is read; `slots` a range [from, until) of user slots, None
    for all; `needs_device` whether the gateway reaches devices registered for it; `only` these user ids; `topics` of
    the campaign, which users may have turned off.
    """

    where: Filter | None
    now: datetime
    gateway: str
    needs_device: bool
    default_timezone: str
    slots: tuple[int, int] | None = None
    listed: int | None = None
    only: tuple[int, ...] | None = None
    topics: tuple[str, ...] = ()


def audience_select(query: AudienceQuery) -> Select[Any]:
    """Every user of the audience, by slot and id, and what stands in the way.

    Columns: id int8, slot int2, external_id text, timezone text (the workspace's where the user has none),
    timezone_known bool, locale text, country text, quiet_from and quiet_until time (the user's own, or NULL), consent
    bool (NULL: no record), has_device bool, refusal text: NULL or one of REFUSALS. A listed user for whom the
    campaign's filter does not hold is not_eligible.
    """
    has_device = _has_device(query.gateway)
    refusal = _refusal(query, has_device)
    chosen = select(
        users.c.id,
        users.c.slot,
        users.c.external_id,
        func.coalesce(users.c.timezone, query.default_timezone).label("timezone"),
        users.c.timezone.is_not(None).label("timezone_known"),
        users.c.locale,
        users.c.country,
        users.c.quiet_from,
        users.c.quiet_until,
        users.c.consent,
        has_device.label("has_device"),
        refusal.label("refusal"),
    )
    return chosen.where(*_in_audience(query)).order_by(users.c.slot, users.c.id)


def count_audience(connection: Connection, query: AudienceQuery) -> dict[str, int]:
    """How many users are in the audience, by what stands in their way: `eligible` and each of REFUSALS."""
    refusal = func.coalesce(_refusal(query, _has_device(query.gateway)), "eligible").label("refusal")
    inner = select(refusal).where(*_in_audience(query)).subquery()
    rows = connection.execute(select(inner.c.refusal, func.count()).group_by(inner.c.refusal))
    counted = {str(name): int(count) for name, count in rows}
    return {name: counted.get(name, 0) for name in ("eligible", *REFUSALS)}


def items_select(chosen: Items) -> Select[Any]:
    """The ids (column `id`) of the items that a campaign's pushes may be about; none for kind `none`.

    Availability is not judged here: it depends on the instant of sending.
    """
    ids = select(items.c.id).where(items.c.stub.is_(False)).order_by(items.c.id)
    if chosen.kind == "none":
        return ids.where(false())
    if chosen.kind == "fixed":
        return ids.where(items.c.external_id.in_(chosen.ids))
    return ids if chosen.where is None else ids.where(item_condition(chosen.where))  # of kind event: any


def as_sql(connection: Connection, statement: Select[Any]) -> str:
    """`statement` as complete SQL text for `Snapshot.arrow`, its values written by the dialect's own literal renderers.

    They double quotes, and backslashes where the server reads them as escapes; text that PostgreSQL cannot hold never
    gets here (`fields.check_text`).
    """
    compiled = str(statement.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True}))
    return compiled % ()  # the dialect doubles every percent sign for a driver that formats; this is that formatting


# --- conditions ------------------------------------------------------------------------------------------------------


def user_condition(where: Filter, query: AudienceQuery) -> ColumnElement[bool]:
    """A filter on users as a boolean expression over `users`, never NULL. Saved audiences in it have been expanded."""

    def leaf(condition: Any) -> ColumnElement[bool]:
        if isinstance(condition, InAudience):
            raise TypeError(f"audience {condition.audience!r} stands for rules: expand them first")
        if isinstance(condition, EventCount):
            return _event_count(condition, query)
        if isinstance(condition, SeenWithin):
            seen = [*_events_of_user(query.now), events.c.occurred_at >= query.now - condition.seen_within]
            return exists().where(*seen)
        if isinstance(condition, AttributeIs):
            return _attribute(users.c.attributes[condition.attribute], condition)
        columns: dict[str, ColumnElement[Any]] = {
            "user_id": users.c.external_id,
            "country": users.c.country,
            "locale": users.c.locale,
            "timezone": func.coalesce(users.c.timezone, query.default_timezone),
        }
        return _column(columns[condition.field], condition)

    return _combined(where, leaf)


def item_condition(where: ItemFilter) -> ColumnElement[bool]:
    """A filter on items as a boolean expression over `items`, never NULL."""

    def leaf(condition: Any) -> ColumnElement[bool]:
        if isinstance(condition, AttributeIs):
            return _attribute(items.c.attributes[condition.attribute], condition)
        columns: dict[str, ColumnElement[Any]] = {
            "item_id": items.c.external_id,
            "title": items.c.title,
            "category": items.c.category,
            "brand": items.c.brand,
            "price": items.c.price,
            "stock": items.c.stock,
        }
        return _column(columns[condition.field], condition)

    return _combined(where, leaf)


def _combined(condition: Any, leaf: Callable[[Any], ColumnElement[bool]]) -> ColumnElement[bool]:
    if hasattr(condition, "all_of"):
        return and_(true(), *(_combined(each, leaf) for each in condition.all_of))
    if hasattr(condition, "any_of"):
        return or_(false(), *(_combined(each, leaf) for each in condition.any_of))
    if hasattr(condition, "none_of"):
        return not_(or_(false(), *(_combined(each, leaf) for each in condition.none_of)))
    if hasattr(condition, "negated"):
        return not_(_combined(condition.negated, leaf))
    return func.coalesce(leaf(condition), False, type_=Boolean)


def _attribute(value: Any, condition: Comparison) -> ColumnElement[bool]:
    """Comparisons with a JSON value: numbers with its number (also one in text), the rest with its text."""
    text = value.astext
    kind = func.jsonb_typeof(value)
    readable = or_(kind == "number", and_(kind == "string", text.regexp_match(_NUMBER)))
    number = case((readable, cast(text, Numeric)), else_=null())
    return _compared(condition, text, number, boolean=func.lower(text))


def _column(column: ColumnElement[Any], condition: UserFieldIs | ItemFieldIs) -> ColumnElement[bool]:
    numeric = condition.field in ("price", "stock")
    text = cast(column, users.c.external_id.type) if numeric else column
    number = column if numeric else case((column.regexp_match(_NUMBER), cast(column, Numeric)), else_=null())
    return _compared(condition, text, number, boolean=func.lower(text))


def _compared(
    condition: Comparison, text: ColumnElement[Any], number: ColumnElement[Any], boolean: ColumnElement[Any]
) -> ColumnElement[bool]:
    # "C": the order of the characters, the same on every server whatever its locale.
    ordered = text.collate("C")

    def side(value: Any) -> tuple[ColumnElement[Any], Any]:
        if isinstance(value, bool):
            return boolean, "true" if value else "false"
        return (number, literal(Decimal(str(value)), Numeric)) if isinstance(value, int | float) else (ordered, value)

    tests: list[ColumnElement[bool]] = []
    for name, value in condition.comparisons().items():
        if name == "exists":
            tests.append(text.is_not(None) if value else text.is_(None))
        elif name == "starts_with":
            tests.append(func.starts_with(text, value))
        elif name == "in":
            tests.append(or_(*(left == right for left, right in map(side, value))))
        else:
            left, right = side(value)
            tests.append(
                {
                    "equals": left == right,
                    "gt": left > right,
                    "gte": left >= right,
                    "lt": left < right,
                    "lte": left <= right,
                }[name]
            )
    return and_(*tests)


# --- behaviour -------------------------------------------------------------------------------------------------------


def _events_of_user(now: datetime) -> list[ColumnElement[bool]]:
    return [events.c.user_id == users.c.id, events.c.occurred_at < now]


def _event_count(condition: EventCount, query: AudienceQuery) -> ColumnElement[bool]:
    known = EVENT_TYPES.get(condition.event)
    named = select(event_types.c.id).where(event_types.c.name == condition.event).scalar_subquery()
    tests = [*_events_of_user(query.now), events.c.event_type == (named if known is None else known)]
    if condition.within is not None:
        tests.append(events.c.occurred_at >= query.now - condition.within)
    about = [
        (items.c.external_id, condition.item),
        (items.c.category, condition.category),
        (items.c.brand, condition.brand),
    ]
    if any(value is not None for _, value in about):
        wanted = select(items.c.id).where(*(column == value for column, value in about if value is not None))
        tests.append(events.c.item_id.in_(wanted))
    at_least = 1 if condition.at_least is None and condition.at_most is None else condition.at_least
    bounds: list[ColumnElement[bool]] = []
    if at_least is not None:
        bounds.append(_happened(tests, at_least))
    if condition.at_most is not None:
        bounds.append(not_(_happened(tests, condition.at_most + 1)))
    return and_(*bounds)


def _happened(tests: list[ColumnElement[bool]], times: int) -> ColumnElement[bool]:
    """Whether at least so many events of the user pass `tests`: reading stops at the last one needed."""
    nth = select(literal(1)).select_from(events).where(*tests).correlate(users).offset(times - 1).limit(1)
    return exists().where(*tests).correlate(users) if times == 1 else nth.exists()


# --- the audience ----------------------------------------------------------------------------------------------------


def _in_audience(query: AudienceQuery) -> list[ColumnElement[bool]]:
    tests: list[ColumnElement[bool]] = []
    if query.slots is not None:
        tests += [users.c.slot >= query.slots[0], users.c.slot < query.slots[1]]
    if query.only is not None:
        tests.append(users.c.id.in_(query.only))
    if query.listed is not None:
        chosen = select(occurrence_users.c.user_id).where(occurrence_users.c.occurrence_id == query.listed)
        tests.append(users.c.id.in_(chosen))
    elif query.where is not None:
        tests.append(user_condition(query.where, query))
    return tests


def _has_device(gateway: str) -> ColumnElement[bool]:
    alive: FromClause = devices
    tests = [devices.c.user_id == users.c.id, devices.c.dead_at.is_(None)]
    if gateway != ANY_DEVICE:
        tests.append(devices.c.gateway == gateway)
    else:
        off = [preferences.c.user_id == users.c.id, preferences.c.kind == "channel", not_(preferences.c.allowed)]
        tests.append(not_(exists().where(*off, preferences.c.name == devices.c.gateway)))
    return exists().select_from(alive).where(*tests)


def channels_of(gateway: str) -> tuple[str, ...]:
    """The channels, by preference's name, that a push through `gateway` uses."""
    return (gateway, ANY_DEVICE) if gateway in DEVICE_GATEWAYS else (gateway,)


def _without_consent(gateway: str) -> ColumnElement[bool]:
    """No record is no consent, unless the user allowed this channel; a refusal always is one."""
    if gateway in CONSENTLESS:
        return users.c.consent.is_(False)
    said = exists().where(
        preferences.c.user_id == users.c.id,
        preferences.c.kind == "channel",
        preferences.c.name == gateway,
        preferences.c.allowed,
    )
    return or_(users.c.consent.is_(False), and_(users.c.consent.is_(None), not_(said)))


def _turned_off(query: AudienceQuery) -> ColumnElement[bool]:
    names = and_(preferences.c.kind == "channel", preferences.c.name.in_(channels_of(query.gateway)))
    if query.topics:
        names = or_(names, and_(preferences.c.kind == "topic", preferences.c.name.in_(query.topics)))
    return exists().where(preferences.c.user_id == users.c.id, not_(preferences.c.allowed), names)


def _refusal(query: AudienceQuery, has_device: ColumnElement[bool]) -> ColumnElement[Any]:
    unfit: ColumnElement[bool] = users.c.stub
    if query.listed is not None and query.where is not None:
        unfit = or_(unfit, not_(user_condition(query.where, query)))
    refused = or_(_without_consent(query.gateway), _turned_off(query))
    whens: list[tuple[ColumnElement[bool], str]] = [(unfit, "not_eligible"), (refused, "no_consent")]
    if query.needs_device:
        whens.append((not_(has_device), "no_device"))
    return case(*whens, else_=null())
