"""The report of one campaign: `horae report`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
from sqlalchemy import text

from engine.campaigns import store
from engine.campaigns.policy_store import current_policy
from engine.errors import BadInput, UnknownName, did_you_mean
from engine.learning.timeline import ATTRIBUTION
from engine.report import reading
from engine.report.intervals import Difference, Rate, clustered_rates, difference, rate_of
from engine.report.reading import Asked, Ends, Group, Sent
from engine.store.database import Database, Snapshot
from engine.store.tables import ARMS

USUAL = timedelta(days=30)
"""How far back a report goes unless it is told."""

ANSWERS = ("opened", "clicked", "dismissed", "converted")


@dataclass(frozen=True)
class Arm:
    """The accepted pushes of one arm, and the shares of them that were answered."""

    arm: str
    pushes: int
    users: int
    opened: Rate
    clicked: Rate
    dismissed: Rate
    converted: Rate


@dataclass(frozen=True)
class Variant(Arm):
    """The same of one arm of an experiment with the message; less: of each answer its share less that of the
    experiment's first arm by name, None for that arm itself."""

    experiment: str
    less: dict[str, Difference | None] | None


@dataclass(frozen=True)
class Hour:
    """The same of one hour of users' local day."""

    hour: int
    pushes: int
    opened: Rate
    clicked: Rate
    converted: Rate


@dataclass(frozen=True)
class Uplift:
    """Everybody drawn for the campaign beside those held out of it, whether a push reached them or not.

    asked: shares to hold out, of everything and of the campaign · share: what they are of both groups · difference: of
    the rates at which users reached the goal; None without a holdout · gained: that difference for all users drawn ·
    mixed: users who were once in each group, and count in neither.
    """

    asked: dict[str, float]
    share: float
    users: Rate
    held_out: Rate
    value_per_user: float | None
    value_per_held_out: float | None
    difference: Difference | None
    relative: float | None
    gained: float | None
    mixed: int


@dataclass(frozen=True)
class Report:
    """What a campaign's occurrences of the UTC dates [first, until) led to, seen at `now`.

    funnel: audience → planned → sent (put to a provider) → accepted → opened → clicked → converted · not_planned: by
    reason · ended: pushes by state and reason · open_windows: accepted pushes whose attribution window is not over:
    their conversions are still to come.
    """

    campaign: str
    goal: str
    first: date
    until: date
    now: datetime
    funnel: dict[str, int]
    not_planned: dict[str, int]
    ended: dict[str, int]
    open_windows: int
    arms: tuple[Arm, ...]
    variants: tuple[Variant, ...]
    hours: tuple[Hour, ...]
    uplift: Uplift

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def report(
    database: Database, now: datetime, campaign: str, first: date | None, until: date | None, goal: str = "purchase"
) -> Report:
    """The report of a campaign's occurrences of the UTC dates [first, until); by default of the last USUAL until today.

    goal: the event type that counts as a conversion. Raises UnknownName for a campaign or an event type that is not
    there, BadInput where the time is empty.
    """
    until = until or now.astimezone(UTC).date() + timedelta(days=1)
    first = first or until - USUAL
    if first >= until:
        raise BadInput(f"the time from {first} to {until} is empty", hint="--to is exclusive")
    with database.snapshot() as snapshot:
        snapshot.sort_in_memory(reading.MEGABYTES)
        stored = store.get(snapshot.connection, campaign)
        _, policy = current_policy(snapshot.connection)
        whose = reading.of_campaign(stored.id)
        asked = Asked(whose, first, until, now, goal_of(snapshot, goal), policy.default_timezone)
        ends, sent = reading.read_ends(snapshot, asked), reading.read_sent(snapshot, asked)
        groups = reading.read_groups(snapshot, asked)
    shares = {"everything": policy.holdout, "campaign": stored.definition.holdout}
    return Report(
        campaign=stored.name,
        goal=goal,
        first=first,
        until=until,
        now=now,
        funnel=_funnel(ends, sent),
        not_planned=ends.reasons,
        ended=ends.states,
        open_windows=int((sent.at > now.timestamp() - ATTRIBUTION.total_seconds()).sum()),
        arms=arms_of(sent),
        variants=variants_of(sent),
        hours=_hours(sent),
        uplift=_uplift(*groups, shares),
    )


def goal_of(snapshot: Snapshot, name: str) -> int:
    """The id of the event type `name`. Raises UnknownName."""
    known = {row.name: row.id for row in snapshot.connection.execute(text("SELECT name, id FROM event_types"))}
    if name not in known:
        hint = did_you_mean(name, known) or "it is a type of events, such as purchase"
        raise UnknownName(f"there are no events of type {name!r}", hint=hint)
    return int(known[name])


def _funnel(ends: Ends, sent: Sent) -> dict[str, int]:
    planned = sum(ends.states.values())
    answered = {name: int(getattr(sent, name).sum()) for name in ("opened", "clicked", "converted")}
    audience = planned + sum(ends.reasons.values())
    return {"audience": audience, "planned": planned, "sent": ends.tried, "accepted": len(sent.user), **answered}


def arms_of(sent: Sent) -> tuple[Arm, ...]:
    """The pushes by arm, of arms that have any."""
    found = []
    for number, name in enumerate(ARMS):
        of = sent.arm == number
        if of.any():
            found.append(Arm(name, int(of.sum()), len(np.unique(sent.user[of])), **_rates(sent, of)))
    return tuple(found)


def _rates(sent: Sent, of: np.ndarray, answers: Sequence[str] = ANSWERS) -> dict[str, Rate]:
    return clustered_rates(sent.user[of], {answer: getattr(sent, answer)[of] for answer in answers})


def variants_of(sent: Sent) -> tuple[Variant, ...]:
    """The pushes by experiment and arm, each arm beside the first of its experiment."""
    found: list[Variant] = []
    first: dict[str, dict[str, Rate]] = {}
    for name in sorted(sent.variants):
        experiment, _, arm = name.partition(":")
        of = sent.variant == sent.variants.index(name)
        rates, users = _rates(sent, of), len(np.unique(sent.user[of]))
        base = first.setdefault(experiment, rates)
        less = None if base is rates else {answer: difference(rates[answer], base[answer]) for answer in ANSWERS}
        found.append(Variant(arm, int(of.sum()), users, **rates, experiment=experiment, less=less))
    return tuple(found)


def _hours(sent: Sent) -> tuple[Hour, ...]:
    found = []
    for hour in np.unique(sent.hour).tolist():
        of = sent.hour == hour
        found.append(Hour(hour, int(of.sum()), **_rates(sent, of, ("opened", "clicked", "converted"))))
    return tuple(found)


def _uplift(treated: Group, held: Group, mixed: int, asked: dict[str, float]) -> Uplift:
    ours, theirs = rate_of(treated.converted, treated.users), rate_of(held.converted, held.users)
    found = difference(ours, theirs)
    return Uplift(
        asked=asked,
        share=held.users / max(treated.users + held.users, 1),
        users=ours,
        held_out=theirs,
        value_per_user=treated.value / treated.users if treated.users else None,
        value_per_held_out=held.value / held.users if held.users else None,
        difference=found,
        relative=found.difference / theirs.rate if found is not None and theirs.rate else None,
        gained=found.difference * treated.users if found is not None else None,
        mixed=mixed,
    )
