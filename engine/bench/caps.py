"""`horae bench caps`: reservations a second, beside a script that does nothing.

A reservation checks six caps (two of them of the calendar) and the minimum gap, with scopes, an id and a fence, in the
log of a user who has ten live reservations; it is granted and written. The bound is the same pipeline of EVALSHA with
one key and one argument for a script that returns at once: what any script costs. They alternate; medians count.
"""

from __future__ import annotations

import statistics
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import redis

from engine.bench.report import Options, Report, Tell
from engine.campaigns.policy import Cap
from engine.clock import monotonic
from engine.config import read_settings
from engine.delivery.limits import Attempt, Entry, Reservation, limits_of
from engine.delivery.reserve import CapStore, Epoch
from engine.runtime import redis_client, redis_url

USERS, REPEATS = 20_000, 7
PIPELINE = 100
"""Reservations a round trip, as in a group of dispatch."""

LIVE = 10
NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
ZONE = ZoneInfo("Europe/Berlin")
GAP = timedelta(minutes=30)
DEADLINE = timedelta(seconds=30)
CAPS = tuple(
    Cap.model_validate({"id": name, "scope": scope, "limit": limit, "window": window})
    for name, scope, limit, window in (
        ("day", "all", 9, "local_day"),
        ("week", "all", 10, "local_week"),
        ("own", "campaign:daily-pick", 9, "rolling:PT24H"),
        ("channel", "channel:fcm", 12, "rolling:P7D"),
        ("tag", "tag:spring", 10, "rolling:P3D"),
        ("category", "category:Bakery", 12, "rolling:P7D"),
    )
)
SCOPES = ("campaign:daily-pick", "category:Bakery", "channel:fcm", "tag:spring")
LIMITS = limits_of(CAPS, GAP, frozenset(SCOPES))
EMPTY = "return 0"
BOUNDS = {"reserve_per_empty_ratio": ">= 0.3", "not_granted": "= 0"}


def run(options: Options, tell: Tell) -> Report:
    """Run the bench."""
    users, repeats = options.users or USERS, options.repeats or REPEATS
    rng = np.random.default_rng(options.seed)
    client = redis_client(redis_url(read_settings()))
    store, reserved, empty, refused = CapStore(client), [], [], 0
    for number in range(1, repeats + 1):
        tell(f"reservations, {number} of {repeats}")
        with _own_epoch(client) as epoch:
            _fill(store, epoch, users, rng)
            asked = [_asking(user, NOW) for user in range(users)]
            begun = monotonic()
            for start in range(0, users, PIPELINE):
                answers = store.reserve(epoch, asked[start : start + PIPELINE], _no_ledger)
                refused += sum(answer is not None for answer in answers)
            reserved.append(users / (monotonic() - begun))
            empty.append(_empty(client, epoch, users))
    client.close()
    return Report(
        "caps",
        {"users": users, "repeats": repeats, "caps": len(CAPS), "live": LIVE, "pipeline": PIPELINE},
        {
            "reserve_per_empty_ratio": statistics.median(r / e for r, e in zip(reserved, empty, strict=True)),
            "reservations_per_s": statistics.median(reserved),
            "empty_scripts_per_s": statistics.median(empty),
            "not_granted": refused,
        },
        BOUNDS,
    )


def _asking(user: int, at: datetime) -> Reservation:
    return Reservation(user, uuid.uuid4(), 1, SCOPES, Attempt(at, ZONE, DEADLINE), LIMITS)


def _entry(at: datetime) -> Entry:
    return Entry(uuid.uuid4(), 1, at, Attempt(at, ZONE, DEADLINE).day, SCOPES)


def _fill(store: CapStore, epoch: Epoch, users: int, rng: np.random.Generator) -> None:
    """Give every user a log of LIVE reservations: the last two hours ago, the others spread over six days before."""
    hours = 3 + 15 * np.arange(LIVE - 1) + rng.uniform(0, 12, (users, LIVE - 1))

    def logs(cold: Collection[int]) -> dict[int, list[Entry]]:
        return {user: [_entry(NOW - timedelta(hours=float(hour))) for hour in hours[user]] for user in cold}

    for start in range(0, users, PIPELINE):
        asked = [_asking(user, NOW - timedelta(hours=2)) for user in range(start, min(start + PIPELINE, users))]
        store.reserve(epoch, asked, logs)


def _empty(client: redis.Redis, epoch: Epoch, number: int) -> float:
    """Empty scripts a second."""
    sha = str(client.script_load(EMPTY))
    begun = monotonic()
    for start in range(0, number, PIPELINE):
        pipeline = client.pipeline(transaction=False)
        for user in range(start, min(start + PIPELINE, number)):
            pipeline.evalsha(sha, 1, f"horae:cap:{epoch.token}:{{{user}}}", "1")
        pipeline.execute()
    return number / (monotonic() - begun)


def _no_ledger(users: object) -> dict[int, list[Entry]]:
    raise RuntimeError(f"these logs were there: {users}")


@contextmanager
def _own_epoch(client: redis.Redis) -> Iterator[Epoch]:
    """An epoch of which nothing stays behind."""
    token = f"bench{uuid.uuid4().hex[:8]}"
    store = CapStore(client)
    store.open(token)
    try:
        yield Epoch(1, store.run_id(), token, timedelta(days=9))
    finally:
        store.forget(token)
        for key in client.scan_iter(f"horae:cap:{token}:*", count=1000):
            client.unlink(key)
