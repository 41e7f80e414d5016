"""Reading a Retry-After header, in both forms of RFC 9110: seconds, or an HTTP date (pure)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

LONGEST = timedelta(days=1)
"""What a provider may ask for at most; a push does not wait longer for anybody."""


def read_retry_after(header: str | None, now: datetime) -> timedelta | None:
    """How long the provider asks to wait from `now` (machine time, aware): never negative, at most a day.

    None where there is no header, or none that can be read.
    """
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return min(timedelta(seconds=min(int(text), LONGEST.total_seconds())), LONGEST)
    try:
        instant = parsedate_to_datetime(text)
    except ValueError:
        return None
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=UTC)
    return min(max(instant - now, timedelta(0)), LONGEST)
