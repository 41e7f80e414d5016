"""Overview: how everything stands now, and the switch that stops it."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from engine.web.console.links import Link
from engine.web.console.reception import Console
from engine.web.console.words import word

LINKS = (Link("/console", word("Overview")),)


def routes(console: Console) -> APIRouter:
    """The routes of this page."""
    router = console.router("/console")

    @router.get("")
    async def index(request: Request) -> Response:
        visit = await console.enter(request)
        return visit.page("overview/index.html")

    return router
