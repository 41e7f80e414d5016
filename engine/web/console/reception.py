"""Where visitors are received: who they are is looked up, what they may is checked, forms are read.

Development mode (`horae up`): while there is neither a key nor a user, the console is open to this machine, as the API
is; to pages of its own address only, and not through a proxy.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl, quote

from fastapi import APIRouter
from fastapi.routing import APIRoute
from sqlalchemy import Connection
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from engine.access import sessions, users
from engine.access.roles import least_role
from engine.campaigns.policy_store import current_policy
from engine.clock import machine_now
from engine.delivery import switches
from engine.errors import HoraeError
from engine.localtime import zone
from engine.runtime import Runtime
from engine.web.body import read_bytes
from engine.web.console.forms import Form
from engine.web.console.links import Link
from engine.web.console.templating import environment
from engine.web.console.terms import TERMS
from engine.web.console.visit import LANGUAGE, SESSION, Visit, cookie_of
from engine.web.console.words import ENGLISH, LANGUAGES, Words, chosen
from engine.web.desk import Desk, is_open, is_this_machine
from engine.web.gate import log_failure
from engine.web.problems import Refusal, told_of

LARGEST_FORM = 1_500_000
"""Bytes: a campaign's definition may have a million characters."""

MOST_FIELDS = 2_000


class Away(Exception):
    """They have to log in first."""


class Console:
    """The console at a desk. links: the navigation."""

    def __init__(self, desk: Desk, links: tuple[Link, ...]) -> None:
        self.desk, self._links = desk, links
        self._templates = environment()

    @property
    def runtime(self) -> Runtime:
        """The runtime of this deployment."""
        return self.desk.runtime

    def router(self, prefix: str) -> APIRouter:
        """A router for a page's routes, which answers errors as pages."""
        console = self

        class Guarded(APIRoute):
            def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
                inner = super().get_route_handler()

                async def handle(request: Request) -> Response:
                    try:
                        return await inner(request)
                    except Exception as error:
                        return await console.answer_error(request, error)

                return handle

        return APIRouter(prefix=prefix, route_class=Guarded, include_in_schema=False)

    async def enter(self, request: Request, scope: str = "read", *, watching: bool = False) -> Visit:
        """Let in whoever may do what needs `scope`. watching: a page refreshes itself, which keeps no session alive.

        Raises Away where they have to log in, Refusal (403) where they may not.
        """
        visit = await self.greet(request, used=not watching)
        if not visit.known:
            raise Away
        if not visit.may(scope):
            needed, own = (visit.say(TERMS[role]) for role in (least_role(scope) or "admin", visit.role))
            raise Refusal(403, visit.say("This needs the role %(needed)s; yours is %(own)s.", needed=needed, own=own))
        return visit

    async def act(self, request: Request, scope: str = "operate") -> tuple[Visit, Form]:
        """The same for a form or a request of htmx that changes something: it has to carry the session's CSRF token.

        Raises as `enter`; Refusal (403) without the token, (413) where the form is too large.
        """
        visit = await self.enter(request, scope)
        return visit, await self.read_form(request, visit)

    async def read_form(self, request: Request, visit: Visit) -> Form:
        """The form of a request that was made for `visit`. Raises Refusal."""
        body = await read_bytes(request, LARGEST_FORM)
        try:
            given = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS)
        except ValueError:
            raise Refusal(400, visit.say("This form cannot be read.")) from None
        form = Form(tuple(given))
        shown = request.headers.get("x-csrf-token") or form.text("csrf")
        foreign = request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")
        if foreign or not hmac.compare_digest(shown.encode(), visit.csrf.encode()):
            raise Refusal(
                403,
                visit.say("This form was not made for your session."),
                hint=visit.say("Go back, load the page again and send it once more."),
            )
        return form

    async def greet(self, request: Request, *, used: bool = True) -> Visit:
        """A visit by whomever it is, known or not."""
        token = cookie_of(request, SESSION)
        local = self.desk.development and is_this_machine(request, own_pages=True)

        def look(connection: Connection, _: datetime) -> Visit:
            now = machine_now()
            user = sessions.find_session(connection, token, now, used=used) if token else None
            open_here = user is None and local and is_open(connection, now)
            policy = current_policy(connection)[1]
            stopped = any(switch.scope == switches.ALL for switch in switches.stopped(connection))
            return Visit(
                request=request,
                templates=self._templates,
                links=self._links,
                token=token or sessions.new_token(),
                fresh=not token,
                user=user,
                development=open_here,
                words=Words(_language(request, user), zone(policy.default_timezone)),
                everything_stopped=stopped,
            )

        return await self.desk.transact(look)

    async def answer_error(self, request: Request, error: Exception) -> Response:
        """The page for an error; for htmx a message above the page it was asked from."""
        try:
            visit = await self.greet(request)
        except HoraeError:  # the store is away, and with it whoever they are
            token = cookie_of(request, SESSION)
            words = Words(_language(request, None), zone("UTC"))
            visit = Visit(request, self._templates, (), token or sessions.new_token(), not token, None, False, words)
        if isinstance(error, Away):
            back = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            sent = request.method != "GET"  # what was sent is lost, and its address may have no page
            where = visit.path if visit.by_htmx else "/console" if sent else back
            return visit.go(f"/console/login?next={quote(where)}")
        if not isinstance(error, Refusal | HoraeError | HTTPException):
            log_failure(error, request.method, request.url.path)
        status, title, hint = told_of(error)
        title, hint = visit.words.sentence(title), hint and visit.words.sentence(hint)
        if visit.by_htmx:
            answer = visit.part("fault.html", status=status, title=title, hint=hint)
            answer.headers.update({"HX-Retarget": "#messages", "HX-Reswap": "innerHTML"})
            return answer
        return visit.page("error.html", status=status, title=title, hint=hint)


def _language(request: Request, user: users.User | None) -> str:
    own = user.language if user is not None and user.language else cookie_of(request, LANGUAGE)
    if own in LANGUAGES:
        return own
    return chosen(request.headers.get("accept-language", "")) or ENGLISH
