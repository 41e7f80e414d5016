"""Who may ask the API what: keys, scopes, rates, limits, the development mode; and that nothing else is open."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from engine import audit
from engine.access import keys, roles
from engine.access.rate import BURST_SECONDS, Buckets
from engine.cli.app import app
from engine.clock import machine_now
from engine.errors import BadInput, UnknownName
from engine.runtime import redis_client
from tests.api_server import Api, make_key, module_runtime, serving


@pytest.fixture(scope="module")
def api(shared_database, servers, tmp_path_factory):
    redis_url = servers.redis_url.rsplit("/", 1)[0] + "/8"
    runtime = module_runtime(shared_database, redis_url, tmp_path_factory.mktemp("api"))
    with serving(runtime) as running:
        yield running


@pytest.mark.parametrize("key", [None, "nonsense", "horae_abcdefgh_" + "A" * 49], ids=["none", "no key", "forged"])
def test_without_a_key_nothing_is_open_but_health_the_description_and_what_a_push_proves(
    api: Api, key: str | None
) -> None:
    refused = api.ask("/metrics", key=key)

    assert refused.status == 401
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.headers["WWW-Authenticate"].startswith("Bearer")
    assert "create-key" in refused.json["hint"]
    assert api.ask("/healthz").json == {"ok": True}
    paths = api.ask("/openapi.json").json["paths"]
    for path, methods in paths.items():
        for method in methods:
            asked = api.ask(path.replace("{", "").replace("}", ""), method=method.upper(), key=key)
            expected = {"/healthz": 200, "/v1/callbacks/{push}": 400}
            assert asked.status == expected.get(path, 401), path


def test_a_key_opens_its_scopes_and_no_others(api: Api) -> None:
    reader, writer = make_key(api.runtime.database, "read"), make_key(api.runtime.database, "write")

    assert b"horae_pushes_due" in api.ask("/metrics", key=reader).body
    refused = api.ask("/metrics", key=writer)

    assert refused.status == 403
    assert "scope read" in refused.json["title"]


OPERATIONS = {
    "write": """POST /v1/alias, /v1/batch, /v1/callbacks, /v1/devices, /v1/group, /v1/identify, /v1/import, /v1/items,
        /v1/page, /v1/screen, /v1/track""",
    "read": """GET /metrics, /v1/audit, /v1/campaigns, /v1/campaigns/{name}, /v1/campaigns/{name}/report,
        /v1/campaigns/{name}/versions,
        /v1/campaigns/schema, /v1/deliveries, /v1/policy, /v1/runs, /v1/runs/{run}, /v1/status, /v1/stops,
        /v1/users/{user}/explain, /v1/users/{user}/recommendations, /v1/users/{user}/windows;
        POST /v1/campaigns/check, /v1/campaigns/{name}/preview""",
    "operate": """POST /v1/campaigns, /v1/campaigns/{name}/cancel, /v1/campaigns/{name}/launch,
        /v1/campaigns/{name}/pause, /v1/campaigns/{name}/resume,
        /v1/campaigns/{name}/test, /v1/campaigns/{name}/trigger, /v1/start, /v1/stop;
        PUT /v1/campaigns/{name}""",
    "admin": """GET /v1/keys, /v1/users/{user}/export; POST /v1/keys, /v1/policy/caps;
        PATCH /v1/policy, /v1/policy/gateways/{gateway};
        DELETE /v1/keys/{key}, /v1/policy/caps/{cap}, /v1/users/{user}""",
}
"""Which scope each operation needs: an operation that is added must be put here, or the test says so."""


def test_every_operation_asks_for_its_scope_and_a_viewer_may_change_nothing(api: Api) -> None:
    needed = {
        (method, path.strip()): scope
        for scope, told in OPERATIONS.items()
        for method, _, paths in (part.strip().partition(" ") for part in told.split(";"))
        for path in paths.split(",")
    }
    document = api.ask("/openapi.json").json["paths"]
    described = {(method.upper(), path): each for path, by in document.items() for method, each in by.items()}
    open_to_all = {("GET", "/healthz"), ("POST", "/v1/callbacks/{push}")}
    assert set(described) - open_to_all == set(needed)
    holders: dict[str, set[str]] = {
        **{scope: {scope} for scope in roles.SCOPES},
        **{n: set(s) for n, s in roles.ROLES.items()},
    }
    given = {name: make_key(api.runtime.database, *sorted(scopes), rate=100_000) for name, scopes in holders.items()}

    wrong = []
    for (method, path), scope in needed.items():
        assert f"Scope {scope}" in described[method, path]["summary"], path
        asked = path.replace("{run}", "1").replace("{", "no-").replace("}", "")
        for name, scopes in holders.items():
            status = api.ask(asked, method=method, key=given[name]).status
            if (status == 403) != (scope not in scopes) or status in (401, 500):
                wrong.append(f"{name} {method} {asked}: {status}")
    assert wrong == []
    changing = {op for op, scope in needed.items() if scope == "read" and op[0] != "GET"}
    assert changing == {("POST", "/v1/campaigns/check"), ("POST", "/v1/campaigns/{name}/preview")}, "these only ask"


@pytest.mark.parametrize(
    ("role", "may"), [("viewer", "read"), ("operator", "read operate"), ("admin", "read operate write admin")]
)
def test_a_role_is_a_name_for_scopes_and_holds_those_below_it(role: str, may: str) -> None:
    assert roles.scopes_of(role) == set(may.split())
    assert roles.role_of(may.split()) == role


def test_an_unknown_role_is_told_and_other_scopes_have_no_name() -> None:
    with pytest.raises(UnknownName, match="operater") as refused:
        roles.scopes_of("operater")

    assert "operator" in (refused.value.hint or "")
    assert roles.role_of(["write"]) is None


def test_a_key_that_is_revoked_or_has_expired_opens_nothing(api: Api) -> None:
    database, now = api.runtime.database, machine_now()
    revoked = make_key(database, "read")
    expired = make_key(database, "read", expires_at=now - timedelta(seconds=1))
    assert api.ask("/metrics", key=revoked).status == 200
    with database.begin() as connection:
        keys.revoke_key(connection, revoked.split("_")[1], author="tests", now=now)

    assert api.ask("/metrics", key=revoked).status == 401
    assert api.ask("/metrics", key=expired).status == 401


def test_the_store_holds_a_hash_of_the_key_and_the_audit_log_no_secret(api: Api) -> None:
    key = make_key(api.runtime.database, "operate")
    assert re.fullmatch(r"horae_[a-z0-9]{8}_[0-9A-Za-z]{49}", key)

    with api.runtime.database.begin() as connection:
        rows = connection.execute(text("SELECT to_jsonb(k)::text FROM api_keys k")).scalars().all()
        logged = audit.read(connection, subject=f"key:{key.split('_')[1]}")
    assert key.split("_")[2] not in "".join(rows)
    assert [(entry.action, entry.actor, entry.after["scopes"]) for entry in logged] == [
        ("key.create", "tests", ["operate"])
    ]
    assert key.split("_")[2] not in str(logged)


def test_a_use_is_noted_once_a_minute(api: Api) -> None:
    key, now = make_key(api.runtime.database, "read"), machine_now()
    seconds = [0, 30, 70]
    seen = []
    for second in seconds:
        with api.runtime.database.begin() as connection:
            assert keys.find_grant(connection, key, now + timedelta(seconds=second)) is not None
            known = {one.id: one for one in keys.list_keys(connection)}
        seen.append(known[key.split("_")[1]].last_used_at)

    assert seen == [now, now, now + timedelta(seconds=70)]


@pytest.mark.parametrize(
    ("scopes", "more", "said"),
    [(["reed"], {}, "unknown scope"), ([], {}, "needs a scope"), (["read"], {"rate": 0}, "lets nothing in")],
)
def test_a_key_that_makes_no_sense_is_refused(api: Api, scopes: list[str], more: dict, said: str) -> None:
    with api.runtime.database.begin() as connection, pytest.raises(BadInput, match=said):
        keys.create_key(connection, "k", scopes, author="tests", **more)


def test_revoking_an_unknown_key_is_told(api: Api) -> None:
    with api.runtime.database.begin() as connection, pytest.raises(UnknownName, match="no key"):
        keys.revoke_key(connection, "nobody", author="tests", now=machine_now())


def test_a_bucket_lets_its_burst_through_then_its_rate_and_remembers_debts(redis_url: str) -> None:
    client = redis_client(redis_url)
    buckets = Buckets(client)

    entered = [buckets.enter("k", 1) for _ in range(BURST_SECONDS + 1)]
    assert entered[:BURST_SECONDS] == [0] * BURST_SECONDS
    assert entered[-1] == 1
    assert buckets.enter("other", 1) == 0
    buckets.charge("k", 1, 30)
    assert 29 <= buckets.enter("k", 1) <= 32
    client.close()


def test_without_redis_everything_may_enter() -> None:
    assert Buckets(redis_client("redis://127.0.0.1:1/0")).enter("k", 1) == 0


def test_who_sends_too_much_is_told_when_to_come_back(api: Api) -> None:
    key = make_key(api.runtime.database, "read", rate=1)

    replies = [api.ask("/metrics", key=key) for _ in range(BURST_SECONDS + 3)]

    assert replies[0].status == 200
    assert replies[-1].status == 429
    assert int(replies[-1].headers["Retry-After"]) >= 1


def test_every_answer_carries_headers_for_browsers(api: Api) -> None:
    for reply in (api.ask("/healthz"), api.ask("/nowhere"), api.ask("/metrics")):
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert "frame-ancestors 'none'" in reply.headers["Content-Security-Policy"]
        assert "server" not in reply.headers
    assert api.ask("/nowhere").status == 404
    assert api.ask("/nowhere").json["title"] == "Not Found"
    assert api.ask("/healthz", {}).status == 405


def test_the_development_mode_is_open_to_this_machine_until_there_is_a_key(database, redis_url, tmp_path: Path) -> None:
    runtime = module_runtime(database, redis_url, tmp_path / "home")
    with serving(runtime, development=True) as api:
        assert api.ask("/metrics").status == 200
        assert api.ask("/metrics", key="wrong").status == 401
        for header in ({"Origin": "https://evil.example"}, {"X-Forwarded-For": "1.2.3.4"}, {"Host": "evil.example"}):
            assert api.ask("/metrics", headers=header).status == 401, header
        key = make_key(database, "read")
        assert api.ask("/metrics").status == 401
        assert api.ask("/metrics", key=key).status == 200


def test_keys_are_made_listed_and_revoked_at_the_command_line(runtime, monkeypatch) -> None:
    monkeypatch.setenv("HORAE_DATABASE_URL", runtime.settings.database_url)
    monkeypatch.setenv("HORAE_REDIS_URL", runtime.redis_url)
    cli = CliRunner()

    def horae(*arguments: str):
        done = cli.invoke(app, ["admin", *arguments])
        assert done.exception is None, done.exception
        return done.stdout

    made = json.loads(horae("create-key", "shop", "--scope", "write", "--scope", "read", "--expires", "90d", "--json"))
    assert made["scopes"] == ["read", "write"]
    [listed] = json.loads(horae("list-keys", "--json"))
    assert (listed["id"], listed["state"], listed["role"]) == (made["id"], "live", None)
    assert made["id"] in horae("list-keys")
    horae("revoke-key", made["id"])
    [listed] = json.loads(horae("list-keys", "--json"))
    assert listed["state"] == "revoked"
    by_role = json.loads(horae("create-key", "console", "--role", "operator", "--scope", "write", "--json"))
    assert by_role["scopes"] == ["operate", "read", "write"]
    assert json.loads(horae("create-key", "shop", "--json"))["scopes"] == ["write"]
    refused = cli.invoke(app, ["admin", "create-key", "shop", "--role", "operater"])
    assert isinstance(refused.exception, UnknownName)
    refused = cli.invoke(app, ["admin", "create-key", "shop", "--expires", "soon"])
    assert isinstance(refused.exception, BadInput)
    outside = cli.invoke(app, ["api", "--host", "0.0.0.0", "--development"])
    assert isinstance(outside.exception, BadInput)
