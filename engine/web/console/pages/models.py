"""Models: which one decides, how good each was on weeks it had not seen, what it looks at, and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Path
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from engine.learning import registry
from engine.learning.backtest import kept
from engine.learning.registry import Entry
from engine.web.console.links import Link
from engine.web.console.reasons import REGIMES, Teller
from engine.web.console.reception import Console
from engine.web.console.words import word

LINKS = (Link("/console/models", word("Models")),)

MEASURES = (
    ("ndcg_10", word("NDCG@10"), word("how far up in a user's first ten stands what they took; 1 is perfect")),
    ("hr_10", word("HR@10"), word("share of users who took something of their first ten")),
    ("auc", word("AUC"), word("how often what was taken is scored above what was not; 0.5 is chance")),
    ("ap", word("AP"), word("mean precision at what was taken")),
    ("ne", word("NE"), word("log-loss beside always foretelling the mean; below 1 is better than that")),
    ("ece", word("ECE"), word("how far foretold and observed rates lie apart on average")),
    ("predicted_per_actual", word("predicted / actual"), word("1 is exact")),
)
"""Measures: key, name, meaning."""

RIVALS = (("model", word("this model")), ("own_history", word("own history")), ("popularity", word("popularity")))

OVER_TIME = ("ndcg_10", "ne", "predicted_per_actual")

REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox; frame-ancestors 'none'"
"""A backtest's page is one file with its styles inside; it runs nothing and asks for nothing."""

Version = Annotated[int, Path(ge=1, lt=2**31)]


def routes(console: Console) -> APIRouter:
    """The routes of this page."""
    router = console.router("/console/models")
    desk = console.desk

    @router.get("")
    async def index(request: Request) -> Response:
        visit = await console.enter(request)
        entries, back, tested = await desk.transact(
            lambda c, _: (registry.entries(c), registry.earlier_champion(c), kept.latest(c))
        )
        names = {key: visit.say(name) for key, name, _ in MEASURES}
        charts = [(key, names[key], over_time(entries, key)) for key in OVER_TIME]
        return visit.page("models/index.html", entries=entries, back=back, tested=tested, charts=charts)

    @router.get("/backtests/{number}")
    async def backtest(request: Request, number: Version) -> Response:
        visit = await console.enter(request)
        page = await desk.transact(lambda connection, _: kept.page_of(connection, number))
        if page is None:
            raise HTTPException(404, visit.say("This backtest is not kept any more."))
        return HTMLResponse(page, headers={"Content-Security-Policy": REPORT_POLICY})

    @router.get("/{version}")
    async def show(request: Request, version: Version) -> Response:
        visit = await console.enter(request)
        entry = await desk.transact(lambda connection, _: registry.entry(connection, version))
        return visit.page(
            "models/show.html",
            entry=entry,
            tell=Teller(visit.words),
            regimes=REGIMES,
            measures=MEASURES,
            rivals=[(key, name) for key, name in RIVALS if key in entry.metrics],
        )

    @router.post("/rollback")
    async def rollback(request: Request) -> Response:
        visit, _ = await console.act(request, "operate")
        version = await desk.transact(lambda connection, _: registry.rollback(connection, visit.actor))
        said = visit.say("Model %(n)s is the champion again: the next run decides by it.", n=version)
        return visit.go("/console/models", said)

    @router.post("/{version}/promote")
    async def promote(request: Request, version: Version) -> Response:
        visit, _ = await console.act(request, "operate")
        await desk.transact(lambda connection, _: registry.promote(connection, version, visit.actor))
        said = visit.say("Model %(n)s is the champion: the next run decides by it.", n=version)
        return visit.go(f"/console/models/{version}", said)

    return router


def over_time(entries: Sequence[Entry], key: str) -> dict[str, Any]:
    """A measure of the models in the order they were made: x (labels) and values, of those that have it."""
    known = [(entry.version, entry.measures[key]) for entry in reversed(entries) if entry.measures.get(key) is not None]
    return {"x": [str(version) for version, _ in known], "values": [value for _, value in known]}
