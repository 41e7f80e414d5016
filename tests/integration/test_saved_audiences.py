"""Saved audiences in the store: versions, use, counting, export; and runs that keep the versions they used."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pyarrow.parquet as pq
import pytest
from sqlalchemy import Connection, text
from typer.testing import CliRunner

from engine import audit
from engine.campaigns import audience_store, store
from engine.campaigns.audience_export import export
from engine.campaigns.review import define
from engine.campaigns.saved_audience import SavedAudience
from engine.cli.app import app
from engine.errors import BadInput, UnknownName
from engine.planning.explain import explain
from engine.planning.preview import preview
from engine.planning.runspec import read_run
from engine.planning.trigger import Request, spec_of, trigger
from engine.planning.userlist import read_user_list
from engine.store.partitions import ensure_ahead
from tests.planning_shop import NOW, Workers, daily, fill_shop


@pytest.fixture
def undone(shared_database) -> Iterator[Connection]:
    """A transaction of this test's own, rolled back after it."""
    with shared_database.engine.connect() as connection:
        yield connection


def audience(name: str, rules: Any, description: str = "") -> SavedAudience:
    return SavedAudience.model_validate({"name": name, "rules": rules, "description": description})


IN_BERLIN = {"field": "timezone", "equals": "Europe/Berlin"}
IN_TOKYO = {"field": "timezone", "equals": "Asia/Tokyo"}
HERE = {"any": [IN_BERLIN, IN_TOKYO]}


def test_edits_are_versions_and_audited_and_an_equal_one_changes_nothing(undone):
    first = audience_store.create(undone, audience("east", IN_TOKYO), "anna")
    assert audience_store.edit(undone, audience("east", IN_TOKYO), "ben").version == first.version == 1
    assert audience_store.edit(undone, audience("east", HERE), "ben").version == 2
    with pytest.raises(BadInput, match="already"):
        audience_store.create(undone, audience("east", HERE))
    assert [(number, by) for number, _, by in audience_store.versions(undone, "east")] == [(1, "anna"), (2, "ben")]
    assert audience_store.get_version(undone, "east", 1) == audience("east", IN_TOKYO)
    actions = [(entry.action, entry.actor) for entry in audit.read(undone, subject="audience:east")]
    assert actions == [("audience.edit", "ben"), ("audience.create", "anna")]


def test_a_circle_made_by_an_edit_is_refused_and_nothing_changes(undone):
    audience_store.create(undone, audience("inner", IN_TOKYO))
    audience_store.create(undone, audience("outer", {"audience": "inner"}))
    with pytest.raises(BadInput, match="audience outer may not use audience inner"):
        audience_store.edit(undone, audience("inner", {"not": {"audience": "outer"}}))
    assert audience_store.get(undone, "inner").version == 1


def test_an_edit_that_makes_a_user_of_the_audience_too_large_is_refused_with_its_name(undone):
    audience_store.create(undone, audience("part", IN_TOKYO))
    audience_store.create(undone, audience("whole", {"any": [{"audience": "part"}] * 100}))
    with pytest.raises(BadInput, match="audience whole comes to 1,101 conditions"):
        audience_store.edit(undone, audience("part", {"any": [IN_TOKYO] * 10}))


def test_what_is_used_cannot_be_deleted_and_what_was_deleted_keeps_its_versions(undone):
    audience_store.create(undone, audience("east", IN_TOKYO))
    audience_store.create(undone, audience("not-east", {"not": {"audience": "east"}}))
    define(undone, daily(name="morning", audience={"all": [{"audience": "east"}]}), NOW, {"log"})
    with pytest.raises(BadInput, match="used by campaign morning, audience not-east"):
        audience_store.remove(undone, "east")
    audience_store.remove(undone, "not-east")
    store.set_state(undone, "morning", "cancelled")
    audience_store.remove(undone, "east", "anna")
    with pytest.raises(UnknownName):
        audience_store.get(undone, "east")
    assert audience_store.get_version(undone, "east", 1) == audience("east", IN_TOKYO)
    assert audience_store.create(undone, audience("east", HERE)).version == 2


def test_a_campaign_that_names_an_unknown_audience_is_refused(undone):
    with pytest.raises(BadInput, match="campaign morning uses the audience 'nobody', which does not exist"):
        define(undone, daily(name="morning", audience={"audience": "nobody"}), NOW, {"log"})


@pytest.fixture
def shop(runtime):
    runtime = fill_shop(runtime)
    ensure_ahead(runtime.database, NOW)
    return runtime


def ids_of(connection: Connection, zone: str) -> set[str]:
    rows = connection.execute(text("SELECT external_id FROM users WHERE NOT stub AND timezone = :z"), {"z": zone})
    return set(rows.scalars())


def test_counts_samples_and_exports_agree_with_the_rules(shop, tmp_path):
    with shop.database.begin() as connection:
        connection.execute(text("UPDATE users SET external_id = '=cmd', attributes = :x WHERE external_id = 'u1'"), {
            "x": '{"x": "@SUM(1)"}'
        })  # fmt: skip
        audience_store.create(connection, audience("berlin", IN_BERLIN))
        rules = audience_store.create(connection, audience("far", {"not": {"audience": "berlin"}})).definition.rules
        counted = audience_store.count(connection, rules, NOW, "log", needs_device=False)
        to_phones = audience_store.count(connection, rules, NOW, "push", needs_device=True)
        berlin, every = (
            ids_of(connection, "Europe/Berlin"),
            connection.execute(
                text("SELECT count(*) FROM users WHERE timezone IS DISTINCT FROM 'Europe/Berlin'")
            ).scalar_one(),
        )
        some = audience_store.sample(connection, rules, 20, NOW)
        assert some == audience_store.sample(connection, rules, 20, NOW)
    assert counted.users == to_phones.users == every
    assert counted.reachable + sum(counted.reasons.values()) == counted.users
    assert counted.reachable > 0
    assert to_phones.reachable == 0
    assert to_phones.reasons["no_device"] > 0
    assert len({person.user_id for person in some} - berlin) == 20
    told: list[tuple[int, int, int]] = []
    rows = export(
        shop.database, rules, tmp_path / "far.csv", NOW, ("timezone", "attributes.x"), lambda *a: told.append(a)
    )
    with (tmp_path / "far.csv").open() as file:
        written = list(csv.DictReader(file))
    assert list(written[0]) == ["user_id", "timezone", "attributes.x"]
    assert {row["user_id"] for row in written}.isdisjoint(berlin)
    assert rows == len(written) == counted.users - counted.reasons["not_eligible"]
    assert told[-1] == (rows, 16, 16)
    assert {row["user_id"]: row["attributes.x"] for row in written}["'=cmd"] == "'@SUM(1)", "no spreadsheet runs it"
    assert export(shop.database, rules, tmp_path / "far.parquet", NOW) == rows
    exact = pq.read_table(tmp_path / "far.parquet")
    assert exact.column_names == ["user_id"]
    assert "=cmd" in exact["user_id"].to_pylist()
    assert list(read_user_list(tmp_path / "far.csv")) == exact["user_id"].to_pylist(), "the same people, read back"
    with pytest.raises(BadInput, match="no field 'contry'"):
        export(shop.database, rules, tmp_path / "no.csv", NOW, ("contry",))
    assert {path.name for path in tmp_path.glob("*.*")} >= {"far.csv", "far.parquet"}
    assert not list(tmp_path.glob("*no.csv*"))


def test_a_run_keeps_the_versions_it_used_so_that_explaining_agrees_after_an_edit_and_a_deletion(shop):
    with shop.database.begin() as connection:
        audience_store.create(connection, audience("berlin", IN_BERLIN))
        audience_store.create(connection, audience("home", {"audience": "berlin"}))
        define(connection, daily(schedule=None, audience={"audience": "home"}), NOW, {"log"})
    foreseen = preview(shop.database, shop.gateways, spec_of(shop.database, NOW, "daily", Request()))
    made = trigger(shop.database, NOW, "daily", Request())
    workers = Workers(shop)
    run_id = workers.tick(NOW)
    with shop.database.begin() as connection:
        pins = connection.execute(text("SELECT audiences FROM occurrences")).scalar_one()
        asked = connection.execute(
            text("SELECT u.external_id, d.push_id FROM decisions d JOIN users u ON u.id = d.user_id ORDER BY 1")
        ).all()
        berlin = ids_of(connection, "Europe/Berlin")
        used = read_run(connection, run_id)
        audience_store.edit(connection, audience("berlin", IN_TOKYO))
        store.set_state(connection, "daily", "cancelled")
        audience_store.remove(connection, "home")
        assert read_run(connection, run_id) == used
    assert pins == {"berlin": 1, "home": 1}
    assert foreseen.asked == made.asked == len(asked)
    assert berlin == {row.external_id for row in asked if row.external_id in berlin}
    assert foreseen.planned == sum(row.push_id is not None for row in asked)
    someone = next(row.external_id for row in asked if row.push_id is not None)
    assert explain(shop.database, shop.gateways, someone, "daily")[0].verdict == "agrees"


def test_the_next_run_uses_the_audience_as_it_is_then(shop):
    workers = Workers(shop)
    with shop.database.begin() as connection:
        audience_store.create(connection, audience("home", IN_BERLIN))
        define(connection, daily(schedule=None, audience={"audience": "home"}), NOW, {"log"})
    first = trigger(shop.database, NOW, "daily", Request())
    workers.tick(NOW)
    with shop.database.begin() as connection:
        audience_store.edit(connection, audience("home", {"field": "user_id", "in": ["u1", "u2", "u3"]}))
    second = trigger(shop.database, NOW + timedelta(minutes=1), "daily", Request())
    workers.tick(NOW + timedelta(minutes=1))
    with shop.database.begin() as connection:
        pins = connection.execute(text("SELECT audiences FROM occurrences ORDER BY id")).scalars().all()
    assert pins == [{"home": 1}, {"home": 2}]
    assert (first.asked > 50, second.asked) == (True, 3)


def test_commands_say_what_they_did_and_name_the_line_of_a_fault(shop, tmp_path):
    environment = {
        "HORAE_DATABASE_URL": shop.database.libpq_url,
        "HORAE_REDIS_URL": shop.settings.redis_url or "",
        "HORAE_HOME": str(tmp_path / "home"),
        "COLUMNS": "200",
    }
    (tmp_path / "home").mkdir(exist_ok=True)

    def horae(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["audiences", *arguments], env=environment)
        if result.exception is not None:
            raise result.exception
        return result.stdout

    file = tmp_path / "berlin.yaml"
    file.write_text("name: berlin\nrules:\n  all:\n    - {feild: timezone, equals: Europe/Berlin}\n")
    with pytest.raises(BadInput, match=r"line 4: rules.all\[0\] must be a condition.*did you mean field"):
        horae("create", str(file))
    file.write_text("name: berlin\nrules: {field: timezone, equals: Europe/Berlin}\n")
    assert "saved: version 1" in horae("create", str(file))
    assert "unchanged: version 1" in horae("edit", str(file))
    assert "berlin" in horae("list")
    assert "Europe/Berlin" in horae("show", "berlin")
    assert "100 users" in horae("count", "berlin")
    assert "users written to" in horae("export", "berlin", str(tmp_path / "b.csv"))
    assert "deleted" in horae("delete", "berlin", "--yes")
    assert "There are no audiences yet" in horae("list")
