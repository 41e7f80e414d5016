"""Keys of the HTTP API: who may ask what. A new key is shown this once."""

from __future__ import annotations

from datetime import datetime, timedelta

from fastapi import APIRouter
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from engine.access import keys
from engine.access.roles import SCOPES
from engine.clock import machine_now
from engine.errors import BadInput
from engine.web.console.forms import Form
from engine.web.console.reception import Console
from engine.web.console.visit import Visit
from engine.web.console.words import word

SCOPE_WORDS = {
    "write": word("send events, items, devices and callbacks"),
    "read": word("read recommendations, explanations, campaigns, reports and metrics"),
    "operate": word("create, launch, trigger and stop campaigns"),
    "admin": word("keys, users, rules, exporting and erasing people"),
}


def routes(console: Console) -> APIRouter:
    """The routes of this page."""
    router = console.router("/console/settings/keys")

    @router.get("")
    async def index(request: Request) -> Response:
        return await _page(console, await console.enter(request, "admin"))

    @router.post("")
    async def create(request: Request) -> Response:
        visit, form = await console.act(request, "admin")

        def work(connection: Connection, _now: datetime) -> str:
            days, rate = _whole(form, "days"), _whole(form, "rate")
            ends = None if days is None else machine_now() + timedelta(days=days)
            return keys.create_key(
                connection, form.text("name"), form.all("scope"), author=visit.actor, rate=rate, expires_at=ends
            )

        try:
            made = await console.desk.transact(work)
        except BadInput as error:
            return await _page(console, visit, status=422, fault=error, form=form)
        return await _page(console, visit, made=made)

    @router.post("/{key}/revoke")
    async def revoke(request: Request, key: str) -> Response:
        visit, _ = await console.act(request, "admin")
        ended = await console.desk.transact(
            lambda connection, _: keys.revoke_key(connection, key, author=visit.actor, now=machine_now())
        )
        return visit.go("/console/settings/keys", visit.say("The key of %(name)s opens nothing more.", name=ended.name))

    return router


async def _page(
    console: Console,
    visit: Visit,
    *,
    status: int = 200,
    made: str | None = None,
    fault: BadInput | None = None,
    form: Form | None = None,
) -> Response:
    found = await console.desk.transact(lambda connection, _: keys.list_keys(connection))
    now = machine_now()
    return visit.page(
        "settings/keys.html",
        status=status,
        keys=[(key, key.state(now)) for key in reversed(found)],
        now=now,
        made=made,
        fault=fault,
        form=Form(()) if form is None else form,
        scopes={name: SCOPE_WORDS[name] for name in SCOPES},
        usual_rate=console.runtime.settings.api_rate,
    )


def _whole(form: Form, name: str) -> int | None:
    given = form.text(name)
    if not given:
        return None
    if not given.isdecimal() or not 0 < int(given) < 100_000:
        raise BadInput(f"{given[:20]!r} is no whole number from 1 to 99,999")
    return int(given)
