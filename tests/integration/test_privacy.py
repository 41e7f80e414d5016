"""What is held about a user is handed out whole, and erased without a rest; what people want is obeyed."""

from __future__ import annotations

import json
import re
import stat
from contextlib import nullcontext
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from typer.testing import CliRunner

from engine import audit
from engine.campaigns import store
from engine.campaigns.audience import AudienceQuery, audience_select
from engine.campaigns.definition import Campaign
from engine.cli import privacy as commands
from engine.cli.app import app
from engine.delivery.check import consents
from engine.delivery.dispatch import dispatch_due
from engine.delivery.facts import User
from engine.errors import UnknownName, UserErased
from engine.ingest.preferences import change_preferences
from engine.ingest.replay import replay
from engine.ingest.run import ingest_devices, ingest_events, ingest_users
from engine.localtime import zone
from engine.planning.explain import explain
from engine.privacy.erase import erase_user
from engine.privacy.export import export_user
from engine.privacy.held import tables_of_users
from engine.runtime import Runtime
from tests.api_server import make_key, serving
from tests.integration.test_triggers import CART, HOUR, MINUTE, NOON, at, define, happen, pushed, tick
from tests.planning_shop import fill_shop, reasons, rows


@pytest.fixture
def shop(runtime: Runtime) -> Runtime:
    return at(fill_shop(runtime), NOON)


def with_history(shop: Runtime) -> Runtime:
    """u1 and u2 put something into their carts, are planned, have devices and preferences."""
    with shop.database.begin() as connection:
        for table in ("user_item_profiles", "user_hour_profiles", "item_profiles"):
            connection.execute(text(f"DELETE FROM {table}"))  # the shop's own rest on no events: a replay would differ
    define(shop, CART, trigger={"event": "add_to_cart"}, topics=["carts"])
    happen(
        shop,
        NOON,
        ("add_to_cart", "u1", "i3", NOON - MINUTE),
        ("add_to_cart", "u2", "i5", NOON - MINUTE),
        ("app_open", "u1", None, NOON - MINUTE),
    )
    tick(shop, NOON)
    with shop.database.begin() as connection:
        for user in ("u1", "u2"):
            change_preferences(connection, user, [("topic", "news", False)], "eve")
            connection.execute(
                text(
                    "INSERT INTO devices (user_id, gateway, token, seen_at)"
                    " SELECT id, 'fcm', 'token-' || external_id, now() FROM users WHERE external_id = :user"
                ),
                {"user": user},
            )
    return shop


def test_the_export_holds_every_row_about_the_user_and_nobody_elses(shop):
    with_history(shop)
    user = rows(shop, "SELECT id FROM users WHERE external_id = 'u1'")[0].id

    found = export_user(shop.database, "u1")

    assert found["user"]["external_id"] == "u1"
    for table, columns in tables_of_users():
        where = " OR ".join(f"{column} = {user}" for column in columns)
        assert len(found["rows"].get(table, [])) == len(rows(shop, f"SELECT 1 FROM {table} WHERE {where}")), table
    assert "token-u1" in (whole := json.dumps(found))
    assert "token-u2" not in whole
    decision = found["rows"]["decisions"][0]
    assert (decision["reason"], decision["receipt"]["regime"]) == ("planned", "baseline")


def test_nothing_is_left_of_an_erased_user_and_the_counts_still_add_up(shop):
    with_history(shop)
    user = rows(shop, "SELECT id FROM users WHERE external_id = 'u1'")[0].id
    before = {table: len(rows(shop, f"SELECT 1 FROM {table}")) for table in ("decisions", "occurrences")}

    done = erase_user(shop, "u1", NOON, "somebody")

    for table, columns in tables_of_users():
        where = " OR ".join(f"{column} = {user}" for column in columns)
        assert rows(shop, f"SELECT 1 FROM {table} WHERE {where}") == [], table
    assert rows(shop, "SELECT 1 FROM users WHERE external_id = 'u1'") == []
    assert done.caps
    assert done.kept == {"decisions": 1, "deliveries": 1}
    assert {table: len(rows(shop, f"SELECT 1 FROM {table}")) for table in before} == before
    ended = rows(shop, "SELECT state, reason, user_id, push_id FROM deliveries")
    assert [(row.state, row.reason, row.user_id < 0) for row in ended] == [("suppressed", "not_eligible", True)]
    assert [user for user, _ in pushed(shop)] == ["u2"]
    assert rows(shop, "SELECT receipt FROM decisions WHERE user_id < 0")[0].receipt is None
    text_of_all = " ".join(
        str(rows(shop, f"SELECT to_jsonb(t) FROM {table} t")) for table in ("audit_log", "erased_users", "events")
    )
    assert not re.search(r"\bu1\b", text_of_all)
    with shop.database.begin() as connection:
        assert audit.read(connection, actor="somebody")[0].action == "user.erase"


def test_after_an_erasure_profiles_and_their_replay_agree_and_items_keep_what_is_known(shop):
    with_history(shop)
    known = rows(shop, "SELECT item_id, event_type, n FROM item_profiles ORDER BY 1, 2")

    erase_user(shop, "u1", NOON)

    assert rows(shop, "SELECT item_id, event_type, n FROM item_profiles ORDER BY 1, 2") == known
    assert replay(shop.database, rebuild=False).differing == 0
    assert rows(shop, "SELECT 1 FROM events WHERE user_id IS NULL AND item_id IS NOT NULL") != []


def test_erasing_again_changes_nothing_and_a_name_that_never_was_is_refused(shop):
    with_history(shop)
    erase_user(shop, "u1", NOON)

    again = erase_user(shop, "u1", NOON)

    assert (again.rows, again.kept) == ({}, {})
    with pytest.raises(UnknownName):
        erase_user(shop, "nobody", NOON)
    assert len(rows(shop, "SELECT 1 FROM erased_users")) == 1


def test_what_can_be_explained_no_more_says_that_the_user_was_erased(shop):
    with_history(shop)
    erase_user(shop, "u1", NOON)

    with pytest.raises(UserErased, match="was erased"):
        explain(shop.database, shop.gateways, "u1")
    with pytest.raises(UserErased, match="was erased"):
        export_user(shop.database, "u1")


def test_late_rows_about_an_erased_user_are_refused_from_every_file_and_counted(shop, tmp_path):
    with_history(shop)
    erase_user(shop, "u1", NOON)
    files = {
        "users": "user_id,country\nu1,DE\nu2,DE\n",
        "devices": "user_id,token,gateway\nu1,t1,fcm\nu2,t2,fcm\n",
        "events": f"user_id,item_id,event_type,occurred_at\nu1,i1,view,{NOON.isoformat()}\n"
        f"u2,i1,view,{NOON.isoformat()}\n",
    }
    for name, content in files.items():
        (tmp_path / f"{name}.csv").write_text(content)

    ingest_users(shop.database, [tmp_path / "users.csv"], NOON)
    ingest_devices(shop.database, [tmp_path / "devices.csv"], NOON, gateways=["fcm"])
    events = ingest_events(shop.database, [tmp_path / "events.csv"], NOON)

    assert rows(shop, "SELECT 1 FROM users WHERE external_id = 'u1'") == []
    assert rows(shop, "SELECT 1 FROM devices WHERE token = 't1'") == []
    assert rows(shop, "SELECT 1 FROM devices WHERE token = 't2'") != []
    assert (events.rows, events.accepted, events.rejected) == (2, 1, {"user_id: erased": 1})


def test_a_push_that_is_being_sent_ends_by_its_own_outcome_under_the_pseudonym(shop):
    with_history(shop)
    with shop.database.begin() as connection:
        connection.execute(text("UPDATE pushes SET state = 'sending'"))

    done = erase_user(shop, "u1", NOON)

    assert done.kept["pushes"] == 1
    assert sorted(row.user_id < 0 for row in rows(shop, "SELECT user_id FROM pushes")) == [False, True]


# --- preferences -----------------------------------------------------------------------------------------------------


def test_user_files_say_preferences_and_what_is_no_object_of_them_is_refused(shop, tmp_path):
    csv, lines = tmp_path / "users.csv", tmp_path / "users.jsonl"
    csv.write_text('user_id,preferences\nu1,"{""topics"": {""deals"": false}}"\nu2,yes\n')
    lines.write_text(
        '{"user_id": "u4", "preferences": {"topics": {"deals": true}, "channels": {"fcm": false}}}\n'
        '{"user_id": "u4", "preferences": {"topics": {"deals": false}}}\n{"user_id": "u5", "preferences": null}\n'
    )

    first = ingest_users(shop.database, [csv], NOON)
    ingest_users(shop.database, [lines], NOON)

    assert first.rejected == {"preferences: not an object of channels and topics": 1}
    query = "SELECT external_id, kind, name, allowed FROM preferences JOIN users ON users.id = user_id ORDER BY 1, 2, 3"
    assert [tuple(row) for row in rows(shop, query)] == [
        ("u1", "topic", "deals", False),
        ("u4", "channel", "fcm", False),
        ("u4", "topic", "deals", False),
    ]


def test_a_topic_turned_off_stops_its_campaigns_in_planning_and_no_others(shop):
    define(shop, CART, trigger={"event": "add_to_cart"}, topics=["carts"])
    define(shop, CART, name="other", trigger={"event": "add_to_cart"}, topics=["news"])
    with shop.database.begin() as connection:
        change_preferences(connection, "u1", [("topic", "carts", False)])
    happen(shop, NOON, ("add_to_cart", "u1", "i3", NOON - MINUTE))

    tick(shop, NOON)

    assert reasons(shop)["no_consent"] == 1
    campaigns = rows(shop, "SELECT c.name FROM pushes p JOIN campaigns c ON c.id = p.campaign_id")
    assert [row.name for row in campaigns] == ["other"]


def test_a_topic_or_everything_unsubscribed_after_the_plan_is_obeyed_at_dispatch(shop):
    with_history(shop)
    with shop.database.begin() as connection:
        change_preferences(connection, "u1", [("topic", "carts", False)])
    happen(shop, NOON, ("unsubscribe", "u2", None, NOON - MINUTE))
    with shop.database.begin() as connection:
        connection.execute(
            text("UPDATE pushes SET send_at = :at, window_end = :end, not_after = :end"),
            {"at": NOON, "end": NOON + HOUR},
        )
        consent = connection.execute(text("SELECT consent FROM users WHERE external_id = 'u2'")).scalar_one()

    dispatch_due(shop, NOON + MINUTE)

    assert consent is False
    assert {(row.state, row.reason) for row in rows(shop, "SELECT state, reason FROM deliveries")} == {
        ("suppressed", "no_consent")
    }


PREFERENCES = ["channel:fcm", "channel:push", "channel:log", "topic:a", "topic:b"]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    consent=st.sampled_from([None, True, False]),
    said=st.dictionaries(
        st.sampled_from(["channel:fcm", "channel:push", "channel:log", "topic:a", "topic:b"]), st.booleans()
    ),
    gateway=st.sampled_from(["fcm", "push", "log"]),
    topics=st.sets(st.sampled_from(["a", "b"])).map(sorted),
)
def test_the_audience_and_dispatch_agree_on_consent(module_shop, consent, said, gateway, topics):
    with module_shop.begin() as connection:
        connection.execute(text("UPDATE users SET consent = :consent"), {"consent": consent})
        connection.execute(text("DELETE FROM preferences"))
        change_preferences(connection, "u", [(*name.split(":"), on) for name, on in said.items()])
        query = AudienceQuery(None, NOON, gateway, False, "UTC", topics=tuple(topics))
        refusal = connection.execute(audience_select(query)).one().refusal
    user = User("u", zone("UTC"), None, None, None, {}, consent, False, None, said)

    assert consents(user, gateway, topics) == (refusal is None)


@pytest.fixture(scope="module")
def module_shop(shared_database):
    with shared_database.begin() as connection:
        connection.execute(text("INSERT INTO users (external_id, slot) VALUES ('u', 1)"))
    return shared_database


# --- commands --------------------------------------------------------------------------------------------------------


def test_the_commands_export_to_a_file_of_the_owner_alone_erase_and_say_who_did_it(shop, tmp_path, monkeypatch):
    with_history(shop)
    monkeypatch.setattr(commands, "opened", lambda: nullcontext(shop))
    monkeypatch.setattr(commands, "AUTHOR", "ada")
    run = CliRunner()

    assert run.invoke(app, ["users", "export", "u1", "--out", str(tmp_path / "u1.json")]).exit_code == 0
    changed = run.invoke(app, ["users", "preferences", "u1", "--topic", "deals=off", "--json"])
    erased = run.invoke(app, ["users", "erase", "u1", "--json"])
    log = run.invoke(app, ["audit", "--actor", "ada", "--json"])

    assert stat.S_IMODE((tmp_path / "u1.json").stat().st_mode) == 0o600
    assert {"kind": "topic", "name": "deals", "allowed": False} in json.loads(changed.stdout)
    assert json.loads(erased.stdout)["erased"]["users"] == 1
    assert [one["action"] for one in json.loads(log.stdout)] == ["user.erase", "user.preferences", "user.export"]


def test_the_api_hands_out_and_erases_as_the_commands_do_and_only_for_admins(shop):
    with_history(shop)
    with shop.database.begin() as connection:
        connection.execute(text("UPDATE users SET external_id = 'a/b ü' WHERE external_id = 'u1'"))
    admin = make_key(shop.database, "admin")
    others = [make_key(shop.database, scope) for scope in ("read", "write", "operate")]
    path = f"/v1/users/{quote('a/b ü', safe='')}"
    with serving(shop) as api:
        for key in [None, *others]:
            for asked in (api.ask(f"{path}/export", key=key), api.ask(path, key=key, method="DELETE")):
                assert asked.status == (401 if key is None else 403)
        handed = api.ask(f"{path}/export", key=admin)
        erased = api.ask(path, key=admin, method="DELETE")
        again = api.ask(path, key=admin, method="DELETE")
        gone = api.ask(f"{path}/export", key=admin)
        nobody = api.ask("/v1/users/nobody", key=admin, method="DELETE")

    assert (handed.status, handed.json["user"]["external_id"]) == (200, "a/b ü")
    assert len(handed.json["rows"]["devices"]) == 1
    assert (erased.json["erased"]["users"], erased.json["caps"]) == (1, True)
    assert (again.status, again.json["erased"]) == (200, {})
    assert (gone.status, nobody.status) == (410, 404)
    actor = f"key:{admin.split('_')[1]}"
    with shop.database.begin() as connection:
        assert [one.action for one in audit.read(connection, actor=actor)] == ["user.erase", "user.export"]


def test_drafts_wait_for_their_launch_and_every_move_is_in_the_audit_log(shop):
    definition: dict[str, Any] = {**CART, "name": "later", "trigger": {"event": "add_to_cart"}}
    with shop.database.begin() as connection:
        made = store.create(connection, Campaign.model_validate(definition), NOON, "ada", draft=True)
    happen(shop, NOON, ("add_to_cart", "u1", "i3", NOON - MINUTE))
    assert "armed" not in tick(shop, NOON)

    with shop.database.begin() as connection:
        store.launch(connection, "later", NOON, "ada")
        edited = Campaign.model_validate({**definition, "horizon": "12h"})
        store.create(connection, edited, NOON, "bob")
        store.set_state(connection, "later", "paused", "bob")
        log = audit.read(connection, subject="campaign:later")

    assert made.stored.state == "draft"
    assert [(one.actor, one.action) for one in reversed(log)] == [
        ("ada", "campaign.create"),
        ("ada", "campaign.launch"),
        ("bob", "campaign.edit"),
        ("bob", "campaign.pause"),
    ]
    assert (log[1].before, log[1].after) == ({"version": 1, "horizon": "PT24H"}, {"version": 2, "horizon": "PT12H"})
