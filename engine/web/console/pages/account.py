"""Log in and out; one's own password, language and look."""

from __future__ import annotations

import hashlib
from datetime import datetime

from fastapi import APIRouter
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from engine.access import sessions, users
from engine.clock import machine_now
from engine.errors import BadInput
from engine.web.addresses import address_of
from engine.web.console.reception import Console
from engine.web.console.visit import LANGUAGE, THEME, THEMES, YEAR, Visit, safe_path
from engine.web.console.words import LANGUAGES
from engine.web.problems import Refusal

TRIES_PER_NAME = (1 / 15, 10)
TRIES_PER_ADDRESS = (1 / 2, 30)
TRIES_ANYWHERE = (1 / 3, 100)
"""Tries a second in the long run, and at once: of a name from one address; from one address, as many people may share
one; and of a name from wherever, so that nobody who only knows it shuts its owner out soon."""


def routes(console: Console) -> APIRouter:
    """The routes of this page."""
    router = console.router("/console")
    _add_login(router, console)
    _add_own(router, console)
    return router


def _add_login(router: APIRouter, console: Console) -> None:
    @router.get("/login")
    async def ask(request: Request, next: str = "/console") -> Response:  # noqa: A002 - the query's word
        visit = await console.greet(request)
        if visit.known:
            return visit.go(safe_path(next))
        return await _login_page(console, visit, next)

    @router.post("/login")
    async def log_in(request: Request) -> Response:
        visit = await console.greet(request)
        form = await console.read_form(request, visit)
        name, password, back = form.text("name"), form.raw("password"), form.text("next")
        wait = await console.desk.do(lambda: _throttle(console, request, name))
        if wait:
            told = visit.say("Too many tries. Try again in %(time)s.", time=visit.words.span(wait))
            answer = await _login_page(console, visit, back, status=429, said=told, name=name)
            answer.headers["Retry-After"] = str(wait)
            return answer

        def begin(connection: Connection, _: datetime) -> tuple[users.User, str] | None:
            now = machine_now()
            user = users.authenticate(connection, name, password, now)
            if user is None:
                return None
            sessions.end_session(connection, visit.token)
            return user, sessions.open_session(connection, user, now)

        begun = await console.desk.transact(begin)
        if begun is None:
            said = visit.say("This name and password do not fit.")
            return await _login_page(console, visit, back, status=422, said=said, name=name)
        _, token = begun
        return visit.with_token(token).go(safe_path(back))

    @router.post("/logout")
    async def log_out(request: Request) -> Response:
        visit = await console.greet(request)
        await console.read_form(request, visit)
        await console.desk.transact(lambda connection, _: sessions.end_session(connection, visit.token))
        return visit.with_token(sessions.new_token()).go("/console/login", visit.say("You are logged out."))


def _add_own(router: APIRouter, console: Console) -> None:
    @router.get("/account")
    async def account(request: Request) -> Response:
        visit = await console.enter(request)
        return visit.page("account.html", faults={})

    @router.post("/account/password")
    async def change_password(request: Request) -> Response:
        visit, form = await console.act(request, "read")
        user = visit.user
        if user is None:
            raise Refusal(403, visit.say("In development mode there is no password to change."))
        if await console.desk.do(lambda: _throttle(console, request, user.name)):
            raise Refusal(429, visit.say("Too many tries. Try again in %(time)s.", time=visit.words.span(60)))

        def change(connection: Connection, _: datetime) -> str | None:
            now = machine_now()
            if users.authenticate(connection, user.name, form.raw("old"), now) is None:
                return None
            users.set_password(connection, user.name, form.raw("new"), author=visit.actor)
            return sessions.open_session(connection, user, now)

        if form.raw("new") != form.raw("again"):
            faults = {"again": visit.say("The two do not match.")}
            return visit.page("account.html", status=422, faults=faults)
        try:
            token = await console.desk.transact(change)
        except BadInput as error:
            return visit.page("account.html", status=422, faults={"new": visit.told(error)})
        if token is None:
            return visit.page("account.html", status=422, faults={"old": visit.say("This is not your password.")})
        said = visit.say("Your password is changed. You are logged out everywhere else.")
        return visit.with_token(token).go("/console/account", said)

    @router.post("/look")
    async def look(request: Request) -> Response:
        visit = await console.greet(request)
        form = await console.read_form(request, visit)
        language, theme = form.text("language"), form.text("theme")
        answer = visit.go(safe_path(form.text("next")) if visit.known else "/console/login")
        if language in LANGUAGES:
            visit.set_cookie(answer, LANGUAGE, language, YEAR)
            user = visit.user
            if user is not None:
                await console.desk.transact(lambda connection, _: users.set_language(connection, user, language))
        if theme in THEMES:
            visit.set_cookie(answer, THEME, theme, YEAR)
        return answer


async def _login_page(
    console: Console, visit: Visit, back: str, *, status: int = 200, said: str | None = None, name: str = ""
) -> Response:
    anybody = await console.desk.transact(lambda connection, _: users.any_enabled(connection))
    return visit.page("login.html", status=status, back=safe_path(back), said=said, name=name, anybody=anybody)


def _throttle(console: Console, request: Request, name: str) -> int:
    """0, or the seconds until this name may be tried again from here."""
    who = hashlib.sha256(name.lower().encode("utf-8", "replace")).hexdigest()[:24]
    where = address_of(request, console.desk.proxies)
    buckets = console.desk.buckets
    return max(
        buckets.enter(f"login:address:{where}", *TRIES_PER_ADDRESS),
        buckets.enter(f"login:name:{who}:{where}", *TRIES_PER_NAME),
        buckets.enter(f"login:anywhere:{who}", *TRIES_ANYWHERE),
    )
