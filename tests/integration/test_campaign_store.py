"""Campaigns and policy in the store: versions, lifecycle, review against the workspace, changes made at once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, insert, select

from engine.campaigns import store
from engine.campaigns.definition import Campaign
from engine.campaigns.policy import Cap, Policy
from engine.campaigns.policy_store import add_cap, current_policy, policy_version, remove_cap, save_policy
from engine.campaigns.review import define, require_sound, review
from engine.campaigns.schedule import due
from engine.errors import BadInput, UnknownName
from engine.store.database import Database
from engine.store.slots import slot_of
from engine.store.tables import campaigns, items, users

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def campaign(name: str = "weekly", **changes: Any) -> Campaign:
    fields = {
        "name": name,
        "class": "marketing",
        "schedule": {"cron": "0 9 * * THU", "zone": "local"},
        "message": {"title": "t", "body": "b"},
    }
    return Campaign.model_validate({**fields, **changes})


@pytest.fixture
def undone(shared_database: Database) -> Iterator[Connection]:
    """A transaction of this test's own, rolled back after it."""
    with shared_database.engine.connect() as connection:
        yield connection


# --- versions --------------------------------------------------------------------------------------------------------


def test_a_definition_is_stored_whole_and_creating_it_again_changes_nothing(database):
    whole = campaign(
        audience={"attribute": "tier", "in": ["gold", 3]},
        hours="09:00-21:00",
        caps=[{"limit": 0, "window": "local_day"}],
        message={"title": "t", "body": "b", "locales": {"de": {"title": "T", "body": "B"}}},
    )
    with database.begin() as connection:
        first = store.create(connection, whole, NOW, "anna")
    with database.begin() as connection:
        again = store.create(connection, whole, NOW + HOUR)
        read = store.get(connection, "weekly")

    assert (first.outcome, again.outcome) == ("created", "unchanged")
    assert read == first.stored == again.stored
    assert (read.definition, read.version, read.state, read.scheduled_until) == (whole, 1, "running", NOW)


def test_another_definition_of_the_name_is_a_new_version_and_the_old_one_stays(database):
    with database.begin() as connection:
        first = store.create(connection, campaign(), NOW, "anna").stored
        edited = store.create(connection, campaign(holdout=0.2), NOW + HOUR, "bert")
        history = store.versions(connection, first.id)

        assert (edited.outcome, edited.stored.version, edited.stored.definition.holdout) == ("edited", 2, 0.2)
        assert store.get_version(connection, first.id, 1) == campaign()
        assert [(number, author) for number, _, author in history] == [(1, "anna"), (2, "bert")]
        with pytest.raises(UnknownName, match="no version 3"):
            store.get_version(connection, first.id, 3)


def test_a_changed_schedule_counts_from_now_and_an_unchanged_one_goes_on(database):
    later = NOW + 24 * HOUR
    once = {"once": "2026-11-25T18:00", "zone": "local"}
    with database.begin() as connection:
        made = store.create(connection, campaign(), NOW).stored
        store.set_scheduled_until(connection, made.id, later)

        same = store.create(connection, campaign(holdout=0.2), NOW + HOUR).stored
        other = store.create(connection, campaign(schedule={"cron": "0 8 * * *", "zone": "utc"}), NOW + HOUR).stored
        single = store.create(connection, campaign(schedule=once), NOW + HOUR).stored

    assert [stored.scheduled_until for stored in (same, other, single)] == [later, NOW + HOUR, None]
    assert [item.label for item in due(single, NOW + 20 * HOUR, NOW + 21 * HOUR)] == ["2026-11-25T18:00"]


def test_what_was_made_is_never_unmade(database):
    with database.begin() as connection:
        made = store.create(connection, campaign(), NOW).stored

        assert store.set_scheduled_until(connection, made.id, NOW + HOUR)
        assert not store.set_scheduled_until(connection, made.id, NOW)
        assert store.get(connection, "weekly").scheduled_until == NOW + HOUR


def test_two_who_create_the_same_campaign_at_once_make_one(database):
    def make(number: int) -> str:
        with database.begin() as connection:
            return store.create(connection, campaign(holdout=number / 10), NOW).outcome

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(make, [1, 1, 2, 2]))

    with database.begin() as connection:
        stored = store.get(connection, "weekly")
        numbers = [number for number, _, _ in store.versions(connection, stored.id)]
    assert outcomes.count("created") == 1
    assert numbers == list(range(1, stored.version + 1))
    assert len(numbers) == 1 + outcomes.count("edited")


def test_an_unknown_campaign_is_refused_with_the_closest_name(database):
    with database.begin() as connection:
        store.create(connection, campaign("weekly-picks"), NOW)

        with pytest.raises(UnknownName, match="did you mean weekly-picks"):
            store.get(connection, "weekly-pick")
        with pytest.raises(UnknownName, match="horae campaign list"):
            store.set_state(connection, "qqq", "paused")


def test_campaigns_are_listed_by_name_and_state(database):
    with database.begin() as connection:
        for name in ("b", "a", "c"):
            store.create(connection, campaign(name), NOW)
        store.set_state(connection, "a", "paused")

        assert [stored.name for stored in store.get_all(connection)] == ["a", "b", "c"]
        assert [stored.name for stored in store.get_all(connection, ("running",))] == ["b", "c"]


# --- lifecycle -------------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(["running", "paused", "cancelled", "done"]), max_size=8))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_sequence_of_moves_leaves_a_final_state_or_an_impossible_one(database, moves):
    with database.begin() as connection:
        connection.execute(campaigns.delete())
        store.create(connection, campaign(), NOW)
    state = "running"
    for to in moves:
        allowed = to == state or state in store.MOVES[to]
        with database.begin() as connection:
            if allowed:
                assert store.set_state(connection, "weekly", to).state == to
                state = to
            else:
                with pytest.raises(BadInput, match=f"is {state} and cannot become {to}"):
                    store.set_state(connection, "weekly", to)


def test_of_two_final_moves_at_once_one_wins(database):
    with database.begin() as connection:
        store.create(connection, campaign(), NOW)

    def move(to: store.State) -> str:
        try:
            with database.begin() as connection:
                return store.set_state(connection, "weekly", to).state
        except BadInput:
            return "told"

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(move, ["cancelled", "done"]))

    assert sorted(outcomes)[-1] == "told"


@pytest.mark.parametrize("final", ["cancelled", "done"])
def test_a_final_campaign_cannot_be_edited(database, final):
    with database.begin() as connection:
        store.create(connection, campaign(), NOW)
        store.set_state(connection, "weekly", final)

        with pytest.raises(BadInput, match=f"is {final} and cannot change"):
            store.create(connection, campaign(holdout=0.3), NOW)


# --- policy ----------------------------------------------------------------------------------------------------------


def test_the_first_policy_is_the_default_one(database):
    with database.begin() as connection:
        assert current_policy(connection) == (1, Policy())


def test_each_change_of_the_policy_is_a_version_and_no_change_is_none(database):
    def quiet(policy: Policy) -> Policy:
        return policy.model_copy(update={"quiet_hours": (time(21), time(9))})

    with database.begin() as connection:
        assert save_policy(connection, quiet, "anna")[0] == 2
        assert save_policy(connection, quiet, "anna")[0] == 2
        assert current_policy(connection)[1].quiet_hours == (time(21), time(9))
        assert policy_version(connection, 1) == Policy()
        with pytest.raises(UnknownName, match="no policy version 9"):
            policy_version(connection, 9)


def test_caps_get_ids_that_are_never_used_again(database):
    daily, weekly = Cap(limit=2, window="local_day"), Cap(limit=5, window="local_week")
    with database.begin() as connection:
        assert add_cap(connection, daily)[1].id == "cap-1"
        assert add_cap(connection, weekly)[1].id == "cap-2"
        assert remove_cap(connection, "cap-2")[1].limit == 5
        version, again = add_cap(connection, weekly)
        assert (version, again.id) == (5, "cap-3")
        assert [cap.id for cap in current_policy(connection)[1].caps] == ["cap-1", "cap-3"]
        with pytest.raises(BadInput, match="cap-1 already says at most 2 a local day"):
            add_cap(connection, Cap(limit=3, window="local_day"))
        with pytest.raises(UnknownName, match="cap-1, cap-3"):
            remove_cap(connection, "cap-2")


def test_caps_added_at_once_are_all_kept(database: Database):
    def add(number: int) -> str:
        with database.begin() as connection:
            return add_cap(connection, Cap(limit=number, window="local_day", scope=f"tag:t{number}"))[1].id

    with ThreadPoolExecutor(4) as pool:
        ids = set(pool.map(add, range(1, 7)))

    with database.begin() as connection:
        version, policy = current_policy(connection)
    assert ids == {cap.id for cap in policy.caps} == {f"cap-{n}" for n in range(1, 7)}
    assert version == 7


# --- review ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"gateway": "webhok"}, "'webhok' is not configured here; configured: log, webhook; did you mean webhook?"),
        ({"hours": "23:00-06:00"}, "hours (23:00-06:00) lie inside the workspace's quiet_hours (22:00-08:00)"),
        ({"hours": "21:50-08:10"}, "hours (21:50-08:10) lie inside"),  # ten minutes each side are no window
        ({"schedule": {"cron": "0 2 * * *", "zone": "local"}, "horizon": "3h"}, "horizon (3h) ends before hours"),
        ({"schedule": {"cron": "0 9 * * *", "zone": "local"}, "hours": "18:00-20:00", "horizon": "4h"},
         "schedule is due at 09:00, open are 18:00-20:00"),
        ({"schedule": {"once": "2026-11-20T18:00", "zone": "local"}}, "schedule.once (2026-11-20T18:00) is in the pa"),
        ({"schedule": {"once": "2026-11-20T18:00", "zone": "utc"}}, "schedule.once (2026-11-20T18:00) is in the past"),
        ({"expiry": "2026-11-24T11:59+00:00"}, "expiry (2026-11-24T11:59+00:00) is in the past"),
        ({"expiry": "2026-11-25T12:00+00:00"}, "(2026-11-25T12:00+00:00) comes before schedule.cron (0 9 * * THU)"),
        ({"items": {"kind": "fixed", "ids": ["w1", "x", "y"]}}, "items.ids names items that are not in the store: x,"),
        ({"horizon": "2h", "schedule": None}, "horizon (2h) is shorter than the workspace's min_gap (4h)"),
    ],
)  # fmt: skip
def test_what_contradicts_the_workspace_is_refused_with_both_fields(undone, changes, said):
    undone.execute(insert(items).values(external_id="w1"))
    save_policy(undone, lambda policy: policy.model_copy(update={"min_gap": 4 * HOUR}))

    found = review(undone, campaign(**changes), NOW, {"log", "webhook"})

    assert any(said in error for error in found.errors), found.errors
    with pytest.raises(BadInput, match="campaign weekly"):
        require_sound(found, "weekly")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"caps": [{"limit": 0, "window": "local_day"}]}, "0 (weekly.1: at most 0 a local day of campaign:weekly)"),
        ({"tags": ["none"]}, "a cap of 0 (cap-1: at most 0 a local day of tag:none) allows none of its pushes"),
        ({"schedule": {"once": "2026-11-24T18:00", "zone": "local"}}, "is past in some time zones already"),
        ({"audience": {"event": "purchas"}}, "type 'purchas', of which there are none; did you mean purchase?"),
        ({"audience": {"not": {"attribute": "teir", "equals": "gold"}}}, "attribute 'teir', which no user has"),
        ({"items": "personalised"}, "there are no items in the store"),
    ],
)  # fmt: skip
def test_what_is_probably_not_meant_is_a_warning(undone, changes, said):
    undone.execute(insert(users).values(external_id="u", slot=slot_of("u"), attributes={"tier": "gold"}))
    add_cap(undone, Cap(limit=0, window="local_day", scope="tag:none"))

    found = review(undone, campaign(**changes), NOW, {"log"})

    assert found.errors == ()
    assert any(said in warning for warning in found.warnings), found.warnings


def test_a_sound_campaign_has_neither_errors_nor_warnings(database):
    with database.begin() as connection:
        sound = campaign(hours="07:00-23:00", schedule={"cron": "0 20 * * *", "zone": "local"}, horizon="14h")

        assert review(connection, sound, NOW, {"log"}) == review(connection, campaign(schedule=None), NOW, {"log"})
        assert review(connection, sound, NOW, {"log"}).errors == ()
        require_sound(review(connection, sound, NOW, {"log"}), "weekly")


def test_a_campaign_that_is_stored_is_not_judged_anew(undone):
    once = campaign(schedule={"once": "2026-11-24T18:00", "zone": "utc"})

    first = define(undone, once, NOW, {"log"})
    much_later = define(undone, once, NOW + 999 * HOUR, set())

    assert (first.created.outcome, much_later.created.outcome) == ("created", "unchanged")
    with pytest.raises(BadInput, match="is in the past"):
        define(undone, once.model_copy(update={"holdout": 0.5}), NOW + 999 * HOUR, {"log"})


def test_nothing_is_stored_of_a_campaign_that_is_refused(database):
    def create_both() -> None:
        with database.begin() as connection:
            define(connection, campaign("fine"), NOW, {"log"})
            define(connection, campaign(gateway="none"), NOW, {"log"})

    with pytest.raises(BadInput, match="gateway"):
        create_both()

    with database.begin() as connection:
        assert connection.execute(select(campaigns.c.name)).all() == []
