"""Upkeep of delivery: what dead workers, lost connections and passing time leave behind. Every step may run twice.

A worker that dies holds its rows until the lease ends. Then `claimed` rows, whose intent was never committed, go back
to `planned` and give up their places; `sending` rows may have been received: marketing ends as `unknown` and keeps its
place, transactional is tried again, in doubt. The fence stays as it was and rises at the next claim, so whoever held
the row can record nothing.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import Connection, text

from engine import clock
from engine.delivery import health
from engine.delivery.claim import Back, Claimed, expired_leases, overdue_in_doubt, put_back
from engine.delivery.dispatch import close_late
from engine.delivery.epoch import current_epoch
from engine.delivery.facts import Facts, load_facts
from engine.delivery.housekeeping import keep_house
from engine.delivery.ledger import End, close
from engine.delivery.metering import meter
from engine.delivery.outcomes import Ended, end_in_doubt
from engine.delivery.reserve import CapStore
from engine.delivery.retry import FIRST_WAIT, MOST_ATTEMPTS
from engine.delivery.sending import end_of
from engine.delivery.terms import Book
from engine.errors import RedisUnavailable
from engine.store import counters
from engine.store.database import Database
from engine.store.partitions import ensure_ahead
from engine.store.ticks import once_a_day

if TYPE_CHECKING:
    from engine.runtime import Runtime

logger = logging.getLogger(__name__)

TICKS_KEPT = timedelta(days=7)
RELEASED_FOR = timedelta(minutes=15)
"""How long after its end a push' place is asked for back: as often as upkeep runs in that time."""

_AT_ONCE = 500
_ANY_FENCE = 2**62

# Those that may have held a place; most gave it back themselves.
_ENDED = text("""
    SELECT user_id, push_id FROM deliveries
    WHERE day >= :day AND recorded_at > clock_timestamp() - :since AND NOT test
      AND (state IN ('rejected', 'expired', 'cancelled') AND attempts > 0 OR state = 'suppressed' AND attempts > 1)
""")


def upkeep(runtime: Runtime, now: datetime) -> dict[str, int]:
    """Do all of it at business time `now`; returns counts: `rescued.planned`, `rescued.unknown`, `expired.expired`,
    `cancelled.campaign_cancelled`, `released`, `partitions`, `forgotten`, `ticks`, `metered`, `caps_unreachable` where
    Redis is away, and once a day those of `keep_house`. They are added to the store's counters too."""
    counts = Counter[str]()
    counts["partitions"] = len(ensure_ahead(runtime.database, now))
    free = rescue(runtime.database, now, counts)
    close_late(runtime.database, now, counts, every=True)
    _release(runtime, now, free, counts)
    with runtime.database.begin() as connection:
        gone = text("DELETE FROM ticks WHERE created_at < clock_timestamp() - CAST(:kept AS interval)")
        counts["forgotten"] = health.forget(connection, now)
        counts["ticks"] = connection.execute(gone, {"kept": TICKS_KEPT}).rowcount
    counts["metered"] = meter(runtime.database)
    done = once_a_day(runtime.database, "keep_house", clock.machine_now(), lambda: keep_house(runtime.database, now))
    counts.update(done or {})
    with runtime.database.begin() as connection:
        counters.add(connection, "upkeep", counts)
    return {name: number for name, number in sorted(counts.items()) if number}


def rescue(database: Database, now: datetime, counts: Counter[str]) -> list[Claimed]:
    """Take over pushes whose lease has ended, and end those in doubt whose time is over.

    Returns those whose place under the caps is free again: for the caller to release, after the commit.
    """
    book, free = Book(), list[Claimed]()
    for find in (expired_leases, overdue_in_doubt):
        found = _AT_ONCE
        while found == _AT_ONCE:
            with database.begin() as connection:
                pushes = find(connection, now, _AT_ONCE)
                if pushes:
                    free += _take_over(connection, load_facts(connection, pushes, book, now, {}), now, counts)
            found = len(pushes)
    return free


def _take_over(connection: Connection, held: Sequence[Facts], now: datetime, counts: Counter[str]) -> list[Claimed]:
    ends, backs = list[End](), list[Back]()
    for facts in held:
        verdict = _verdict(facts, now)
        if isinstance(verdict, Ended):
            ends.append(end_of(facts, verdict, now))
            counts[f"rescued.{verdict.state}"] += 1
        else:
            backs.append(verdict)
            counts["rescued.planned"] += 1
    close(connection, ends, ("claimed", "sending", "planned"))
    if backs:
        put_back(connection, backs)
    return [facts.push for facts in held if not _in_doubt(facts.push)]


def _verdict(facts: Facts, now: datetime) -> Ended | Back:
    push, doubt = facts.push, _in_doubt(facts.push)
    if push.state == "sending" and not facts.terms.transactional:
        return Ended("unknown", "lease_expired")
    if now >= push.end or push.state == "planned":
        return end_in_doubt(Ended("expired", "expired"), in_doubt=doubt)
    if push.attempts >= MOST_ATTEMPTS:
        return end_in_doubt(Ended("rejected", "attempts"), in_doubt=doubt)
    return Back(push, FIRST_WAIT, in_doubt=doubt)


def _in_doubt(push: Claimed) -> bool:
    return push.in_doubt or push.state == "sending"


def _release(runtime: Runtime, now: datetime, free: Sequence[Claimed], counts: Counter[str]) -> None:
    with runtime.database.begin() as connection:
        parameters = {"day": (now - timedelta(days=1)).date(), "since": RELEASED_FOR}
        ended = [(row.user_id, row.push_id, _ANY_FENCE) for row in connection.execute(_ENDED, parameters)]
    try:
        caps = CapStore(runtime.caps)
        epoch = current_epoch(runtime.database, caps, timedelta(0))
        counts["released"] = caps.release(epoch, [*((push.user_id, push.id, push.fence) for push in free), *ended])
    except RedisUnavailable as error:
        counts["caps_unreachable"] += 1
        logger.warning("no reservation was released: %s", error, extra={"action": "caps_unreachable"})
