"""Audiences against PostgreSQL: what each condition means, what stands in a user's way, and hostile text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from sqlalchemy import Connection, insert, select, text

from engine.campaigns.audience import AudienceQuery, as_sql, audience_select, count_audience, items_select
from engine.campaigns.definition import Items
from engine.campaigns.filters import Filter
from engine.store.database import Database
from engine.store.partitions import ensure_partitions
from engine.store.slots import slot_of
from engine.store.tables import campaigns, devices, events, items, occurrence_users, occurrences, users

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
DAY = timedelta(days=1)
FILTER: TypeAdapter[Filter] = TypeAdapter(Filter)


def add_user(connection: Connection, name: str, **columns: Any) -> int:
    values = {"external_id": name, "slot": slot_of(name), "consent": True, **columns}
    return int(connection.execute(insert(users).values(values).returning(users.c.id)).scalar_one())


def add_item(connection: Connection, name: str, **columns: Any) -> int:
    return int(connection.execute(insert(items).values(external_id=name, **columns).returning(items.c.id)).scalar_one())


def add_event(connection: Connection, user: int, kind: int, ago: timedelta, item: int | None = None) -> None:
    row = {"key": uuid4(), "user_id": user, "event_type": kind, "item_id": item}
    connection.execute(insert(events).values(occurred_at=NOW - ago, received_at=NOW - min(ago, DAY), **row))


def query(where: Any = None, gateway: str = "log", **options: Any) -> AudienceQuery:
    parsed = None if where is None else FILTER.validate_python(where)
    return AudienceQuery(parsed, NOW, gateway, options.pop("needs_device", False), "Europe/Paris", **options)


def chosen(connection: Connection, where: Any) -> set[str]:
    return {row.external_id for row in connection.execute(audience_select(query(where)))}


@pytest.fixture(scope="module")
def shop(shared_database: Database) -> Database:
    """Five users with attributes and a season of behaviour."""
    ensure_partitions(shared_database, "events", NOW.date() - 110 * DAY, NOW.date())
    with shared_database.begin() as connection:
        wine, cheese = (
            add_item(connection, "w", category="wine", brand="A"),
            add_item(connection, "c", category="cheese"),
        )
        anna = add_user(connection, "anna", country="DE", locale="de-DE", attributes={"tier": "gold", "age": 34})
        bert = add_user(connection, "bert", country="NO", timezone="Europe/Oslo", attributes={"age": "9", "vip": True})
        cleo = add_user(connection, "cleo", country="FR", locale="fr", attributes={"tier": "Silver", "age": 41.5})
        add_user(connection, "dora", attributes={"tier": None, "vip": "TRUE", "since": "2026-03-01"})
        add_user(connection, "o'neil \\ %s", attributes={"tier": "it's 100% \\'; DROP TABLE users; --"})
        for user, kind, ago, item in (
            (anna, 4, DAY, wine),
            (anna, 4, 10 * DAY, wine),
            (anna, 4, 100 * DAY, cheese),
            (bert, 4, 40 * DAY, cheese),
            (bert, 1, 5 * DAY, wine),
            (cleo, 6, timedelta(hours=1), None),
        ):
            add_event(connection, user, kind, ago, item)
    return shared_database


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (None, {"anna", "bert", "cleo", "dora", "o'neil \\ %s"}),
        ({"attribute": "tier", "equals": "gold"}, {"anna"}),
        ({"attribute": "tier", "in": ["gold", "Silver"]}, {"anna", "cleo"}),
        ({"attribute": "tier", "exists": True}, {"anna", "cleo", "o'neil \\ %s"}),
        ({"attribute": "tier", "exists": False}, {"bert", "dora"}),
        ({"attribute": "tier", "starts_with": "S"}, {"cleo"}),
        ({"attribute": "age", "gte": 34}, {"anna", "cleo"}),
        ({"attribute": "age", "lt": 34}, {"bert"}),  # "9" is a number: as text it is after "34"
        ({"attribute": "age", "gt": 34, "lte": 41.5}, {"cleo"}),
        ({"attribute": "age", "equals": 9}, {"bert"}),
        ({"attribute": "vip", "equals": True}, {"bert", "dora"}),
        ({"attribute": "since", "gte": "2026-01-01", "lt": "2027"}, {"dora"}),
        ({"attribute": "nothing", "equals": 1}, set()),
        ({"attribute": "tier", "equals": "it's 100% \\'; DROP TABLE users; --"}, {"o'neil \\ %s"}),
        ({"field": "user_id", "equals": "o'neil \\ %s"}, {"o'neil \\ %s"}),
        ({"field": "country", "in": ["DE", "NO"]}, {"anna", "bert"}),
        ({"field": "country", "exists": False}, {"dora", "o'neil \\ %s"}),
        ({"field": "locale", "starts_with": "de"}, {"anna"}),
        ({"field": "timezone", "equals": "Europe/Oslo"}, {"bert"}),
        ({"field": "timezone", "equals": "Europe/Paris"}, {"anna", "cleo", "dora", "o'neil \\ %s"}),
        ({"not": {"attribute": "tier", "equals": "gold"}}, {"bert", "cleo", "dora", "o'neil \\ %s"}),
        (
            {"none": [{"field": "country", "equals": "DE"}, {"attribute": "vip", "equals": True}]},
            {"cleo", "o'neil \\ %s"},
        ),
        ({"any": [{"field": "country", "equals": "DE"}, {"attribute": "age", "lt": 10}]}, {"anna", "bert"}),
        ({"all": [{"field": "country", "exists": True}, {"not": {"attribute": "age", "lt": 40}}]}, {"cleo"}),
        ({"event": "purchase"}, {"anna", "bert"}),
        ({"event": "purchase", "within": "30d"}, {"anna"}),
        ({"event": "purchase", "at_least": 2, "within": "30d"}, {"anna"}),
        ({"event": "purchase", "at_least": 3, "within": "30d"}, set()),
        ({"event": "purchase", "at_least": 3}, {"anna"}),
        ({"event": "purchase", "at_most": 1}, {"bert", "cleo", "dora", "o'neil \\ %s"}),
        ({"event": "purchase", "at_most": 0}, {"cleo", "dora", "o'neil \\ %s"}),
        ({"event": "purchase", "at_least": 1, "at_most": 2}, {"bert"}),
        ({"event": "purchase", "category": "cheese"}, {"anna", "bert"}),
        ({"event": "purchase", "category": "wine", "brand": "A", "at_least": 2}, {"anna"}),
        ({"event": "view", "item": "w"}, {"bert"}),
        ({"event": "never-heard-of"}, set()),
        ({"seen_within": "3d"}, {"anna", "cleo"}),
        ({"not": {"seen_within": "3d"}}, {"bert", "dora", "o'neil \\ %s"}),
    ],
)
def test_each_condition_means_what_it_says_also_as_literal_sql(shop, where, expected):
    with shop.snapshot() as snapshot:
        statement = audience_select(query(where))
        by_arrow = snapshot.arrow(as_sql(snapshot.connection, statement))

        assert {row.external_id for row in snapshot.connection.execute(statement)} == expected
        assert set(by_arrow["external_id"].to_pylist()) == expected


def test_behaviour_is_read_as_of_now_and_not_later(shop):
    earlier = AudienceQuery(
        FILTER.validate_python({"event": "purchase", "within": "30d"}), NOW - 20 * DAY, "log", False, "UTC"
    )

    with shop.begin() as connection:
        assert {row.external_id for row in connection.execute(audience_select(earlier))} == {"bert"}


def test_every_user_of_the_audience_has_exactly_one_thing_in_the_way_or_none(database):
    with database.begin() as connection:
        add_user(connection, "yes")
        add_user(connection, "no", consent=False)
        add_user(connection, "unknown", consent=None)
        add_user(connection, "stub", consent=None, stub=True)
        phone, dead = add_user(connection, "phone"), add_user(connection, "dead")
        for user, token, gone in ((phone, "t1", None), (dead, "t2", NOW)):
            connection.execute(
                insert(devices).values(user_id=user, gateway="fcm", token=token, seen_at=NOW, dead_at=gone)
            )

        def refusals(**options: Any) -> dict[str, str | None]:
            rows = connection.execute(audience_select(query(**options)))
            return {row.external_id: row.refusal for row in rows}

        common = {"no": "no_consent", "stub": "not_eligible"}
        assert refusals() == {**common, "yes": None, "unknown": None, "phone": None, "dead": None}
        assert refusals(gateway="webhook") == {
            **common,
            "yes": None,
            "unknown": "no_consent",
            "phone": None,
            "dead": None,
        }
        assert refusals(gateway="fcm", needs_device=True) == {
            **common, "yes": "no_device", "unknown": "no_consent", "phone": None, "dead": "no_device",
        }  # fmt: skip
        assert count_audience(connection, query(gateway="fcm", needs_device=True)) == {
            "eligible": 1, "not_eligible": 1, "no_consent": 2, "no_device": 2,
        }  # fmt: skip


def test_an_empty_audience_counts_nobody(database):
    with database.begin() as connection:
        assert count_audience(connection, query()) == {
            "eligible": 0,
            "not_eligible": 0,
            "no_consent": 0,
            "no_device": 0,
        }


def test_a_listed_user_for_whom_the_filter_does_not_hold_is_not_eligible(shop):
    with shop.begin() as connection:
        campaign = connection.execute(
            insert(campaigns).values(name="c", state="running", version=1).returning(campaigns.c.id)
        ).scalar_one()
        occurrence = connection.execute(
            insert(occurrences)
            .values(
                campaign_id=campaign, version=1, label="trigger:1", date=NOW.date(), starts_at=NOW, ends_at=NOW + DAY
            )
            .returning(occurrences.c.id)
        ).scalar_one()
        listed = connection.execute(select(users.c.id).where(users.c.external_id.in_(["anna", "cleo"]))).scalars()
        connection.execute(
            insert(occurrence_users), [{"occurrence_id": occurrence, "user_id": user} for user in listed]
        )

        rows = connection.execute(audience_select(query({"field": "country", "equals": "DE"}, listed=occurrence)))

        assert {row.external_id: row.refusal for row in rows} == {"anna": None, "cleo": "not_eligible"}


def test_slot_ranges_part_the_audience_and_zones_are_filled_in(shop):
    with shop.begin() as connection:
        whole = list(connection.execute(audience_select(query())))
        parts = [
            row
            for start in range(0, 1024, 100)
            for row in connection.execute(audience_select(query(slots=(start, min(start + 100, 1024)))))
        ]

    assert parts == whole
    assert {
        (row.external_id, row.timezone, row.timezone_known) for row in whole if row.external_id in ("anna", "bert")
    } == {
        ("anna", "Europe/Paris", False),
        ("bert", "Europe/Oslo", True),
    }


@pytest.mark.parametrize(
    ("chosen_items", "expected"),
    [
        ({"kind": "none"}, []),
        ({"kind": "personalised"}, ["w1", "w2", "c1"]),
        ({"kind": "fixed", "ids": ["c1", "w2", "gone"]}, ["w2", "c1"]),
        ({"kind": "personalised", "where": {"field": "category", "equals": "wine"}}, ["w1", "w2"]),
        ({"kind": "personalised", "where": {"field": "price", "lt": 9}}, ["w1", "c1"]),
        ({"kind": "personalised", "where": {"field": "stock", "gt": 0}}, ["w1"]),
        ({"kind": "personalised", "where": {"attribute": "organic", "equals": True}}, ["c1"]),
        ({"kind": "personalised", "where": {"none": [{"field": "brand", "equals": "A"}]}}, ["w2", "c1"]),
    ],
)
def test_items_are_chosen_by_kind_and_filter(shared_database, chosen_items, expected):
    with shared_database.engine.connect() as connection:  # rolled back at its end
        connection.execute(text("UPDATE items SET stub = true"))
        ids = {
            add_item(connection, "w1", category="wine", price=7.5, stock=3, brand="A"): "w1",
            add_item(connection, "w2", category="wine", price=12, stock=0): "w2",
            add_item(connection, "c1", category="cheese", price=8.99, attributes={"organic": True}): "c1",
            add_item(connection, "stub", stub=True): "stub",
        }
        found = connection.execute(items_select(Items.model_validate(chosen_items))).scalars()

        assert [ids[each] for each in found] == expected


hostile = st.text(max_size=20).filter(lambda text: "\0" not in text) | st.sampled_from(
    [
        "'",
        "''",
        "\\",
        "\\'",
        "' OR 1=1 --",
        "%(x)s",
        "%%",
        ":x",
        "$1",
        "{}",
        "'; DROP TABLE users; --",
        "\u2028",
        "E'\\''",
    ]
)


@given(hostile, hostile)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_text_escapes_from_literal_sql(database, name, value):
    with database.begin() as connection:
        connection.execute(text("DELETE FROM users"))
        add_user(connection, "target", attributes={name or "n": value})
        add_user(connection, "other", attributes={name or "n": value + "x"})
    where = {"all": [{"attribute": name or "n", "equals": value}, {"attribute": name or "n", "in": [value, "z"]}]}

    with database.snapshot() as snapshot:
        found = snapshot.arrow(as_sql(snapshot.connection, audience_select(query(where))))

    assert found["external_id"].to_pylist() == ["target"]


@pytest.mark.parametrize("conforming", ["on", "off"])
def test_backslashes_stay_inside_literals_however_the_server_reads_them(database, conforming):
    value = "it's 100% \\'; DROP TABLE users; --"
    with database.begin() as connection:
        add_user(connection, "target", attributes={"tier": value})
        connection.execute(
            text(f"ALTER DATABASE {database.url.database} SET standard_conforming_strings TO {conforming}")
        )
    again = Database(database.libpq_url)
    try:
        with again.snapshot() as snapshot:
            where = query({"attribute": "tier", "equals": value})
            found = snapshot.arrow(as_sql(snapshot.connection, audience_select(where)))
    finally:
        again.dispose()

    assert found["external_id"].to_pylist() == ["target"]
