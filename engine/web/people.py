"""What Horae knows and decided about a user."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from engine.access.roles import Grant
from engine.planning.explain import explain, plain
from engine.web.answers import answer
from engine.web.desk import Desk


def routes(desk: Desk) -> APIRouter:
    """The routes, served at `desk`."""
    router = APIRouter(prefix="/v1/users", tags=["users"])

    @router.get("/{user:path}/explain", summary="Why a user got what they got, or nothing. Scope read.")
    async def explained(
        user: str,
        campaign: str | None = None,
        run: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
        _grant: Grant = desk.needs("read"),
    ) -> Response:

        def ask() -> list[dict[str, Any]]:
            runtime = desk.runtime
            return [plain(one) for one in explain(runtime.database, runtime.gateways, user, campaign, run)]

        return answer(await desk.do(ask))

    return router
