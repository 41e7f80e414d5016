"""Which occurrences of a campaign are due, and when each may reach the users of a zone (pure).

An occurrence is one due instant. Of a campaign by local time it is a wall-clock reading, the same label in every zone;
it begins where the zone furthest east reads it and ends a horizon after the zone furthest west does.

After downtime nothing bursts: of the occurrences that should have begun before now, the latest that is still open runs
(unless the campaign says `misfire: skip` and it is later than its grace) and all older ones are `missed`, as are those
whose time is over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Protocol
from zoneinfo import ZoneInfo

from cronsim import CronSim

from engine.campaigns import triggers
from engine.campaigns.definition import Campaign, Schedule
from engine.campaigns.fields import moment_text
from engine.localtime import FIRST, LAST, cron_instants, cron_labels, resolve, zone

EAST, WEST = timedelta(hours=14), timedelta(hours=12)
"""The zones furthest from UTC: Pacific/Kiritimati reads a label 14 hours before UTC does, Etc/GMT+12 12 hours after."""

TRIGGERED = "trigger:"
"""Labels of occurrences that no schedule made begin so."""

_LISTED, _MOST_MISSED = timedelta(days=7), 100


class Scheduled(Protocol):
    """A campaign as `store.Stored` has it."""

    @property
    def definition(self) -> Campaign:
        """The definition in force."""
        ...

    @property
    def scheduled_until(self) -> datetime | None:
        """Occurrences that begin before this instant have been made; None: none has."""
        ...


class Spanned(Protocol):
    """An occurrence: a `Due`, or a row of `occurrences`."""

    @property
    def label(self) -> str:
        """What names it within its campaign."""
        ...

    @property
    def starts_at(self) -> datetime:
        """The first instant, in any zone, at which it may send."""
        ...

    @property
    def ends_at(self) -> datetime:
        """No push of it leaves at or after this instant, in any zone."""
        ...


@dataclass(frozen=True)
class Due:
    """An occurrence that is due; `missed`: too late to run."""

    label: str
    starts_at: datetime
    ends_at: datetime
    missed: bool = False


def due(stored: Scheduled, now: datetime, until: datetime) -> list[Due]:
    """The occurrences that begin before `until` (now plus the planning lead) and have not been made, oldest first.

    The caller makes those that are not missed, and then sets `scheduled_until` to `until`. A campaign without a
    schedule has none. Missed ones are listed for a week after their end, at most 100.
    """
    campaign, since = stored.definition, stored.scheduled_until
    if since is not None:
        since = max(since, now - (EAST + WEST + campaign.horizon + _LISTED))
    found = [item for item in _begun(campaign, since, until) if item.starts_at < item.ends_at]
    late = [item for item in found if item.starts_at < now and item.ends_at > now]
    if since is not None and campaign.misfire == "skip":
        late = [item for item in late if now - _passed(campaign, item) <= campaign.misfire_grace]
    kept = [item if item.starts_at >= now or item in late[-1:] else _as_missed(item) for item in found]
    missed = [item for item in kept if item.missed][-_MOST_MISSED:]
    return [item for item in kept if not item.missed or item in missed]


def upcoming(campaign: Campaign, now: datetime, most: int = 3) -> list[Due]:
    """The next occurrences that begin at or after `now`, for people to read."""
    schedule = campaign.schedule
    if schedule is None:
        return []
    if schedule.once is not None:
        found: Iterator[Due] = iter(_begun(campaign, None, LAST))
    else:
        steps = (now + timedelta(days=30 * n) for n in range(1, 62))
        starts = (now + timedelta(days=30 * n) for n in range(61))
        found = (item for start, end in zip(starts, steps, strict=True) for item in _begun(campaign, start, end))
    return list(islice((item for item in found if now < item.ends_at and item.starts_at < item.ends_at), most))


def user_span(campaign: Campaign, occurrence: Spanned, tz: ZoneInfo) -> tuple[datetime, datetime]:
    """When an occurrence may reach the users of a zone: [start, end) in UTC; empty (start ≥ end) where it cannot.

    Of a local occurrence: a horizon (of elapsed time) from where the zone's clock reads its label. Never past the
    campaign's expiry; an expiry without offset is read by the zone's clock where the schedule is local.
    """
    start, end = occurrence.starts_at, occurrence.ends_at
    if campaign.schedule is not None and campaign.schedule.local and not occurrence.label.startswith(TRIGGERED):
        start = resolve(datetime.fromisoformat(occurrence.label), tz)
        end = start + campaign.horizon
    expiry = _expiry_in(campaign, tz)
    return start, min(end, expiry) if expiry else end


def last_instant(campaign: Campaign) -> datetime | None:
    """The instant from which nothing of the campaign can leave in any zone, by its expiry; None without one."""
    expiry = campaign.expiry
    if expiry is None or expiry.tzinfo is not None:
        return expiry
    schedule = campaign.schedule
    if schedule is not None and schedule.local:
        return expiry.replace(tzinfo=UTC) + WEST
    return resolve(expiry, _clock(schedule))


def exhausted(stored: Scheduled, now: datetime) -> bool:
    """Whether no occurrence can come and the last is over: the campaign is done. Without schedule or expiry, never."""
    campaign = stored.definition
    end = last_instant(campaign)
    if end is not None and end <= now:
        return True
    if campaign.schedule is None or campaign.schedule.once is None:
        return False
    return all(item.ends_at <= now for item in _begun(campaign, None, LAST))


def described(campaign: Campaign) -> str:
    """When a campaign is due, for people."""
    schedule = campaign.schedule
    if campaign.trigger is not None:
        return triggers.described(campaign.trigger)
    if schedule is None:
        return "when triggered"
    clock = {"local": "each user's local time", "utc": "UTC", None: ""}.get(schedule.zone, schedule.zone)
    if schedule.once is not None:
        return f"once, {schedule.once:%Y-%m-%d %H:%M} {clock or schedule.once.strftime('%z')}".strip()
    return f"{CronSim(schedule.cron or '', FIRST).explain()}, {clock}"


# --- inside ----------------------------------------------------------------------------------------------------------


def _begun(campaign: Campaign, since: datetime | None, until: datetime) -> list[Due]:
    """The occurrences that begin in [since, until)."""
    schedule = campaign.schedule
    if schedule is None:
        return []
    if schedule.once is not None:
        item = _local(campaign, schedule.once) if schedule.local else _instant(campaign, _once(schedule))
        return [item] if item.starts_at < until and (since is None or item.starts_at >= since) else []
    if schedule.cron is None or since is None:
        return []
    if schedule.local:
        first, last = ((edge + EAST).astimezone(UTC).replace(tzinfo=None) for edge in (since, until))
        return [_local(campaign, label) for label in cron_labels(schedule.cron, first, last)]
    tz = None if schedule.zone == "utc" else _clock(schedule)
    return [_instant(campaign, instant) for instant in cron_instants(schedule.cron, tz, since, until)]


def _local(campaign: Campaign, label: datetime) -> Due:
    starts_at = label.replace(tzinfo=UTC) - EAST
    ends_at = label.replace(tzinfo=UTC) + WEST + campaign.horizon
    return Due(moment_text(label), starts_at, _clipped(campaign, ends_at))


def _passed(campaign: Campaign, item: Due) -> datetime:
    """When an occurrence has begun for everybody: of one by local time, where the zone furthest west reads it."""
    local = campaign.schedule is not None and campaign.schedule.local
    return item.starts_at + (EAST + WEST if local else timedelta())


def _instant(campaign: Campaign, instant: datetime) -> Due:
    label = moment_text(instant.astimezone(UTC).replace(tzinfo=None)) + "Z"
    return Due(label, instant.astimezone(UTC), _clipped(campaign, instant.astimezone(UTC) + campaign.horizon))


def _clipped(campaign: Campaign, ends_at: datetime) -> datetime:
    expiry = last_instant(campaign)
    return min(ends_at, expiry.astimezone(UTC)) if expiry else ends_at


def _once(schedule: Schedule) -> datetime:
    once = schedule.once
    if once is None:
        raise ValueError("no date to be due once")
    return once if once.tzinfo is not None else resolve(once, _clock(schedule))


def _expiry_in(campaign: Campaign, tz: ZoneInfo) -> datetime | None:
    expiry, schedule = campaign.expiry, campaign.schedule
    if expiry is None or expiry.tzinfo is not None:
        return expiry
    return resolve(expiry, tz if schedule is not None and schedule.local else _clock(schedule))


def _clock(schedule: Schedule | None) -> ZoneInfo:
    name = schedule.zone if schedule is not None and schedule.zone is not None else "utc"
    return zone("UTC" if name == "utc" else name)


def _as_missed(item: Due) -> Due:
    return Due(item.label, item.starts_at, item.ends_at, missed=True)
