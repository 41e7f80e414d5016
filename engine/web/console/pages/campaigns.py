"""Campaigns: all of them, one of them, its versions and what it led to."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from fastapi import APIRouter
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from engine.campaigns import store
from engine.campaigns.definition import Campaign
from engine.campaigns.sampled import audience_size
from engine.campaigns.store import State, Stored
from engine.campaigns.telling import due_next, whole
from engine.delivery import switches
from engine.planning.progress import RunState, runs_of
from engine.report.campaign import ANSWERS, report
from engine.web.console.editing import plain, to_yaml
from engine.web.console.links import Link
from engine.web.console.paging import page_of
from engine.web.console.planned import SAMPLE, plan_part
from engine.web.console.reception import Console
from engine.web.console.words import word
from engine.web.previews import PreviewAsked

LINKS = (Link("/console/campaigns", word("Campaigns"), also=("/console/editor", "/console/sends")),)

MOST = 50
"""Campaigns on a page of the list."""

MOVES: dict[str, tuple[State, str]] = {
    "pause": ("paused", word("%(name)s is paused: nothing of it leaves.")),
    "resume": ("running", word("%(name)s runs again.")),
    "cancel": ("cancelled", word("%(name)s is cancelled for good.")),
}


@dataclass(frozen=True)
class Row:
    """A campaign in the list."""

    stored: Stored
    phase: str
    next: str | None


@dataclass(frozen=True)
class Line:
    """A line of a difference. kind: "" as before, "gone" or "new"."""

    kind: str
    text: str


def routes(console: Console) -> APIRouter:
    """The routes of this page."""
    router = console.router("/console/campaigns")
    _add_reading(router, console)
    _add_plan(router, console)
    _add_report(router, console)
    _add_moving(router, console)
    return router


def _add_reading(router: APIRouter, console: Console) -> None:
    @router.get("")
    async def index(request: Request, after: str | None = None) -> Response:
        visit = await console.enter(request)
        found = await console.desk.transact(lambda connection, now: _rows(connection, now, after))
        return visit.page("campaigns/index.html", page=page_of(found, MOST, lambda row: row.stored.name, after))

    @router.get("/{name}")
    async def show(request: Request, name: str) -> Response:
        visit = await console.enter(request)

        def look(connection: Connection, now: datetime) -> dict[str, Any]:
            told = whole(connection, console.runtime.gateways, name, now, counted=False)
            scope = f"campaign:{told.stored.id}"
            return {
                "told": told,
                "following": due_next(told.stored, now),
                "stopped": any(one.scope == scope for one in switches.stopped(connection)),
                "runs": runs_of(connection, name),
            }

        found = await console.desk.transact(look)
        return visit.page("campaigns/show.html", **found, yaml=to_yaml(plain(found["told"].stored.definition)))

    @router.get("/{name}/audience")
    async def audience(request: Request, name: str) -> Response:
        visit = await console.enter(request)

        def count(connection: Connection, now: datetime) -> Any:
            definition = store.get(connection, name).definition
            return audience_size(connection, console.runtime.gateways, definition, now)

        return visit.part("campaigns/audience.html", size=await console.desk.transact(count))

    @router.get("/{name}/runs")
    async def runs(request: Request, name: str) -> Response:
        visit = await console.enter(request, watching=True)
        found: list[RunState] = await console.desk.transact(lambda connection, _: runs_of(connection, name))
        return visit.part("campaigns/runs.html", runs=found, name=name)

    @router.get("/{name}/versions/{version}")
    async def version(request: Request, name: str, version: int) -> Response:
        visit = await console.enter(request)

        def look(connection: Connection, _: datetime) -> dict[str, Any]:
            stored = store.get(connection, name)
            this = store.get_version(connection, stored.id, version)
            before = store.get_version(connection, stored.id, version - 1) if version > 1 else None
            history = {number: (at, author) for number, at, author in store.versions(connection, stored.id)}
            texts = ["" if one is None else to_yaml(plain(one)) for one in (before, this)]
            return {"stored": stored, "lines": list(_difference(*texts)), "made": history[version], "history": history}

        found = await console.desk.transact(look)
        return visit.page("campaigns/version.html", **found, version=version)


def _add_plan(router: APIRouter, console: Console) -> None:
    @router.get("/{name}/versions/{version}/plan")
    async def plan(request: Request, name: str, version: int) -> Response:
        visit = await console.enter(request)

        def look(connection: Connection, _: datetime) -> Campaign:
            return store.get_version(connection, store.get(connection, name).id, version)

        definition = await console.desk.transact(look)
        return await plan_part(console, visit, name, definition, PreviewAsked(version=version, sample=SAMPLE))


def _add_report(router: APIRouter, console: Console) -> None:
    @router.get("/{name}/report")
    async def reported(request: Request, name: str) -> Response:
        visit = await console.enter(request)
        await console.desk.transact(lambda connection, _: store.get(connection, name))
        asked = {part: request.query_params.get(part, "")[:100] for part in ("from", "to", "goal")}
        return visit.page("campaigns/report.html", name=name, asked=asked, query=request.url.query)

    @router.get("/{name}/report/found")
    async def found(request: Request, name: str, to: date | str = "", goal: str = "purchase") -> Response:
        visit = await console.enter(request)
        first, until = _day(request.query_params.get("from", "")), _day(str(to))
        told = await console.desk.do_long(
            lambda: report(console.runtime.database, console.desk.now(), name, first, until, goal or "purchase")
        )
        return visit.part("campaigns/found.html", told=told, answers=ANSWERS)


def _add_moving(router: APIRouter, console: Console) -> None:
    @router.post("/{name}/launch")
    async def launch(request: Request, name: str) -> Response:
        visit, _ = await console.act(request)
        await console.desk.transact(lambda connection, now: store.launch(connection, name, now, visit.actor))
        return visit.go(f"/console/campaigns/{name}", visit.say("%(name)s is launched.", name=name))

    @router.post("/{name}/move/{action}")
    async def move(request: Request, name: str, action: str) -> Response:
        visit, _ = await console.act(request)
        state, said = MOVES[action] if action in MOVES else MOVES["pause"]
        await console.desk.transact(lambda connection, _: store.set_state(connection, name, state, visit.actor))
        return visit.go(f"/console/campaigns/{name}", visit.say(said, name=name))


def _rows(connection: Connection, now: datetime, after: str | None) -> list[Row]:
    return [
        Row(
            stored,
            store.phase(connection, stored),
            next(iter(due_next(stored, now)), None),
        )
        for stored in store.get_page(connection, MOST + 1, after)
    ]


def _difference(before: str, after: str) -> Iterator[Line]:
    """What changed between two texts, whole lines, with what stayed around it."""
    kinds = {"  ": "", "- ": "gone", "+ ": "new"}
    for line in difflib.ndiff(before.splitlines(), after.splitlines()):
        if line[:2] in kinds:
            yield Line(kinds[line[:2]], line[2:])


def _day(given: str) -> date | None:
    try:
        return date.fromisoformat(given)
    except ValueError:
        return None
