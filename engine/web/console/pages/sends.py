"""Sends by hand: a campaign triggered now, and test pushes."""

from __future__ import annotations

import json
import re
import secrets
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from engine.campaigns import store
from engine.errors import BadInput
from engine.web import previews
from engine.web.console.forms import Form
from engine.web.console.reception import Console
from engine.web.console.visit import Visit
from engine.web.previews import SendAsked


def routes(console: Console) -> APIRouter:
    """The routes of this page."""
    router = console.router("/console/sends")
    _add_trigger(router, console)
    _add_test(router, console)
    return router


def _add_trigger(router: APIRouter, console: Console) -> None:
    @router.get("/{name}")
    async def ask(request: Request, name: str) -> Response:
        visit = await console.enter(request, "operate")
        stored = await console.desk.transact(lambda connection, _: store.get(connection, name))
        return _trigger_page(visit, stored.definition, Form(()))

    @router.post("/{name}/look")
    async def look(request: Request, name: str) -> Response:
        from engine.planning import trigger as triggers  # noqa: PLC0415 - it imports XGBoost

        visit, form = await console.act(request)
        stored = await console.desk.transact(lambda connection, _: store.get(connection, name))
        try:
            asked = _asked(visit, form)
            send = triggers.Request(at_once=asked.at_once, users=tuple(asked.users or ()) or None, data=asked.data)
            database, now = console.runtime.database, console.desk.now
            expected = await console.desk.do_long(lambda: triggers.describe(database, now(), name, send))
        except BadInput as error:
            return _trigger_page(visit, stored.definition, form, status=422, fault=visit.told(error))
        return _trigger_page(visit, stored.definition, form, expected=expected, key=secrets.token_hex(16))

    @router.post("/{name}")
    async def send(request: Request, name: str) -> Response:
        visit, form = await console.act(request)
        asked = _asked(visit, form)
        key = f"console:{form.text('key')}"
        made, _ = await console.desk.do_long(lambda: previews.trigger(console.desk, name, asked, key, visit.actor))
        said = (
            visit.say("Triggered. Workers plan it now.")
            if not made.repeated
            else visit.say("That was sent already: nothing more is.")
        )
        return visit.go(f"/console/campaigns/{name}", said)


def _add_test(router: APIRouter, console: Console) -> None:
    @router.get("/{name}/test")
    async def ask(request: Request, name: str) -> Response:
        visit = await console.enter(request, "operate")
        await console.desk.transact(lambda connection, _: store.get(connection, name))
        return visit.page("sends/test.html", name=name, form=Form(()), sent=None, fault=None)

    @router.post("/{name}/test")
    async def test(request: Request, name: str) -> Response:
        from engine.delivery import trial  # noqa: PLC0415 - it imports XGBoost

        visit, form = await console.act(request)
        user, item = form.text("user"), form.text("item") or None
        values: dict[str, Any] = {"name": name, "form": form, "sent": None, "fault": None}
        try:
            data = _data(visit, form)
            runtime, now = console.runtime, console.desk.now
            wanted, actor = trial.Wanted(user, item, data), visit.actor
            sent = await console.desk.do_long(lambda: trial.send_test(runtime, now(), name, wanted, actor))
        except BadInput as error:
            return visit.page("sends/test.html", status=422, **{**values, "fault": visit.told(error)})
        return visit.page("sends/test.html", **{**values, "sent": sent})


def _trigger_page(
    visit: Visit, campaign: Any, form: Form, *, status: int = 200, fault: str | None = None, **more: Any
) -> Response:
    values = {"expected": None, "key": "", **more}
    return visit.page("sends/trigger.html", status=status, campaign=campaign, form=form, fault=fault, **values)


def _asked(visit: Visit, form: Form) -> SendAsked:
    listed = [name for name in re.split(r"[\s,;]+", form.lines("users")) if name]
    return SendAsked(at_once=form.ticked("at_once"), users=listed or None, data=_data(visit, form))


def _data(visit: Visit, form: Form) -> dict[str, Any]:
    given = form.lines("data").strip()
    try:
        value = json.loads(given or "{}")
    except ValueError as error:
        raise BadInput(visit.say("The template data is no JSON: %(why)s", why=error)) from None
    if not isinstance(value, dict):
        raise BadInput(visit.say('The template data is a JSON object, such as {"code": "SPRING"}.'))
    return value
