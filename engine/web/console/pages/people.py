"""Users: found by their id; who they are, when they act and are sent pushes, what was decided and why; erasure.

An id may hold any character, a slash too, so what belongs to a user is told by `?part=`, never by a longer path.
Nothing here counts a table: everything is one user's, found by an index. Explaining computes a decision again, which
may load a model, and is asked for one decision at a time.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from engine.planning.explain import explain
from engine.privacy.erase import erase_user
from engine.privacy.export import export_user
from engine.privacy.finding import find_users
from engine.privacy.profile import read_profile, top_items
from engine.privacy.timeline import read_timeline
from engine.privacy.week import read_week
from engine.web.console.links import Link
from engine.web.console.paging import page_of
from engine.web.console.reasons import REGIMES, Teller
from engine.web.console.reception import Console
from engine.web.console.visit import Visit
from engine.web.console.words import word

LINKS = (Link("/console/users", word("Users")),)

MOST = 25

WEEKDAYS = (word("Mon"), word("Tue"), word("Wed"), word("Thu"), word("Fri"), word("Sat"), word("Sun"))

RunId = Annotated[int | None, Query(ge=0, lt=2**63)]


def routes(console: Console) -> APIRouter:
    """The routes of this page."""
    router = console.router("/console/users")
    desk = console.desk

    @router.get("")
    async def index(request: Request, q: str = "", after: str | None = None) -> Response:
        visit = await console.enter(request)
        q = q.strip()[:500]
        found = await desk.transact(lambda connection, _: find_users(connection, q, MOST + 1, after))
        page = page_of(found, MOST, lambda user: user.name, after)
        path = f"/console/users?q={quote(q)}" if q else "/console/users"
        return (visit.part if visit.by_htmx else visit.page)(
            "users/found.html" if visit.by_htmx else "users/index.html", users=page, q=q, path=path
        )

    @router.get("/{name:path}")
    async def show(
        request: Request, name: str, part: str = "", after: str | None = None, campaign: str | None = None,
        run: RunId = None,
    ) -> Response:  # fmt: skip
        if part == "export":
            visit = await console.enter(request, "admin")
            return await _export(console, visit, name)
        visit = await console.enter(request)
        if part == "explanation":
            return await _explanation(console, visit, name, campaign, run)
        return await _page(console, visit, name, after)

    @router.post("/{name:path}")
    async def erase(request: Request, name: str) -> Response:
        visit, form = await console.act(request, "admin")
        path = f"/console/users/{quote(name, safe='')}"
        if form.text("typed") != name:
            return visit.go(path, visit.say("Nothing was erased: the id you typed is another one."), kind="error")
        done = await desk.do_long(lambda: erase_user(desk.runtime, name, desk.now(), visit.actor))
        if not done.caps:
            said = visit.say("%(name)s is erased; the caps' Redis is away and forgets within two days.", name=name)
            return visit.go("/console/users", said, kind="warning")
        return visit.go("/console/users", visit.say("%(name)s is erased for good.", name=name))

    return router


async def _page(console: Console, visit: Visit, name: str, after: str | None) -> Response:
    def look(connection: Connection, now: datetime) -> dict[str, Any]:
        profile = read_profile(connection, name)
        entries = read_timeline(connection, profile.id, profile.zone, now.date(), MOST + 1, after)
        return {
            "user": profile,
            "now": now,
            "liked": top_items(connection, profile, now),
            "week": read_week(connection, profile.id, profile.zone, now),
            "entries": page_of(entries, MOST, lambda entry: entry.key, after),
        }

    found = await console.desk.transact(look)
    days = [visit.say(day) for day in WEEKDAYS]
    return visit.page("users/show.html", path=f"/console/users/{quote(name, safe='')}", days=days, **found)


async def _explanation(
    console: Console, visit: Visit, name: str, campaign: str | None, run: int | None
) -> Response:  # fmt: skip
    runtime = console.desk.runtime
    found = await console.desk.do(lambda: explain(runtime.database, runtime.gateways, name, campaign, run))
    return visit.part("users/explanation.html", found=found, tell=Teller(visit.words), regimes=REGIMES)


async def _export(console: Console, visit: Visit, name: str) -> Response:
    held = await console.desk.do_long(lambda: export_user(console.runtime.database, name, visit.actor))
    written = json.dumps(held, indent=2, ensure_ascii=False, default=str)
    headers = {
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}.json",
        "Cache-Control": "no-store",
    }
    return Response(written + "\n", media_type="application/json", headers=headers)
