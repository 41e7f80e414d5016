"""Runs: how planning goes on, what it decided and why, what capacity cost, what the pushes led to, what changed since.

The list, the head of a run and what refreshes itself read a few rows; whatever counts a run's users is loaded after the
page, and what needs seconds waits its turn.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import Response

from engine.errors import UnknownName
from engine.planning.pricelist import price_list
from engine.planning.progress import RunState, count_decisions, count_pushes, get_run, list_runs
from engine.planning.rebound import rebound
from engine.report.campaign import ANSWERS
from engine.report.run import report_run
from engine.web.console.links import Link
from engine.web.console.paging import page_of
from engine.web.console.reception import Console
from engine.web.console.words import word
from engine.web.desk import Desk

LINKS = (Link("/console/runs", word("Runs")),)

MOST = 25

UNDER_WAY = ("planning", "settling")
"""States of a run that is not done."""

RunId = Annotated[int, Path(ge=0, lt=2**63)]


def routes(console: Console) -> APIRouter:
    """The routes of this page."""
    router = console.router("/console/runs")
    desk = console.desk

    @router.get("")
    async def index(request: Request, after: str | None = None) -> Response:
        visit = await console.enter(request)
        before = int(after) if after is not None and after.isdigit() and len(after) < 19 else None
        found = await desk.transact(lambda connection, _: list_runs(connection, MOST + 1, before))
        page = page_of(found, MOST, lambda run: run.id, None if before is None else after)
        return visit.page("runs/index.html", runs=page)

    @router.get("/{run}")
    async def show(request: Request, run: RunId) -> Response:
        visit = await console.enter(request)
        state, prices = await desk.transact(lambda c, _: (get_run(c, run), price_list(c, run)))
        return visit.page("runs/show.html", run=state, live=under_way(state), prices=prices, ended=False)

    @router.get("/{run}/progress")
    async def progress(request: Request, run: RunId) -> Response:
        visit = await console.enter(request, watching=True)
        state = await desk.transact(lambda connection, _: get_run(connection, run))
        return visit.part("runs/progress.html", run=state, live=under_way(state), ended=not under_way(state))

    @router.get("/{run}/counts")
    async def counts(request: Request, run: RunId) -> Response:
        visit = await console.enter(request, watching=True)
        state, found = await desk.transact(lambda c, _: (get_run(c, run), count_decisions(c, run)))
        return visit.part("runs/counts.html", run=state, live=under_way(state), counts=found)

    @router.get("/{run}/pushes")
    async def pushes(request: Request, run: RunId) -> Response:
        visit = await console.enter(request, watching=True)
        found = await desk.do_long(lambda: _pushes(desk, run))
        return visit.part("runs/pushes.html", pushes=found)

    @router.get("/{run}/answers")
    async def answers(request: Request, run: RunId) -> Response:
        visit = await console.enter(request, watching=True)
        try:
            found = await desk.do_long(lambda: report_run(desk.runtime.database, desk.now(), run))
        except UnknownName as error:
            return visit.part("runs/none.html", said=visit.told(error))
        return visit.part("runs/answers.html", report=found, answers=ANSWERS)

    @router.get("/{run}/changes")
    async def changes(request: Request, run: RunId) -> Response:
        visit = await console.enter(request, watching=True)
        found = await desk.transact(lambda connection, _: rebound(connection, run))
        return visit.part("runs/changes.html", run=run, found=found)

    return router


def _pushes(desk: Desk, run: int) -> dict[str, int]:
    with desk.runtime.database.begin() as connection:
        return count_pushes(connection, run)


def under_way(run: RunState) -> bool:
    """Whether a run goes on."""
    return run.state in UNDER_WAY
