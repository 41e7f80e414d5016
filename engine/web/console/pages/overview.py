"""Overview: how everything stands now, and the switch that stops it.

The page and what refreshes itself every few seconds read no table that grows with users, events or history
(metrics.figures); what became of the last day's pushes, and who answers at the broker, come after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from fastapi import APIRouter
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from engine.campaigns import store
from engine.campaigns.definition import Campaign
from engine.campaigns.schedule import Due, upcoming
from engine.delivery import switches
from engine.delivery.switches import Switch
from engine.errors import BadInput
from engine.metrics.figures import Figures, read_figures
from engine.planning.progress import RunState, list_runs
from engine.status import gather, outcomes_since
from engine.web.console.links import Link
from engine.web.console.reception import Console
from engine.web.console.words import word

LINKS = (Link("/console", word("Overview")),)

NEXT = 8
RUNS = 5
DAY = timedelta(days=1)

TICKS = {
    "tick_campaigns": word("campaigns looked at"),
    "refresh": word("late binding"),
    "dispatch_due": word("sending"),
    "fold": word("events folded into profiles"),
    "upkeep": word("upkeep"),
    "train": word("training"),
    "warm_update": word("model updated with new answers"),
    "tick_triggers": word("triggers looked at"),
}
"""Beat's tasks, for people."""

LATE_SECONDS = {"train": 2 * 86_400.0, "warm_update": 86_400.0, "upkeep": 600.0}
"""How long after its last good end a task looks stuck; else a minute."""


@dataclass(frozen=True)
class Occasion:
    """An occurrence that comes."""

    definition: Campaign
    due: Due

    @property
    def local(self) -> bool:
        """Whether its label is a reading of each user's own clock."""
        return self.definition.schedule is not None and self.definition.schedule.local


@dataclass(frozen=True)
class Standing:
    """Everything that the overview shows of this moment."""

    now: datetime
    figures: Figures
    stops: list[Switch]
    campaigns: dict[str, str]
    """Names of campaigns by the scope of their switch."""
    coming: list[Occasion]
    runs: list[RunState]

    @property
    def everything(self) -> Switch | None:
        """The stop of everything, where it is stopped."""
        return next((one for one in self.stops if one.scope == switches.ALL), None)

    @property
    def due(self) -> int:
        """Planned pushes whose instant has come."""
        return sum(self.figures.due.values())

    @property
    def under_way(self) -> int:
        """Pushes that a dispatcher holds."""
        return sum(self.figures.under_way.values())

    @property
    def stuck(self) -> list[str]:
        """Tasks whose last good end is too long ago."""
        return [name for name, age in self.figures.ticks.items() if age > LATE_SECONDS.get(name, 60.0)]


def routes(console: Console) -> APIRouter:
    """The routes of this page."""
    router = console.router("/console")
    _add_looking(router, console)
    _add_switches(router, console)
    return router


def _add_looking(router: APIRouter, console: Console) -> None:
    @router.get("")
    async def index(request: Request) -> Response:
        visit = await console.enter(request)
        return visit.page("overview/index.html", standing=await console.desk.transact(_standing), ticks=TICKS)

    @router.get("/overview/now")
    async def now(request: Request) -> Response:
        visit = await console.enter(request, watching=True)
        return visit.part("overview/now.html", standing=await console.desk.transact(_standing), ticks=TICKS)

    @router.get("/overview/day")
    async def day(request: Request) -> Response:
        visit = await console.enter(request, watching=True)
        counted = await console.desk.transact(lambda connection, now: outcomes_since(connection, now - DAY))
        rows = sorted(((*name.partition(": ")[::2], n) for name, n in counted.items()), key=lambda row: -row[2])
        return visit.part("overview/day.html", rows=rows, total=sum(counted.values()))

    @router.get("/overview/servers")
    async def servers(request: Request) -> Response:
        visit = await console.enter(request, watching=True)
        found = await console.desk.do(lambda: gather(console.runtime.settings))
        return visit.part("overview/servers.html", found=found)


def _add_switches(router: APIRouter, console: Console) -> None:
    @router.post("/stop")
    async def stop(request: Request) -> Response:
        visit, form = await console.act(request)
        why = form.text("why")[:500] or None

        def work(connection: Connection, _: datetime) -> int:
            return switches.stop(connection, _scope(connection, form.text("scope")), visit.actor, why)

        late = await console.desk.transact(work)
        said = visit.words.say_many(
            "Stopped. At most %(n)s push was already on its way and may still arrive.",
            "Stopped. At most %(n)s pushes were already on their way and may still arrive.",
            late,
        )
        return visit.go(visit.back, said if late else visit.say("Stopped. No push was on its way."), kind="warning")

    @router.post("/start")
    async def start(request: Request) -> Response:
        visit, form = await console.act(request)

        def work(connection: Connection, _: datetime) -> bool:
            return switches.start(connection, _scope(connection, form.text("scope")), visit.actor)

        was = await console.desk.transact(work)
        said = (
            visit.say("It sends again. Pushes whose window has passed expire.")
            if was
            else visit.say("It was not stopped.")
        )
        return visit.go(visit.back, said)


def _scope(connection: Connection, given: str) -> str:
    """A switch's scope from a form. Raises UnknownName, BadInput."""
    kind, _, name = given.partition(":")
    if given == switches.ALL:
        return switches.ALL
    if kind == "gateway":
        return switches.scope_of(connection, gateway=name)
    if kind == "campaign":
        return switches.scope_of(connection, campaign=name)
    raise BadInput(f"{given[:50]!r} is nothing that can be stopped")


def _standing(connection: Connection, now: datetime) -> Standing:
    running = store.get_all(connection, ("running",))
    coming = [
        Occasion(stored.definition, due)
        for stored in running
        for due in upcoming(stored.definition, now, 2)
        if due.starts_at >= now - DAY
    ]  # fmt: skip
    stops = switches.stopped(connection)
    named = {}
    if any(one.scope.startswith("campaign:") for one in stops):
        named = {f"campaign:{stored.id}": stored.name for stored in store.get_all(connection)}
    return Standing(
        now=now,
        figures=read_figures(connection, now),
        stops=stops,
        campaigns=named,
        coming=sorted(coming, key=lambda one: (one.due.starts_at, one.definition.name))[:NEXT],
        runs=list_runs(connection, RUNS),
    )
