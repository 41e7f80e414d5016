"""Runs on a real store: opened once, planned by shards, settled, published; whatever is doubled or killed."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import date, time, timedelta

import numpy as np
import pytest
from pydantic import ValidationError
from sqlalchemy import text

from engine.campaigns import store
from engine.campaigns.policy import Cap
from engine.errors import BadInput, LeaseLost, StoreUnavailable
from engine.planning import locks, receipt, run, settle, shards
from engine.planning import trigger as triggers
from engine.planning.opening import at_prices, set_scene
from engine.planning.preview import planned_blocks, preview
from engine.planning.pricing import sampled_prices
from engine.planning.progress import count_run
from engine.planning.scarcity import read_capacities
from engine.planning.wake import ignore
from engine.runtime import Runtime
from engine.store.tables import ARMS, DECISION_REASONS
from tests.planning_shop import NOW, USERS, Workers, create, daily, fill_shop, reasons, rows, set_caps


@pytest.fixture
def shop(runtime: Runtime) -> Runtime:
    return fill_shop(runtime)


DECIDED = (
    "SELECT u.external_id, o.label, c.name, d.revision, d.arm, d.reason, i.external_id AS item, d.window_start,"
    " d.send_at, d.score, d.value, d.price, d.propensity, d.receipt FROM decisions d JOIN users u ON u.id = d.user_id"
    " JOIN occurrences o ON o.id = d.occurrence_id JOIN campaigns c ON c.id = o.campaign_id"
    " LEFT JOIN items i ON i.id = d.item_id ORDER BY 3, 1, 4"
)


def test_everyone_asked_ends_in_one_reason_and_the_planned_get_a_push(shop):
    create(shop, daily(holdout=0.1))
    workers = Workers(shop)

    workers.tick()

    counted = reasons(shop)
    assert sum(counted.values()) == USERS
    assert counted["not_eligible"] == USERS // 50
    assert counted["no_consent"] > 0
    assert counted["holdout"] > 0
    assert counted["planned"] > USERS / 2
    pushes = rows(shop, "SELECT p.*, u.timezone FROM pushes p JOIN users u ON u.id = p.user_id")
    assert len(pushes) == counted["planned"]
    assert {push.state for push in pushes} == {"planned"}
    assert rows(shop, "SELECT state, shards_done, users_done FROM runs") == [("published", 4, USERS)]
    for push in pushes:
        assert push.window_start <= push.send_at < push.window_end - timedelta(minutes=14)
        assert push.send_at < push.not_after
        assert push.send_at.second or push.send_at.minute or push.send_at.microsecond


def test_local_windows_keep_quiet_hours_and_the_campaigns_own_hours(shop):
    create(shop, daily(hours="10:00-20:00"))
    Workers(shop).tick()

    local = rows(
        shop,
        "SELECT (p.send_at AT TIME ZONE coalesce(u.timezone, 'UTC'))::time AS at"
        " FROM pushes p JOIN users u ON u.id = p.user_id",
    )
    assert len(local) > USERS / 2
    assert all(10 <= row.at.hour < 20 for row in local)


def test_a_users_own_quiet_hours_win(shop):
    with shop.database.begin() as connection:
        connection.execute(text("UPDATE users SET quiet_from = '07:00', quiet_until = '21:30' WHERE id % 2 = 0"))
    create(shop, daily(horizon="48h"))
    Workers(shop).tick()

    local = rows(
        shop,
        "SELECT p.user_id % 2 = 0 AS own, (p.send_at AT TIME ZONE coalesce(u.timezone, 'UTC'))::time AS at"
        " FROM pushes p JOIN users u ON u.id = p.user_id",
    )
    assert {row.own for row in local} == {True, False}
    for row in local:
        quiet = (time(7), time(21, 30)) if row.own else (time(22), time(8))
        hidden = quiet[0] <= row.at < quiet[1] if quiet[0] < quiet[1] else row.at >= quiet[0] or row.at < quiet[1]
        assert not hidden


def test_fixed_items_no_items_and_what_is_not_on_offer(shop):
    with shop.database.begin() as connection:
        connection.execute(text("UPDATE items SET stock = 0 WHERE external_id = 'i1'"))
        connection.execute(
            text("UPDATE items SET available_until = :soon WHERE external_id = 'i2'"),
            {"soon": NOW + timedelta(minutes=20)},  # before anybody's next window opens
        )
    plain = {"title": "Hello", "body": "x"}
    create(
        shop,
        daily(name="fixed", items={"kind": "fixed", "ids": ["i0", "i1"]}, exploration=0, cost_disturb=0),
        daily(name="gone", items={"kind": "fixed", "ids": ["i1"]}, exploration=0),
        daily(name="ends", items={"kind": "fixed", "ids": ["i2"]}, exploration=0, hours="15:00-18:00"),
        daily(name="none", items="none", message=plain, exploration=0),
    )
    Workers(shop).tick()

    by_campaign: dict[str, Counter[str]] = {}
    for row in rows(
        shop,
        "SELECT c.name, d.reason, i.external_id AS item FROM decisions d JOIN occurrences o ON o.id = d.occurrence_id"
        " JOIN campaigns c ON c.id = o.campaign_id LEFT JOIN items i ON i.id = d.item_id",
    ):
        key = DECISION_REASONS[row.reason] + (f" {row.item}" if row.item else "")
        by_campaign.setdefault(row.name, Counter())[key] += 1
    out = {"not_eligible", "no_consent"}
    assert {name: set(counted) - out for name, counted in by_campaign.items()} == {
        "fixed": {"planned i0"},
        "gone": {"no_candidate"},
        "ends": {"expired"},
        "none": {"planned"},
    }
    assert all(sum(counted.values()) == USERS for counted in by_campaign.values())


def test_transactional_sends_obey_no_caps_and_are_neither_held_out_nor_explored(shop):
    create(shop, daily(exploration=0), daily(name="order", **{"class": "transactional"}, exploration=0.5, holdout=0.5))
    set_caps(shop, Cap(scope="all", limit=0, window="local_day"), holdout=0.5)
    Workers(shop).tick()

    counted = Counter(
        (row.name, DECISION_REASONS[row.reason], ARMS[row.arm])
        for row in rows(
            shop,
            "SELECT c.name, d.reason, d.arm FROM decisions d JOIN occurrences o ON o.id = d.occurrence_id"
            " JOIN campaigns c ON c.id = o.campaign_id",
        )
    )
    assert {key[1:] for key in counted if key[0] == "order"} == {
        ("planned", "exploit"),
        ("not_eligible", "exploit"),
        ("no_consent", "exploit"),
    }
    assert counted["daily", "planned", "exploit"] == 0
    assert counted["daily", "capped", "exploit"] > 0
    assert counted["daily", "holdout", "holdout"] > 0


def together(work: Callable[[], None]) -> None:
    """Run `work` in two threads to its end."""
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_two_ticks_at_once_open_one_run(shop):
    create(shop, daily())
    barrier = threading.Barrier(2)

    def tick() -> None:
        barrier.wait()
        run.tick_campaigns(shop, NOW, ignore)

    together(tick)
    run.tick_campaigns(shop, NOW, ignore)

    assert rows(shop, "SELECT count(*) FROM occurrences")[0][0] == 1
    assert rows(shop, "SELECT count(*) FROM runs")[0][0] == 1


def test_a_shard_planned_twice_or_by_two_at_once_writes_the_same_rows_once(shop):
    create(shop, daily())
    opened = run.tick_campaigns(shop, NOW, ignore)["run"]
    barrier = threading.Barrier(2)

    def plan() -> None:
        barrier.wait()
        for shard in range(4):
            run.plan_shard(shop, opened, shard, ignore)

    together(plan)

    assert rows(shop, "SELECT shards_done, users_done FROM runs") == [(4, USERS)]
    assert sum(reasons(shop).values()) == USERS
    assert run.plan_shard(shop, opened, 0, ignore) == {}
    Workers(shop).recover()  # the settlement nobody was woken for
    assert rows(shop, "SELECT state FROM runs") == [("published",)]
    assert run.settle(shop, opened, ignore) == {}


def test_shards_and_settlements_that_nobody_works_on_are_woken_again(shop):
    create(shop, daily())
    opened = run.tick_campaigns(shop, NOW, ignore)["run"]  # every message is lost
    woken: list[tuple[str, tuple[int, ...]]] = []

    def wake(task: str, *ids: int) -> None:
        woken.append((task, ids))

    assert run.wake_forgotten(shop.database, wake) == 0  # they may still be on their way
    with shop.database.begin() as connection:
        connection.execute(text(f"{_HELD} + interval '1 hour' WHERE shard = 2"))
    assert run.wake_forgotten(shop.database, wake, after=timedelta()) == 0  # somebody is at it: the others are queued
    with shop.database.begin() as connection:  # what is left of a worker that died: its claim
        connection.execute(text(f"{_HELD} - interval '1 second' WHERE shard = 2"))
    assert run.wake_forgotten(shop.database, wake, after=timedelta()) == 4
    assert woken == [("horae.plan_shard", (opened, shard)) for shard in range(4)]

    Workers(shop).recover()
    assert rows(shop, "SELECT state, users_done FROM runs") == [("published", USERS)]
    with shop.database.begin() as connection:  # a settlement that died
        connection.execute(text("UPDATE runs SET state = 'settling', lease_until = clock_timestamp()"))
    Workers(shop).recover()
    assert rows(shop, "SELECT state FROM runs") == [("published",)]


_HELD = "UPDATE shards SET state = 'planning', lease_until = clock_timestamp()"


def test_what_a_dead_worker_had_begun_is_woken_by_the_next_tick_and_what_is_held_is_not(shop):
    create(shop, daily())
    opened = run.tick_campaigns(shop, NOW, ignore)["run"]
    woken: list[tuple[str, tuple[int, ...]]] = []
    quiet = "clock_timestamp() + CAST(:left AS interval) - CAST(:silent AS interval)"

    def look() -> list[tuple[str, tuple[int, ...]]]:
        woken.clear()
        run.wake_forgotten(shop.database, lambda task, *ids: woken.append((task, ids)))
        return woken

    silent = 1.5 * locks.SILENCE
    with shop.database.begin() as connection:
        begun = text(f"UPDATE shards SET state = 'planning', lease_until = {quiet} WHERE shard < 2")
        connection.execute(begun, {"left": shards.LEASE, "silent": silent})
    with shop.database.begin() as planner:
        locks.lock_slots(planner, (256, 512))  # of shard 1
        assert look() == [("horae.plan_shard", (opened, 0))]
    assert dict(rows(shop, "SELECT shard, state FROM shards WHERE shard < 2")) == {0: "waiting", 1: "planning"}
    assert look() == [("horae.plan_shard", (opened, 1))]

    Workers(shop).recover()
    with shop.database.begin() as connection:
        begun = text(f"UPDATE runs SET state = 'settling', lease_until = {quiet}")
        connection.execute(begun, {"left": settle.LEASE, "silent": silent})
    with shop.database.begin() as settler:
        locks.lock_settlement(settler)
        assert look() == []
        assert run.settle(shop, opened, ignore) == {}
    assert look() == [("horae.settle", (opened,))]
    run.settle(shop, opened, ignore)
    assert rows(shop, "SELECT state FROM runs") == [("published",)]


def test_who_holds_users_and_is_heard_of_no_more_loses_them(shop):
    def hold() -> None:
        with shop.database.begin() as silent:
            locks.lock_slots(silent, (0, 4))
            locks.speak_or_end(silent, timedelta(milliseconds=50))
            with shop.database.begin() as other:
                locks.lock_slots(other, (0, 4))  # waits until they are free
            silent.execute(text("SELECT 1"))

    with pytest.raises(StoreUnavailable):
        hold()


def test_a_shard_that_fails_again_and_again_ends_its_run_with_the_reason(shop):
    create(shop, daily())
    opened = run.tick_campaigns(shop, NOW, ignore)["run"]
    with shop.database.begin() as connection:
        connection.execute(text("UPDATE policies SET definition = jsonb_set(definition, '{holdout}', '7')"))
    for _ in range(shards.MOST_TRIES):
        assert rows(shop, "SELECT state FROM runs") == [("planning",)]
        with pytest.raises(ValidationError):
            run.plan_shard(shop, opened, 0, ignore)
    ((state, error),) = rows(shop, "SELECT state, error FROM runs")
    assert state == "failed"
    assert "holdout" in error
    assert run.plan_shard(shop, opened, 1, ignore) == {}


def test_a_worker_that_was_taken_over_writes_nothing(shop, plan_while_taken_over):
    create(shop, daily())
    opened = run.tick_campaigns(shop, NOW, ignore)["run"]
    with pytest.raises(LeaseLost):
        plan_while_taken_over(opened, 0)
    assert rows(shop, "SELECT count(*) FROM decisions")[0][0] == 0
    assert run.plan_shard(shop, opened, 0, ignore) == {}  # the one who took it over holds it


@pytest.fixture
def plan_while_taken_over(shop: Runtime) -> Callable[[int, int], None]:
    """Plans a shard while somebody holds its slots, and takes the shard over meanwhile."""

    def plan(opened: int, shard: int) -> None:
        failure: list[BaseException] = []

        def worker() -> None:
            try:
                run.plan_shard(shop, opened, shard, ignore)
            except LeaseLost as error:
                failure.append(error)

        with shop.database.begin() as holder:
            locks.lock_slots(holder, (0, 256))
            thread = threading.Thread(target=worker)
            thread.start()
            _until(shop, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted", 1)
            with shop.database.begin() as other:
                other.execute(text("UPDATE shards SET fence = fence + 1 WHERE shard = :shard"), {"shard": shard})
        thread.join()
        if failure:
            raise failure[0]

    return plan


def _until(runtime: Runtime, query: str, wanted: int) -> None:
    while rows(runtime, query)[0][0] < wanted:
        threading.Event().wait(0.01)


def test_the_plan_is_the_same_at_any_shard_width(shop):
    create(shop, daily(), daily(name="second", tags=["sale"], priority=0.5))
    set_caps(shop, Cap(scope="all", limit=1, window="local_day"), min_gap=timedelta(hours=4))
    plans = []
    for width in (64, 1024):
        wide = replace(shop, settings=shop.settings.model_copy(update={"shard_slots": width}))
        Workers(wide).tick()
        plans.append([tuple(row) for row in rows(shop, DECIDED)])
        with shop.database.begin() as connection:
            connection.execute(text("TRUNCATE decisions, pushes, shards, occurrences, runs CASCADE"))
            connection.execute(text("UPDATE campaigns SET scheduled_until = NULL"))
    assert len(plans[0]) == 2 * USERS
    assert plans[0] == plans[1]


def test_occurrences_of_one_run_share_the_users_caps(shop):
    create(shop, daily(exploration=0), daily(name="second", exploration=0, priority=0.5))
    set_caps(shop, Cap(scope="all", limit=1, window="local_week"))
    Workers(shop).tick()

    most = rows(shop, "SELECT max(n) FROM (SELECT count(*) AS n FROM pushes GROUP BY user_id) AS x")[0][0]
    assert most == 1
    counted = reasons(shop)
    assert sum(counted.values()) == 2 * USERS
    assert counted["capped"] >= counted["planned"] > 0
    winners = Counter(
        row.name for row in rows(shop, "SELECT c.name FROM pushes p JOIN campaigns c ON c.id = p.campaign_id")
    )
    assert winners["daily"] == sum(winners.values())  # half the priority never wins with the same items


def test_pushes_planned_and_sent_before_count_toward_caps(shop):
    create(shop, daily(exploration=0))
    set_caps(shop, Cap(scope="all", limit=1, window="rolling:P3D"))
    workers = Workers(shop)
    workers.tick()
    first = {row.user_id for row in rows(shop, "SELECT user_id FROM pushes")}
    create(shop, daily(name="second", exploration=0))
    workers.tick()

    second = rows(
        shop,
        "SELECT d.user_id, d.reason FROM decisions d JOIN occurrences o ON o.id = d.occurrence_id JOIN campaigns c"
        " ON c.id = o.campaign_id WHERE c.name = 'second'",
    )
    for row in second:
        assert (DECISION_REASONS[row.reason] == "capped") == (row.user_id in first)


def test_an_item_comes_once_a_period(shop):
    create(shop, daily(exploration=0))
    workers = Workers(shop)
    workers.tick()
    create(shop, daily(name="second", exploration=0))
    workers.tick()

    twice = rows(shop, "SELECT user_id, item_id, count(*) FROM pushes GROUP BY 1, 2 HAVING count(*) > 1")
    assert twice == []
    assert reasons(shop)["planned"] > USERS


def test_capacity_goes_to_the_most_valuable_and_the_rest_is_refused_with_a_reason(shop):
    create(shop, daily(exploration=0, capacity_per_quarter=2, hours="12:00-15:00"))
    Workers(shop).tick()

    quarter = "floor(extract(epoch FROM send_at) / 900)"
    used = dict(rows(shop, f"SELECT {quarter}, count(*) FROM pushes GROUP BY 1"))
    counted = reasons(shop)
    assert max(used.values()) == 2
    assert sum(used.values()) == counted["planned"]
    assert counted["capacity"] > 0
    assert sum(counted.values()) == USERS
    refused = rows(
        shop,
        f"SELECT {quarter} AS quarter, d.value, d.price FROM decisions d WHERE revision = 0 AND EXISTS"
        " (SELECT 1 FROM decisions r WHERE r.user_id = d.user_id AND r.revision = 1 AND r.push_id IS NULL)",
    )
    assert len(refused) == counted["capacity"]
    assert {used[row.quarter] for row in refused} == {2}  # nobody is refused where there is room
    least = dict(rows(shop, f"SELECT {quarter}, min(value - price) FROM pushes WHERE revision = 0 GROUP BY 1"))
    assert all(row.value - row.price <= least[row.quarter] for row in refused)


def test_exploration_is_drawn_before_allocation_and_its_propensity_is_exact(shop):
    create(shop, daily(exploration=0.5))
    Workers(shop).tick()

    explored = 0
    for row in rows(shop, "SELECT * FROM decisions WHERE propensity IS NOT NULL"):
        read = receipt.decode(row.receipt)
        best = (row.item_id if row.item_id is not None else -1) == read.exploit_item and (
            row.window_start is not None and row.window_start.timestamp() == read.exploit_slot
        )
        assert row.propensity == pytest.approx(0.5 / read.options + 0.5 * best)
        explored += ARMS[row.arm] == "explore"
        if ARMS[row.arm] == "exploit":
            assert best
        assert len(read.features) == (0 if row.push_id is None else len(read.features))
        assert read.alternatives["slot"].min() > 0
    asked = sum(reasons(shop)[name] for name in ("planned", "explored_nothing"))
    assert 0.4 < explored / asked < 0.6


def test_beside_an_explored_push_the_best_that_fits_is_certain(shop):
    create(shop, daily(exploration=1.0), daily(name="second", exploration=0, priority=0.5))
    set_caps(shop, Cap(scope="all", limit=1, window="local_day"), min_gap=timedelta(hours=3))
    Workers(shop).tick()

    decided = rows(
        shop,
        "SELECT c.name, d.arm, d.propensity, d.push_id FROM decisions d JOIN occurrences o ON o.id = d.occurrence_id"
        " JOIN campaigns c ON c.id = o.campaign_id WHERE d.propensity IS NOT NULL",
    )
    assert {ARMS[row.arm] for row in decided if row.name == "daily"} == {"explore"}
    assert {row.propensity for row in decided if row.name == "second"} == {1.0}
    assert any(row.push_id for row in decided if row.name == "second")


def test_users_of_a_paused_campaign_wait_and_a_finished_campaign_is_done(shop):
    create(shop, daily())
    run.make_occurrences(shop.database, NOW, NOW + timedelta(minutes=30))
    with shop.database.begin() as connection:
        store.set_state(connection, "daily", "paused")
    workers = Workers(shop)
    assert workers.tick() == 0
    with shop.database.begin() as connection:
        store.set_state(connection, "daily", "running")
    assert workers.tick() > 0
    workers.tick(NOW + timedelta(days=3))
    assert rows(shop, "SELECT state FROM campaigns") == [("done",)]
    assert rows(shop, "SELECT date FROM occurrences") == [(date(2026, 3, 1),)]


# --- triggers and previews -------------------------------------------------------------------------------------------


def test_a_preview_is_the_plan(shop):
    create(shop, daily(schedule=None, exploration=0.2, holdout=0.1, capacity_per_quarter=3, hours="12:00-18:00"))
    set_caps(shop, Cap(scope="category:c1", limit=0, window="local_day"))
    request = triggers.Request()
    spec = triggers.spec_of(shop.database, NOW, "daily", request)
    expected = preview(shop.database, shop.gateways, spec)
    with shop.database.snapshot() as snapshot:
        scene = set_scene(snapshot, shop.gateways, spec)
        capacities = read_capacities(snapshot.connection, spec, scene.as_of)
        blocks = list(planned_blocks(at_prices(scene, sampled_prices(scene, capacities))))

    made = triggers.trigger(shop.database, NOW, "daily", request)
    opened = run.open_runs(shop, NOW, NOW, only=made.occurrence_id)
    Workers(shop).recover()

    assert expected.asked == made.asked == USERS
    assert expected.reasons == dict(reasons(shop))
    assert expected.reasons["capacity"] > 0
    assert expected.planned == sum(expected.by_hour.values())
    assert rows(shop, "SELECT seed FROM runs") == [(spec.seed,)]
    names = ("user", "reason", "arm", "item", "send_at", "score", "value", "price", "propensity")
    ours = sorted(
        row for block in blocks for row in zip(*(getattr(block.decided, n).tolist() for n in names), strict=True)
    )
    stored = rows(shop, "SELECT * FROM decisions WHERE revision = 0 ORDER BY user_id")
    for mine, row in zip(ours, stored, strict=True):
        theirs = (
            *(row.user_id, row.reason, row.arm, -1 if row.item_id is None else row.item_id),
            row.send_at and row.send_at.timestamp(),
            *(row.score, row.value, row.price, row.propensity),
        )
        assert tuple(None if np.isnan(value) else value for value in mine) == theirs
    with shop.database.begin() as connection:
        assert opened is not None
        shown = count_run(connection, opened)
    assert shown.reasons == expected.reasons
    assert shown.pushes == {"planned": expected.planned}


def test_a_trigger_reaches_the_listed_users_and_no_others(shop):
    create(shop, daily(schedule=None, audience={"field": "timezone", "equals": "Asia/Tokyo"}))
    listed = ("u2", "u6", "u3", "u1", "nobody", "u49")  # u2 and u6 live in Tokyo, u1 and u3 do not, u49 is a stub
    request = triggers.Request(users=listed)
    expected = preview(shop.database, shop.gateways, triggers.spec_of(shop.database, NOW, "daily", request))
    made = triggers.trigger(shop.database, NOW, "daily", request)
    run.open_runs(shop, NOW, NOW)
    Workers(shop).recover()

    assert (made.asked, made.unknown, made.unknown_ids) == (5, 1, ("nobody",))
    assert made.audience["not_eligible"] == 3
    assert expected.reasons == dict(reasons(shop))
    assert reasons(shop)["not_eligible"] == 3
    assert sum(reasons(shop).values()) == 5


def test_at_once_leaves_now_or_is_held_by_quiet_hours(shop):
    create(shop, daily(schedule=None, exploration=0))
    made = triggers.trigger(shop.database, NOW, "daily", triggers.Request(at_once=True))
    run.open_runs(shop, NOW, NOW, only=made.occurrence_id)
    Workers(shop).recover()

    # At 05:00 UTC it is 06:00 in Berlin, 00:00 in New York, 05:00 by UTC and 14:00 in Tokyo.
    sent = rows(shop, "SELECT u.timezone, p.send_at FROM pushes p JOIN users u ON u.id = p.user_id")
    assert {row.timezone for row in sent} == {"Asia/Tokyo"}
    assert {row.send_at for row in sent} == {NOW}
    counted = reasons(shop)
    assert counted["quiet_hours"] > USERS / 2
    assert sum(counted.values()) == USERS


def test_the_same_key_gives_the_first_answer_and_another_request_is_refused(shop):
    create(shop, daily(schedule=None))
    request = triggers.Request(users=("u2",), data={"code": "A"}, key="k1")
    first = triggers.trigger(shop.database, NOW, "daily", request)
    again = triggers.trigger(shop.database, NOW + timedelta(hours=1), "daily", request)

    assert again == replace(first, repeated=True)
    assert rows(shop, "SELECT count(*) FROM occurrences")[0][0] == 1
    with pytest.raises(BadInput, match="another request"):
        triggers.trigger(shop.database, NOW, "daily", replace(request, data={"code": "B"}))
    with pytest.raises(BadInput, match="another request"):
        triggers.describe(shop.database, NOW, "daily", replace(request, at_once=True))


def test_a_key_is_remembered_for_thirty_days(shop):
    create(shop, daily(schedule=None))
    request = triggers.Request(users=("u2",), key="k1")
    first = triggers.trigger(shop.database, NOW, "daily", request)
    age = "UPDATE triggers SET created_at = clock_timestamp() - interval '{days} days'"

    def kept_after(days: int) -> bool:
        with shop.database.begin() as connection:
            connection.execute(text(age.format(days=days)))
            triggers.forget(connection)
        return triggers.trigger(shop.database, NOW, "daily", request).repeated

    assert kept_after(29)
    assert not kept_after(31)
    assert triggers.trigger(shop.database, NOW, "daily", request).occurrence_id != first.occurrence_id


def test_describing_a_trigger_leaves_nothing_behind(shop):
    create(shop, daily(schedule=None, message={"title": "{{ data.code | default: 'SPRING' }}", "body": "x"}))
    expected = triggers.describe(shop.database, NOW, "daily", triggers.Request(users=("u1", "u2"), key="k"))

    assert (expected.asked, expected.unset, expected.occurrence_id) == (2, ("code",), 0)
    assert rows(shop, "SELECT count(*) FROM occurrences")[0][0] == 0
    assert rows(shop, "SELECT count(*) FROM triggers")[0][0] == 0


def test_a_trigger_without_the_data_that_its_message_prints_is_refused_and_guarded_data_may_be_left_out(shop):
    guarded = "{% if data.x %}{{ data.x }}{% endif %} and {{ data.y | default: 'so' }}"
    create(shop, daily(schedule=None, message={"title": "{{ data.code }}", "body": guarded}))
    with pytest.raises(BadInput, match=r"daily needs data\.code \(give"):
        triggers.trigger(shop.database, NOW, "daily", triggers.Request(at_once=True, data={"x": "1"}))
    assert rows(shop, "SELECT count(*) FROM occurrences")[0][0] == 0

    made = triggers.trigger(shop.database, NOW, "daily", triggers.Request(at_once=True, data={"code": "A"}))
    assert made.unset == ("x", "y")


def test_a_paused_cancelled_or_expired_campaign_cannot_be_triggered(shop):
    create(shop, daily(schedule=None, expiry="2026-03-01T00:00Z"), daily(name="paused"))
    with shop.database.begin() as connection:
        store.set_state(connection, "paused", "paused")
    with pytest.raises(BadInput, match="expired"):
        triggers.trigger(shop.database, NOW, "daily", triggers.Request())
    with pytest.raises(BadInput, match="paused"):
        triggers.trigger(shop.database, NOW, "paused", triggers.Request())
    create(shop, daily(name="third"))
    with pytest.raises(BadInput, match="none of the 2 listed"):
        triggers.trigger(shop.database, NOW, "third", triggers.Request(users=("x", "y")))
