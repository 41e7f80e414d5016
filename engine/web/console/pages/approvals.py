"""Approvals: what waits for one, and asking, approving and rejecting. The campaign's page shows its own part."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import APIRouter
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from engine.campaigns import approvals, approving
from engine.web.console.links import Link
from engine.web.console.reception import Console
from engine.web.console.words import word

LINKS = (Link("/console/approvals", word("Approvals"), scope="operate"),)


def routes(console: Console) -> APIRouter:
    """The routes of this page."""
    router = console.router("/console/approvals")
    _add_reading(router, console)
    _add_saying(router, console)
    return router


def _add_reading(router: APIRouter, console: Console) -> None:
    @router.get("")
    async def index(request: Request) -> Response:
        visit = await console.enter(request)
        found = await console.desk.transact(lambda connection, _: approving.waiting(connection))
        return visit.page("approvals/index.html", waiting=found)

    @router.get("/{name}/part")
    async def part(request: Request, name: str) -> Response:
        visit = await console.enter(request)

        def look(connection: Connection, _now: datetime) -> dict[str, Any]:
            found = approving.standing(connection, name)
            return {"one": found, "told": approvals.needed(connection) or not found.in_force}

        return visit.part("approvals/part.html", **await console.desk.transact(look))


def _add_saying(router: APIRouter, console: Console) -> None:
    @router.post("/{name}/request")
    async def ask(request: Request, name: str) -> Response:
        visit, _ = await console.act(request)
        await console.desk.transact(lambda connection, _: approving.request(connection, name, visit.actor))
        return visit.go(f"/console/campaigns/{name}", visit.say("%(name)s waits for an approval.", name=name))

    @router.post("/{name}/approve")
    async def approve(request: Request, name: str) -> Response:
        visit, form = await console.act(request)
        version = int(form.text("version")) if form.text("version").isdecimal() else 0
        await console.desk.transact(
            lambda connection, now: approving.approve(connection, name, now, visit.actor, version)
        )
        said = visit.say("%(name)s is approved: version %(n)s.", name=name, n=version)
        return visit.go(f"/console/campaigns/{name}", said)

    @router.post("/{name}/reject")
    async def reject(request: Request, name: str) -> Response:
        visit, form = await console.act(request)
        version = int(form.text("version")) if form.text("version").isdecimal() else 0
        await console.desk.transact(
            lambda connection, _: approving.reject(connection, name, form.text("reason"), visit.actor, version)
        )
        return visit.go(f"/console/campaigns/{name}", visit.say("%(name)s is rejected.", name=name))
