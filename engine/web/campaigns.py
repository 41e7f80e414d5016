"""Campaigns: defined, looked at, previewed, triggered, moved through their lifecycle, reported.

What the command line does, by the same functions: a definition is checked as its file is, and every fault is told with
a JSON Pointer. The audit log has the key that asked.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request
from sqlalchemy import Connection
from starlette.responses import Response

from engine.access.roles import Grant
from engine.campaigns import store
from engine.campaigns.definition import Campaign
from engine.campaigns.loading import build
from engine.campaigns.review import Defined, define, require_sound, review
from engine.campaigns.store import State, Stored
from engine.campaigns.telling import summary, whole
from engine.errors import Conflict
from engine.report.campaign import report
from engine.web import previews
from engine.web.answers import answer
from engine.web.body import read_object
from engine.web.desk import Desk
from engine.web.problems import Refusal

Name = Annotated[str, Path(description="The campaign's name.")]
Draft = Annotated[bool, Query(description="A new one waits for its launch.")]
FIRST_DAY, LAST_DAY = date(1971, 1, 1), date(2199, 1, 1)

MOVES: dict[str, tuple[State, str]] = {
    "pause": ("paused", "Pause a campaign: nothing of it is planned or sent until it is resumed. Scope operate."),
    "resume": ("running", "Resume a paused campaign. Scope operate."),
    "cancel": ("cancelled", "Cancel a campaign for good. Scope operate."),
}

DEFINITION: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": Campaign.model_json_schema(by_alias=True)}},
    }
}


def routes(desk: Desk) -> APIRouter:
    """The routes, served at `desk`."""
    router = APIRouter(prefix="/v1/campaigns", tags=["campaigns"])
    _reading(router, desk)
    _defining(router, desk)
    _moving(router, desk)
    previews.add(router, desk)
    return router


def _reading(router: APIRouter, desk: Desk) -> None:
    @router.get("", summary="All campaigns, with their state and when they are due next. Scope read.")
    async def listed(_grant: Grant = desk.needs("read")) -> Response:
        def work(connection: Connection, now: datetime) -> list[dict[str, Any]]:
            found = store.get_all(connection)
            return [{**summary(stored, now), "phase": store.phase(connection, stored)} for stored in found]

        return answer(await desk.transact(work))

    @router.get("/schema", summary="What a definition holds, as JSON Schema. Scope read.")
    async def schema(_grant: Grant = desk.needs("read")) -> Response:
        return answer(Campaign.model_json_schema(by_alias=True))

    @router.get("/{name}", summary="A campaign: its definition, audience, state; ETag is its version. Scope read.")
    async def shown(
        name: Name,
        version: Annotated[int | None, Query(ge=1, lt=2**31)] = None,
        audience: Annotated[bool, Query(description="Count it, which takes seconds for millions of users.")] = True,
        _grant: Grant = desk.needs("read"),
    ) -> Response:
        told = await desk.transact(
            lambda connection, now: whole(
                connection, desk.runtime.gateways, name, now, version=version, counted=audience
            )
        )
        return answer(told.as_dict(), headers={"ETag": _etag(told.stored)})

    @router.get("/{name}/versions", summary="The versions of its definition, oldest first. Scope read.")
    async def versions(name: Name, _grant: Grant = desk.needs("read")) -> Response:
        found = await desk.transact(lambda connection, _now: store.versions(connection, store.get(connection, name).id))
        return answer([{"version": number, "created_at": at, "author": author} for number, at, author in found])

    @router.get("/{name}/report", summary="What it led to: funnel, answers, uplift, with intervals. Scope read.")
    async def reported(
        name: Name,
        first: Annotated[
            date | None, Query(alias="from", description="First UTC date of occurrences; default: 30 days back.")
        ] = None,
        until: Annotated[
            date | None, Query(alias="to", description="The date after the last one; default: now.")
        ] = None,
        goal: Annotated[str, Query(description="The event type that counts as a conversion.")] = "purchase",
        _grant: Grant = desk.needs("read"),
    ) -> Response:
        if any(day is not None and not FIRST_DAY <= day <= LAST_DAY for day in (first, until)):
            raise Refusal(400, f"from and to lie between {FIRST_DAY} and {LAST_DAY}")
        found = await desk.do_long(lambda: report(desk.runtime.database, desk.now(), name, first, until, goal))
        return answer(found.as_dict())


def _defining(router: APIRouter, desk: Desk) -> None:
    @router.post(
        "",
        summary="Create a campaign from its definition; one of that name must not be there. Scope operate.",
        openapi_extra=DEFINITION,
    )
    async def created(request: Request, draft: Draft = False, grant: Grant = desk.needs("operate")) -> Response:
        given = build(Campaign, await read_object(request))

        def work(connection: Connection, now: datetime) -> tuple[Defined, datetime]:
            known = store.find(connection, given.name)
            if known is not None and known.definition != given:
                raise Conflict(f"there is a campaign {given.name!r} already", hint="PUT changes it")
            return define(connection, given, now, desk.runtime.gateways, grant.actor, draft=draft), now

        return _defined(*await desk.transact(work))

    @router.put(
        "/{name}",
        summary="Change a campaign (a new version; runs keep the one they used), or create it. Scope operate.",
        openapi_extra=DEFINITION,
    )
    async def changed(
        request: Request,
        name: Name,
        draft: Draft = False,
        if_match: Annotated[str | None, Header(description="The version that is changed: else 412.")] = None,
        grant: Grant = desk.needs("operate"),
    ) -> Response:
        given = build(Campaign, {"name": name, **await read_object(request)})
        if given.name != name:
            raise Refusal(400, f"the definition is of {given.name!r}, the address of {name!r}")

        def work(connection: Connection, now: datetime) -> tuple[Defined, datetime]:
            if if_match is not None and if_match != "*":
                _require_version(store.get(connection, name, lock=True), if_match)
            return define(connection, given, now, desk.runtime.gateways, grant.actor, draft=draft), now

        return _defined(*await desk.transact(work))

    @router.post(
        "/check",
        summary="What is wrong with a definition, and what is probably not meant; nothing is stored. Scope read.",
        openapi_extra=DEFINITION,
    )
    async def checked(request: Request, _grant: Grant = desk.needs("read")) -> Response:
        given = build(Campaign, await read_object(request))

        def work(connection: Connection, now: datetime) -> tuple[str, ...]:
            found = review(connection, given, now, desk.runtime.gateways)
            require_sound(found, given.name)
            return found.warnings

        return answer({"name": given.name, "warnings": await desk.transact(work)})


def _moving(router: APIRouter, desk: Desk) -> None:
    @router.post("/{name}/launch", summary="Launch a draft: from now on it becomes due. Scope operate.")
    async def launched(name: Name, grant: Grant = desk.needs("operate")) -> Response:
        return _moved(await desk.transact(lambda connection, now: store.launch(connection, name, now, grant.actor)))

    for action, (state, said) in MOVES.items():
        _add_move(router, desk, action, state, said)


def _add_move(router: APIRouter, desk: Desk, action: str, state: State, said: str) -> None:
    @router.post(f"/{{name}}/{action}", summary=said, name=action)
    async def moved(name: Name, grant: Grant = desk.needs("operate")) -> Response:
        return _moved(
            await desk.transact(lambda connection, _now: store.set_state(connection, name, state, grant.actor))
        )


def _moved(stored: Stored) -> Response:
    return answer({"name": stored.name, "state": stored.state, "version": stored.version})


def _defined(made: Defined, now: datetime) -> Response:
    stored, outcome = made.created.stored, made.created.outcome
    told = {**summary(stored, now), "outcome": outcome, "warnings": made.warnings}
    headers = {"ETag": _etag(stored), "Location": f"/v1/campaigns/{stored.name}"}
    return answer(told, 201 if outcome == "created" else 200, headers)


def _etag(stored: Stored) -> str:
    return f'"{stored.version}"'


def _require_version(stored: Stored, asked: str) -> None:
    if asked.removeprefix("W/") != _etag(stored):
        raise Refusal(
            412, f"campaign {stored.name} is at version {stored.version} by now", hint="look at it, then change that"
        )
