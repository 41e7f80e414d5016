"""What Horae knows and decided about a user."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request
from fastapi.encoders import jsonable_encoder
from starlette.responses import JSONResponse, Response

from engine.planning.explain import explain, plain
from engine.web.desk import Desk
from engine.web.problems import Refusal


def routes(desk: Desk) -> APIRouter:
    """The routes, served at `desk`."""
    router = APIRouter(prefix="/v1/users", tags=["users"])

    @router.get("/{user:path}/explain", summary="Why a user got what they got, or nothing. Scope read.")
    async def explained(request: Request, user: str, campaign: str | None = None, run: int | None = None) -> Response:
        await desk.admit(request, "read")
        if "\0" in user or "\0" in (campaign or "") or not 0 <= (run or 0) < 2**63:
            raise Refusal(404, "there is nothing of that name")

        def ask() -> list[dict[str, Any]]:
            runtime = desk.runtime
            return [plain(one) for one in explain(runtime.database, runtime.gateways, user, campaign, run)]

        said = await desk.do(ask)
        return JSONResponse(jsonable_encoder(said, custom_encoder={datetime: datetime.isoformat}))

    return router
