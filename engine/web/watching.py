"""For those who watch: `/healthz` and `/metrics`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from engine.access.roles import Grant
from engine.metrics import CONTENT_TYPE, exposition
from engine.runtime import redis_client
from engine.web.desk import Desk


def routes(desk: Desk) -> APIRouter:
    """The routes, served at `desk`."""
    router = APIRouter(tags=["watching"])

    @router.get("/healthz", summary="Whether events can be taken: the store answers. Open to everybody.")
    async def healthz() -> dict[str, bool]:
        await desk.do(desk.runtime.database.ping)
        return {"ok": True}

    text_of_prometheus: dict[int | str, dict[str, Any]] = {200: {"content": {CONTENT_TYPE: {}}}}

    @router.get(
        "/metrics",
        summary="Everything that is measured, for Prometheus. Scope read.",
        response_class=Response,
        responses=text_of_prometheus,
    )
    async def metrics(_grant: Grant = desk.needs("read")) -> Response:
        def ask() -> bytes:
            now = desk.now()
            broker = redis_client(desk.runtime.broker_url)
            try:
                return exposition(desk.runtime.database, broker, now)
            finally:
                broker.close()

        return Response(await desk.do(ask), media_type=CONTENT_TYPE)

    return router
