"""The schema's life: made from empty, taken down, brought up again, checked against the code, shared by many."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from engine.errors import SchemaMismatch
from engine.store import partitions, schema
from engine.store.database import Database
from engine.store.tables import metadata


def _tables(database: Database) -> set[str]:
    return set(inspect(database.engine).get_table_names())


def test_an_empty_database_becomes_the_codes_schema(empty_database):
    assert schema.version_state(empty_database) == "empty"

    schema.upgrade(empty_database)

    assert schema.version_state(empty_database) == "current"
    assert set(metadata.tables) <= _tables(empty_database)


def test_the_schema_can_be_taken_down_and_brought_up_again(empty_database):
    schema.upgrade(empty_database)

    command.downgrade(schema.alembic_config(empty_database), "base")

    assert _tables(empty_database) <= {"alembic_version"}
    schema.upgrade(empty_database)
    assert set(metadata.tables) <= _tables(empty_database)


def test_a_keys_role_becomes_the_scopes_it_stood_for(empty_database):
    config = schema.alembic_config(empty_database)
    command.upgrade(config, "2026_11_24_api")
    with empty_database.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO api_keys (id, name, hash, scopes, role, created_by) VALUES"
                " ('a', 'a', '', '{write}', NULL, 't'), ('b', 'b', '', '{admin,write}', 'viewer', 't'),"
                " ('c', 'c', '', '{admin}', 'operator', 't'), ('d', 'd', '', '{admin}', 'admin', 't')"
            )
        )

    command.upgrade(config, "2026_11_24_scopes")

    with empty_database.begin() as connection:
        found = dict(connection.execute(text("SELECT id, scopes FROM api_keys")).all())
    assert found == {
        "a": ["write"],
        "b": ["read", "write"],
        "c": ["operate", "read"],
        "d": ["admin", "operate", "read"],
    }
    command.downgrade(config, "2026_11_24_api")
    with empty_database.begin() as connection:
        told = dict(connection.execute(text("SELECT id, role FROM api_keys")).all())
    assert told == {"a": None, "b": None, "c": "operator", "d": "admin"}


def test_the_migrations_make_exactly_what_the_tables_say_also_beside_partitions(database):
    partitions.ensure_ahead(database, datetime(2026, 1, 30, tzinfo=UTC))

    command.check(schema.alembic_config(database))


def test_there_is_one_head(empty_database):
    script = ScriptDirectory.from_config(schema.alembic_config(empty_database))

    assert len(script.get_heads()) == 1


def test_many_processes_may_migrate_an_empty_database_at_once(empty_database):
    databases = [Database(empty_database.libpq_url) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(schema.upgrade, databases))
    for database in databases:
        database.dispose()

    assert schema.version_state(empty_database) == "current"


def test_a_schema_of_a_newer_version_is_refused_and_left_alone(database):
    with database.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '2999_01_01_from_the_future'"))

    with pytest.raises(SchemaMismatch, match="2999_01_01_from_the_future"):
        schema.upgrade(database)
    with pytest.raises(SchemaMismatch, match="does not know"):
        schema.require_current(database)


def test_an_old_schema_is_refused_by_those_who_may_not_migrate(empty_database):
    with pytest.raises(SchemaMismatch, match="empty") as refused:
        schema.require_current(empty_database)

    assert refused.value.hint is not None
    assert "horae migrate" in refused.value.hint


def test_partitions_made_by_several_at_once_exist_once_and_take_rows(database):
    now = datetime(2026, 3, 30, 12, tzinfo=UTC)
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda _: partitions.ensure_ahead(database, now), range(2)))

    names = [name for one in made for name in one]
    assert len(names) == len(set(names)), "each partition is made by exactly one of them"
    assert {"events_2026_03", "events_2026_04", "decisions_2026_03_29", "decisions_2026_04_06"} <= set(names)
    with database.begin() as connection:
        attached = set(
            connection.execute(
                text("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'deliveries'::regclass")
            ).scalars()
        )
    assert {f"deliveries_2026_04_{day:02d}" for day in range(1, 7)} <= attached


def test_partitions_that_exist_are_not_made_again(database):
    day = date(2026, 5, 1)
    assert partitions.ensure_partitions(database, "decisions", day, day) == ["decisions_2026_05_01"]

    assert partitions.ensure_partitions(database, "decisions", day, day) == []
