"""Occurrences: what is due, what was missed, and when each reaches the users of a zone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.campaigns.definition import Campaign
from engine.campaigns.policy import Cap, Policy
from engine.campaigns.rules import rules_of, scopes_of
from engine.campaigns.schedule import Due, described, due, exhausted, last_instant, upcoming, user_span
from engine.localtime import wall_clock, zone, zone_names

LEAD = timedelta(minutes=30)
MONDAY = datetime(2026, 11, 23, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Stored:
    definition: Campaign
    scheduled_until: datetime | None


def campaign(schedule: dict[str, Any] | None, **fields: Any) -> Campaign:
    message = {"title": "t", "body": "b"}
    return Campaign.model_validate(
        {"name": "c", "class": "marketing", "schedule": schedule, "message": message, **fields}
    )


def hours(number: float) -> timedelta:
    return timedelta(hours=number)


DAILY_LOCAL = campaign({"cron": "0 9 * * *", "zone": "local"})
DAILY_UTC = campaign({"cron": "0 9 * * *", "zone": "utc"}, horizon="3h")


def labels(found: list[Due]) -> list[tuple[str, bool]]:
    return [(item.label, item.missed) for item in found]


def test_a_local_occurrence_is_due_before_the_first_zone_reads_its_label_and_ends_after_the_last():
    (found,) = due(Stored(DAILY_LOCAL, MONDAY), MONDAY, MONDAY + hours(12))

    assert found == Due(
        "2026-11-24T09:00", datetime(2026, 11, 23, 19, tzinfo=UTC), datetime(2026, 11, 25, 21, tzinfo=UTC)
    )


def test_a_tick_finds_what_begins_within_the_lead_and_the_next_tick_does_not_find_it_again():
    at_nine = datetime(2026, 11, 24, 9, tzinfo=UTC)
    tick = at_nine - LEAD

    assert labels(due(Stored(DAILY_UTC, MONDAY), tick, tick + LEAD)) == []
    assert labels(due(Stored(DAILY_UTC, tick + LEAD), tick + hours(1), tick + hours(1) + LEAD)) == [
        ("2026-11-24T09:00Z", False)
    ]
    assert labels(due(Stored(DAILY_UTC, at_nine + hours(1)), at_nine, at_nine + LEAD)) == []


def test_after_downtime_only_the_latest_open_occurrence_runs_and_the_others_are_missed():
    hourly = campaign({"cron": "0 * * * *", "zone": "utc"}, horizon="3h")
    now = MONDAY + hours(6.5)

    found = due(Stored(hourly, MONDAY), now, now + LEAD + timedelta(minutes=1))

    assert labels(found) == [
        ("2026-11-23T12:00Z", True),
        ("2026-11-23T13:00Z", True),
        ("2026-11-23T14:00Z", True),
        ("2026-11-23T15:00Z", True),
        ("2026-11-23T16:00Z", True),
        ("2026-11-23T17:00Z", True),
        ("2026-11-23T18:00Z", False),
        ("2026-11-23T19:00Z", False),
    ]


def test_an_occurrence_whose_time_is_over_is_missed():
    assert labels(due(Stored(DAILY_UTC, MONDAY), MONDAY + hours(30), MONDAY + hours(31))) == [
        ("2026-11-24T09:00Z", True)
    ]


def test_a_long_downtime_lists_no_endless_past():
    minutely = campaign({"cron": "* * * * *", "zone": "utc"}, horizon="1h")

    found = due(Stored(minutely, MONDAY - timedelta(days=900)), MONDAY, MONDAY + timedelta(minutes=1))

    assert [item.missed for item in found] == [True] * 100 + [False, False]  # the latest, and the one of this minute


def test_once_by_local_time_runs_also_where_the_first_zones_are_past():
    once = campaign({"once": "2026-11-23T18:00", "zone": "local"}, horizon="3h")

    assert labels(due(Stored(once, None), MONDAY, MONDAY + LEAD)) == [("2026-11-23T18:00", False)]
    assert labels(due(Stored(once, MONDAY + LEAD), MONDAY + LEAD, MONDAY + LEAD + LEAD)) == []
    assert labels(due(Stored(once, None), MONDAY + hours(40), MONDAY + hours(41))) == [("2026-11-23T18:00", True)]


@pytest.mark.parametrize(
    ("schedule", "label", "starts_at"),
    [
        ({"once": "2026-11-27T18:00+01:00"}, "2026-11-27T17:00Z", datetime(2026, 11, 27, 17, tzinfo=UTC)),
        ({"once": "2026-11-27T18:00", "zone": "utc"}, "2026-11-27T18:00Z", datetime(2026, 11, 27, 18, tzinfo=UTC)),
        (
            {"once": "2026-11-27T18:00", "zone": "Asia/Tokyo"},
            "2026-11-27T09:00Z",
            datetime(2026, 11, 27, 9, tzinfo=UTC),
        ),
        ({"once": "2026-11-27T18:00", "zone": "local"}, "2026-11-27T18:00", datetime(2026, 11, 27, 4, tzinfo=UTC)),
        ({"cron": "0 9 * * FRI", "zone": "Europe/Berlin"}, "2026-11-27T08:00Z", datetime(2026, 11, 27, 8, tzinfo=UTC)),
    ],
)
def test_an_occurrence_is_named_by_its_instant_or_by_its_local_reading(schedule, label, starts_at):
    (found,) = upcoming(campaign(schedule), MONDAY, 1)

    assert (found.label, found.starts_at) == (label, starts_at)


def test_a_campaign_without_a_schedule_is_never_due():
    assert due(Stored(campaign(None), None), MONDAY, MONDAY + LEAD) == []
    assert upcoming(campaign(None), MONDAY) == []
    assert not exhausted(Stored(campaign(None), None), MONDAY)


def test_the_expiry_ends_every_occurrence_and_the_campaign():
    ending = campaign({"cron": "0 9 * * *", "zone": "utc"}, expiry="2026-11-25T10:00+00:00", horizon="24h")

    assert [(item.label, item.ends_at.hour) for item in upcoming(ending, MONDAY, 9)] == [
        ("2026-11-24T09:00Z", 9),
        ("2026-11-25T09:00Z", 10),
    ]
    assert not exhausted(Stored(ending, MONDAY), datetime(2026, 11, 25, 9, 59, tzinfo=UTC))
    assert exhausted(Stored(ending, MONDAY), datetime(2026, 11, 25, 10, tzinfo=UTC))


def test_an_expiry_by_local_time_ends_in_each_zone_by_its_own_clock():
    sale = campaign({"once": "2026-11-27T09:00", "zone": "local"}, expiry="2026-11-27T18:00", horizon="24h")
    (item,) = upcoming(sale, MONDAY, 1)

    for name in ("Asia/Tokyo", "America/Los_Angeles"):
        start, end = user_span(sale, item, zone(name))
        assert wall_clock(zone(name), start) == datetime(2026, 11, 27, 9)
        assert wall_clock(zone(name), end) == datetime(2026, 11, 27, 18)
    assert last_instant(sale) == item.ends_at == datetime(2026, 11, 28, 6, tzinfo=UTC)


def test_a_horizon_is_elapsed_time_also_where_the_clock_changes():
    early = campaign({"once": "2026-03-29T01:00", "zone": "local"}, horizon="3h")
    (item,) = upcoming(early, datetime(2026, 3, 1, tzinfo=UTC), 1)

    start, end = user_span(early, item, zone("Europe/Berlin"))

    assert (end - start, wall_clock(zone("Europe/Berlin"), end)) == (hours(3), datetime(2026, 3, 29, 5))


def test_a_triggered_occurrence_reaches_all_zones_at_once():
    item = Due("trigger:7", MONDAY, MONDAY + hours(24))

    assert user_span(DAILY_LOCAL, item, zone("Asia/Tokyo")) == (MONDAY, MONDAY + hours(24))


def test_a_campaign_of_one_instant_is_done_when_its_last_zone_is():
    once = campaign({"once": "2026-11-23T18:00", "zone": "local"}, horizon="3h")

    assert not exhausted(Stored(once, MONDAY), datetime(2026, 11, 24, 8, 59, tzinfo=UTC))
    assert exhausted(Stored(once, MONDAY), datetime(2026, 11, 24, 9, tzinfo=UTC))


def test_schedules_are_described_in_words():
    assert described(DAILY_LOCAL) == "At 09:00 every day, each user's local time"
    assert described(campaign({"once": "2026-11-27T18:00", "zone": "utc"})) == "once, 2026-11-27 18:00 UTC"
    assert described(campaign(None)) == "when triggered"


labels_at = st.datetimes(datetime(2024, 1, 1), datetime(2030, 12, 31)).map(
    lambda at: at.replace(second=0, microsecond=0)
)


@given(st.sampled_from(sorted(zone_names())).map(zone), labels_at, st.integers(1, 72))
@settings(max_examples=300, deadline=None)
def test_in_every_zone_an_occurrence_lies_within_its_bounds(tz, label, horizon):
    local = campaign({"once": label.isoformat(), "zone": "local"}, horizon=f"{horizon}h")
    (item,) = upcoming(local, datetime(2023, 1, 1, tzinfo=UTC), 1)

    start, end = user_span(local, item, tz)

    assert item.starts_at <= start < end <= item.ends_at


# --- the rules of one campaign ---------------------------------------------------------------------------------------


def test_own_caps_stand_beside_the_workspaces_and_hours_narrow():
    policy = Policy(caps=(Cap(id="cap-1", limit=2, window="local_day"),))
    narrow = campaign(None, hours="10:00-12:00", caps=[{"limit": 1, "window": "local_week"}], tags=["promo"])
    rules, scopes, utc = rules_of(policy, narrow), scopes_of(narrow, "wine"), zone("UTC")

    assert scopes == {"channel:log", "campaign:c", "tag:promo", "category:wine"}
    assert [str(cap) for cap in rules.caps] == ["at most 2 a local day", "at most 1 a local week of campaign:c"]
    assert rules.refusal([], MONDAY - hours(1), scopes, utc) is None
    assert str(rules.refusal([], MONDAY + hours(1), scopes, utc)) == "quiet hours"


def test_a_transactional_campaign_is_outside_caps_and_may_be_outside_quiet_hours():
    policy = Policy(caps=(Cap(id="cap-1", limit=0, window="local_day"),), min_gap=hours(4))
    night = MONDAY + hours(11)
    usual = rules_of(policy, campaign(None, **{"class": "transactional"}))
    urgent = rules_of(policy, campaign(None, **{"class": "transactional", "obeys_quiet_hours": False}))
    own = (night.time(), (night + hours(1)).time())

    assert usual.refusal([], MONDAY, frozenset(), zone("UTC")) is None
    assert str(usual.refusal([], night, frozenset(), zone("UTC"))) == "quiet hours"
    assert urgent.refusal([], night, frozenset(), zone("UTC"), own) is None
    assert (usual.quiet(own), urgent.quiet(own)) == (own, None)


def test_what_misfired_runs_once_or_is_skipped_beyond_the_grace_as_the_campaign_says():
    fields: dict[str, Any] = {"horizon": "6h", "misfire": "skip", "misfire_grace": "90m"}
    daily = campaign({"cron": "0 13 * * *", "zone": "utc"}, **fields)
    one = datetime(2026, 11, 23, 13, tzinfo=UTC)

    def found(late: float, definition: Campaign = daily) -> list[tuple[str, bool]]:
        now = one + hours(late)
        return labels(due(Stored(definition, MONDAY), now, now + LEAD))

    assert found(1.5) == [("2026-11-23T13:00Z", False)]
    assert found(1.6) == [("2026-11-23T13:00Z", True)]
    assert found(1.6, campaign({"cron": "0 13 * * *", "zone": "utc"}, horizon="6h")) == [("2026-11-23T13:00Z", False)]


def test_an_occurrence_by_local_time_misfires_only_once_its_label_has_passed_everywhere():
    local = campaign({"cron": "0 9 * * TUE", "zone": "local"}, misfire="skip")
    last = datetime(2026, 11, 24, 21, tzinfo=UTC)  # 09:00 of the 24th where clocks are furthest behind

    def runs(now: datetime) -> bool:
        return ("2026-11-24T09:00", False) in labels(due(Stored(local, MONDAY), now, now + LEAD))

    assert runs(last + hours(0.9))
    assert not runs(last + hours(1.1))


def test_a_campaign_that_was_just_made_has_missed_nothing():
    once = campaign({"once": "2026-11-23T11:00", "zone": "utc"}, misfire="skip", misfire_grace="30m")

    assert labels(due(Stored(once, None), MONDAY, MONDAY + LEAD)) == [("2026-11-23T11:00Z", False)]
