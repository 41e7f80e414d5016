"""Looking through plain tables page by page, and through the audit log."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from engine import audit
from engine.delivery.devices import browse_devices
from engine.errors import BadInput, UnknownName
from engine.runtime import Runtime
from engine.store.browse import TABLES, browse
from tests.planning_shop import NOW, Workers, create, daily, fill_shop

TOKEN = "a token that nobody may see"


@pytest.fixture
def shop(runtime: Runtime) -> Runtime:
    shop = fill_shop(runtime)
    with shop.database.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO devices (user_id, gateway, token, seen_at, dead_at, dead_reason)"
                " SELECT id, 'fcm', :token || id, CAST(:now AS timestamptz) - (id % 60) * interval '1 day',"
                " CASE WHEN id % 7 = 0 THEN CAST(:now AS timestamptz) END, 'UNREGISTERED' FROM users WHERE id <= 50"
            ),
            {"token": TOKEN, "now": NOW},
        )
        connection.execute(
            text(
                "INSERT INTO promotions (item_id, kind, starts_at, ends_at, weight, announced_at) SELECT id, 'advert',"
                " CAST(:now AS timestamptz) + (id % 3) * interval '1 hour', CAST(:now AS timestamptz)"
                " + interval '1 day', 0.5, :now FROM items"
            ),
            {"now": NOW},
        )
    create(shop, daily())
    Workers(shop).tick()
    return shop


def through(shop: Runtime, name: str, page: int, **chosen: str) -> list[tuple[str, ...]]:
    """All rows of a table, so many at a time."""
    rows, after = [], None
    with shop.database.begin() as connection:
        while found := browse(connection, name, page, chosen=chosen, day=NOW.date(), after=after):
            rows += [tuple(map(str, row.values)) for row in found]
            after = found[-1].key
    return rows


@pytest.mark.parametrize("name", sorted(TABLES))
def test_pages_of_any_size_hold_every_row_once_in_the_same_order(shop: Runtime, name: str):
    whole = through(shop, name, 10_000)

    assert through(shop, name, 7) == whole
    assert bool(whole) == (name in ("users", "items", "promotions", "occurrences", "waiting"))


def test_filters_choose_and_those_of_other_tables_are_passed_over(shop: Runtime):
    category = list(TABLES["items"].columns).index("category")

    assert {row[category] for row in through(shop, "items", 3, category="c1", state="planned")} == {"c1"}
    assert through(shop, "users", 3, user_id="u7")[0][0] == "u7"
    assert through(shop, "waiting", 50) == through(shop, "waiting", 50, state="planned")


def test_a_wrong_key_or_table_is_told(shop: Runtime):
    with shop.database.begin() as connection:
        for key in ("", "[]", '["x"]', "{}", "7", "[null]", '["1", "2"]'):
            with pytest.raises(BadInput):
                browse(connection, "users", 5, chosen={}, after=key)
        with pytest.raises(UnknownName):
            browse(connection, "api_keys", 5, chosen={})


def test_devices_show_no_token_and_are_paged_by_what_they_are(shop: Runtime):
    with shop.database.begin() as connection:
        live, stale, dead = (browse_devices(connection, 1_000, NOW, state=state) for state in ("live", "stale", "dead"))
        first = browse_devices(connection, 10, NOW)
        second = browse_devices(connection, 10, NOW, before=first[-1][0])

    assert (len(live) + len(dead), len(dead)) == (50, 7)
    assert {id_ for id_, _ in stale} == {id_ for id_, one in live if NOW - one.seen_at > timedelta(days=30)} != set()
    assert not {id_ for id_, _ in first} & {id_ for id_, _ in second}
    assert TOKEN not in str(live + dead)
    assert all(one.dead_reason == "UNREGISTERED" for _, one in dead)


def test_the_audit_log_is_chosen_by_actor_kind_and_subject_and_paged(shop: Runtime):
    with shop.database.begin() as connection:
        for number in range(5):
            audit.record(connection, "ada", "policy.change", "policy", {"n": number}, {"n": number + 1})
        audit.record(connection, "bob", "campaign.pause", "campaign:daily")
        newest = audit.read(connection, actor="ada", most=2)
        older = audit.read(connection, actor="ada", before=newest[-1].id)
        kinds = {entry.action for entry in audit.read(connection, action="campaign")}
        none = audit.read(connection, action="camp")

    assert [entry.after["n"] for entry in newest + older] == [5, 4, 3, 2, 1]
    assert kinds == {"campaign.create", "campaign.pause"}
    assert none == []


def test_a_change_is_told_place_by_place():
    cap, other = {"id": "cap-1", "limit": 2}, {"id": "cap-2", "limit": 5}
    before = {"caps": [cap], "message": {"title": "Old", "body": "same"}, "gap": None}
    after = {"caps": [cap, other], "message": {"title": "New", "body": "same"}, "gap": "PT4H"}
    entry = audit.Entry(1, datetime(2026, 1, 1, tzinfo=UTC), "ada", "x.y", "z", before, after)

    assert audit.changes(entry) == [
        audit.Change("caps", None, other),
        audit.Change("message.title", "Old", "New"),
        audit.Change("gap", None, "PT4H"),
    ]
