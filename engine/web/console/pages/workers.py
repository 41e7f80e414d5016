"""Workers: what runs, what waits in the queues, when each tick last ended well, and the way to Flower."""

from __future__ import annotations

import ipaddress

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from engine.config import QUEUES, Settings
from engine.status import gather
from engine.web.console.reception import Console
from engine.web.console.words import word

QUEUE_WORDS = {
    "dispatch": word("sends what is due"),
    "plan": word("plans runs, user by user"),
    "ingest": word("folds events into profiles"),
    "refresh": word("weighs planned pushes again after events"),
    "train": word("learns"),
    "upkeep": word("clears up what is over"),
}


def routes(console: Console) -> APIRouter:
    """The routes of this page."""
    router = console.router("/console/settings/workers")

    @router.get("")
    async def index(request: Request) -> Response:
        visit = await console.enter(request)
        flower = flower_address(console.runtime.settings, request.url.hostname or "")
        return visit.page("settings/workers.html", flower=flower)

    @router.get("/now")
    async def now(request: Request) -> Response:
        visit = await console.enter(request, watching=True)
        # Workers get a second to answer: beside everything else, and after who asked before.
        found = await console.desk.do_long(lambda: gather(console.runtime.settings))
        return visit.part("settings/workers_now.html", found=found, queues=QUEUES, queue_words=QUEUE_WORDS)

    return router


def flower_address(settings: Settings, host: str) -> str | None:
    """Where Flower is for a browser that reached us at `host`: where the settings say, else under the proxy's prefix,
    else at its port on this machine; None where it is told not to run, or only this machine could reach it."""
    if settings.flower_url:
        return settings.flower_url
    if settings.flower_url_prefix:
        return f"/{settings.flower_url_prefix.strip('/')}/"
    if settings.flower_port == 0 or not _is_loopback(host):
        return None
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.flower_port}/"


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
