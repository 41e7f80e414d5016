"""Campaigns, sends, stops and rules over HTTP: the same as at the command line, by keys that may."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute
from sqlalchemy import text

from engine import audit
from engine.access.roles import ROLES
from engine.config import Settings
from engine.planning.trigger import forget
from engine.runtime import Runtime
from engine.store.database import Database
from engine.web.app import create_app
from engine.web.desk import Needs
from tests.api_server import Api, Reply, make_key, module_runtime, serving
from tests.planning_shop import USERS, Workers, daily, fill_shop, rows


@pytest.fixture(scope="module")
def api(shared_database, servers, tmp_path_factory):
    redis_url = servers.redis_url.rsplit("/", 1)[0] + "/9"
    runtime = fill_shop(module_runtime(shared_database, redis_url, tmp_path_factory.mktemp("api")))
    with serving(runtime) as running:
        yield running


@pytest.fixture(scope="module")
def keys(api: Api) -> dict[str, str]:
    """A key of each role, and one for events."""
    scopes = {**{role: sorted(held) for role, held in ROLES.items()}, "writer": ["write"]}
    return {name: make_key(api.runtime.database, *held) for name, held in scopes.items()}


def defined(name: str, **changes: Any) -> dict[str, Any]:
    """A definition as JSON: of a campaign for sends by hand."""
    return daily(name=name, schedule=None, **changes).model_dump(mode="json", exclude_none=True, exclude_defaults=True)


def put(api: Api, key: str, name: str, **changes: Any) -> Reply:
    return api.ask(f"/v1/campaigns/{name}", defined(name, **changes), key, method="PUT")


# --- who may what ----------------------------------------------------------------------------------------------------


def routes() -> list[tuple[str, str, str | None]]:
    """(method, path, scope that it needs) of every route of the API."""
    nowhere = "postgresql://nobody@127.0.0.1:1/nowhere"
    settings = Settings(home=Path("/nonexistent"), database_url=nowhere, redis_url="redis://127.0.0.1:1/0")
    app = create_app(Runtime(settings, Database(nowhere), *("redis://127.0.0.1:1/0",) * 3))
    found = []
    for route in _walked(app.routes):
        if route.path == "/" or route.path.startswith("/console"):
            continue  # people's: test_console_roles
        needs = [each.call.scope for each in route.dependant.dependencies if isinstance(each.call, Needs)]
        found += [(method, route.path, needs[0] if needs else None) for method in sorted(route.methods or ())]
    return found


def _walked(routes: Iterable[Any]) -> Iterator[APIRoute]:
    for route in routes:
        if isinstance(route, APIRoute):
            yield route
        yield from _walked(getattr(getattr(route, "original_router", None), "routes", ()))


OPEN = {("GET", "/healthz"), ("POST", "/v1/callbacks/{push}"), ("OPTIONS", "/v1/callbacks/{push}")}
"""Routes that need no key: health, and what a push' own token proves."""

ONLY_READING = {("POST", "/v1/campaigns/{name}/preview"), ("POST", "/v1/campaigns/check")}
"""Routes that are asked by POST and change nothing."""


def test_every_route_but_those_that_are_open_names_the_scope_it_needs() -> None:
    assert {(method, path) for method, path, scope in routes() if scope is None} == OPEN
    assert {scope for _, _, scope in routes()} == {None, "write", "read", "operate", "admin"}


MUTATING = [
    route for route in routes() if route[0] not in {"GET", "HEAD", "OPTIONS"} and route[:2] not in OPEN | ONLY_READING
]


@pytest.mark.parametrize(("method", "path", "scope"), MUTATING, ids=[f"{m} {p}" for m, p, _ in MUTATING])
def test_a_viewer_may_change_nothing_and_an_operator_what_is_theirs(
    api: Api, keys: dict[str, str], method: str, path: str, scope: str
) -> None:
    address = path.replace("{", "").replace("}", "")

    by_viewer = api.ask(address, [], keys["viewer"], method=method)
    by_operator = api.ask(address, [], keys["operator"], method=method)

    assert (by_viewer.status, by_viewer.json["hint"].split()[-1]) == (403, {"operate": "operator"}.get(scope, "admin"))
    assert (by_operator.status == 403) is (scope != "operate"), by_operator.body
    assert api.ask(address, [], method=method).status == 401


def test_what_only_reads_is_open_to_a_viewer_and_closed_to_a_key_for_events(api: Api, keys: dict[str, str]) -> None:
    for method, path, scope in routes():
        if scope == "read":
            address = path.replace("{user:path}", "nobody").replace("{run}", "999").replace("{", "").replace("}", "")
            assert api.ask(address, {}, keys["writer"], method=method).status == 403, path
            if path != "/metrics":
                assert api.ask(address, None, keys["viewer"], method=method).status not in {401, 403, 405, 500}, path


# --- definitions -----------------------------------------------------------------------------------------------------


def test_a_campaign_is_created_changed_and_its_versions_are_kept(api: Api, keys: dict[str, str]) -> None:
    key = keys["operator"]
    made = api.ask("/v1/campaigns", defined("spring"), key)
    again = api.ask("/v1/campaigns", defined("spring"), key)
    other = api.ask("/v1/campaigns", defined("spring", priority=2), key)
    edited = put(api, key, "spring", priority=2)

    assert (made.status, made.json["outcome"], made.headers["Location"]) == (201, "created", "/v1/campaigns/spring")
    assert (again.status, again.json["outcome"]) == (200, "unchanged")
    assert (other.status, "PUT" in other.json["hint"]) == (409, True)
    assert (edited.status, edited.json["version"], edited.headers["ETag"]) == (200, 2, '"2"')
    shown = api.ask("/v1/campaigns/spring", key=keys["viewer"])
    assert (shown.json["definition"]["priority"], shown.headers["ETag"]) == (2, '"2"')
    assert sum(shown.json["audience"].values()) == USERS
    assert api.ask("/v1/campaigns/spring?version=1", key=key).json["definition"]["priority"] == 1
    actor = f"key:{key.split('_')[1]}"
    assert [(v["version"], v["author"]) for v in api.ask("/v1/campaigns/spring/versions", key=key).json] == [
        (1, actor),
        (2, actor),
    ]
    logged = api.ask("/v1/audit?subject=campaign:spring", key=keys["viewer"]).json
    assert [(entry["action"], entry["actor"]) for entry in logged] == [
        ("campaign.edit", actor),
        ("campaign.create", actor),
    ]
    assert [one["name"] for one in api.ask("/v1/campaigns", key=key).json if one["name"] == "spring"] == ["spring"]


def test_a_change_of_another_version_than_was_read_is_refused(api: Api, keys: dict[str, str]) -> None:
    put(api, keys["operator"], "matched")
    body = defined("matched", priority=3)

    def change(version: str) -> Reply:
        return api.ask("/v1/campaigns/matched", body, keys["operator"], {"If-Match": version}, method="PUT")

    assert change('"7"').status == 412
    assert change('"1"').json["version"] == 2
    assert change('"1"').status == 412


def test_every_fault_of_a_definition_is_told_with_its_place(api: Api, keys: dict[str, str]) -> None:
    wrong = {**defined("wrong"), "horizon": "soon", "prioritty": 2, "items": {"kind": "fixed", "ids": [1]}}
    wrong["audience"] = {"all": [{"field": "country", "equals": "DE"}, {"feeld": "x", "equals": 1}]}

    refused = api.ask("/v1/campaigns", wrong, keys["operator"])

    assert (refused.status, refused.headers["Content-Type"]) == (422, "application/problem+json")
    told = {each["pointer"]: each["detail"] for each in refused.json["errors"]}
    assert {"#/horizon", "#/prioritty", "#/items/ids/0"} < set(told)
    assert "priority" in told["#/prioritty"]
    assert any(pointer.startswith("#/audience/all/1") for pointer in told)


def test_what_contradicts_the_workspace_is_told_the_same_way_and_nothing_is_stored(
    api: Api, keys: dict[str, str]
) -> None:
    body = defined("unfit", hours="23:00-05:00", gateway="fcm")

    refused = api.ask("/v1/campaigns/check", body, keys["viewer"])

    assert refused.status == 422
    assert {each["pointer"] for each in refused.json["errors"]} == {"#/hours", "#/gateway"}
    assert api.ask("/v1/campaigns", body, keys["operator"]).status == 422
    missing = api.ask("/v1/campaigns/unfit", key=keys["viewer"])
    assert (missing.status, missing.headers["Content-Type"]) == (404, "application/problem+json")


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b'{"name": "a\\u0000b"}', b"[" * 40 + b"]" * 40, b'{"name": ' + b'{"a":' * 40 + b"1" + b"}" * 41],
    ids=["cut", "list", "nul", "deep list", "deep"],
)
def test_bodies_that_are_no_definition_are_refused(api: Api, keys: dict[str, str], body: bytes) -> None:
    assert api.ask("/v1/campaigns", body, keys["operator"]).status == 400


def test_a_name_that_is_not_the_addresss_is_refused(api: Api, keys: dict[str, str]) -> None:
    assert api.ask("/v1/campaigns/one", defined("other"), keys["operator"], method="PUT").status == 400
    assert api.ask("/v1/campaigns/%00", key=keys["viewer"]).status == 404


def test_a_campaign_moves_through_its_life(api: Api, keys: dict[str, str]) -> None:
    key = keys["operator"]
    api.ask("/v1/campaigns?draft=true", defined("life"), key)

    def move(action: str) -> tuple[int, str | None]:
        reply = api.ask(f"/v1/campaigns/life/{action}", {}, key)
        return reply.status, reply.json.get("state")

    assert move("resume") == (409, None)
    assert move("launch") == (200, "running")
    assert move("pause") == (200, "paused")
    assert move("resume") == (200, "running")
    assert move("cancel") == (200, "cancelled")
    assert move("resume") == (409, None)
    assert put(api, key, "life", priority=2).status == 409


# --- sends -----------------------------------------------------------------------------------------------------------


def test_a_trigger_repeated_under_its_key_sends_nothing_more(api: Api, keys: dict[str, str]) -> None:
    key, database = keys["operator"], api.runtime.database
    put(api, key, "by-hand")
    asked = {"users": ["u2", "u6", "nobody"]}

    def trigger(body: Any, idempotency: str = "k1") -> Reply:
        return api.ask("/v1/campaigns/by-hand/trigger", body, key, {"Idempotency-Key": idempotency})

    first, again = trigger(asked), trigger(asked)
    other = trigger({"users": ["u3"]})

    assert (first.status, first.json["unknown_ids"], first.json["repeated"]) == (202, ["nobody"], False)
    assert (again.status, again.headers["Idempotent-Replayed"]) == (202, "true")
    assert again.json == {**first.json, "repeated": True}
    assert (other.status, "another request" in other.json["title"]) == (409, True)
    made = "SELECT count(*) FROM occurrences o JOIN campaigns c ON c.id = o.campaign_id WHERE c.name = 'by-hand'"
    assert rows(api.runtime, made) == [(1,)]
    Workers(api.runtime).recover()
    planned = api.ask(f"/v1/runs/{first.json['run']}", key=keys["viewer"]).json
    assert (planned["state"], sum(planned["reasons"].values())) == ("published", 2)
    assert api.ask("/v1/runs?limit=1", key=key).json[0]["campaigns"] == ["by-hand"]
    with database.begin() as connection:
        logged = audit.read(connection, subject="campaign:by-hand")
    assert [entry.action for entry in logged] == ["campaign.trigger", "campaign.create"]
    assert api.ask("/v1/runs/999999", key=key).status == 404


@pytest.mark.parametrize(("age", "remembered"), [(29, True), (31, False)])
def test_an_idempotency_key_is_remembered_for_thirty_days(
    api: Api, keys: dict[str, str], age: int, remembered: bool
) -> None:
    name, key = f"monthly-{age}", keys["operator"]
    put(api, key, name)

    def trigger() -> bool:
        asked = {"Idempotency-Key": name}
        return bool(api.ask(f"/v1/campaigns/{name}/trigger", {"users": ["u2"]}, key, asked).json["repeated"])

    assert not trigger()
    with api.runtime.database.begin() as connection:
        old = "UPDATE triggers SET created_at = created_at - make_interval(days => :age) WHERE idempotency_key = :key"
        connection.execute(text(old), {"age": age, "key": name})
        assert forget(connection) == (0 if remembered else 1)

    assert trigger() is remembered


def test_an_edit_while_a_run_is_under_way_leaves_it_its_version(api: Api, keys: dict[str, str]) -> None:
    key = keys["operator"]
    put(api, key, "edited", message={"title": "first", "body": "b"})
    triggered = api.ask("/v1/campaigns/edited/trigger", {"users": ["u2", "u6"]}, key).json
    edited = put(api, key, "edited", message={"title": "second", "body": "b"}, items="none")
    Workers(api.runtime).recover()

    assert edited.json["version"] == 2
    [(version,)] = rows(api.runtime, f"SELECT version FROM occurrences WHERE id = {int(triggered['occurrence_id'])}")
    assert version == 1
    about = rows(
        api.runtime,
        f"SELECT DISTINCT item_id IS NULL FROM pushes WHERE occurrence_id = {int(triggered['occurrence_id'])}",
    )
    assert about == [(False,)], "planned by version 1, whose pushes are about items"


def test_a_preview_says_what_a_trigger_then_plans_and_writes_nothing(api: Api, keys: dict[str, str]) -> None:
    key = keys["viewer"]
    put(api, keys["operator"], "shown")
    before = rows(api.runtime, "SELECT (SELECT count(*) FROM decisions), (SELECT count(*) FROM occurrences)")

    found = api.ask("/v1/campaigns/shown/preview", {"sample": None}, key)
    some = api.ask("/v1/campaigns/shown/preview", {"sample": 50}, key)

    assert (found.status, found.json["asked"], sum(found.json["reasons"].values())) == (200, USERS, USERS)
    assert found.json["planned"] > 0
    assert found.json["sample"] is None
    assert 50 <= some.json["sample"][0] < USERS
    assert some.json["sample"][1] == USERS
    after = rows(api.runtime, "SELECT (SELECT count(*) FROM decisions), (SELECT count(*) FROM occurrences)")
    assert before == after


def test_a_definition_is_previewed_before_it_is_stored_and_so_is_a_draft(api: Api, keys: dict[str, str]) -> None:
    body = {"definition": defined("unsaved", audience={"field": "timezone", "equals": "Asia/Tokyo"})}
    api.ask("/v1/campaigns?draft=true", defined("drafted"), keys["operator"])

    unsaved = api.ask("/v1/campaigns/unsaved/preview", body, keys["viewer"])
    draft = api.ask("/v1/campaigns/drafted/preview", {}, keys["viewer"])
    wrong = api.ask(
        "/v1/campaigns/unsaved/preview", {"definition": {**body["definition"], "horizon": 1}}, keys["viewer"]
    )

    assert (unsaved.status, unsaved.json["asked"]) == (200, USERS // 4)
    assert api.ask("/v1/campaigns/unsaved", key=keys["viewer"]).status == 404
    assert (draft.status, draft.json["asked"]) == (200, USERS)
    assert (wrong.status, wrong.json["errors"][0]["pointer"]) == (422, "#/horizon")


def test_a_test_push_is_sent_to_one_user(api: Api, keys: dict[str, str]) -> None:
    put(api, keys["operator"], "tried")

    sent = api.ask("/v1/campaigns/tried/test", {"user": "u1"}, keys["operator"])
    unknown = api.ask("/v1/campaigns/tried/test", {"user": "nobody"}, keys["operator"])

    assert (sent.status, sent.json["state"], sent.json["user_id"]) == (200, "accepted", "u1")
    assert unknown.status == 404
    with api.runtime.settings.journal_path.open() as journal:
        assert json.loads(journal.readlines()[-1])["test"] is True
    noted = [one for one in api.ask("/v1/audit?subject=campaign:tried", key=keys["viewer"]).json if one["after"]]
    assert (noted[0]["action"], noted[0]["actor"]) == ("campaign.test", f"key:{keys['operator'].split('_')[1]}")
    assert (noted[0]["after"]["push"], noted[0]["after"]["state"]) == (sent.json["push_id"], "accepted")
    assert noted[0]["after"]["user"] != "user:u1", "the log forgets nothing, so it names nobody"


def test_sending_is_stopped_and_let_go_on(api: Api, keys: dict[str, str]) -> None:
    key = keys["operator"]
    put(api, key, "stoppable")

    stopped = api.ask("/v1/stop", {"campaign": "stoppable", "why": "wrong price"}, key)
    listed = api.ask("/v1/stops", key=keys["viewer"]).json
    started = api.ask("/v1/start", {"campaign": "stoppable"}, key)

    assert stopped.json["may_still_leave"] == 0
    assert [(one["why"], one["author"]) for one in listed] == [("wrong price", f"key:{key.split('_')[1]}")]
    assert (started.json["was_stopped"], started.json["still_stopped"]) == (True, [])
    assert api.ask("/v1/stop", {}, key).status == 400
    assert api.ask("/v1/stop", {"all": True, "gateway": "log"}, key).status == 400
    assert api.ask("/v1/stop", {"gateway": "smoke signals"}, key).status == 404


# --- the workspace ---------------------------------------------------------------------------------------------------


def test_the_policy_is_read_by_all_and_changed_by_admins(api: Api, keys: dict[str, str]) -> None:
    key = keys["admin"]

    added = api.ask("/v1/policy/caps", {"limit": 3, "per": "week", "scope": "tag:sale"}, key)
    same = api.ask("/v1/policy/caps", {"limit": 2, "per": "week", "scope": "tag:sale"}, key)
    wrong = api.ask("/v1/policy/caps", {"limit": -1, "per": "fortnight"}, key)
    changed = api.ask("/v1/policy", {"min_gap": "4h", "quiet_hours": None}, key, method="PATCH")
    unknown = api.ask("/v1/policy", {"min_gape": "4h"}, key, method="PATCH")

    assert (added.status, added.json["cap"]["in_words"]) == (201, "3 pushes tagged sale per local week") or added.json
    assert added.json["warnings"]
    assert (same.status, wrong.status) == (409, 422)
    assert (changed.json["min_gap"], changed.json["quiet_hours"]) == ("PT4H", None)
    assert (unknown.status, unknown.json["errors"][0]["pointer"]) == (422, "#/min_gape")
    shown = api.ask("/v1/policy", key=keys["viewer"]).json
    assert [cap["id"] for cap in shown["caps"]] == [added.json["cap"]["id"]]
    removed = api.ask(f"/v1/policy/caps/{added.json['cap']['id']}", key=key, method="DELETE")
    assert removed.status == 200
    assert api.ask("/v1/policy/caps/cap-99", key=key, method="DELETE").status == 404
    limited = api.ask("/v1/policy/gateways/log", {"per_minute": 600}, key, method="PATCH")
    assert limited.json["gateway"]["per_minute"] == 600
    assert api.ask("/v1/policy/gateways/log", {"per_minute": None}, key, method="PATCH").json["gateway"] is None
    restored = api.ask("/v1/policy", {"min_gap": None, "quiet_hours": "22:00-08:00"}, key, method="PATCH")
    assert restored.status == 200


def test_status_deliveries_and_a_report_are_read(api: Api, keys: dict[str, str]) -> None:
    key = keys["viewer"]
    put(api, keys["operator"], "reported")

    status = api.ask("/v1/status", key=key).json
    report = api.ask("/v1/campaigns/reported/report", key=key)

    assert (status["postgres"]["running"], status["schema"]) == (True, "current")
    assert (report.status, report.json["campaign"], report.json["funnel"]["audience"]) == (200, "reported", 0)
    assert api.ask("/v1/campaigns/reported/report?from=0001-01-01", key=key).status == 400
    assert api.ask("/v1/campaigns/reported/report?from=2026-03-02&to=2026-03-01", key=key).status == 400
    assert api.ask("/v1/campaigns/reported/report?goal=dance", key=key).status == 404
    assert api.ask("/v1/deliveries?state=accepted&days=1", key=key).status == 200
    assert api.ask("/v1/deliveries?campaign=none", key=key).status == 404
    assert api.ask("/v1/deliveries?state=lost", key=key).status == 400


def test_keys_are_made_listed_and_ended_by_admins(api: Api, keys: dict[str, str]) -> None:
    key = keys["admin"]

    made = api.ask("/v1/keys", {"name": "phone", "role": "operator", "scopes": ["write"], "expires_days": 90}, key)

    assert (made.status, made.json["scopes"]) == (201, ["operate", "read", "write"])
    assert api.ask("/v1/campaigns", key=made.json["key"]).status == 200
    [listed] = [one for one in api.ask("/v1/keys", key=key).json if one["id"] == made.json["id"]]
    assert (listed["state"], listed["created_by"]) == ("live", f"key:{key.split('_')[1]}")
    assert "hash" not in listed
    assert api.ask(f"/v1/keys/{made.json['id']}", key=key, method="DELETE").status == 200
    assert api.ask("/v1/campaigns", key=made.json["key"]).status == 401
    assert api.ask("/v1/keys", {"name": "x", "role": "king"}, key).status == 404
    assert api.ask("/v1/keys", {"name": "x", "scopes": ["reed"]}, key).status == 400
