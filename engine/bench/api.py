"""`horae bench api`: events a second that one API process accepts for good, beside COPY of the same rows.

Two clients send batches of Segment's messages, as fast as they are answered, to a real server process: parsing, checks,
keys, ids, the events with their indexes, the queue of what no profile holds yet, the users whose plans may change, all
committed before the answer. Its bound is psycopg's `write_row` COPY of the finished rows into a table without indexes.
Then a single client sends small batches, one after the other: how long an answer takes. No worker folds meanwhile.
Last, recommendations: see engine.bench.recommend.
"""

from __future__ import annotations

import http.client
import json
import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta

import numpy as np
from sqlalchemy import text

from engine.access.keys import create_key
from engine.bench import recommend
from engine.bench.ingest import copy_seconds, stored_rows
from engine.bench.loads import RetailLoad, retail_load
from engine.bench.report import Options, Report, Tell
from engine.bench.scratch import checkpoint, scratch_database
from engine.bench.serving import served
from engine.clock import machine_now, monotonic
from engine.config import read_settings
from engine.errors import Unavailable
from engine.runtime import redis_url
from engine.store.database import Database

USERS, REPEATS = 1_000, 5
BATCH, SMALL = 500, 10
CLIENTS = 4
SMALL_BATCHES = 300
TABLES = "events, event_keys, unfolded_events, changed_users"


def run(options: Options, tell: Tell) -> Report:
    """Run the bench."""
    tell("making the load")
    load = retail_load(options.users or USERS, options.seed)
    settings = read_settings()
    with scratch_database(settings, "api") as database:
        with database.begin() as connection:
            key = create_key(connection, "bench", ["write"], author="bench", rate=10**9)
        with served(database.libpq_url, redis_url(settings)) as port:
            tell("warming up")
            _send(port, key, _bodies(load, "warm", BATCH), CLIENTS)
            accepted, copied = [], []
            for number in range(1, (options.repeats or REPEATS) + 1):
                tell(f"sending {number}")
                accepted.append(_accept(database, port, key, _bodies(load, str(number), BATCH)))
                tell(f"COPY {number}")
                copied.append(copy_seconds(database, stored_rows(database)))
            tell("small batches")
            taken = _send(port, key, _bodies(load, "small", SMALL)[:SMALL_BATCHES], 1)
    events = len(load.user)
    decided, seconds = recommend.measure(options, tell)
    return Report(
        "api",
        {**load.description(), "batch": BATCH, "clients": CLIENTS, "small_batch": SMALL, **decided},
        {
            "api_per_copy_ratio": statistics.median(copied) / statistics.median(accepted),
            "api_events_per_s": events / statistics.median(accepted),
            "copy_rows_per_s": events / statistics.median(copied),
            **{f"small_batch_p{share}_s": float(np.percentile(taken, share)) for share in (50, 95, 99)},
            **seconds,
        },
        {"api_per_copy_ratio": ">= 0.1", **recommend.BOUNDS},
    )


def _accept(database: Database, port: int, key: str, bodies: Sequence[bytes]) -> float:
    """Seconds until all is accepted, into emptied tables."""
    with database.begin() as connection:
        connection.execute(text(f"TRUNCATE {TABLES}"))
    checkpoint(database)
    began = monotonic()
    _send(port, key, bodies, CLIENTS)
    return monotonic() - began


def _send(port: int, key: str, bodies: Sequence[bytes], clients: int) -> list[float]:
    """Send bodies from so many clients at once; the seconds of each. Raises Unavailable where one is not accepted."""

    def client(own: Sequence[bytes]) -> list[float]:
        taken = []
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
            for body in own:
                began = monotonic()
                connection.request("POST", "/v1/batch", body, {"Authorization": f"Bearer {key}"})
                answer = connection.getresponse()
                told = answer.read()
                taken.append(monotonic() - began)
                if answer.status != 202 or json.loads(told)["rejected"]:
                    raise Unavailable(f"the API answered {answer.status}: {told[:300]!r}")
        return taken

    with ThreadPoolExecutor(clients) as threads:
        parts = threads.map(client, [bodies[number::clients] for number in range(clients)])
        return [seconds for part in parts for seconds in part]


def _bodies(load: RetailLoad, mark: str, size: int) -> list[bytes]:
    """The load's events as batches, in the last hour; `mark` makes their ids new."""
    users, items = load.user_ids.to_pylist(), load.item_ids.to_pylist()
    now = machine_now()
    spread = timedelta(hours=1) / len(load.user)
    messages = []
    for row in range(len(load.user)):
        properties: dict[str, object] = {"value": float(load.value[row])} if np.isfinite(load.value[row]) else {}
        if load.item[row] >= 0:
            properties["item_id"] = items[load.item[row]]
        messages.append(
            {
                "type": "track",
                "userId": users[load.user[row]],
                "event": load.event_type[row],
                "properties": properties,
                "messageId": f"{mark}-{row}",
                "timestamp": (now - timedelta(hours=1) + row * spread).isoformat(),
                "context": {"library": {"name": "bench", "version": "1"}},
            }
        )
    sent = {"sentAt": now.isoformat()}
    return [json.dumps({"batch": messages[at : at + size], **sent}).encode() for at in range(0, len(messages), size)]
