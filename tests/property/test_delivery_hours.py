"""When the just-in-time check lets a push out: never where it might arrive in quiet hours, as soon as it cannot."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.delivery.check import next_open
from engine.localtime import Hours, in_hours, zone

ZONES = ("UTC", "America/New_York", "Africa/Cairo", "Australia/Lord_Howe", "Asia/Kathmandu", "America/Havana")
MINUTE = timedelta(minutes=1)

clocks = st.builds(time, st.integers(0, 23), st.sampled_from([0, 30]))
hours = st.none() | st.tuples(clocks, clocks)
instants = st.datetimes(datetime(2026, 3, 1), datetime(2026, 11, 30)).map(lambda at: at.replace(tzinfo=UTC))


def lets_through(zone_name: str, at: datetime, allowed: Hours | None, quiet: Hours | None) -> bool:
    tz = zone(zone_name)
    return (allowed is None or in_hours(tz, at, *allowed)) and not (quiet is not None and in_hours(tz, at, *quiet))


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(ZONES),
    instants,
    st.timedeltas(timedelta(minutes=1), timedelta(hours=30)),
    hours,
    hours,
    st.sampled_from([timedelta(0), timedelta(seconds=30), timedelta(minutes=20)]),
)
def test_what_leaves_arrives_while_the_users_clock_allows_it_and_nothing_waits_longer_than_it_must(
    zone_name: str, now: datetime, lasts: timedelta, allowed: Hours | None, quiet: Hours | None, deadline: timedelta
) -> None:
    end = now + lasts

    found = next_open(zone(zone_name), now, end, deadline, (allowed, quiet))

    if found is not None:
        assert now <= found
        assert found + deadline < end
        steps = [found + deadline * share / 8 for share in range(9)]
        assert all(lets_through(zone_name, at, allowed, quiet) for at in steps)
    until = found if found is not None else end - deadline
    earlier = [now + MINUTE * n for n in range(int((until - now) / MINUTE))]
    missed = [
        at
        for at in earlier
        if at < until
        and all(
            lets_through(zone_name, step, allowed, quiet)
            for step in (at + MINUTE * n for n in range(int(deadline / MINUTE) + 2))
        )
    ]
    assert missed == [], "an instant at which it could have left was passed over"
