"""Late binding on a real store: what new events change about planned pushes, and what they may not."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sqlalchemy import text

from engine import clock
from engine.campaigns.policy import Cap
from engine.features.state import State
from engine.ingest.event_rows import EventRows
from engine.ingest.fold import fold_all
from engine.ingest.live import LiveIntake
from engine.ingest.write import ensure_months, months_of, record_events
from engine.learning.scoring import load_scorer
from engine.planning import locks, receipt
from engine.planning import refresh as late
from engine.planning.refresh import refresh
from engine.planning.scenes import Scenes
from engine.planning.wake import ignore
from engine.runtime import Runtime
from engine.store.tables import DECISION_REASONS
from tests.planning_shop import NOW, Workers, create, daily, fill_shop, rows, set_caps

LATER = NOW + timedelta(minutes=15)

PLANNED = (
    "SELECT p.id, u.external_id AS user_id, u.slot, i.external_id AS item, p.revision, p.explored, p.send_at, p.state,"
    " p.window_start FROM pushes p JOIN users u ON u.id = p.user_id JOIN items i ON i.id = p.item_id"
    " WHERE p.state = 'planned'"
)


@pytest.fixture
def shop(runtime: Runtime) -> Runtime:
    """A shop with planned pushes, a quarter of an hour later."""
    shop = fill_shop(runtime)
    set_caps(shop, Cap(scope="all", limit=1, window="local_day"))
    create(shop, daily(horizon="14h"))
    Workers(shop).tick()
    with shop.database.begin() as connection:
        clock.step_virtual(connection, LATER)
    return shop


def happen(shop: Runtime, events: Sequence[tuple[str, str, str]], at: datetime = LATER) -> None:
    """Record and fold events (user, type, item)."""
    users, kinds, items = zip(*events, strict=True)
    events_of = EventRows(
        user=pa.array(users),
        item=pa.array(items),
        event_type=pa.array(kinds),
        occurred_at=np.full(len(users), (at - timedelta(minutes=1)).replace(tzinfo=None), "datetime64[us]"),
        value=np.full(len(users), np.nan),
        quantity=np.full(len(users), np.nan),
        event_id=pa.array([f"{n} {user} {kind} {item}" for n, (user, kind, item) in enumerate(events)]),
    )
    ensure_months(shop.database, months_of(events_of))
    with shop.database.begin() as connection:
        record_events(connection, events_of, at)


def loose(shop: Runtime, count: int) -> list[Any]:
    soon = (LATER + timedelta(minutes=10)).isoformat()
    until = (LATER + timedelta(hours=12)).isoformat()
    found = rows(shop, f"{PLANNED} AND NOT explored AND send_at > '{soon}' AND send_at <= '{until}' ORDER BY 2")
    assert len(found) >= count
    return found[:count]


def now_of(shop: Runtime, push: Any) -> Any:
    return next(iter(rows(shop, f"{PLANNED} AND p.id = '{push.id}'")), None)


def test_what_users_look_at_changes_what_they_will_get_and_is_a_new_revision(shop):
    pushes = loose(shop, 12)
    other = {"i0": "i1"}
    wanted = {push.id: other.get(push.item, "i0") for push in pushes}
    happen(shop, [(push.user_id, kind, wanted[push.id]) for push in pushes for kind in 9 * ("add_to_cart",)])
    done = refresh(shop, LATER, ignore)

    changed = [push for push in pushes if now_of(shop, push).item == wanted[push.id]]
    assert len(changed) > 6
    assert done["changed"] >= len(changed)
    assert done["users"] == 12
    last = rows(
        shop,
        "SELECT DISTINCT ON (push_id) push_id, revision, shard, reason, item_id, receipt, propensity FROM decisions"
        " WHERE push_id IS NOT NULL ORDER BY push_id, revision DESC",
    )
    by_push = {row.push_id: row for row in last}
    for push in changed:
        now, told = now_of(shop, push), by_push[push.id]
        assert (now.revision, told.revision, told.shard) == (1, 1, -1)
        assert DECISION_REASONS[told.reason] == "planned"
        assert receipt.decode(bytes(told.receipt)).as_of == LATER.timestamp()
        assert told.propensity == pytest.approx(0.95)
    assert rows(shop, "SELECT count(*) FROM changed_users")[0][0] == 0
    assert refresh(shop, LATER, ignore) == {}
    happen(shop, [(push.user_id, "app_open", "i2") for push in pushes])
    again = refresh(shop, LATER, ignore)
    assert again["users"] == 12
    assert again.get("changed", 0) <= 2  # nothing was learned that speaks for another item


def test_what_was_bought_is_replaced_and_who_opted_out_gets_nothing(shop):
    buyer, leaver = loose(shop, 2)
    soon = (LATER + timedelta(minutes=10)).isoformat()
    until = (LATER + timedelta(hours=12)).isoformat()
    drawn = rows(shop, f"{PLANNED} AND explored AND send_at > '{soon}' AND send_at <= '{until}'")[0]
    happen(
        shop,
        [
            (buyer.user_id, "purchase", buyer.item),
            (leaver.user_id, "unsubscribe", "i0"),
            (drawn.user_id, "purchase", drawn.item),
        ],
    )
    done = refresh(shop, LATER, ignore)

    assert done["ended"] == 2
    assert now_of(shop, buyer).item != buyer.item
    assert now_of(shop, leaver) is None
    assert now_of(shop, drawn) is None
    ends = {row.push_id: (row.state, row.reason) for row in rows(shop, "SELECT * FROM deliveries")}
    assert ends == {leaver.id: ("suppressed", "no_consent"), drawn.id: ("suppressed", "item_bought")}
    told = rows(shop, f"SELECT reason, revision FROM decisions WHERE push_id = '{leaver.id}' ORDER BY revision")
    assert [(DECISION_REASONS[row.reason], row.revision) for row in told] == [("planned", 0), ("no_consent", 1)]


def test_who_bought_or_opted_out_is_planned_again_before_others_who_wait_longer(shop, monkeypatch):
    monkeypatch.setattr(late, "AT_ONCE", 2)
    monkeypatch.setattr(late, "PASSES", 1)
    first, second, buyer, leaver = loose(shop, 4)
    happen(shop, [(first.user_id, "view", "i3"), (second.user_id, "view", "i3"), (buyer.user_id, "view", "i3")])
    later = LATER + timedelta(seconds=1)
    happen(shop, [(buyer.user_id, "purchase", buyer.item), (leaver.user_id, "unsubscribe", "i0")], later)
    woken: list[str] = []
    refresh(shop, later, lambda task, *ids: woken.append(task))

    assert now_of(shop, leaver) is None
    assert now_of(shop, buyer).item != buyer.item
    left = rows(shop, "SELECT u.external_id FROM changed_users c JOIN users u ON u.id = c.user_id")
    assert {row.external_id for row in left} == {first.user_id, second.user_id}
    assert woken == ["horae.refresh"]


def test_a_purchase_changes_a_push_that_is_not_due_for_long_and_a_view_does_not(shop, monkeypatch):
    monkeypatch.setattr(late, "AHEAD", timedelta(0))
    buyer, viewer = loose(shop, 2)
    happen(shop, [(buyer.user_id, "purchase", buyer.item), *((viewer.user_id, "add_to_cart", "i9"),) * 9])
    refresh(shop, LATER, ignore)

    assert getattr(now_of(shop, buyer), "item", None) != buyer.item
    assert now_of(shop, viewer).revision == 0


def test_what_is_accepted_after_a_refresh_began_is_no_later_than_it_plans(shop):
    buyer = loose(shop, 1)[0]
    happen(shop, [(buyer.user_id, "purchase", buyer.item)], LATER + timedelta(minutes=2))
    refresh(shop, LATER, ignore)

    assert getattr(now_of(shop, buyer), "item", None) != buyer.item


def test_an_event_of_the_same_instant_leaves_another_mark(shop):
    user = loose(shop, 1)[0].user_id
    marks = []
    for item in ("i1", "i2"):
        happen(shop, [(user, "view", item)])
        marks += rows(shop, "SELECT changed_at FROM changed_users")

    assert marks[0] != marks[1]


def test_what_is_due_soon_or_drawn_or_under_way_or_of_a_busy_slot_stays(shop):
    frozen, taken, busy = loose(shop, 3)
    drawn = rows(shop, f"{PLANNED} AND explored LIMIT 1")[0]
    with shop.database.begin() as connection:
        soon = {"at": LATER + timedelta(minutes=9), "id": frozen.id}
        connection.execute(text("UPDATE pushes SET send_at = :at WHERE id = :id"), soon)
        connection.execute(text("UPDATE pushes SET state = 'claimed' WHERE id = :id"), {"id": taken.id})
    four = [frozen, taken, busy, drawn]
    happen(shop, [(push.user_id, "add_to_cart", "i9") for push in four])
    with shop.database.begin() as held:
        locks.lock_some(held, [busy.slot])
        done = refresh(shop, LATER, ignore)

    assert (done["busy"], done.get("changed", 0), done.get("ended", 0)) == (1, 0, 0)
    assert rows(shop, "SELECT sum(revision) FROM pushes")[0][0] == 0
    left = rows(shop, "SELECT u.external_id FROM changed_users c JOIN users u ON u.id = c.user_id")
    assert [row.external_id for row in left] == [busy.user_id]


def test_windows_move_within_caps_and_never_into_what_is_frozen_or_quiet(shop):
    with shop.database.begin() as connection:
        connection.execute(text("UPDATE users SET quiet_from = '00:00', quiet_until = '19:00' WHERE id % 2 = 0"))
    pushes = rows(shop, PLANNED)
    happen(shop, [(push.user_id, "app_open", "i0") for push in pushes])
    refresh(shop, LATER, ignore)

    local = rows(
        shop,
        "SELECT (p.send_at AT TIME ZONE coalesce(u.timezone, 'UTC')) AS at, p.revision, p.send_at, p.window_end,"
        " u.id % 2 = 0 AS own FROM pushes p JOIN users u ON u.id = p.user_id WHERE p.revision > 0",
    )
    assert len(local) > 30
    assert all(row.at.hour >= 19 for row in local if row.own)
    assert all(row.send_at >= LATER + timedelta(minutes=10) for row in local)
    assert all(row.window_end - row.send_at >= timedelta(minutes=15) for row in local)
    days = rows(
        shop,
        "SELECT p.user_id, (p.send_at AT TIME ZONE coalesce(u.timezone, 'UTC'))::date AS day, count(*) AS n"
        " FROM pushes p JOIN users u ON u.id = p.user_id GROUP BY 1, 2",
    )
    assert max(day.n for day in days) == 1


def take(shop: Runtime, user: str, *kinds: str, item: str) -> None:
    """Events by HTTP, which nobody folds."""
    properties = {"item_id": item, "value": 3}
    said = [{"type": "track", "userId": user, "event": kind, "properties": properties} for kind in kinds]
    assert LiveIntake(shop.database).accept(said).accepted == len(kinds)
    assert rows(shop, "SELECT count(*) FROM unfolded_events")[0][0] == len(kinds)


def test_events_count_before_they_are_folded_as_they_do_after(shop):
    user = loose(shop, 1)[0].user_id
    take(shop, user, "view", "add_to_cart", "purchase", item="i9")
    number = rows(shop, f"SELECT id FROM users WHERE external_id = '{user}'")[0].id
    tau = LATER + timedelta(minutes=1)

    def state() -> State:
        with shop.database.snapshot() as snapshot:
            scorer = load_scorer(snapshot.connection)
            return scorer.state(snapshot, (0, 1024), tau, scorer.catalogue(snapshot, tau), np.array([number]))

    before = state()
    assert fold_all(shop.database) == 3
    after = state()

    assert np.array_equal(before.pairs.keys, after.pairs.keys)
    for one, other in (
        (before.user_block, after.user_block),
        (before.pairs.block, after.pairs.block),
        (before.interest, after.interest),
        (before.hours.weight, after.hours.weight),
    ):
        assert np.allclose(one, other, rtol=1e-6, equal_nan=True)


def test_a_purchase_changes_the_push_before_it_is_folded(shop):
    push = loose(shop, 1)[0]
    take(shop, push.user_id, "purchase", item=push.item)

    assert refresh(shop, LATER, ignore)["users"] == 1

    now = now_of(shop, push)
    assert now is None or now.item != push.item
    assert rows(shop, "SELECT count(*) FROM unfolded_events")[0][0] == 1


def test_scenes_are_made_before_the_first_event_needs_one(shop, monkeypatch):
    scenes = Scenes()
    monkeypatch.setattr(late, "SCENES", scenes)
    late.keep_ready(shop, LATER)
    monkeypatch.setattr(scenes, "_make", None)  # whoever made another would fail

    push = loose(shop, 1)[0]
    happen(shop, [(push.user_id, "purchase", push.item)])

    assert refresh(shop, LATER, ignore)["users"] == 1
