"""What each role may do at the console, by address and by form, over every route that there is."""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import pytest
from fastapi.routing import APIRoute

from engine.access import sessions, users
from engine.access.roles import ROLES
from engine.clock import machine_now
from engine.store.database import Database
from engine.web.app import create_app
from engine.web.console.visit import SESSION, csrf_of
from tests.api_server import Api, module_runtime, serving

OPEN = {"/console/login", "/console/logout", "/console/look", "/console/account/password"}
"""What everybody may post: to come in, to go, and about oneself."""

ADMINS = ("/console/settings",)
"""Below these only admins change anything."""


@dataclass(frozen=True)
class Room:
    """A console that runs, and a session of each role."""

    api: Api
    tokens: dict[str, str]

    def ask(self, role: str, path: str, form: dict[str, str] | None = None, *, token: bool = True) -> int:
        """The status of a request by somebody of that role; a form carries the CSRF token unless told otherwise."""
        session = self.tokens[role]
        connection = http.client.HTTPConnection("127.0.0.1", self.api.port, timeout=30)
        headers = {"Cookie": f"{SESSION}={session}", "Content-Type": "application/x-www-form-urlencoded"}
        try:
            if form is None:
                connection.request("GET", path, headers=headers)
            else:
                given = {**form, **({"csrf": csrf_of(session)} if token else {})}
                connection.request("POST", path, urlencode(given), headers)
            return connection.getresponse().status
        finally:
            connection.close()


@pytest.fixture(scope="module")
def room(shared_database: Database, servers, tmp_path_factory) -> Iterator[Room]:
    redis_url = servers.redis_url.rsplit("/", 1)[0] + "/10"
    runtime = module_runtime(shared_database, redis_url, tmp_path_factory.mktemp("roles"))
    tokens = {}
    with shared_database.begin() as connection:
        for role in ROLES:
            user = users.create_user(connection, role, role, "correct horse battery", author="tests")
            tokens[role] = sessions.open_session(connection, user, machine_now())
    with serving(runtime) as api:
        yield Room(api, tokens)


def walked(routes: Iterable[Any]) -> Iterator[Any]:
    """All routes, also those of routers that were included."""
    for route in routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from walked(inner.routes)
        elif isinstance(route, APIRoute):
            yield route


PLACES = {"run": "1", "version": "1", "number": "1", "key": "nothing"}


@pytest.fixture(scope="module")
def pages(room: Room) -> list[str]:
    """The address of every page and part of one, its places filled with names that stand for nothing."""
    found = [
        re.sub(r"\{(\w+)(:\w+)?\}", lambda part: PLACES.get(part[1], "nothing"), route.path)
        for route in walked(create_app(room.api.runtime).routes)
        if "GET" in (route.methods or ()) and route.path.startswith("/console/")
    ]
    return sorted(set(found) - {"/console/login"})


def test_whoever_is_not_logged_in_sees_no_page_and_no_part_of_one(room: Room, pages: list[str]):
    room.tokens["nobody"] = sessions.new_token()

    assert len(pages) > 40
    assert {path: status for path in pages if (status := room.ask("nobody", path)) not in (204, 303)} == {}


def test_a_viewer_sees_pages_but_those_for_changing_something(room: Room, pages: list[str]):
    refused = {path for path in pages if room.ask("viewer", path) == 403}

    assert refused == {
        "/console/audiences/edit",
        "/console/audiences/nothing/export",
        "/console/editor",
        "/console/sends/nothing",
        "/console/sends/nothing/test",
        "/console/settings/keys",
        "/console/settings/team",
    }


@pytest.fixture(scope="module")
def posts(room: Room) -> list[str]:
    """The address of every form of the console, its parts filled with names that stand for nothing."""
    found = [
        re.sub(r"\{(\w+)(:\w+)?\}", lambda part: "1" if part[1] in ("run", "version") else "nothing", route.path)
        for route in walked(create_app(room.api.runtime).routes)
        if "POST" in (route.methods or ()) and route.path.startswith("/console")
    ]
    return sorted(set(found) - OPEN)


def test_there_are_forms_of_every_page(posts: list[str]):
    assert {"/console/settings/caps", "/console/audiences/edit", "/console/approvals/nothing/approve"} < set(posts)
    assert len(posts) > 20


def test_a_viewer_changes_nothing_by_any_form(room: Room, posts: list[str]):
    assert {path: status for path in posts if (status := room.ask("viewer", path, {})) != 403} == {}


def test_an_operator_changes_nothing_that_is_an_admins(room: Room, posts: list[str]):
    mine = [path for path in posts if path.startswith(ADMINS)]

    assert mine
    assert {path: status for path in mine if (status := room.ask("operator", path, {})) != 403} == {}


def test_a_form_without_the_sessions_token_changes_nothing(room: Room, posts: list[str]):
    assert {path: status for path in posts if (status := room.ask("admin", path, {}, token=False)) != 403} == {}


@pytest.mark.parametrize("path", ["/console/settings/keys", "/console/settings/team", "/console/audiences/x/export"])
def test_only_admins_see_keys_and_users_and_take_people_out(room: Room, path: str):
    assert [room.ask(role, path) for role in ("viewer", "operator")] == [403, 403]
    assert room.ask("admin", path) in (200, 404)


def test_nobody_takes_their_own_access_away(room: Room):
    assert room.ask("admin", "/console/settings/team/admin/role", {"role": "viewer"}) == 403
    assert room.ask("admin", "/console/settings/team/admin/disable", {}) == 403
    assert room.ask("admin", "/console/settings/team") == 200


def test_a_session_ends_with_the_users_access(room: Room):
    with room.api.runtime.database.begin() as connection:
        gone = users.create_user(connection, "gone", "operator", "correct horse battery", author="tests")
        room.tokens["gone"] = sessions.open_session(connection, gone, machine_now())
    before = room.ask("gone", "/console/data/users")

    assert room.ask("admin", "/console/settings/team/gone/disable", {}) == 303
    assert (before, room.ask("gone", "/console/data/users")) == (200, 303)
