"""What Horae knows and decided about a user; all of it handed out, and erased."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from engine.access.roles import Grant
from engine.planning.explain import explain, plain
from engine.planning.recommending import MOST, MOST_REASONS, USUAL
from engine.privacy.erase import erase_user
from engine.privacy.export import export_user
from engine.web.answers import answer
from engine.web.desk import Desk
from engine.web.problems import Refusal


def routes(desk: Desk) -> APIRouter:
    """The routes, served at `desk`."""
    router = APIRouter(prefix="/v1/users", tags=["users"])

    @router.get("/{user:path}/recommendations", summary="The best items for a user now, with reasons. Scope read.")
    async def recommended(
        user: str,
        n: Annotated[int, Query(ge=1, le=MOST, description="How many.")] = USUAL,
        campaign: Annotated[str | None, Query(description="Of what its pushes may be about.")] = None,
        at: Annotated[datetime | None, Query(description="When it is shown, within 7 days; default: now.")] = None,
        reasons: Annotated[int, Query(ge=0, le=MOST_REASONS, description="Of each item.")] = 3,
        _grant: Grant = desk.needs("read"),
    ) -> Response:
        if at is not None and at.tzinfo is None:
            raise Refusal(400, "at has no offset", hint="2026-11-27T18:00:00Z, or +01:00 instead of Z")
        recommender = desk.recommender
        return answer(await desk.do(lambda: recommender.recommend(user, n, campaign, at, reasons)))

    @router.get("/{user:path}/windows", summary="When a user is likely to act, and the best next windows. Scope read.")
    async def hours(
        user: str,
        n: Annotated[int, Query(ge=1, le=MOST, description="How many of the next windows.")] = 5,
        campaign: Annotated[str | None, Query(description="Within its hours.")] = None,
        _grant: Grant = desk.needs("read"),
    ) -> Response:
        recommender = desk.recommender
        return answer(await desk.do(lambda: recommender.hours(user, campaign, n)))

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

    @router.get("/{user:path}/export", summary="Everything that is held about a user. Scope admin.")
    async def exported(user: str, grant: Grant = desk.needs("admin")) -> Response:
        return answer(await desk.do_long(lambda: export_user(desk.runtime.database, user, grant.actor)))

    # After the others, whose paths would be ids to it.
    @router.delete(
        "/{user:path}", summary="Erase a user for good; what comes in about them later is refused. Scope admin."
    )
    async def erased(user: str, grant: Grant = desk.needs("admin")) -> Response:
        done = await desk.do_long(lambda: erase_user(desk.runtime, user, desk.now(), grant.actor))
        return answer({"erased": done.rows, "kept": done.kept, "caps": done.caps})

    return router
