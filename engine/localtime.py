"""Instants and local time: the one module that knows zones (pure).

Every computation starts from instants: a zone is a step function from UTC to an offset, read once from `zoneinfo` into
a table of transitions. A local window, a quiet hour or a calendar day is then the set of instants whose wall clock
reads so, which is right by construction on days of 23, 24, 24.5 and 25 hours, where midnight does not exist
(Africa/Cairo, Asia/Beirut, America/Havana), where a fold repeats the end of a day, and where a whole day is missing
(Pacific/Apia 2011). Differences of local times are never taken.

Where a wall-clock reading must become an instant (`resolve`), the rule is Temporal's "compatible": in a gap the reading
is shifted forward by the gap, of a fold the first counts. A cron in local time gives readings, the same in every zone.

Zones are read from the `tzdata` package, never from the system, so that all hosts agree: systems lag behind (Morocco's
change of 2026) or lack names (slim images have no US/Central). Aliases are kept as they were given.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from importlib import resources
from zoneinfo import ZoneInfo

import numpy as np
from cronsim import CronSim, CronSimError

from engine import tzfile
from engine.errors import BadInput, did_you_mean
from engine.tzfile import Offsets

Hours = tuple[time, time]
"""Local hours [from, until); `until` before `from` crosses midnight; 00:00 as `until` is the end of the day."""

FIRST, LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
"""Instants outside [FIRST, LAST) have no local time here: ValueError."""

WINDOWS_A_DAY = 8
CELLS = 2 * WINDOWS_A_DAY
"""Cells of a user's week: day type (0 workday, 1 weekend) × window of the day."""

_US = timedelta(microseconds=1)
_SECOND = 1_000_000
_DAY = 86_400 * _SECOND
_WINDOW = _DAY // WINDOWS_A_DAY
_LAST_US = (LAST - FIRST) // _US
_LAST_SECOND = _LAST_US // _SECOND


@lru_cache(maxsize=1)
def zone_names() -> frozenset[str]:
    """The IANA names (aliases too) that may be given as a zone."""
    return frozenset(resources.files("tzdata").joinpath("zones").read_text().split()) - {"Factory"}


@lru_cache(maxsize=1024)
def zone(name: str) -> ZoneInfo:
    """The zone of an IANA name.

    Raises BadInput for any other name, with the closest one: by its whole name or by its city.
    """
    if name in zone_names():
        return ZoneInfo.from_file(io.BytesIO(_file(name)), key=name)
    cities = {known.rsplit("/", 1)[-1]: known for known in sorted(zone_names(), key=len, reverse=True)}
    city = next((full for short, full in cities.items() if short.casefold() == name.replace(" ", "_").casefold()), None)
    hint = f"did you mean {city}?" if city else did_you_mean(name, zone_names())
    raise BadInput(f"unknown time zone {name!r}", hint=hint or "zones are IANA names such as Europe/Berlin")


@lru_cache(maxsize=1024)
def offsets(tz: ZoneInfo) -> Offsets:
    """The offsets of `tz`, one of tzdata's zones, over [FIRST, LAST); a third of a millisecond, once per zone."""
    return tzfile.offsets(_file(tz.key), _LAST_SECOND)


def resolve(local: datetime, tz: ZoneInfo) -> datetime:
    """The instant (aware UTC) of a naive wall-clock reading: in a gap shifted forward by it, of a fold the first."""
    if local.tzinfo is not None:
        raise ValueError(f"{local!r} is an instant, not a wall-clock reading")
    return local.replace(tzinfo=tz, fold=0).astimezone(UTC)


def wall_clock(tz: ZoneInfo, instant: datetime) -> datetime:
    """The naive wall-clock reading of an aware instant."""
    return instant.astimezone(tz).replace(tzinfo=None, fold=0)


def local_day(tz: ZoneInfo, instant: datetime) -> date:
    """The calendar day of an aware instant."""
    return instant.astimezone(tz).date()


def day_bounds(tz: ZoneInfo, day: date) -> tuple[datetime, datetime]:
    """A calendar day's first instant and the next day's (UTC). A day that the zone skipped is empty."""
    return _day_start(tz, day), _day_start(tz, day + timedelta(days=1))


def week_bounds(tz: ZoneInfo, day: date) -> tuple[datetime, datetime]:
    """The first instant of the Monday on or before `day` and of the following Monday (UTC)."""
    monday = day - timedelta(days=day.weekday())
    return _day_start(tz, monday), _day_start(tz, monday + timedelta(days=7))


def in_hours(tz: ZoneInfo, instant: datetime, start: time, until: time) -> bool:
    """Whether the wall clock reads within [start, until); `until` before `start` crosses midnight; equal is never."""
    now = instant.astimezone(tz).time()
    return start <= now < until if start <= until else now >= start or now < until


@dataclass(frozen=True)
class Window:
    """A 3-hour slot of local time: the instants (UTC, [start, end)) whose wall clock reads within it.

    2 hours long where a gap takes one, 4 where a fold repeats one.
    """

    start: datetime
    end: datetime
    index: int
    """0 … 7: local hour // 3."""
    local_date: date

    @property
    def day_type(self) -> int:
        """0 on workdays, 1 on Saturday and Sunday, by the local date."""
        return int(self.local_date.weekday() >= 5)

    @property
    def cell(self) -> int:
        """day_type × 8 + index: one of 16."""
        return self.day_type * WINDOWS_A_DAY + self.index


def windows_between(tz: ZoneInfo, start: datetime, end: datetime) -> list[Window]:
    """The whole windows that intersect [start, end), in order: they tile time without gap or overlap.

    A window's edges are wall-clock edges (0, 3, … 21 o'clock) or, where such an edge lies in a gap, the transition.
    Where a fold repeats hours on both sides of an edge, a window appears twice.
    """
    low, high = _micros(start), _micros(end)
    # No window is longer than 3 h and a fold; a day before and after makes the outermost whole.
    found: list[list[int]] = []
    for begin, stop, offset in _pieces(tz, max(low - _DAY, 0), min(high + _DAY, _LAST_US)):
        for slot in range((begin + offset) // _WINDOW, (stop + offset - 1) // _WINDOW + 1):
            first, last = max(begin, slot * _WINDOW - offset), min(stop, (slot + 1) * _WINDOW - offset)
            if found and found[-1][2] == slot:
                found[-1][1] = last
            else:
                found.append([first, last, slot])
    return [_window(*bounds) for bounds in found if bounds[0] < high and bounds[1] > low]


def open_intervals(
    tz: ZoneInfo, start: datetime, end: datetime, allowed: Hours | None, quiet: Hours | None
) -> list[tuple[datetime, datetime]]:
    """The instants of [start, end) whose wall clock lies in `allowed` and outside `quiet`, as disjoint UTC intervals.

    `allowed` None is all day, equal ends are never; `quiet` None or with equal ends is no quiet time.
    """
    day = _open_day(allowed, quiet)
    found: list[list[int]] = []
    for begin, stop, offset in _pieces(tz, _micros(start), _micros(end)):
        for number in range((begin + offset) // _DAY, (stop + offset - 1) // _DAY + 1):
            for opens, closes in day:
                first = max(begin, number * _DAY + opens - offset)
                last = min(stop, number * _DAY + closes - offset)
                if first < last:
                    if found and found[-1][1] == first:
                        found[-1][1] = last
                    else:
                        found.append([first, last])
    return [(_instant(first), _instant(last)) for first, last in found]


def open_windows(
    tz: ZoneInfo, start: datetime, end: datetime, allowed: Hours | None, quiet: Hours | None
) -> list[tuple[Window, datetime, datetime]]:
    """`windows_between` cut to `open_intervals`: (window, first instant, end) of each open part, in order."""
    intervals = open_intervals(tz, start, end, allowed, quiet)
    parts, at = [], 0
    for window in windows_between(tz, start, end):
        while at < len(intervals) and intervals[at][1] <= window.start:
            at += 1
        here = at
        while here < len(intervals) and intervals[here][0] < window.end:
            first, last = max(window.start, intervals[here][0]), min(window.end, intervals[here][1])
            parts.append((window, first, last))
            here += 1
    return parts


def open_minutes(allowed: Hours | None, quiet: Hours | None) -> list[tuple[int, int]]:
    """The open parts [from, until) of an ordinary day, in minutes since midnight."""
    minute = 60 * _SECOND
    return [(opens // minute, -(-closes // minute)) for opens, closes in _open_day(allowed, quiet)]


def local_seconds(epoch: np.ndarray, zone_code: np.ndarray, zones: Sequence[str]) -> np.ndarray:
    """Wall clocks as seconds: epoch seconds (float64[n]) plus the offset of each one's zone → int64[n].

    `zone_code` (int[n], 0 ≤ code < len(zones)) indexes `zones` (IANA names). About 10 M/s.
    Raises BadInput for an unknown zone, ValueError for an instant outside [FIRST, LAST) or NaN, and for a bad code.
    """
    if not len(epoch):
        return np.zeros(0, np.int64)
    if not (epoch.min() >= 0 and epoch.max() < _LAST_SECOND):
        raise ValueError("an instant is outside 1970 … 2100, or NaN")
    code = np.asarray(zone_code).astype(np.int64)
    if not (code.min() >= 0 and code.max() < len(zones)):
        raise ValueError(f"zone codes must lie in 0 … {len(zones) - 1}")
    starts, seconds = _stacked(tuple(zones))
    whole = np.floor(epoch).astype(np.int64)
    local: np.ndarray = whole + seconds[np.searchsorted(starts, code * _LAST_SECOND + whole, side="right") - 1]
    return local


def local_hours(epoch: np.ndarray, zone_code: np.ndarray, zones: Sequence[str]) -> np.ndarray:
    """day type × 24 + local hour (int16[n]) of instants; arguments and errors as in `local_seconds`."""
    local = local_seconds(epoch, zone_code, zones)
    weekday = (local // 86_400 + 3) % 7  # 1970-01-01 was a Thursday
    hours: np.ndarray = ((weekday >= 5) * 24 + local // 3600 % 24).astype(np.int16)
    return hours


def local_days(epoch: np.ndarray, zone_code: np.ndarray, zones: Sequence[str]) -> np.ndarray:
    """The calendar days (datetime64[D][n]) of instants; arguments and errors as in `local_seconds`."""
    days: np.ndarray = local_seconds(epoch, zone_code, zones) // 86_400
    return days.astype("datetime64[D]")


def require_cron(expression: str) -> None:
    """Raise BadInput unless `expression` is a cron expression of five fields that ever fires."""
    try:
        next(_cron(expression, datetime(2024, 1, 1)))  # noqa: DTZ001 - a wall-clock reading
    except StopIteration:
        raise BadInput(f"the cron expression {expression!r} never fires", hint="no day is in all its fields") from None


def cron_labels(expression: str, after: datetime, until: datetime) -> Iterator[datetime]:
    """The wall-clock readings (naive) in [after, until) at which a cron for local time fires, the same in every zone.

    Raises BadInput for an expression that is not one.
    """
    for label in _cron(expression, after):
        if label >= until:
            return
        if label >= after:
            yield label


def cron_instants(expression: str, tz: ZoneInfo | None, after: datetime, until: datetime) -> list[datetime]:
    """The instants (UTC) in [after, until) at which a cron fires by the wall clock of `tz`; None is UTC.

    In a zone: an expression of fixed hours and minutes fires once a day whatever DST does (in a gap later, in a fold
    first); one whose hour or minute is `*` or `*/n` fires at every instant with such a reading: never in a gap, twice
    in a fold. So does Debian's cron.
    """
    if tz is None:
        labels = cron_labels(
            expression, after.astimezone(UTC).replace(tzinfo=None), until.astimezone(UTC).replace(tzinfo=None)
        )
        return [label.replace(tzinfo=UTC) for label in labels]
    day = timedelta(days=1)
    labels = cron_labels(expression, wall_clock(tz, after) - day, wall_clock(tz, until) + day)
    periodic = any(field.startswith("*") for field in expression.split()[:2])
    instants = (instant for label in labels for instant in (_readings(label, tz) if periodic else [resolve(label, tz)]))
    return sorted({instant for instant in instants if after <= instant < until})


# --- inside ----------------------------------------------------------------------------------------------------------


def _file(name: str) -> bytes:
    return resources.files("tzdata").joinpath("zoneinfo", *name.split("/")).read_bytes()


def _micros(instant: datetime) -> int:
    if instant.tzinfo is None:
        raise ValueError(f"naive datetime {instant!r}: instants are aware UTC")
    micros = (instant - FIRST) // _US
    if not 0 <= micros <= _LAST_US:
        raise ValueError(f"{instant.isoformat()} is outside 1970 … 2100")
    return micros


def _instant(micros: int) -> datetime:
    return FIRST + micros * _US


def _window(first: int, last: int, slot: int) -> Window:
    day = FIRST.date() + timedelta(days=slot // WINDOWS_A_DAY)
    return Window(_instant(first), _instant(last), slot % WINDOWS_A_DAY, day)


def _pieces(tz: ZoneInfo, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """[start, end) cut where the offset changes: (begin, stop, offset), all in microseconds."""
    table = offsets(tz)
    at = bisect_right(table.starts, start // _SECOND) - 1
    while start < end:
        stop = table.starts[at + 1] * _SECOND if at + 1 < len(table.starts) else _LAST_US
        yield start, min(stop, end), table.seconds[at] * _SECOND
        start, at = stop, at + 1


def _cron(expression: str, after: datetime) -> Iterator[datetime]:
    """Readings from `after` (naive) on; may begin up to a second before it. Raises BadInput."""
    if len(expression) > 200 or len(expression.split()) != 5:
        raise BadInput(
            f"the cron expression {expression!r} needs five fields: minute hour day-of-month month day-of-week",
            hint="every Thursday at 9: 0 9 * * THU",
        )
    try:
        # On naive readings cronsim knows no DST; zones are applied here, by one rule.
        return CronSim(expression, after - timedelta(seconds=1))
    except CronSimError as error:
        raise BadInput(f"the cron expression {expression!r} is wrong: {_cron_fault(expression, error)}") from error


def _cron_fault(expression: str, error: CronSimError) -> str:
    fields = expression.split()
    try:
        CronSim(" ".join([*fields[:3], "*", "*"]), datetime(2024, 1, 1))  # noqa: DTZ001 - a wall-clock reading
        CronSim(" ".join(["0", "0", "*", *fields[3:]]), datetime(2024, 1, 1))  # noqa: DTZ001
    except CronSimError:
        name = str(error).lower().removeprefix("bad ")
        at = ("minute", "hour", "day-of-month", "month", "day-of-week").index(name)
        return f"{fields[at]!r} is no {name}"
    return "it never fires, no such month has that day"


def _readings(label: datetime, tz: ZoneInfo) -> list[datetime]:
    """The instants at which the wall clock reads `label`: none in a gap, two in a fold."""
    both = {label.replace(tzinfo=tz, fold=fold).astimezone(UTC) for fold in (0, 1)}
    return [instant for instant in both if wall_clock(tz, instant) == label]


def _day_start(tz: ZoneInfo, day: date) -> datetime:
    midnight = datetime.combine(day, time())
    instant = resolve(midnight, tz)
    if wall_clock(tz, instant) == midnight:
        return instant
    table = offsets(tz)  # midnight lies in a gap: the day begins at the transition
    return _instant(table.starts[bisect_right(table.starts, _micros(instant) // _SECOND) - 1] * _SECOND)


@lru_cache(4096)  # few hours are in use, and each push that leaves asks
def _open_day(allowed: Hours | None, quiet: Hours | None) -> tuple[tuple[int, int], ...]:
    """The open parts of a local day, in microseconds since midnight, ascending."""
    parts = [(0, _DAY)] if allowed is None else _parts(allowed)
    for begin, stop in _parts(quiet) if quiet else []:
        outside = [((first, min(last, begin)), (max(first, stop), last)) for first, last in parts]
        parts = [part for pair in outside for part in pair if part[0] < part[1]]
    return tuple(parts)


def _parts(hours: Hours) -> list[tuple[int, int]]:
    begin, stop = (
        (timedelta(hours=t.hour, minutes=t.minute, seconds=t.second, microseconds=t.microsecond) // _US) for t in hours
    )
    if begin == stop:
        return []
    parts = [(begin, stop)] if begin < stop else [(0, stop), (begin, _DAY)]
    return [(first, last) for first, last in parts if first < last]


@lru_cache(maxsize=32)
def _stacked(zones: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The tables of several zones end to end, each in a stretch of _LAST_SECOND of its own: one search serves all."""
    tables = [offsets(zone(name)) for name in zones]
    starts = [np.asarray(table.starts, np.int64) + code * _LAST_SECOND for code, table in enumerate(tables)]
    return np.concatenate(starts), np.concatenate([np.asarray(table.seconds, np.int64) for table in tables])
