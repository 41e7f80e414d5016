"""The API's own keys."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field
from sqlalchemy import Connection
from starlette.responses import Response

from engine import clock
from engine.access import keys
from engine.access.roles import Grant, role_of, scopes_of
from engine.web.answers import answer
from engine.web.body import Asked
from engine.web.desk import Desk


class KeyAsked(Asked):
    """A key that is to be made."""

    name: str = Field(description="Who will use it.")
    scopes: list[str] = Field([], description="write, read, operate, admin.")
    role: str | None = Field(None, description="Scopes by name: viewer, operator or admin.")
    rate: int | None = Field(None, ge=1, lt=2**31, description="Messages a second in the long run.")
    expires_days: int | None = Field(None, ge=1, le=3_660, description="Absent: it does not end.")


def routes(desk: Desk) -> APIRouter:
    """The routes, served at `desk`."""
    router = APIRouter(prefix="/v1/keys", tags=["keys"])

    @router.get("", summary="All keys: what they may do, when they were last used. Scope admin.")
    async def listed(_grant: Grant = desk.needs("admin")) -> Response:
        found = await desk.transact(lambda connection, _now: keys.list_keys(connection))
        now = clock.machine_now()
        return answer([{**vars(key), "role": role_of(key.scopes), "state": key.state(now)} for key in found])

    @router.post(
        "",
        summary="Make a key. It is shown this once: the store keeps a hash. Scope admin.",
        openapi_extra=KeyAsked.told(needed=True),
    )
    async def made(request: Request, grant: Grant = desk.needs("admin")) -> Response:
        asked = await KeyAsked.of(request)
        scopes = {*asked.scopes, *(scopes_of(asked.role) if asked.role is not None else ())}
        ends = None if asked.expires_days is None else clock.machine_now() + timedelta(days=asked.expires_days)

        def work(connection: Connection, _now: datetime) -> dict[str, Any]:
            key = keys.create_key(connection, asked.name, scopes, author=grant.actor, rate=asked.rate, expires_at=ends)
            return {"key": key, "id": key.split("_")[1], "name": asked.name, "scopes": sorted(scopes)}

        return answer(await desk.transact(work), 201)

    @router.delete("/{key}", summary="End a key: from the next request on it opens nothing. Scope admin.")
    async def revoked(key: str, grant: Grant = desk.needs("admin")) -> Response:
        ended = await desk.transact(
            lambda connection, _now: keys.revoke_key(connection, key, author=grant.actor, now=clock.machine_now())
        )
        return answer({"id": ended.id, "name": ended.name, "state": "revoked"})

    return router
