"""Data: the plain tables of the store, to look through; what the pages before this one are made of.

One page for all of them, driven by the declarations in engine.store.browse. It is not sqladmin or starlette-admin,
which were looked at (0.32 and 1.0.3). Both want ORM classes where the store has SQLAlchemy Core, page by OFFSET behind
a count(*) and search by '%text%', which a table of millions answers in seconds, and bring scripts and styles inside
their pages, which this console's content security policy refuses. Neither takes a session, roles and writes that are
not its own, and they come without Chinese. Rows are changed where they have an owner: in files, by the API, on other
pages.
"""

from __future__ import annotations

from datetime import date, datetime
from urllib.parse import urlencode

from fastapi import APIRouter
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from engine.errors import BadInput, UnknownName, did_you_mean
from engine.store.browse import TABLES, Row, browse
from engine.web.console.links import Link
from engine.web.console.paging import page_of
from engine.web.console.reception import Console
from engine.web.console.words import word

LINKS = (Link("/console/data", word("Data")),)

TITLES = {
    "users": word("Users"),
    "items": word("Items"),
    "promotions": word("Promotions"),
    "events": word("Events"),
    "occurrences": word("Occurrences"),
    "waiting": word("Waiting pushes"),
    "deliveries": word("Deliveries"),
    "triggers": word("Armed triggers"),
}

LEADS = {
    "users": word("Whom pushes may go to, newest first."),
    "items": word("What pushes may be about, newest first."),
    "promotions": word("Adverts, placements and discounts, as they were announced."),
    "events": word("What users did on one day (UTC), latest first."),
    "occurrences": word("The due instants of campaigns, latest first."),
    "waiting": word("Pushes that have not come to their end, the next to leave first."),
    "deliveries": word("What became of pushes on one day (UTC), latest first."),
    "triggers": word("What happened to a user that a campaign waits for, or has answered."),
}

NEXT = {
    "users": word("Users come from files (horae ingest users FILE) or the event API."),
    "items": word("Items come from files (horae ingest items FILE) or the API (POST /v1/items)."),
    "promotions": word("Promotions come from files: horae ingest promotions FILE"),
    "events": word("Choose another day, or send events: horae ingest events FILE, or the event API."),
    "occurrences": word("Campaigns make them when they are due: create and approve one."),
    "waiting": word("A run plans pushes about half an hour before a campaign's first window."),
    "deliveries": word("Choose another day, or wait until planned pushes are due."),
    "triggers": word("They appear when an event meets the trigger of a running campaign."),
}

COLUMNS = {
    "user_id": word("User"),
    "item_id": word("Item"),
    "timezone": word("Time zone"),
    "country": word("Country"),
    "locale": word("Language"),
    "consent": word("Consent"),
    "attributes": word("Attributes"),
    "updated_at": word("Changed"),
    "title": word("Title"),
    "category": word("Category"),
    "brand": word("Brand"),
    "price": word("Price"),
    "stock": word("Stock"),
    "available_from": word("Available from"),
    "available_until": word("Available until"),
    "kind": word("Kind"),
    "starts_at": word("Begins"),
    "ends_at": word("Ends"),
    "weight": word("Weight"),
    "announced_at": word("Announced"),
    "occurred_at": word("When"),
    "event": word("Event"),
    "value": word("Value"),
    "quantity": word("Quantity"),
    "received_at": word("Received"),
    "campaign": word("Campaign"),
    "version": word("Version"),
    "label": word("Due instant"),
    "run": word("Run"),
    "created_at": word("Made"),
    "send_at": word("Leaves"),
    "state": word("State"),
    "gateway": word("Gateway"),
    "window_end": word("Window ends"),
    "attempts": word("Attempts"),
    "at": word("When"),
    "reason": word("Reason"),
    "test": word("Test"),
    "detail": word("Detail"),
    "happened_at": word("Happened"),
    "due_at": word("Due"),
    "closed_at": word("Closed"),
}

NUMBERS = frozenset({"price", "stock", "weight", "value", "quantity", "version", "run", "attempts"})
CLOSED_WORDS = frozenset({"state", "reason", "kind"})
"""Columns whose values are Horae's own words."""

ROWS = 50


def routes(console: Console) -> APIRouter:
    """The routes of this page."""
    router = console.router("/console/data")

    @router.get("")
    async def first(request: Request) -> Response:
        visit = await console.enter(request)
        return visit.go(f"/console/data/{next(iter(TABLES))}")

    @router.get("/{name}")
    async def rows(request: Request, name: str, day: str = "", after: str | None = None) -> Response:
        visit = await console.enter(request)
        if name not in TABLES:
            raise UnknownName(f"there is no table {name!r}", hint=did_you_mean(name, TABLES))
        table = TABLES[name]
        chosen = {one.name: request.query_params.get(one.name, "").strip() for one in table.filters}
        if any("\0" in value for value in chosen.values()):
            raise BadInput(visit.say("These rows cannot be looked for."))

        def work(connection: Connection, now: datetime) -> tuple[date | None, list[Row]]:
            of = None if table.day is None else _day(day) or now.date()
            return of, browse(connection, name, ROWS + 1, chosen=chosen, day=of, after=after)

        of, found = await console.desk.transact(work)
        kept = {key: value for key, value in {**chosen, "day": of.isoformat() if of else ""}.items() if value}
        return visit.page(
            "data/table.html",
            name=name,
            table=table,
            words={"titles": TITLES, "leads": LEADS, "next": NEXT, "columns": COLUMNS},
            numbers=NUMBERS,
            closed_words=CLOSED_WORDS,
            chosen=chosen,
            day=of,
            page=page_of(found, ROWS, lambda row: row.key, after),
            path=f"/console/data/{name}" + (f"?{urlencode(kept)}" if kept else ""),
        )

    return router


def _day(given: str) -> date | None:
    """A day as it was given; None for none. Raises BadInput."""
    if not given:
        return None
    try:
        return date.fromisoformat(given)
    except ValueError:
        raise BadInput(f"{given[:20]!r} is no day", hint="like 2026-11-24") from None
