"""Who gets into the console, and what they may do there, by URL and by form: over real sockets, without a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from http.client import HTTPConnection
from http.cookies import SimpleCookie
from pathlib import Path
from urllib.parse import urlencode

import pytest
from fastapi import FastAPI
from sqlalchemy import text
from typer.testing import CliRunner

from engine import audit
from engine.access import sessions, users
from engine.campaigns import store
from engine.cli.app import app
from engine.clock import machine_now
from engine.errors import BadInput, UnknownName
from engine.runtime import redis_client
from engine.web.app import create_app
from engine.web.console.visit import safe_path
from tests.api_server import Api, Reply, make_key, module_runtime, serving
from tests.planning_shop import NOW, daily

PASSWORD = "correct horse battery"
ROLES = ("viewer", "operator", "admin")
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@dataclass
class Client:
    """A browser without a window: keeps cookies, follows redirects."""

    api: Api
    cookies: dict[str, str] = field(default_factory=dict)

    def get(self, path: str, headers: dict[str, str] | None = None, method: str = "GET") -> Reply:
        """Ask for a page."""
        return self._send(method, path, None, headers or {})

    def post(self, path: str, headers: dict[str, str] | None = None, *, csrf: bool = True, **fields: str) -> Reply:
        """Send a form; `csrf`: with the token of this client's session."""
        if csrf:
            fields["csrf"] = self.csrf()
        return self._send("POST", path, urlencode(fields), {**FORM, **(headers or {})})

    def csrf(self) -> str:
        """The token of this client's session."""
        found = re.search(r'X-CSRF-Token": "([^"]+)"', self.get("/console/nowhere").body.decode())
        assert found is not None
        return found[1]

    def log_in(self, name: str, password: str = PASSWORD) -> Reply:
        """Fill in the login form."""
        return self.post("/console/login", name=name, password=password)

    def _send(self, method: str, path: str, body: str | None, headers: dict[str, str]) -> Reply:
        sent = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items()), **headers}
        connection = HTTPConnection("127.0.0.1", self.api.port, timeout=30)
        try:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            reply = Reply(answer.status, answer.headers, answer.read())
        finally:
            connection.close()
        for header in reply.headers.get_all("Set-Cookie", []):
            for name, morsel in SimpleCookie(header).items():
                self.cookies[name] = morsel.value
        if reply.status in (303, 307):
            kept = {name: value for name, value in headers.items() if name not in ("Content-Type", "Origin")}
            return self._send("GET", reply.headers["Location"], None, kept)
        return reply


@pytest.fixture(scope="module")
def api(shared_database, servers, tmp_path_factory) -> Iterator[Api]:
    redis_url = servers.redis_url.rsplit("/", 1)[0] + "/10"
    runtime = module_runtime(shared_database, redis_url, tmp_path_factory.mktemp("console"))
    with shared_database.begin() as connection:
        for role in ROLES:
            users.create_user(connection, role, role, PASSWORD, author="tests")
        store.create(connection, daily(schedule=None), NOW, "tests")
    with serving(runtime) as running:
        yield running


@pytest.fixture
def client(api: Api) -> Client:
    redis = redis_client(api.runtime.redis_url)
    redis.flushdb()  # tries to log in
    redis.close()
    return Client(api)


def test_the_first_address_leads_to_the_console_and_that_to_the_login(client: Client):
    page = client.get("/").body.decode()

    assert 'action="/console/login"' in page
    assert client.get("/console/campaigns?x=1").headers["Cache-Control"] == "no-store"


def test_a_session_is_a_cookie_that_scripts_cannot_read_and_the_store_holds_its_hash_alone(client: Client):
    before = dict(client.cookies)
    client.csrf()
    asked = client.api.ask("/console/login", headers=FORM)
    header = next(h for h in asked.headers.get_all("Set-Cookie", []) if h.startswith("horae_session="))
    client.log_in("viewer")

    assert "HttpOnly" in header
    assert "SameSite=lax" in header
    assert "Secure" not in header
    assert client.cookies["horae_session"] != before.get("horae_session"), "a login begins another session"
    with client.api.runtime.database.begin() as connection:
        rows = connection.execute(text("SELECT to_jsonb(s)::text FROM console_sessions s")).scalars().all()
        people = connection.execute(text("SELECT password_hash FROM console_users")).scalars().all()
    assert client.cookies["horae_session"] not in "".join(rows)
    assert all(one.startswith("$argon2id$") for one in people)


def test_behind_tls_the_cookie_is_secure_and_of_this_host_alone(client: Client):
    reply = client.get("/console/login", headers={"X-Forwarded-Proto": "https"})

    [header] = [one for one in reply.headers.get_all("Set-Cookie", []) if "session" in one]
    assert header.startswith("__Host-horae_session=")
    assert "Secure" in header


@pytest.mark.parametrize(("name", "password"), [("nobody", PASSWORD), ("viewer", "wrong"), ("viewer\0", "x\ud800")])
def test_a_wrong_name_and_a_wrong_password_get_the_same_answer(client: Client, name: str, password: str):
    reply = client.post(
        "/console/login", name=name, password=password.encode("utf-8", "replace").decode(), next="/console"
    )

    assert reply.status == 422
    assert "This name and password do not fit." in reply.body.decode()


def test_who_tries_too_often_waits_whoever_they_say_they_are(client: Client):
    answers = [client.log_in("viewer", "wrong").status for _ in range(12)]

    assert answers[:10] == [422] * 10
    assert answers[-1] == 429
    assert client.log_in("viewer").status == 429, "also with the right password"
    assert client.log_in("operator").status == 200


@pytest.mark.parametrize(
    "where", ["https://evil.example", "//evil.example", "/\\evil.example", "/v1/campaigns", "console"]
)
def test_a_login_leads_nowhere_but_into_the_console(where: str):
    assert safe_path(where) == "/console"


def test_a_form_without_the_sessions_token_changes_nothing(client: Client):
    client.log_in("operator")
    other = Client(client.api)

    refused = [
        client.post("/console/stop", csrf=False, scope="all"),
        client.post("/console/stop", {"X-CSRF-Token": other.csrf()}, csrf=False, scope="all"),
        client.post("/console/stop", {"Sec-Fetch-Site": "cross-site"}, scope="all"),
    ]

    assert [reply.status for reply in refused] == [403] * 3
    with client.api.runtime.database.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM switches")).scalar_one() == 0


def console_routes(application: FastAPI) -> set[tuple[str, str]]:
    """(method, path) of everything below /console but what is for everybody."""
    found = set()
    for route in walk(application.routes):
        path = getattr(route, "path", "")
        if path.startswith("/console") and getattr(route, "methods", None):
            found |= {(method, path) for method in route.methods if method in ("GET", "POST")}
    open_to_all = {"/console/login", "/console/logout", "/console/look"}
    return {(method, path) for method, path in found if path not in open_to_all}


def walk(routes) -> Iterator:
    for route in routes:
        inner = getattr(route, "original_router", None) or getattr(route, "router", None)
        yield from walk(inner.routes) if inner is not None else [route]


def filled(path: str) -> str:
    return re.sub(
        r"\{(\w+)(:\w+)?\}", lambda m: {"name": "daily", "version": "1", "action": "pause"}.get(m[1], "1"), path
    )


def test_without_a_login_every_page_leads_to_the_login_and_every_form_too(client: Client):
    application = create_app(client.api.runtime)
    routes = console_routes(application)
    assert len(routes) > 20
    for method, path in routes:
        where = filled(path)
        reply = client.get(where) if method == "GET" else client.post(where, scope="all")
        assert 'action="/console/login"' in reply.body.decode(), path
    with client.api.runtime.database.begin() as connection:
        assert store.get(connection, "daily").state == "running"


def test_a_viewer_may_not_do_by_form_what_an_operator_may(client: Client):
    application = create_app(client.api.runtime)
    client.log_in("viewer")
    own = {"/console/account/password"}

    for method, path in console_routes(application):
        if method == "POST" and path not in own:
            assert client.post(filled(path), scope="all").status == 403, path
    with client.api.runtime.database.begin() as connection:
        assert store.get(connection, "daily").state == "running"
        assert connection.execute(text("SELECT count(*) FROM switches")).scalar_one() == 0


def test_a_disabled_user_is_out_at_once_and_a_new_role_holds_from_the_next_request(client: Client):
    database, now = client.api.runtime.database, machine_now()
    with database.begin() as connection:
        users.create_user(connection, "leaver", "operator", PASSWORD, author="tests")
    client.log_in("leaver")
    assert client.get("/console/editor").status == 200
    with database.begin() as connection:
        users.set_role(connection, "leaver", "viewer", author="tests")
    assert client.get("/console/editor").status == 403
    with database.begin() as connection:
        users.set_disabled(connection, "leaver", now, author="tests")

    assert 'action="/console/login"' in client.get("/console").body.decode()
    assert client.log_in("leaver").status == 422


def test_a_changed_password_ends_all_other_sessions_and_this_one_goes_on(client: Client):
    with client.api.runtime.database.begin() as connection:
        users.create_user(connection, "changer", "viewer", PASSWORD, author="tests")
    other = Client(client.api)
    other.log_in("changer")
    client.log_in("changer")
    new = "another horse battery"
    wrong = client.post("/console/account/password", old="nonsense nonsense", new=new, again=new)
    weak = client.post("/console/account/password", old=PASSWORD, new="short", again="short")
    unlike = client.post("/console/account/password", old=PASSWORD, new=new, again="x")
    done = client.post("/console/account/password", old=PASSWORD, new=new, again=new)

    assert [wrong.status, weak.status, unlike.status, done.status] == [422, 422, 422, 200]
    assert "Your password is changed" in done.body.decode()
    assert 'action="/console/login"' in other.get("/console").body.decode()
    with client.api.runtime.database.begin() as connection:
        assert audit.read(connection, subject="console_user:changer")[0].actor == "user:changer"


def test_a_session_ends_when_it_is_idle_or_old_and_pages_that_refresh_themselves_keep_none_alive(client: Client):
    database, begun = client.api.runtime.database, machine_now()
    with database.begin() as connection:
        user = users.get_user(connection, "viewer")
        token = sessions.open_session(connection, user, begun)

        def alive(after: timedelta, *, used: bool = True) -> bool:
            return sessions.find_session(connection, token, begun + after, used=used) is not None

        assert alive(timedelta(hours=3, minutes=59), used=False)
        assert not alive(timedelta(hours=4))
        for hour in range(1, 24):
            assert alive(timedelta(hours=hour))
        assert not alive(timedelta(hours=24))


def test_every_page_says_the_policy_and_holds_nothing_that_breaks_it(client: Client):
    client.log_in("operator")
    for path in ("/console", "/console/campaigns", "/console/editor", "/console/campaigns/daily", "/console/nowhere"):
        reply = client.get(path)
        policy, page = reply.headers["Content-Security-Policy"], reply.body.decode()
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert reply.headers["X-Frame-Options"] == "DENY"
        assert not re.search(r"<script(?![^>]* src=)|\sstyle=|\son\w+=|javascript:|https?://", page), path


def test_what_a_visitor_gives_is_shown_as_text(client: Client):
    client.log_in("operator")
    page = client.post("/console/editor", tab="form", name="<script>alert(1)</script>", action="draft").body.decode()

    assert "<script>alert" not in page
    assert "&lt;script&gt;" in page


def test_a_message_of_another_session_is_not_shown(client: Client):
    client.log_in("operator")
    client.cookies["horae_flash"] = "WyJkb25lIiwgIkFsbCBpcyB3ZWxsIl0=.forged"

    assert "All is well" not in client.get("/console").body.decode()


def test_a_form_that_is_too_large_is_refused(client: Client):
    client.log_in("operator")

    assert client.post("/console/editor", tab="yaml", yaml="x" * 1_600_000).status == 413


def test_development_mode_is_open_to_pages_of_this_machine_until_there_is_a_user_or_a_key(
    database, redis_url, tmp_path
):
    runtime = module_runtime(database, redis_url, tmp_path / "home")
    with serving(runtime, development=True) as opened:
        client = Client(opened)
        assert "Development mode" in client.get("/console").body.decode()
        assert "Nobody can log in yet" in client.get("/console", {"Host": "evil.example"}).body.decode()
        own, foreign = f"http://127.0.0.1:{opened.port}", "http://evil.example"
        assert "Nobody can log in yet" in client.get("/console", {"X-Forwarded-For": "10.0.0.1"}).body.decode()
        client.post("/console/stop", {"Origin": foreign}, scope="all")
        with database.begin() as connection:
            assert connection.execute(text("SELECT count(*) FROM switches")).scalar_one() == 0
        assert client.post("/console/stop", {"Origin": own}, scope="all").status == 200
        with database.begin() as connection:
            assert connection.execute(text("SELECT author FROM switches")).scalars().all() == ["development mode"]
            users.create_user(connection, "first", "admin", PASSWORD, author="tests")
        assert 'action="/console/login"' in client.get("/console").body.decode()
        assert opened.ask("/metrics").status == 401, "the API is open no longer either"


def test_a_key_ends_development_mode_too(database, redis_url, tmp_path):
    runtime = module_runtime(database, redis_url, tmp_path / "home")
    with serving(runtime, development=True) as opened:
        make_key(database, "read")

        assert "Nobody can log in yet" in Client(opened).get("/console").body.decode()


@pytest.mark.parametrize(
    ("name", "role", "password", "said"),
    [
        ("", "viewer", PASSWORD, "no name"),
        ("two words", "viewer", PASSWORD, "no name"),
        ("viewer", "viewer", PASSWORD, "already"),
        ("VIEWER", "viewer", PASSWORD, "already"),
        ("x", "operater", PASSWORD, "unknown role"),
        ("x", "viewer", "short", "12 to 200"),
        ("x", "viewer", "aaaaaaaaaaaaaaaa", "easy to guess"),
    ],
)
def test_a_user_that_makes_no_sense_is_refused(api: Api, name: str, role: str, password: str, said: str):
    with api.runtime.database.begin() as connection, pytest.raises(BadInput, match=said):
        users.create_user(connection, name, role, password, author="tests")


def test_an_unknown_user_is_told_with_the_nearest(api: Api):
    with api.runtime.database.begin() as connection, pytest.raises(UnknownName) as told:
        users.get_user(connection, "viewr")

    assert told.value.hint == "did you mean viewer?"


def test_users_are_made_and_changed_on_the_command_line(database, redis_url, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HORAE_DATABASE_URL", database.libpq_url)
    monkeypatch.setenv("HORAE_REDIS_URL", redis_url)
    monkeypatch.setenv("HORAE_HOME", str(tmp_path))
    runner = CliRunner()

    def horae(*command: str, given: str | None = None) -> str:
        done = runner.invoke(app, ["admin", *command], input=given, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    assert "ana may log in as admin" in horae("create-user", "Ana", "--role", "admin", given=f"{PASSWORD}\n")
    with database.begin() as connection:
        assert users.authenticate(connection, "ANA", PASSWORD, machine_now()) is not None
    horae("set-password", "ana", given="another horse battery\n")
    assert "ana is viewer now" in horae("set-role", "ana", "viewer")
    horae("disable-user", "ana")
    assert "disabled" in horae("list-users")
    with database.begin() as connection:
        assert users.authenticate(connection, "ana", "another horse battery", machine_now()) is None
        actions = [entry.action for entry in reversed(audit.read(connection, subject="console_user:ana"))]
    assert actions == ["user.create", "user.password", "user.role", "user.disable"]
    horae("enable-user", "ana")
    with database.begin() as connection:
        assert users.authenticate(connection, "ana", "another horse battery", machine_now()) is not None
