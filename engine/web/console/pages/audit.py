"""The audit log: who changed what, each change as a difference."""

from __future__ import annotations

from urllib.parse import urlencode

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from engine import audit
from engine.errors import BadInput
from engine.web.console.paging import page_of
from engine.web.console.reception import Console

ROWS = 50


def routes(console: Console) -> APIRouter:
    """The routes of this page."""
    router = console.router("/console/settings/audit")

    @router.get("")
    async def index(request: Request, after: str | None = None) -> Response:
        visit = await console.enter(request)
        given = {name: request.query_params.get(name, "").strip() for name in ("actor", "action", "subject")}
        if any("\0" in value for value in given.values()):
            raise BadInput(visit.say("These rows cannot be looked for."))
        chosen = {name: value for name, value in given.items() if value}
        before = int(after) if after is not None and after.isdecimal() and len(after) < 19 else None
        found = await console.desk.transact(
            lambda connection, _: audit.read(connection, before=before, most=ROWS + 1, **chosen)
        )
        page = page_of(found, ROWS, lambda entry: entry.id, after)
        return visit.page(
            "settings/audit.html",
            page=page,
            changes={entry.id: audit.changes(entry) for entry in page.rows},
            chosen=given,
            path="/console/settings/audit" + (f"?{urlencode(chosen)}" if chosen else ""),
        )

    return router
