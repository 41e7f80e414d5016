"""How people write durations, local hours, instants and names in definitions, and how these are stored (pure).

Each is a type with its own parser, its own JSON Schema and one canonical text, so that a definition reads back as it
was meant: hours `09:00-21:00`, durations `90m`, `24h`, `3d`, `2w` or ISO 8601 `PT24H`.
"""

from __future__ import annotations

import re
from datetime import datetime, time, timedelta
from functools import lru_cache
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema

from engine.errors import BadInput
from engine.localtime import FIRST, LAST, Hours, zone

_CLOCK = re.compile(r"([01]?\d|2[0-4]):([0-5]\d)")
_SHORT = re.compile(r"(?:(\d+)w)?\s*(?:(\d+)d)?\s*(?:(\d+)h)?\s*(?:(\d+)m(?:in)?)?\s*(?:(\d+)s)?", re.IGNORECASE)
_ISO = re.compile(r"P(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LONGEST = timedelta(days=3660)


class Strict(BaseModel):
    """A part of a definition: frozen, and with no other fields than its own."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_by_name=True, validate_by_alias=True, serialize_by_alias=True
    )


def parse_hours(value: Any) -> Any:
    """`09:00-21:00` as local hours; a pair of times passes. Raises ValueError."""
    if isinstance(value, list | tuple) and len(value) == 2:
        start, until = (_clock(str(end)[:5]) for end in value)
    elif isinstance(value, str) and value.count("-") == 1:
        start, until = (_clock(end.strip()) for end in value.split("-"))
    else:
        raise ValueError("must be written like 09:00-21:00")
    if start == until:
        raise ValueError(f"empty, as they begin and end at {start:%H:%M}; leave them out for the whole day")
    return start, until


def hours_text(hours: Hours) -> str:
    """The canonical text of local hours."""
    return "-".join(f"{end:%H:%M}" for end in hours)


def parse_duration(value: Any) -> Any:
    """`90m`, `24h`, `3d`, `2w`, `1d12h` or ISO 8601 (weeks to seconds) as a timedelta. Raises ValueError."""
    if isinstance(value, timedelta):
        return value
    return _duration(value.strip() if isinstance(value, str) else "")


@lru_cache(1024)
def _duration(text: str) -> timedelta:
    """Kept: a cap's window is asked for with each push."""
    found = _ISO.fullmatch(text) or _SHORT.fullmatch(text)
    if found is None or not any(found.groups()):
        raise ValueError("must be a duration: 90m, 24h, 3d, 2w or PT24H")
    weeks, days, hours, minutes, seconds = (int(part[:9]) if part else 0 for part in found.groups())
    duration = timedelta(weeks=min(weeks, 10_000), days=days, hours=hours, minutes=minutes, seconds=seconds)
    if not timedelta() < duration <= _LONGEST:
        raise ValueError("must be longer than nothing and at most ten years")
    return duration


def duration_text(duration: timedelta) -> str:
    """The canonical ISO 8601 text of a duration: days where it is whole days beyond two, else hours to seconds."""
    days, rest = divmod(duration, timedelta(days=1))
    if days > 2 and not rest:
        return f"P{days}D"
    minutes, seconds = divmod(int(duration.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{amount}{unit}" for amount, unit in ((hours, "H"), (minutes, "M"), (seconds, "S")) if amount]
    return "PT" + ("".join(parts) or "0S")


def in_words(duration: timedelta) -> str:
    """A duration for people: 30m, 24h, 3d."""
    text = duration_text(duration)
    return text.removeprefix("PT").removeprefix("P").lower()


def parse_moment(value: Any) -> Any:
    """An ISO 8601 date and time, with an offset (an instant) or without (a wall-clock reading). Raises ValueError."""
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value).strip())
    except ValueError:
        raise ValueError("must be a date and time like 2026-11-27T18:00 or 2026-11-27T18:00+01:00") from None
    if not FIRST.year < moment.year < LAST.year - 1:
        raise ValueError(f"must lie after {FIRST.year} and before {LAST.year - 1}")
    return moment


def moment_text(moment: datetime) -> str:
    """The canonical text of a moment: to the minute, or finer where it is."""
    precision = "minutes" if not (moment.second or moment.microsecond) else "auto"
    return moment.isoformat(timespec=precision)


def check_name(value: str) -> str:
    """`value`, if it may name a campaign or a tag. Raises ValueError."""
    if not _NAME.fullmatch(value):
        raise ValueError("must begin with a letter or digit and hold only letters, digits, . _ -, at most 64")
    return value


def check_text(value: str) -> str:
    """`value`, if the store can hold it: PostgreSQL's UTF-8 has no NUL and no lone surrogates. Raises ValueError."""
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError("must not contain NUL characters or lone surrogates")
    return value


def check_zone(value: str) -> str:
    """`value`, if it is an IANA zone. Raises ValueError with the closest name."""
    try:
        zone(value)
    except BadInput as error:
        raise ValueError(str(error)) from None
    return value


def _clock(text: str) -> time:
    found = _CLOCK.fullmatch(text)
    if found is None or (found[1] == "24" and found[2] != "00"):
        raise ValueError(f"{text!r} is no time of day; hours are written like 09:00-21:00")
    return time(int(found[1]) % 24, int(found[2]))


LocalHours = Annotated[
    Hours,
    BeforeValidator(parse_hours),
    PlainSerializer(hours_text, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": r"^\d{1,2}:\d\d-\d{1,2}:\d\d$", "examples": ["09:00-21:00"]}),
]
"""Local hours [from, until), which may cross midnight."""

Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(duration_text, when_used="json"),
    WithJsonSchema({"type": "string", "examples": ["90m", "24h", "3d", "PT24H"]}),
]
"""A positive duration."""

Moment = Annotated[
    datetime,
    BeforeValidator(parse_moment),
    PlainSerializer(moment_text, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-11-27T18:00"]}),
]
"""An instant (with an offset) or a wall-clock reading (without)."""

Name = Annotated[str, AfterValidator(check_name), WithJsonSchema({"type": "string", "pattern": f"^{_NAME.pattern}$"})]
"""A name that is also part of a cap's scope."""

Text = Annotated[str, AfterValidator(check_text)]
"""Any text that the store can hold."""

ZoneName = Annotated[str, AfterValidator(check_zone)]
"""An IANA time zone."""

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
"""A share of users, 0 … 1."""
