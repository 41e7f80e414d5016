"""The application, built from a runtime: no globals, so that a process may hold several."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from engine import __version__
from engine.runtime import Runtime
from engine.web import campaigns, events, keys, people, watching, workspace
from engine.web.console.building import add_console
from engine.web.desk import Desk
from engine.web.gate import Gate
from engine.web.origins import Origins
from engine.web.problems import RESPONSES, install


def create_app(runtime: Runtime, *, development: bool = False) -> FastAPI:
    """Horae's API and console on `runtime`, which the caller closes after it; `development`: see engine.web.desk."""
    desk = Desk(runtime, development=development)

    @asynccontextmanager
    async def life(_app: FastAPI) -> AsyncIterator[None]:
        yield
        desk.close()

    app = FastAPI(
        title="Horae",
        version=__version__,
        description="Events in Segment's specification; campaigns; what Horae knows, decided and did.",
        lifespan=life,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        responses=RESPONSES,
    )
    install(app)
    for room in (events, campaigns, people, workspace, keys, watching):
        app.include_router(room.routes(desk))
    add_console(app, desk)
    origins = [origin.strip() for origin in runtime.settings.api_origins.split(",") if origin.strip()]
    if origins:
        app.add_middleware(Origins, origins=origins)
    app.add_middleware(Gate, most=runtime.settings.api_concurrency)
    return app
