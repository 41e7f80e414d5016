"""Devices: whose, alive or given up by their provider and why. Tokens are secrets: shown is the start of a hash."""

from __future__ import annotations

from datetime import datetime
from urllib.parse import urlencode

from fastapi import APIRouter
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from engine.delivery.devices import EXPIRED, STALE, Registered, browse_devices, health
from engine.delivery.gateways import device_gateways
from engine.errors import BadInput
from engine.web.console.pages.data import ROWS, TITLES
from engine.web.console.paging import page_of
from engine.web.console.reception import Console
from engine.web.console.words import word

STATES = {
    "": word("all"),
    "live": word("alive"),
    "stale": word("not registered again for a month"),
    "dead": word("given up by the provider"),
}


def routes(console: Console) -> APIRouter:
    """The routes of this page."""
    router = console.router("/console/data/devices")

    @router.get("")
    async def index(
        request: Request, user: str = "", gateway: str = "", state: str = "", after: str | None = None
    ) -> Response:
        visit = await console.enter(request)
        chosen = {"user": user.strip(), "gateway": gateway, "state": state}
        if "\0" in user or state not in STATES or (gateway and gateway not in device_gateways()):
            raise BadInput(visit.say("These rows cannot be looked for."))
        before = int(after) if after is not None and after.isdecimal() and len(after) < 19 else None

        def work(connection: Connection, now: datetime) -> tuple[datetime, list[tuple[int, Registered]]]:
            found = browse_devices(
                connection, ROWS + 1, now, user=chosen["user"] or None, gateway=gateway or None,
                state=state or None, before=before,
            )  # fmt: skip
            return now, found

        now, found = await console.desk.transact(work)
        kept = {name: value for name, value in chosen.items() if value}
        return visit.page(
            "data/devices.html",
            titles=TITLES,
            chosen=chosen,
            states=STATES,
            gateways=device_gateways(),
            now=now,
            stale=now - STALE,
            page=page_of(found, ROWS, lambda row: row[0], after),
            path="/console/data/devices" + (f"?{urlencode(kept)}" if kept else ""),
        )

    @router.get("/health")
    async def standing(request: Request) -> Response:
        visit = await console.enter(request, watching=True)
        found = await console.desk.do_long(lambda: _health(console))
        return visit.part("data/devices_health.html", found=found, stale=STALE.days, expired=EXPIRED.days)

    return router


def _health(console: Console) -> object:
    now = console.desk.now()
    with console.runtime.database.begin() as connection:
        return health(connection, now)
