"""A definition against the workspace, the clock and the store: contradictions are errors, surprises are warnings.

`define` is how a campaign comes into the store: reviewed, then created, changed or left as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice

from sqlalchemy import Connection, func, select

from engine.campaigns.audience import items_select
from engine.campaigns.definition import Campaign
from engine.campaigns.fields import hours_text, in_words, moment_text
from engine.campaigns.filters import AttributeIs, EventCount, parts
from engine.campaigns.loading import named_path
from engine.campaigns.policy import Policy
from engine.campaigns.policy_store import current_policy
from engine.campaigns.rules import rules_of
from engine.campaigns.sampling import try_message
from engine.campaigns.schedule import last_instant, upcoming
from engine.campaigns.store import Created, create, find, get_all
from engine.errors import Faulty, did_you_mean
from engine.localtime import Hours, cron_labels, open_intervals, open_minutes, zone
from engine.store.tables import event_types, items, users

SHORTEST_OPENING = timedelta(minutes=16)
"""A push is due at least 15 minutes before its window closes."""


@dataclass(frozen=True)
class Review:
    """What is contradictory in a definition, and what is probably not meant."""

    errors: tuple[str, ...]
    warnings: tuple[str, ...]


def review(connection: Connection, campaign: Campaign, now: datetime, gateways: Collection[str]) -> Review:
    """Check a definition against the policy, business time `now`, the configured `gateways` and the store."""
    _, policy = current_policy(connection)
    errors = [
        *_gateway_errors(campaign, gateways),
        *_hours_errors(campaign, policy),
        *_time_errors(campaign, now),
        *_item_errors(connection, campaign),
    ]
    tried = try_message(connection, campaign)
    errors += tried.errors
    warnings = [
        *tried.warnings,
        *_cap_warnings(campaign, policy),
        *_late_warnings(campaign, now),
        *_unknown_warnings(connection, campaign),
        *_catalogue_warnings(connection, campaign),
    ]
    return Review(tuple(errors), tuple(warnings))


@dataclass(frozen=True)
class Defined:
    """What became of a definition, and what about it is probably not meant."""

    created: Created
    warnings: tuple[str, ...]


def define(
    connection: Connection,
    campaign: Campaign,
    now: datetime,
    gateways: Collection[str],
    author: str | None = None,
    *,
    draft: bool = False,
) -> Defined:
    """Store a campaign if it is sound; arguments as in `review`. One that is stored already is not judged anew.

    Raises Faulty with every contradiction, Conflict where the campaign of that name is cancelled or done.
    """
    old = find(connection, campaign.name)
    if old is not None and old.definition == campaign:
        return Defined(Created(old, "unchanged"), ())
    found = review(connection, campaign, now, gateways)
    require_sound(found, campaign.name)
    return Defined(create(connection, campaign, now, author, draft=draft), found.warnings)


def unfitting(connection: Connection, now: datetime, gateways: Collection[str]) -> list[str]:
    """What the workspace's rules make impossible for campaigns that run; arguments as in `review`."""
    found = []
    for stored in get_all(connection, ("running", "paused")):
        errors = review(connection, stored.definition, now, gateways).errors
        found += [f"campaign {stored.name} does not fit any more: {error}" for error in errors]
    return found


def scope_warning(connection: Connection, scope: str, gateways: Collection[str], known: Collection[str]) -> str | None:
    """What is probably not meant by a cap's `scope`: nothing in the store is of it, and so the cap holds nobody.

    `gateways` are those that are configured here, `known` those that there are.
    """
    kind, _, name = scope.partition(":")
    if kind == "channel" and name not in gateways:
        if name in known:
            return f"channel {name} is not configured here: nothing is counted until it is"
        return f"there is no channel {name!r}: this cap holds nobody" + _meant(name, known)
    names: set[str] = set()
    if kind == "campaign":
        names = {stored.name for stored in get_all(connection)}
    elif kind == "tag":
        names = {tag for stored in get_all(connection) for tag in stored.definition.tags}
    elif kind == "category":
        names = set(connection.execute(select(items.c.category).distinct()).scalars()) - {None}
    if kind in ("campaign", "tag", "category") and name not in names:
        return f"there is no {kind} {name!r} yet: this cap holds nobody until there is" + _meant(name, names)
    return None


def _meant(name: str, known: Collection[str]) -> str:
    hint = did_you_mean(name, known)
    return f"; {hint}" if hint else ""


def require_sound(found: Review, name: str) -> None:
    """Raise Faulty with every contradiction that a review found."""
    if found.errors:
        count = "1 thing does" if len(found.errors) == 1 else f"{len(found.errors)} things do"
        lines = [f"campaign {name}: {count} not fit", *(f"  {error}" for error in found.errors)]
        raise Faulty("\n".join(lines), [(named_path(error), error) for error in found.errors])


def _gateway_errors(campaign: Campaign, gateways: Collection[str]) -> Iterator[str]:
    if campaign.gateway not in gateways:
        hint = did_you_mean(campaign.gateway, gateways)
        known = ", ".join(sorted(gateways))
        yield f"gateway {campaign.gateway!r} is not configured here; configured: {known}" + (
            f"; {hint}" if hint else ""
        )


def _hours_errors(campaign: Campaign, policy: Policy) -> Iterator[str]:
    rules = rules_of(policy, campaign)
    quiet = rules.quiet(None)
    if not any(until - start >= SHORTEST_OPENING.seconds // 60 for start, until in open_minutes(rules.hours, quiet)):
        hours = hours_text(rules.hours) if rules.hours else "all day"
        yield f"hours ({hours}) lie inside the workspace's quiet_hours ({hours_text(quiet) if quiet else 'none'})"
        return
    starts = _due_readings(campaign)
    if starts and not any(_opens(start, campaign.horizon, rules.hours, quiet) for start in starts):
        yield (
            f"horizon ({in_words(campaign.horizon)}) ends before hours or the workspace's quiet_hours let a push out:"
            f" schedule is due at {starts[0]:%H:%M}, open are {_opening_text(rules.hours, quiet)}"
        )
    if rules.policy.min_gap is not None and rules.policy.min_gap > campaign.horizon:
        gap = in_words(rules.policy.min_gap)
        yield f"horizon ({in_words(campaign.horizon)}) is shorter than the workspace's min_gap ({gap})"


def _due_readings(campaign: Campaign) -> list[datetime]:
    """Readings of a user's clock at which it is due: the first 50; each full hour where it is due for all at once."""
    schedule = campaign.schedule
    if schedule is None:
        return []
    if not schedule.local:
        return [datetime(2026, 1, 1, hour, tzinfo=UTC) for hour in range(24)]
    if schedule.once is not None:
        return [schedule.once.replace(tzinfo=UTC)]
    labels = cron_labels(schedule.cron or "", datetime(2026, 1, 1), datetime(2035, 1, 1))  # noqa: DTZ001 - readings
    return [label.replace(tzinfo=UTC) for label in islice(labels, 50)]


def _opens(start: datetime, horizon: timedelta, hours: Hours | None, quiet: Hours | None) -> bool:
    parts_open = open_intervals(zone("UTC"), start, start + horizon, hours, quiet)
    return any(end - begin >= SHORTEST_OPENING for begin, end in parts_open)


def _opening_text(hours: Hours | None, quiet: Hours | None) -> str:
    return ", ".join(
        f"{start // 60:02d}:{start % 60:02d}-{until // 60:02d}:{until % 60:02d}"
        for start, until in open_minutes(hours, quiet)
    )


def _time_errors(campaign: Campaign, now: datetime) -> Iterator[str]:
    schedule, end = campaign.schedule, last_instant(campaign)
    if end is not None and end <= now and campaign.expiry is not None:
        yield f"expiry ({moment_text(campaign.expiry)}) is in the past"
    elif schedule is not None and schedule.once is not None and not upcoming(campaign, now, 1):
        yield f"schedule.once ({moment_text(schedule.once)}) is in the past"
    elif schedule is not None and campaign.expiry is not None and not upcoming(campaign, now, 1):
        yield f"expiry ({moment_text(campaign.expiry)}) comes before schedule.cron ({schedule.cron}) is first due"


def _item_errors(connection: Connection, campaign: Campaign) -> Iterator[str]:
    if campaign.items.kind != "fixed":
        return
    known = set(
        connection.execute(
            select(items.c.external_id).where(items.c.external_id.in_(campaign.items.ids), items.c.stub.is_(False))
        ).scalars()
    )
    unknown = [item for item in campaign.items.ids if item not in known]
    if unknown:
        shown = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        yield f"items.ids names items that are not in the store: {shown}"


def _cap_warnings(campaign: Campaign, policy: Policy) -> Iterator[str]:
    for cap in rules_of(policy, campaign).caps:
        covered = cap.scope in ("all", f"campaign:{campaign.name}", f"channel:{campaign.gateway}")
        if cap.limit == 0 and (covered or cap.scope in {f"tag:{tag}" for tag in campaign.tags}):
            yield f"a cap of 0 ({cap.id}: {cap}) allows none of its pushes"


def _late_warnings(campaign: Campaign, now: datetime) -> Iterator[str]:
    schedule = campaign.schedule
    if schedule is not None and schedule.once is not None:
        for item in upcoming(campaign, now, 1):
            if item.starts_at < now:
                yield f"schedule.once ({moment_text(schedule.once)}) is past in some time zones already"


def _unknown_warnings(connection: Connection, campaign: Campaign) -> Iterator[str]:
    conditions = [] if campaign.audience is None else list(parts(campaign.audience))
    types = set(connection.execute(select(event_types.c.name)).scalars())
    for name in sorted({*_asked_types(campaign)} - types):
        hint = did_you_mean(name, types)
        yield f"trigger asks for events of type {name!r}, of which there are none yet" + (f"; {hint}" if hint else "")
    for name in sorted({each.event for each in conditions if isinstance(each, EventCount)} - types):
        hint = did_you_mean(name, types)
        yield f"audience asks for events of type {name!r}, of which there are none" + (f"; {hint}" if hint else "")
    if connection.execute(select(func.count()).select_from(select(users.c.id).limit(1).subquery())).scalar_one() == 0:
        return
    for name in sorted({each.attribute for each in conditions if isinstance(each, AttributeIs)}):
        some = select(users.c.id).where(users.c.attributes.has_key(name)).limit(1)
        if connection.execute(some).first() is None:
            yield f"audience asks for the attribute {name!r}, which no user has"


def _asked_types(campaign: Campaign) -> list[str]:
    """The event types that its trigger names."""
    trigger = campaign.trigger
    if trigger is None:
        return []
    interest = trigger.interest.events if trigger.interest is not None else ()
    return [*([trigger.event] if trigger.event else []), *trigger.cancel_if, *interest]


def _catalogue_warnings(connection: Connection, campaign: Campaign) -> Iterator[str]:
    if campaign.items.kind != "personalised":
        return
    if connection.execute(items_select(campaign.items).limit(1)).first() is None:
        yield "items.where fits no item in the store" if campaign.items.where else "there are no items in the store"
