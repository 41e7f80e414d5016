"""Whatever `admits` admits, in whatever order, no window ever holds more than its cap: counted anew, by brute force."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, time, timedelta
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.campaigns.policy import Cap, Journalled, Policy, Sent, admits, check_journal
from engine.localtime import in_hours, local_day, zone

START = datetime(2026, 3, 26, tzinfo=UTC)  # three days before Europe's clocks change
ZONES = st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]).map(zone)
TAGS = ("tag:a", "tag:b")

instants = st.integers(0, 9 * 24 * 4).map(lambda quarter: START + quarter * timedelta(minutes=15))
scopes = st.sets(st.sampled_from(TAGS)).map(frozenset)
asks = st.lists(st.tuples(instants, scopes), max_size=40)
caps = st.lists(
    st.builds(
        Cap,
        scope=st.sampled_from(["all", *TAGS]),
        limit=st.integers(0, 4),
        window=st.sampled_from(["local_day", "local_week", "rolling:PT6H", "rolling:PT24H", "rolling:P3D"]),
    ),
    max_size=3,
).map(tuple)
quiet = st.none() | st.just((time(22), time(8))) | st.just((time(12), time(14)))
policies = st.builds(
    Policy, caps=caps, quiet_hours=quiet, min_gap=st.none() | st.sampled_from([timedelta(hours=h) for h in (1, 5, 30)])
)


def admitted(policy, tz, asked, own) -> list[Sent]:
    taken: list[Sent] = []
    for at, about in asked:
        if admits(policy, policy.caps, taken, at, about, tz, own) is None:
            taken.append(Sent(at, about, local_day(tz, at)))
    return taken


def overfull(cap: Cap, tz, pushes: list[tuple[datetime, frozenset[str]]]) -> bool:
    """By brute force: whether some window of the cap holds too many."""
    times = [at for at, about in pushes if cap.scope == "all" or cap.scope in about]
    if cap.window == "local_day":
        return any(count > cap.limit for count in Counter(at.astimezone(tz).date() for at in times).values())
    if cap.window == "local_week":
        weeks = Counter(at.astimezone(tz).date().isocalendar()[:2] for at in times)
        return any(count > cap.limit for count in weeks.values())
    width = {"PT6H": 6, "PT24H": 24, "P3D": 72}[cap.window.partition(":")[2]] * timedelta(hours=1)
    return any(sum(at - width <= other <= at for other in times) > cap.limit for at in times)


@given(policies, ZONES, asks, quiet)
@settings(max_examples=120, deadline=None)
def test_what_is_admitted_in_any_order_overfills_no_window(policy, tz, asked, own):
    taken = admitted(policy, tz, asked, own)

    pushes = [(push.at, push.scopes) for push in taken]
    assert not any(overfull(cap, tz, pushes) for cap in policy.caps)
    times = sorted(push.at for push in taken)
    assert policy.min_gap is None or all(b - a >= policy.min_gap for a, b in pairwise(times))
    closed = own or policy.quiet_hours
    assert not any(closed and in_hours(tz, at, *closed) for at in times)


@given(policies, ZONES, asks, quiet)
@settings(max_examples=120, deadline=None)
def test_what_is_refused_in_order_of_time_would_break_the_rule_it_names(policy, tz, asked, own):
    taken: list[Sent] = []
    for at, about in sorted(asked, key=lambda ask: ask[0]):
        refusal = admits(policy, policy.caps, taken, at, about, tz, own)
        pushes = [(push.at, push.scopes) for push in taken] + [(at, about)]
        if refusal is None:
            taken.append(Sent(at, about, local_day(tz, at)))
        elif refusal.cap is not None:
            assert overfull(refusal.cap, tz, pushes)
        elif refusal.reason == "gap":
            assert policy.min_gap is not None
            assert any(at - push.at < policy.min_gap for push in taken)


@given(policies, ZONES, asks, quiet)
@settings(max_examples=120, deadline=None)
def test_a_journal_is_clean_exactly_where_no_window_is_overfull(policy, tz, asked, own):
    journal = [Journalled("u", at, about, tz, own) for at, about in asked]

    found = check_journal(policy, journal)

    closed = own or policy.quiet_hours
    times = sorted(at for at, _ in asked)
    broken = (
        any(overfull(cap, tz, asked) for cap in policy.caps)
        or any(closed and in_hours(tz, at, *closed) for at in times)
        or (policy.min_gap is not None and any(b - a < policy.min_gap for a, b in pairwise(times)))
    )
    assert bool(found) == broken


@given(policies, ZONES, asks, quiet)
@settings(max_examples=60, deadline=None)
def test_what_is_admitted_in_order_of_time_is_a_clean_journal(policy, tz, asked, own):
    taken = admitted(policy, tz, sorted(asked, key=lambda ask: ask[0]), own)

    assert check_journal(policy, [Journalled("u", push.at, push.scopes, tz, own) for push in taken]) == []
