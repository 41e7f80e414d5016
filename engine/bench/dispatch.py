"""`horae bench dispatch`: due rows to recorded deliveries, over HTTP/2 and TLS, beside Google's own client.

Measured is everything between a due row and its delivery row: claim, just-in-time check, caps, template, intent, the
request to a local provider that checks, journals and answers after 30 ms, the record. The peer is firebase-admin's
`send_each_async`, which only sends, at the same provider. They alternate; medians count. Then pushes come due at half
of the measured rate for a minute, and it is measured how late each is accepted.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import redis
from sqlalchemy import text

from engine.bench.due import CAPS, Due, build_store, plan
from engine.bench.provider.launch import Provider
from engine.bench.report import Options, Report, Tell
from engine.bench.scratch import scratch_database
from engine.bench.senders import Order, Senders
from engine.bench.spent import Parts, Spent, of_postgres, of_process, of_redis
from engine.clock import machine_now
from engine.config import read_settings
from engine.runtime import redis_url
from engine.store.database import Database

USERS, REPEATS = 30_000, 3
"""So many users that no campaign sends ten pushes for each in a quarter of an hour: that pauses it."""
PEER_MESSAGES = 2_000
PROCESSES = 2
SECONDS = 60
BOUNDS = {"dispatch_per_firebase_ratio": ">= 10", "lateness_p99_s": "<= 2", "not_accepted": "= 0"}


def run(options: Options, tell: Tell) -> Report:
    """Run the bench."""
    settings = read_settings()
    caps_url = redis_url(settings)
    users, repeats = options.users or USERS, options.repeats or REPEATS
    with (
        tempfile.TemporaryDirectory(prefix="horae-bench-") as folder,
        scratch_database(settings, "dispatch") as database,
        running_provider(Path(folder)) as provider,
        _own_caps(caps_url),
    ):
        tell("making the load")
        due = build_store(database, users, machine_now())
        given = {"home": folder, **provider.settings()}
        order = Order(database.libpq_url, caps_url, given)
        rates, theirs = [], []
        spent = Spent(_parts(database, provider, caps_url))
        with Senders(order, PROCESSES) as senders:
            with _peer(provider) as peer:
                for number in range(1, repeats + 1):
                    tell(f"dispatching, {number} of {repeats}")
                    rates.append(_rate(due, senders, f"round {number}", spent))
                    tell(f"firebase-admin, {number} of {repeats}")
                    theirs.append(peer(PEER_MESSAGES))
            rate = statistics.median(rates)
            tell(f"{SECONDS} seconds at half the rate")
            lateness = _lateness(due, senders, rate / 2)
        refused = sum(line["status"] >= 400 for line in provider.received())
    figures = {
        "dispatch_per_firebase_ratio": rate / statistics.median(theirs),
        "pushes_per_s": rate,
        "firebase_messages_per_s": statistics.median(theirs),
        **lateness,
        "not_accepted": refused,
        **{f"cpu_us_per_push.{part}": 1e6 * used / (users * repeats) for part, used in spent.seconds.items()},
    }
    load: dict[str, object] = {"users": users, "repeats": repeats, "processes": PROCESSES, "caps": len(CAPS)}
    return Report("dispatch", {**load, "provider_ms": 30}, figures, BOUNDS)


@contextmanager
def running_provider(folder: Path) -> Iterator[Provider]:
    """A provider of the bench's own."""
    provider = Provider(folder / "provider")
    try:
        yield provider
    finally:
        provider.close()


def _rate(due: Due, senders: Senders, label: str, spent: Spent) -> float:
    """Pushes a second, all due at once; `spent` gets the processor time of each part."""
    plan(due, label, due.users, machine_now() - timedelta(seconds=1))
    with spent:
        sent = senders.run()
    if sent.counts["accepted"] != due.users:
        raise RuntimeError(f"not every push was accepted: {dict(sent.counts)}")
    spent.add("dispatching", sent.dispatching)
    spent.add("speaking", sent.speaking)
    return due.users / sent.seconds


def _parts(database: Database, provider: Provider, caps_url: str) -> Parts:
    """Who works beside the dispatch processes."""
    postgres = of_postgres(database)
    return {
        "provider": of_process(provider.pid),
        "redis": of_redis(caps_url),
        **({"postgres": postgres} if postgres is not None else {}),
    }


def _lateness(due: Due, senders: Senders, rate: float) -> dict[str, float]:
    """Quantiles of the seconds from `send_at` to acceptance, at `rate` pushes a second."""
    begin = machine_now() + timedelta(seconds=3)
    plan(due, "paced", int(rate * SECONDS), begin + timedelta(seconds=5), timedelta(seconds=SECONDS - 8))
    senders.run(SECONDS + 3.0)
    with due.database.begin() as connection:
        row = connection.execute(text(_LATENESS)).one()
    if row.number != int(rate * SECONDS):
        raise RuntimeError(f"{row.number} of {int(rate * SECONDS)} pushes were accepted in time")
    return {"lateness_p99_s": row.p99, "lateness_p50_s": row.p50, "paced_per_s": rate}


_LATENESS = """
    SELECT count(*) AS number, percentile_cont(0.5) WITHIN GROUP (ORDER BY late) AS p50,
           percentile_cont(0.99) WITHIN GROUP (ORDER BY late) AS p99
    FROM (SELECT extract(epoch FROM d.recorded_at - d.send_at)::float8 AS late
          FROM deliveries d JOIN occurrences o ON o.id = d.occurrence_id
          WHERE o.label LIKE 'paced/%' AND d.state = 'accepted') AS paced
"""


@contextmanager
def _own_caps(url: str) -> Iterator[None]:
    """What this bench leaves in the caps' Redis is removed."""
    client = redis.Redis.from_url(url)
    before = set(client.scan_iter("horae:cap*", count=1000))
    try:
        yield
    finally:
        for key in client.scan_iter("horae:cap*", count=1000):
            if key not in before:
                client.unlink(key)
        client.close()


@contextmanager
def _peer(provider: Provider) -> Iterator[Any]:
    """firebase-admin in a process of its own: a function from messages to messages a second."""
    authority = str(provider.files.authority)
    command = [sys.executable, "-m", "engine.bench.firebase_peer", str(provider.files.service_account), provider.origin]
    process = subprocess.Popen(  # noqa: S603 - our own module
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "SSL_CERT_FILE": authority, "REQUESTS_CA_BUNDLE": authority},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    said, heard = process.stdin, process.stdout

    def messages_per_second(number: int) -> float:
        said.write(f"{number}\n")
        said.flush()
        seconds, accepted = heard.readline().split()
        if int(accepted) != number:
            raise RuntimeError(f"firebase-admin: {accepted} of {number} messages were accepted")
        return number / float(seconds)

    try:
        messages_per_second(20)  # connect, and fetch an access token
        yield messages_per_second
    finally:
        said.close()
        process.wait(30)
