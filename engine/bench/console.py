"""`horae bench console`: how long each page of the console takes, over HTTP, of a process of its own.

Somebody logs in and looks at every page and at every part that a page fetches after itself, one after the other, each
REPEATS times. What counts a long past or plans, and says so while it does, is a slow part with a figure of its own:
everything else is a page and has to keep the bound.
"""

from __future__ import annotations

import http.client
import re
import statistics
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode

import numpy as np
from sqlalchemy import Connection, text

from engine.access import users
from engine.bench.history import AUDIENCE, CAMPAIGN, build_history
from engine.bench.loads import END
from engine.bench.report import Options, Report, Tell
from engine.bench.scratch import scratch_database
from engine.bench.serving import served
from engine.clock import monotonic
from engine.config import read_settings
from engine.errors import Unavailable
from engine.runtime import Runtime, redis_url
from engine.store.browse import TABLES

USERS, REPEATS = 50_000, 5
NAME, PASSWORD = "bench", "correct horse battery staple"

BOUNDS = {"page_p95_s": "<= 0.3", "page_max_s": "<= 0.3"}
"""Of all requests for pages the 95th percentile, and of the slowest page its median."""

FORM = {
    "tab": "form", "kept": "{}", "name": "bench-new", "class": "marketing", "message.title": "For you",
    "message.body": "{{ item.title }}", "items.kind": "personalised", "when": "manual", "horizon": "24h",
    "exploration": "5", "gateway": "log",
}  # fmt: skip
"""A campaign as its form sends it."""


@dataclass(frozen=True)
class Look:
    """What is asked for at `address`; form: sent by POST; slow: it may take its time."""

    address: str
    form: dict[str, str] | None = field(default=None, hash=False, compare=False)
    slow: bool = False


@dataclass
class Visitor:
    """Somebody with a browser: a connection that is kept, cookies, and the session's token for forms."""

    connection: http.client.HTTPConnection
    cookies: dict[str, str] = field(default_factory=dict)
    csrf: str = ""

    def ask(self, path: str, form: Mapping[str, str] | None = None) -> tuple[float, str]:
        """Seconds and text of an answer. Raises Unavailable where it is neither a page nor a redirect."""
        headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
        body = None
        if form is not None:
            body = urlencode({**form, "csrf": self.csrf})
            headers |= {"Content-Type": "application/x-www-form-urlencoded"}
        began = monotonic()
        self.connection.request("GET" if form is None else "POST", path, body, headers)
        answer = self.connection.getresponse()
        told = answer.read().decode()
        seconds = monotonic() - began
        for name, value in answer.getheaders():
            if name.lower() == "set-cookie":
                key, _, rest = value.partition("=")
                self.cookies[key] = rest.partition(";")[0]
        if answer.status not in (200, 303):
            raise Unavailable(f"{path} answered {answer.status}: {told[:300]!r}")
        return seconds, told

    def log_in(self) -> None:
        """Become NAME. Raises Unavailable."""
        self._learn_token(self.ask("/console/login")[1])
        self.ask("/console/login", {"name": NAME, "password": PASSWORD, "next": "/console"})
        self._learn_token(self.ask("/console")[1])

    def _learn_token(self, page: str) -> None:
        found = re.search(r'name="csrf" value="([^"]+)"', page)
        if found is None:
            raise Unavailable("the page has no form")
        self.csrf = found[1]


def run(options: Options, tell: Tell) -> Report:
    """Run the bench."""
    count, repeats = options.users or USERS, options.repeats or REPEATS
    settings = read_settings()
    with scratch_database(settings, "console") as database:
        own = settings.model_copy(update={"database_url": database.libpq_url})
        runtime = Runtime(own, database, redis_url(settings), "memory://", "")
        described = build_history(runtime, count, options.seed, tell)
        with database.begin() as connection:
            users.create_user(connection, NAME, "admin", PASSWORD, author="bench")
            looks = looks_at(connection)
        with (
            served(database.libpq_url, redis_url(settings), redis_url(settings)) as port,
            closing(http.client.HTTPConnection("127.0.0.1", port, timeout=300)) as wire,
        ):
            visitor = Visitor(wire)
            visitor.log_in()
            taken: dict[Look, list[float]] = {}
            for look in looks:
                visitor.ask(look.address, look.form)  # what a process reads once
                taken[look] = [visitor.ask(look.address, look.form)[0] for _ in range(1 if look.slow else repeats)]
                tell(f"{statistics.median(taken[look]):.3f} s {look.address}")
    return Report("console", {**described, "repeats": repeats}, _figures(taken), BOUNDS)


def looks_at(connection: Connection) -> list[Look]:
    """Every page there is and every part of one, of a store of `build_history`."""
    ask = connection.execute
    real = ask(text("SELECT min(run_id) FROM occurrences WHERE listed")).scalar_one()
    last = ask(text("SELECT max(id) FROM runs")).scalar_one()
    sent = ask(text("SELECT max(id) - 1 FROM runs")).scalar_one()
    person = ask(
        text("SELECT u.external_id FROM decisions d JOIN users u ON u.id = d.user_id"
             " WHERE d.run_id = :run AND d.push_id IS NOT NULL ORDER BY u.id LIMIT 1"), {"run": real}
    ).scalar_one()  # fmt: skip
    day = END.date().isoformat()
    pages = [
        "/console", "/console/overview/now", "/console/campaigns", f"/console/campaigns/{CAMPAIGN}",
        f"/console/campaigns/{CAMPAIGN}/audience", f"/console/campaigns/{CAMPAIGN}/runs",
        f"/console/campaigns/{CAMPAIGN}/versions/1", f"/console/campaigns/{CAMPAIGN}/report", "/console/editor",
        f"/console/editor?name={CAMPAIGN}", f"/console/sends/{CAMPAIGN}", f"/console/sends/{CAMPAIGN}/test",
        "/console/runs",
        *(f"/console/runs/{run}{part}" for run in (last, sent) for part in ("", "/progress", "/counts")),
        f"/console/runs/{last}/changes", "/console/users", "/console/users?q=m00", "/console/users?q=u",
        f"/console/users/{quote(person)}", "/console/audiences", "/console/audiences/edit",
        f"/console/audiences/edit?name={AUDIENCE}", f"/console/audiences/{AUDIENCE}", "/console/models",
        "/console/models/1", "/console/approvals", f"/console/approvals/{CAMPAIGN}/part",
        "/console/data", *(f"/console/data/{name}" for name in TABLES), f"/console/data/deliveries?day={day}",
        f"/console/data/events?day={day}", "/console/data/devices", "/console/settings", "/console/settings/audit",
        "/console/settings/audit?action=campaign.edit", "/console/settings/keys", "/console/settings/team",
        "/console/settings/workers", "/console/account",
    ]  # fmt: skip
    slow = [
        "/console/overview/day", "/console/overview/servers", f"/console/audiences/{AUDIENCE}/size",
        f"/console/campaigns/{CAMPAIGN}/report/found", f"/console/runs/{last}/answers", f"/console/runs/{sent}/answers",
        f"/console/users/{quote(person)}?part=explanation&campaign={CAMPAIGN}&run={real}",
        "/console/data/devices/health", "/console/settings/workers/now",
    ]  # fmt: skip
    return [
        *(Look(address) for address in pages),
        Look("/console/editor/check", FORM),
        *(Look(address, slow=True) for address in slow),
        Look("/console/editor/plan", FORM, slow=True),
    ]


def _figures(taken: Mapping[Look, list[float]]) -> dict[str, float]:
    pages = {look: seconds for look, seconds in taken.items() if not look.slow}
    medians = {look.address: statistics.median(seconds) for look, seconds in pages.items()}
    return {
        "page_p95_s": float(np.percentile([s for seconds in pages.values() for s in seconds], 95)),
        "page_max_s": max(medians.values()),
        "pages": len(pages),
        **{f"page {address}": seconds for address, seconds in sorted(medians.items(), key=lambda one: -one[1])},
        **{f"slow {look.address}": statistics.median(seconds) for look, seconds in taken.items() if look.slow},
    }
