"""Over all IANA zones: windows tile time, open hours are open by the wall clock, days and hours are the local ones."""

from __future__ import annotations

from bisect import bisect_right
from datetime import UTC, datetime, time, timedelta
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import BadInput
from engine.localtime import (
    CELLS,
    Hours,
    cron_labels,
    day_bounds,
    in_hours,
    local_hours,
    offsets,
    open_intervals,
    open_windows,
    resolve,
    wall_clock,
    windows_between,
    zone,
    zone_names,
)
from engine.planning.windows import LAST_CALL, Span, open_stretches
from engine.planning.windows import instants as instants_of

ZONES = sorted(zone_names())
NIGHT: Hours = (time(22), time(8))
FROM = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp())
UNTIL = int(datetime(2031, 1, 1, tzinfo=UTC).timestamp())

zones = st.sampled_from(ZONES).map(zone)
instants = st.integers(FROM, UNTIL).map(lambda second: datetime.fromtimestamp(second, UTC))
clocks = st.builds(time, st.integers(0, 23), st.sampled_from([0, 15, 30, 59]))
hours = st.tuples(clocks, clocks)


def _stretches(name: str) -> list[datetime]:
    """A few days of each zone: around each of its transitions 2024–2030 (at most 4), and one ordinary one."""
    changes = [second for second in offsets(zone(name)).starts if FROM <= second < UNTIL][-4:]
    ordinary = FROM + _spread(name) % (UNTIL - FROM)
    return [datetime.fromtimestamp(second, UTC) for second in (*changes, ordinary)]


def _spread(name: str) -> int:
    return int.from_bytes(name.encode(), "little") % 999_999_937


@pytest.mark.parametrize("part", range(4))
def test_windows_of_every_zone_tile_its_days_and_read_what_the_wall_clock_reads(part):
    for name in ZONES[part::4]:
        tz = zone(name)
        for around in _stretches(name):
            windows = windows_between(tz, around - timedelta(days=1), around + timedelta(days=1))
            assert windows[0].start <= around - timedelta(days=1), name
            assert windows[-1].end >= around + timedelta(days=1), name
            for before, after in pairwise(windows):
                assert before.start < before.end == after.start, name
            for window in windows:
                for instant in (window.start, window.end - timedelta(seconds=1)):
                    local = instant.astimezone(tz)
                    assert (local.date(), local.hour // 3) == (window.local_date, window.index), name
                    assert window.day_type == (local.weekday() >= 5), name


@pytest.mark.parametrize("part", range(4))
def test_no_open_instant_of_any_zone_lies_in_quiet_hours_and_no_other_is_missed(part):
    for name in ZONES[part::4]:
        tz = zone(name)
        for around in _stretches(name):
            start, end = around - timedelta(hours=30), around + timedelta(hours=30)
            found = open_intervals(tz, start, end, None, NIGHT)
            opened = [first + (last - first) * share for first, last in found for share in (0, 0.5, 0.999)]
            closed = [last for _, last in found if last < end]
            assert not any(in_hours(tz, instant, *NIGHT) for instant in opened), name
            assert all(in_hours(tz, instant, *NIGHT) for instant in closed), name


def _alike() -> list[str]:
    """One zone of each set that shares its offsets from 2024 to 2030: what is computed depends on them alone."""
    alike: dict[tuple[tuple[int, int], ...], str] = {}
    for name in ZONES:
        table = offsets(zone(name))
        first = bisect_right(table.starts, FROM) - 1
        changes = [
            (max(s, FROM), o) for s, o in zip(table.starts[first:], table.seconds[first:], strict=True) if s < UNTIL
        ]
        alike.setdefault(tuple(changes), name)
    return list(alike.values())


def test_on_every_day_from_2024_to_2030_open_hours_begin_and_end_where_the_wall_clock_says():
    start, end = datetime.fromtimestamp(FROM, UTC), datetime.fromtimestamp(UNTIL, UTC)
    second = timedelta(seconds=1)
    for name in _alike():
        tz = zone(name)
        found = open_intervals(tz, start, end, None, NIGHT)
        assert len(found) >= 2557, name
        inside = [instant.astimezone(tz).hour for first, last in found for instant in (first, last - second)]
        outside = [instant.astimezone(tz).hour for first, last in found[1:-1] for instant in (first - second, last)]
        assert all(8 <= hour < 22 for hour in inside), name
        assert not any(8 <= hour < 22 for hour in outside), name


def test_no_planned_instant_of_any_zone_on_any_day_lies_in_quiet_hours_and_its_window_is_the_local_one():
    """The windows beside quiet hours of every day 2024–2030 in every zone, with a user's instant, read by zoneinfo.

    Of zones that never change their clocks in that time four weeks stand for all.
    """
    start = datetime.fromtimestamp(FROM, UTC)
    rng = np.random.default_rng(3)
    for name in _alike():
        tz = zone(name)
        changes = any(FROM < second < UNTIL for second in offsets(tz).starts)
        end = datetime.fromtimestamp(UNTIL, UTC) if changes else start + timedelta(days=28)
        span = Span(start, end, (time(20), time(10)), spread=None)
        found, why = open_stretches(tz, span, NIGHT, start, most=1 << 30)
        first, length, closes, cell, day = (
            np.array([getattr(each, field) for each in found]) for field in ("first", "length", "end", "cell", "day")
        )
        due = instants_of(first, length, rng.random(len(found)))
        local = [datetime.fromtimestamp(at, tz) for at in due.tolist()]
        hour, weekday = np.array([x.hour for x in local]), np.array([x.isoweekday() for x in local])

        assert why == ""
        assert len(set(day.tolist())) >= (end - start).days - 1, name
        assert (((hour >= 8) & (hour < 10)) | ((hour >= 20) & (hour < 22))).all(), name
        assert (cell == (weekday >= 6) * 8 + hour // 3).all(), name
        assert (day == np.array([x.toordinal() for x in local])).all(), name
        assert (due < closes - LAST_CALL.total_seconds() + 1e-3).all(), name
        assert (np.diff(due) > 0).all(), name


def test_hours_of_all_zones_at_once_are_the_local_ones():
    rng = np.random.default_rng(11)
    code = np.repeat(np.arange(len(ZONES)), 20)
    epoch = rng.integers(FROM, UNTIL, len(code)).astype(np.float64)

    found = local_hours(epoch, code, ZONES)

    local = [datetime.fromtimestamp(e, zone(ZONES[c])) for e, c in zip(epoch, code, strict=True)]
    assert found.tolist() == [(x.weekday() >= 5) * 24 + x.hour for x in local]


@given(zones, instants, st.integers(1, 96), st.none() | hours, st.none() | hours, st.data())
@settings(max_examples=150, deadline=None)
def test_an_instant_is_open_exactly_where_its_wall_clock_is_allowed_and_not_quiet(
    tz, start, span, allowed, quiet, data
):
    end = start + timedelta(hours=span)
    instant = start + data.draw(st.integers(0, span * 3600 - 1)) * timedelta(seconds=1)

    found = open_intervals(tz, start, end, allowed, quiet)

    expected = (allowed is None or in_hours(tz, instant, *allowed)) and not (quiet and in_hours(tz, instant, *quiet))
    assert any(first <= instant < last for first, last in found) == expected
    assert all(a[1] < b[0] for a, b in pairwise(found))


@given(zones, instants, st.integers(1, 72), st.none() | hours, hours)
@settings(max_examples=80, deadline=None)
def test_open_windows_add_up_to_the_open_time(tz, start, span, allowed, quiet):
    end = start + timedelta(hours=span)

    parts = open_windows(tz, start, end, allowed, quiet)

    whole = sum((last - first for first, last in open_intervals(tz, start, end, allowed, quiet)), timedelta())
    assert sum((last - first for _, first, last in parts), timedelta()) == whole
    assert all(w.start <= first < last <= w.end and 0 <= w.cell < CELLS for w, first, last in parts)


@given(zones, instants)
@settings(max_examples=150, deadline=None)
def test_a_day_is_its_instants_and_days_follow_each_other(tz, instant):
    day = wall_clock(tz, instant).date()
    start, end = day_bounds(tz, day)

    assert start <= instant < end
    assert day_bounds(tz, day + timedelta(days=1))[0] == end
    assert timedelta(hours=20) <= end - start <= timedelta(hours=28)


@given(zones, instants)
@settings(max_examples=150, deadline=None)
def test_a_reading_that_exists_resolves_to_an_instant_that_reads_so(tz, instant):
    reading = wall_clock(tz, instant)

    resolved = resolve(reading, tz)

    assert wall_clock(tz, resolved) == reading
    assert resolved <= instant


@given(st.text("0123456789*/,-LW# AMNSUTHORI", max_size=24), instants)
@settings(max_examples=150, deadline=None)
def test_any_text_is_a_cron_or_a_clear_refusal(expression, start):
    naive = start.replace(tzinfo=None)
    try:
        labels = list(cron_labels(expression, naive, naive + timedelta(hours=6)))
    except BadInput:
        labels = []

    assert labels == sorted(set(labels))
