"""The part of `horae bench api` about decisions: how long a user's recommendations take, asked one after the other.

A shop of 50,000 items with a click model of the yardstick's size, a real server process, one client. Each request is
about another user: their profiles are read, candidates found, scored and explained as the API's defaults say.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Sequence
from contextlib import closing

import numpy as np
from sqlalchemy import text

from engine.access.keys import create_key
from engine.bench.report import Options, Tell
from engine.bench.scratch import scratch_database
from engine.bench.serving import served
from engine.bench.shop import build_shop
from engine.clock import monotonic
from engine.config import read_settings
from engine.errors import Unavailable
from engine.planning.recommending import USUAL
from engine.runtime import redis_url

SHOP_USERS = 10_000
ASKED, WARMING = 1_000, 50
LONG = 10
"""Items of the longer answers that are measured beside."""

BOUNDS = {"recommend_p95_s": "<= 0.02"}


def measure(options: Options, tell: Tell) -> tuple[dict[str, object], dict[str, float]]:
    """The load and the figures: seconds by request at the API's own default, and at LONG items."""
    settings = read_settings()
    tell(f"making a shop of {SHOP_USERS:,} users")
    with scratch_database(settings, "recommend") as database:
        load = build_shop(database, SHOP_USERS, options.seed, tell)
        with database.begin() as connection:
            key = create_key(connection, "bench", ["read"], author="bench", rate=10**9)
            rows = connection.execute(text("SELECT external_id FROM users ORDER BY hashtext(external_id)"))
            users = list(rows.scalars())[: ASKED + WARMING]
        with served(database.libpq_url, redis_url(settings)) as port:
            tell("asking for recommendations")
            _ask(port, key, users[:WARMING], USUAL)
            usual = _ask(port, key, users[WARMING:], USUAL)
            longer = _ask(port, key, users[WARMING:], LONG)
    figures = {f"recommend_p{share}_s": float(np.percentile(usual, share)) for share in (50, 95, 99)}
    figures[f"recommend_{LONG}_p95_s"] = float(np.percentile(longer, 95))
    return {"shop": load, "recommended": USUAL, "asked": len(usual)}, figures


def _ask(port: int, key: str, users: Sequence[str], n: int) -> list[float]:
    """The seconds of each answer. Raises Unavailable where one is no list of n items."""
    taken = []
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        for user in users:
            began = monotonic()
            headers = {"Authorization": f"Bearer {key}"}
            connection.request("GET", f"/v1/users/{user}/recommendations?n={n}", headers=headers)
            answer = connection.getresponse()
            told = answer.read()
            taken.append(monotonic() - began)
            if answer.status != 200 or len(json.loads(told)["items"]) != n:
                raise Unavailable(f"the API answered {answer.status}: {told[:300]!r}")
    return taken
