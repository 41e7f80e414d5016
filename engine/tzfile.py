"""A zone's file (TZif, RFC 9636) as a step function from UTC to an offset (pure).

The file lists the changes there were; what follows the last one is a rule for every year, such as
`CET-1CEST,M3.5.0,M10.5.0/3`: `Mm.w.d/time`, the w-th (5: last) weekday d of month m, by the clock that ends then.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from datetime import UTC, date, datetime

_HEADER = struct.Struct(">4s c 15x 6I")
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_DAY = 86_400
_NAME = r"(?:<[^>]+>|[A-Za-z]+)"
_CLOCK = r"[-+]?\d+(?::\d+){0,2}"
_RULE = re.compile(rf"{_NAME}({_CLOCK})(?:{_NAME}({_CLOCK})?,([^,]+),([^,]+))?")
_CHANGE = re.compile(rf"M(\d+)\.(\d)\.(\d)(?:/({_CLOCK}))?")


@dataclass(frozen=True)
class Offsets:
    """A zone as a step function: from `starts[i]` (epoch seconds) on, local time is UTC + `seconds[i]`."""

    starts: tuple[int, ...]
    seconds: tuple[int, ...]


def offsets(file: bytes, until: int) -> Offsets:
    """The offsets over [0, until) of a TZif file of version 2 or later. Raises ValueError for anything else."""
    at, kinds, rule = _listed(file)
    changes = list(zip(at, kinds[1:], strict=True))
    changes += _by_rule(rule, at[-1] if at else None, until)
    starts, seconds = [0], [kinds[0]]
    for instant, offset in changes:
        if instant <= 0:
            seconds[0] = offset
        elif instant < until and offset != seconds[-1]:
            starts.append(instant)
            seconds.append(offset)
    return Offsets(tuple(starts), tuple(seconds))


def _listed(file: bytes) -> tuple[list[int], list[int], str]:
    """The changes that are listed: instants, offsets (one more: what was before the first), and the rule after."""
    magic, version, *counts = _HEADER.unpack_from(file)
    if magic != b"TZif" or version < b"2":
        raise ValueError("no TZif file of version 2 or later")
    isut, isstd, leap, times, types, chars = counts
    second = _HEADER.size + times * 5 + types * 6 + chars + leap * 8 + isstd + isut
    _, _, isut, isstd, leap, times, types, chars = _HEADER.unpack_from(file, second)
    begin = second + _HEADER.size
    at = list(struct.unpack_from(f">{times}q", file, begin))
    which = file[begin + times * 8 : begin + times * 9]
    table = begin + times * 9
    kinds = [struct.unpack_from(">i", file, table + 6 * kind)[0] for kind in range(types)]
    footer = table + types * 6 + chars + leap * 12 + isstd + isut
    rule = file[footer:].strip(b"\n").decode("ascii")
    return at, [kinds[0], *(kinds[kind] for kind in which)], rule


def _by_rule(rule: str, last: int | None, until: int) -> list[tuple[int, int]]:
    """The changes (instant, offset) after `last` and before `until`."""
    found = _RULE.fullmatch(rule)
    if found is None:
        raise ValueError(f"no rule of a zone: {rule!r}")
    standard = -_clock(found[1])
    after = -(1 << 62) if last is None else last
    if found[3] is None:
        return [(after, standard)] if last is None else []
    summer = -_clock(found[2]) if found[2] else standard + 3600
    first = 1969 if last is None else datetime.fromtimestamp(max(last, 0), UTC).year
    changes = []
    for year in range(first, datetime.fromtimestamp(until, UTC).year + 1):
        changes.append((_instant(found[3], year) - standard, summer))
        changes.append((_instant(found[4], year) - summer, standard))
    return sorted(change for change in changes if after < change[0] < until)


def _instant(change: str, year: int) -> int:
    """The wall-clock reading of a change in a year, as seconds since 1970."""
    found = _CHANGE.fullmatch(change)
    if found is None:
        raise ValueError(f"no change of a zone: {change!r}")
    month, week, weekday = int(found[1]), int(found[2]), int(found[3])
    first = date(year, month, 1)
    day = first.toordinal() + (weekday - first.isoweekday()) % 7 + 7 * (week - 1)
    following = date(year + month // 12, month % 12 + 1, 1).toordinal()
    while day >= following:
        day -= 7
    return (day - _EPOCH_DAY) * _DAY + (_clock(found[4]) if found[4] else 7_200)


def _clock(text: str) -> int:
    sign = -1 if text.startswith("-") else 1
    parts = [int(part) for part in text.lstrip("+-").split(":")]
    return sign * sum(part * unit for part, unit in zip(parts, (3600, 60, 1), strict=False))
