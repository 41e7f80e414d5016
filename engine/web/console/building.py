"""The console put together: its pages, its static files, and what is at addresses where nothing is."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from engine.web.console.pages import PAGES
from engine.web.console.reception import Console
from engine.web.console.templating import STATIC
from engine.web.desk import Desk


def add_console(app: FastAPI, desk: Desk) -> None:
    """Add the console to `app`, and let `/` lead to it."""
    links = tuple(link for page in PAGES for link in getattr(page, "LINKS", ()))
    console = Console(desk, links)
    app.mount(STATIC, _Static(packages=[("engine.web.console", "static")]))
    for page in PAGES:
        app.include_router(page.routes(console))
    rest = console.router("")

    @rest.get("/")
    async def first() -> Response:
        return RedirectResponse("/console")

    @rest.get("/console/{path:path}")
    async def nowhere(request: Request) -> Response:
        visit = await console.enter(request)
        raise HTTPException(404, visit.say("There is no page at this address."))

    app.include_router(rest)


class _Static(StaticFiles):
    """Files whose address changes with their content (templating.static)."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        answer = await super().get_response(path, scope)
        if answer.status_code == 200 and b"v=" in scope.get("query_string", b""):
            answer.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return answer
