"""Caps, gap and quiet hours: named cases of the one pure function, and the check of a journal."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta

import pytest
from pydantic import ValidationError

from engine.campaigns.policy import Cap, Journalled, Policy, Refusal, Sent, admits, check_journal, window_of
from engine.localtime import local_day, zone

ALL_DAY = Policy(quiet_hours=None)
PARIS, TOKYO = zone("Europe/Paris"), zone("Asia/Tokyo")
NOON = datetime(2026, 11, 24, 11, tzinfo=UTC)  # a Tuesday, 12:00 in Paris
SCOPES = frozenset({"channel:log", "campaign:weekly", "tag:promo"})


def cap(limit: int, window: str, scope: str = "all") -> Cap:
    return Cap(limit=limit, window=window, scope=scope)


def sent(*ago: timedelta, tz=PARIS, scopes: frozenset[str] = SCOPES) -> list[Sent]:
    return [Sent(NOON - each, scopes, local_day(tz, NOON - each)) for each in ago]


def reason(policy: Policy, caps: tuple[Cap, ...], before: list[Sent], at: datetime = NOON, own=None) -> str | None:
    refusal = admits(policy, caps, before, at, SCOPES, PARIS, own)
    return refusal.reason if refusal else None


def hours(number: float) -> timedelta:
    return timedelta(hours=number)


def test_the_default_policy_has_quiet_nights_and_no_caps():
    policy = Policy.model_validate({})

    assert policy.quiet_hours == (time(22), time(8))
    assert (policy.caps, policy.min_gap, policy.holdout, policy.default_timezone) == ((), None, 0.0, "UTC")
    assert Policy.model_validate_json(policy.model_dump_json()) == policy


def test_a_calendar_day_cap_counts_the_users_own_day_not_the_last_24_hours():
    daily = (cap(1, "local_day"),)

    assert admits(ALL_DAY, daily, sent(hours(13)), NOON, SCOPES, PARIS) is None
    assert admits(ALL_DAY, daily, sent(hours(11)), NOON, SCOPES, PARIS) == Refusal("capped", daily[0])


def test_a_day_that_a_push_kept_stays_when_its_user_travels():
    # Sent at 22:00 in Tokyo on the 24th, when Paris still reads the 24th too; asked in Paris on the 25th.
    before = [Sent(NOON + hours(2), SCOPES, local_day(TOKYO, NOON + hours(2)))]

    assert admits(ALL_DAY, (cap(1, "local_day"),), before, NOON + hours(3), SCOPES, PARIS) is not None
    assert admits(ALL_DAY, (cap(1, "local_day"),), before, NOON + hours(24), SCOPES, PARIS) is None


def test_a_week_begins_on_monday_of_the_users_calendar():
    weekly = (cap(2, "local_week"),)

    assert admits(ALL_DAY, weekly, sent(hours(1), hours(37)), NOON, SCOPES, PARIS) is None  # Sunday 23:00
    assert reason(ALL_DAY, weekly, sent(hours(1), hours(35))) == "capped"  # Monday 01:00


def test_a_rolling_window_counts_both_its_ends():
    daily = (cap(1, "rolling:PT24H"),)

    assert admits(ALL_DAY, daily, sent(hours(24)), NOON, SCOPES, PARIS) is not None
    assert admits(ALL_DAY, daily, sent(hours(24) + timedelta(microseconds=1)), NOON, SCOPES, PARIS) is None


def test_a_cap_of_zero_allows_none_and_no_cap_allows_any():
    assert reason(ALL_DAY, (cap(0, "local_day"),), []) == "capped"
    assert admits(ALL_DAY, (), sent(*[hours(n) for n in range(50)]), NOON, SCOPES, PARIS) is None


@pytest.mark.parametrize("scope", ["channel:log", "campaign:weekly", "tag:promo"])
def test_a_cap_counts_and_binds_within_its_scope_only(scope):
    caps = (cap(1, "local_day", scope),)
    elsewhere = frozenset({"channel:fcm", "campaign:other"})

    assert admits(ALL_DAY, caps, sent(hours(1)), NOON, SCOPES, PARIS) is not None
    assert admits(ALL_DAY, caps, sent(hours(1), scopes=elsewhere), NOON, SCOPES, PARIS) is None
    assert admits(ALL_DAY, caps, sent(hours(1)), NOON, elsewhere, PARIS) is None


def test_the_refusal_names_the_cap_that_bound():
    caps = (cap(5, "local_week"), cap(1, "rolling:PT12H", "tag:promo"))

    assert str(admits(ALL_DAY, caps, sent(hours(3)), NOON, SCOPES, PARIS)) == "at most 1 in any 12h of tag:promo"


def test_the_gap_apart_is_enough():
    policy = Policy(quiet_hours=None, min_gap=hours(4))

    assert admits(policy, (), sent(hours(4)), NOON, SCOPES, PARIS) is None
    assert reason(policy, (), sent(hours(3.99))) == "gap"


def test_pushes_that_do_not_count_use_nothing_up():
    silent = [Sent(NOON - hours(1), SCOPES, local_day(PARIS, NOON), counts=False)]

    assert (
        admits(Policy(quiet_hours=None, min_gap=hours(4)), (cap(1, "local_day"),), silent, NOON, SCOPES, PARIS) is None
    )


def test_a_planned_later_push_keeps_its_place():
    later = [Sent(NOON + hours(5), SCOPES, local_day(PARIS, NOON + hours(5)))]
    free = [Sent(NOON + hours(5), SCOPES, local_day(PARIS, NOON + hours(5)), obeys=False)]

    assert reason(ALL_DAY, (cap(1, "rolling:PT6H"),), later) == "capped"
    assert admits(ALL_DAY, (cap(1, "rolling:PT4H"),), later, NOON, SCOPES, PARIS) is None
    assert admits(ALL_DAY, (cap(1, "rolling:PT6H"),), free, NOON, SCOPES, PARIS) is None
    assert reason(Policy(quiet_hours=None, min_gap=hours(6)), (), later) == "gap"


def test_a_users_own_quiet_hours_win_over_the_workspaces():
    policy = Policy()
    night, midday = NOON + hours(11), NOON

    assert reason(policy, (), [], night) == "quiet_hours"
    assert admits(policy, (), [], night, SCOPES, PARIS, (time(1), time(2))) is None
    assert admits(policy, (), [], night, SCOPES, PARIS, (time(0), time(0))) is None
    assert reason(policy, (), [], midday, (time(12), time(13))) == "quiet_hours"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"limit": -1, "window": "local_day"}, "greater than or equal to 0"),
        ({"limit": 1, "window": "fortnight"}, "rolling"),
        ({"limit": 1, "window": "rolling:P200D"}, "at most"),
        ({"limit": 1, "window": "local_day", "scope": "chanel:log"}, "must be all"),
        ({"limit": 1, "window": "local_day", "scope": "tag:"}, "must be all"),
        ({"limit": 1.5, "window": "local_day"}, "integer"),
    ],
)
def test_a_cap_that_makes_no_sense_is_refused(values, said):
    with pytest.raises(ValidationError, match=said):
        Cap.model_validate(values)


@pytest.mark.parametrize(
    ("per", "rolling", "window"),
    [
        ("day", False, "local_day"),
        ("week", False, "local_week"),
        ("day", True, "rolling:PT24H"),
        ("week", True, "rolling:P7D"),
        ("24h", False, "rolling:PT24H"),
        ("7d", False, "rolling:P7D"),
        ("PT90M", False, "rolling:PT1H30M"),
    ],
)
def test_windows_are_said_as_people_say_them_and_stored_one_way(per, rolling, window):
    assert cap(1, window_of(per, rolling=rolling)).window == window


def test_a_journal_shows_every_push_that_broke_a_rule():
    policy = Policy(caps=(cap(1, "local_day"),), min_gap=hours(2))

    def push(user: str, at: datetime, **options) -> Journalled:
        return Journalled(user, at, SCOPES, PARIS, **options)

    found = check_journal(
        policy,
        [
            push("a", NOON),
            push("a", NOON + hours(3)),  # the second of the day
            push("b", NOON),
            push("b", NOON + hours(11)),  # at night
            push("c", NOON, counts=False, obeys=False),
            push("c", NOON + hours(1)),
            push("c", NOON + hours(2), counts=False, obeys=False),
        ],
    )

    assert [(v.user, v.refusal.reason) for v in found] == [("a", "capped"), ("b", "quiet_hours")]
    assert "user a at 2026-11-24T14:00:00+00:00: at most 1 a local day" in str(found[0])


def test_a_rate_a_minute_bounds_the_quarter_hour_that_is_planned_too() -> None:
    policy = Policy.model_validate(
        {
            "gateways": [
                {"gateway": "apns", "per_minute": 100},
                {"gateway": "webhook", "per_minute": 100, "per_quarter": 90},
            ]
        }
    )

    assert (policy.per_quarter("apns"), policy.per_minute("apns")) == (1500, 100)
    assert policy.per_quarter("webhook") == 90
    assert (policy.per_quarter("fcm"), policy.per_minute("fcm")) == (None, 600_000)  # its provider's own quota
    assert policy.per_minute("log") is None
    assert str(policy.gateways[1]) == "webhook: at most 90 a quarter of an hour, 100 a minute"
