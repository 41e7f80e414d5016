"""Local time: named cases from the field's bug trackers, and every transition of tzdata."""

from __future__ import annotations

import struct
from datetime import UTC, date, datetime, time, timedelta
from importlib import resources

import numpy as np
import pytest

from engine.errors import BadInput
from engine.localtime import (
    cron_instants,
    cron_labels,
    day_bounds,
    in_hours,
    local_day,
    local_days,
    local_hours,
    offsets,
    open_intervals,
    open_minutes,
    open_windows,
    require_cron,
    resolve,
    wall_clock,
    week_bounds,
    windows_between,
    zone,
    zone_names,
)

NIGHT = (time(22), time(8))


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("Europe/Berln", "Europe/Berlin"),
        ("europe/berlin", "Europe/Berlin"),
        ("Berlin", "Europe/Berlin"),
        ("new york", "America/New_York"),
        ("US/Centrl", "US/Central"),
    ],
)
def test_a_misspelt_zone_is_refused_with_the_closest_name(given, meant):
    with pytest.raises(BadInput) as refused:
        zone(given)

    assert meant in str(refused.value)


@pytest.mark.parametrize("given", ["", "localtime", "Factory", "../etc/passwd", "+02:00", "XX\0"])
def test_what_is_no_iana_name_is_no_zone(given):
    with pytest.raises(BadInput, match="unknown time zone"):
        zone(given)


def test_aliases_are_kept_as_given():
    assert zone("US/Central").key == "US/Central"


@pytest.mark.parametrize(
    ("name", "local", "expected"),
    [
        ("Europe/Berlin", datetime(2026, 3, 29, 2, 30), utc(2026, 3, 29, 1, 30)),  # gap: reads 03:30
        ("Europe/Berlin", datetime(2026, 10, 25, 2, 30), utc(2026, 10, 25, 0, 30)),  # fold: the first
        ("Australia/Lord_Howe", datetime(2026, 10, 4, 2, 15), utc(2026, 10, 3, 15, 45)),  # a gap of 30 minutes
        ("Africa/Cairo", datetime(2026, 4, 24, 0, 0), utc(2026, 4, 23, 22, 0)),  # midnight does not exist
        ("Pacific/Apia", datetime(2011, 12, 30, 12, 0), utc(2011, 12, 30, 22, 0)),  # nor does this whole day
    ],
)
def test_a_reading_in_a_gap_moves_forward_by_it_and_of_a_fold_the_first_counts(name, local, expected):
    assert resolve(local, zone(name)) == expected


@pytest.mark.parametrize(
    ("name", "day", "hours"),
    [
        ("Europe/Berlin", date(2026, 3, 29), 23.0),
        ("Europe/Berlin", date(2026, 10, 25), 25.0),
        ("Australia/Lord_Howe", date(2026, 10, 4), 23.5),
        ("Australia/Lord_Howe", date(2026, 4, 5), 24.5),
        ("Africa/Cairo", date(2026, 4, 24), 23.0),
        ("Asia/Beirut", date(2026, 3, 29), 23.0),
        ("America/Havana", date(2026, 3, 8), 23.0),
        ("Pacific/Apia", date(2011, 12, 30), 0.0),
        ("Asia/Kolkata", date(2026, 3, 29), 24.0),
    ],
)
def test_days_are_as_long_as_their_zone_makes_them(name, day, hours):
    start, end = day_bounds(zone(name), day)

    assert (end - start) == timedelta(hours=hours)
    assert sum((w.end - w.start for w in windows_between(zone(name), start, end) if start < end), timedelta()) == (
        end - start
    )


def test_a_day_whose_midnight_does_not_exist_begins_at_one_o_clock():
    cairo = zone("Africa/Cairo")
    start, _ = day_bounds(cairo, date(2026, 4, 24))

    assert wall_clock(cairo, start) == datetime(2026, 4, 24, 1)
    assert local_day(cairo, start - timedelta(microseconds=1)) == date(2026, 4, 23)


def test_weeks_begin_on_monday_in_the_users_zone():
    start, end = week_bounds(zone("America/New_York"), date(2026, 11, 1))  # the Sunday on which DST ends

    assert (start, end) == (utc(2026, 10, 26, 4), utc(2026, 11, 2, 5))


def test_windows_end_at_wall_clock_edges_never_three_hours_after_their_start():
    berlin = zone("Europe/Berlin")

    spring, autumn = (
        windows_between(berlin, *day_bounds(berlin, day)) for day in (date(2026, 3, 29), date(2026, 10, 25))
    )

    assert [(w.end - w.start) // timedelta(hours=1) for w in spring] == [2, 3, 3, 3, 3, 3, 3, 3]
    assert [(w.end - w.start) // timedelta(hours=1) for w in autumn] == [4, 3, 3, 3, 3, 3, 3, 3]
    assert [w.cell for w in autumn] == list(range(8, 16))


def test_a_whole_window_is_returned_where_only_its_middle_is_asked_for():
    (window,) = windows_between(zone("UTC"), utc(2026, 11, 24, 10), utc(2026, 11, 24, 11))

    assert (window.start, window.end, window.index, window.day_type) == (
        utc(2026, 11, 24, 9), utc(2026, 11, 24, 12), 3, 0,
    )  # fmt: skip


def test_friday_evening_in_los_angeles_is_friday_there():
    # dittofeed's findNextLocalizedTime makes this a Thursday: the UTC weekday.
    angeles = zone("America/Los_Angeles")
    friday = resolve(datetime(2026, 11, 27, 20), angeles)

    (window,) = windows_between(angeles, friday, friday + timedelta(minutes=1))

    assert (window.local_date.weekday(), window.index, window.day_type) == (4, 6, 0)
    assert friday == utc(2026, 11, 28, 4)


@pytest.mark.parametrize(
    ("hours", "reading", "inside"),
    [
        (NIGHT, time(22), True),
        (NIGHT, time(7, 59, 59), True),
        (NIGHT, time(8), False),
        (NIGHT, time(12), False),
        ((time(9), time(0)), time(23, 59), True),
        ((time(0), time(6)), time(0), True),
        ((time(9), time(9)), time(9), False),
    ],
)
def test_hours_may_cross_midnight_and_equal_ends_are_never(hours, reading, inside):
    instant = resolve(datetime.combine(date(2026, 11, 24), reading), zone("Asia/Tokyo"))

    assert in_hours(zone("Asia/Tokyo"), instant, *hours) is inside


def test_open_intervals_leave_out_the_night_and_keep_to_the_hours():
    paris = zone("Europe/Paris")

    found = open_intervals(paris, utc(2026, 11, 24), utc(2026, 11, 25, 12), (time(7), time(23)), NIGHT)

    assert found == [(utc(2026, 11, 24, 7), utc(2026, 11, 24, 21)), (utc(2026, 11, 25, 7), utc(2026, 11, 25, 12))]


def test_hours_inside_the_quiet_hours_leave_nothing_open():
    assert open_intervals(zone("UTC"), utc(2026, 1, 1), utc(2026, 2, 1), (time(23), time(6)), NIGHT) == []
    assert open_minutes((time(23), time(6)), NIGHT) == []
    assert open_minutes((time(20), time(10)), NIGHT) == [(480, 600), (1200, 1320)]


def test_open_windows_are_the_windows_cut_to_the_open_hours():
    found = open_windows(zone("UTC"), utc(2026, 11, 24, 6), utc(2026, 11, 24, 13), None, NIGHT)

    assert [(w.index, first.hour, last.hour) for w, first, last in found] == [(2, 8, 9), (3, 9, 12), (4, 12, 13)]


def test_hours_of_many_users_at_once_are_those_of_each():
    zones = ["America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "Africa/Monrovia"]
    rng = np.random.default_rng(7)
    epoch, code = rng.uniform(0, 4.1e9, 4_000), rng.integers(0, 4, 4_000)

    hours, days = local_hours(epoch, code, zones), local_days(epoch, code, zones)

    local = [datetime.fromtimestamp(e, zone(zones[c])) for e, c in zip(epoch, code, strict=True)]
    assert hours.tolist() == [(x.weekday() >= 5) * 24 + x.hour for x in local]
    assert days.tolist() == [x.date() for x in local]
    assert hours.dtype == np.int16
    assert local_hours(epoch[:0], code[:0], []).shape == (0,)


@pytest.mark.parametrize("epoch", [float("nan"), -1.0, 4.2e9])
def test_instants_outside_the_tables_are_refused(epoch):
    with pytest.raises(ValueError, match="outside"):
        local_hours(np.array([1e9, epoch]), np.array([0, 0]), ["UTC"])


def test_a_user_without_a_zone_is_refused_rather_than_given_another_ones():
    with pytest.raises(ValueError, match="codes"):
        local_hours(np.array([1e9]), np.array([-1]), ["UTC"])


def test_naive_instants_are_refused():
    with pytest.raises(ValueError, match="naive"):
        windows_between(zone("UTC"), datetime(2026, 1, 1), utc(2026, 1, 2))


def test_offsets_are_those_of_tzdatas_own_files():
    for name in sorted(zone_names()):
        table = offsets(zone(name))
        ours = {s: o for s, o in zip(table.starts, table.seconds, strict=True) if s}
        theirs = _changes(name)
        assert {s: ours.get(s) for s in theirs} == theirs, name


def _changes(name: str) -> dict[int, int]:
    """The offset changes from 1970 on that are written out in a TZif file (RFC 8536, its 64-bit block)."""
    data = resources.files("tzdata").joinpath("zoneinfo", *name.split("/")).read_bytes()
    utc_marks, std_marks, leaps, times, types, letters = struct.unpack(">6l", data[20:44])
    at = 44 + times * 5 + types * 6 + letters + leaps * 8 + std_marks + utc_marks
    _, _, _, times, types, _ = struct.unpack(">6l", data[at + 20 : at + 44])
    at += 44
    instants = struct.unpack(f">{times}q", data[at : at + 8 * times])
    kinds = data[at + 8 * times : at + 9 * times]
    at += 9 * times
    known = [struct.unpack(">l", data[at + 6 * n : at + 6 * n + 4])[0] for n in range(types)]
    changes, before = {}, known[0]
    for instant, kind in zip(instants, kinds, strict=True):
        if known[kind] != before and 0 < instant < 4_102_444_800:
            changes[instant] = known[kind]
        before = known[kind]
    return changes


# --- cron ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("61 * * * *", "'61' is no minute"),
        ("0 25 * * *", "'25' is no hour"),
        ("0 9 * * THUR", "'THUR' is no day-of-week"),
        ("0 9 31 2 *", "never fires"),
        ("0 9 31 4,6 *", "never fires"),
        ("0 9 * *", "five fields"),
        ("* * * * * *", "five fields"),
        ("", "five fields"),
        ("@daily", "five fields"),
    ],
)
def test_a_cron_that_is_wrong_or_never_fires_is_refused(expression, said):
    with pytest.raises(BadInput, match=said):
        require_cron(expression)


def test_cron_labels_are_readings_from_the_first_instant_on_until_before_the_last():
    labels = list(cron_labels("0 9 * * *", datetime(2026, 3, 28, 9), datetime(2026, 3, 30, 9)))

    assert labels == [datetime(2026, 3, 28, 9), datetime(2026, 3, 29, 9)]


def test_a_daily_cron_fires_once_on_each_day_whatever_dst_does():
    berlin = zone("Europe/Berlin")

    spring = cron_instants("30 2 * * *", berlin, utc(2026, 3, 28, 12), utc(2026, 3, 30, 12))
    autumn = cron_instants("30 2 * * *", berlin, utc(2026, 10, 24, 12), utc(2026, 10, 26, 12))

    assert spring == [utc(2026, 3, 29, 1, 30), utc(2026, 3, 30, 0, 30)]
    assert autumn == [utc(2026, 10, 25, 0, 30), utc(2026, 10, 26, 1, 30)]


def test_an_hourly_cron_fires_every_hour_also_when_dst_ends():
    # Celery beat 5.7 loses 09Z here: celery#10107.
    angeles = zone("America/Los_Angeles")

    found = cron_instants("0 * * * *", angeles, utc(2026, 11, 1, 7), utc(2026, 11, 1, 12))

    assert [instant.hour for instant in found] == [7, 8, 9, 10, 11]


def test_a_cron_in_utc_knows_no_dst():
    assert cron_instants("30 2 * * *", None, utc(2026, 3, 29), utc(2026, 3, 31)) == [
        utc(2026, 3, 29, 2, 30),
        utc(2026, 3, 30, 2, 30),
    ]
