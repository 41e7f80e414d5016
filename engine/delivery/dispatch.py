"""Dispatch: send what is due, each push at most once (marketing) or at least once (transactional).

    claim ≤ 1,000 ─► facts ─► in groups ≤ 100 of one gateway:
        check (clock, consent, item …) ─► render ─► reserve caps ─► commit the intent ─► send ─► record

While some groups are with their providers (`flight`) the next are prepared. The order is the protocol. A kill before
the intent has sent nothing: the lease ends and upkeep puts the rows back. A kill after it leaves at most this group in
`sending`: marketing ends as `unknown`, keeps its place under the caps and is never sent again; transactional is sent
again under the same collapse id. The intent checks, in one statement, everything that may have changed since the
claim: fence, lease, stop switches, campaign state, the epoch of the caps. No request is made inside a transaction, and
none starts once the lease or the reservation's deadline δ has too little left.

Where the caps are in doubt (Redis is away, or lost data, or another process says so) nothing leaves: the rows go back
untried and are counted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from random import Random
from typing import TYPE_CHECKING

from sqlalchemy import Connection, text

from engine import clock
from engine.delivery.claim import STOPPED, Claimed, claim, heartbeat
from engine.delivery.epoch import current_epoch
from engine.delivery.facts import Facts, load_facts, reach_of
from engine.delivery.flight import Flight
from engine.delivery.gates import Gates
from engine.delivery.gateways import Gateway
from engine.delivery.health import Health
from engine.delivery.ledger import close_cancelled, close_expired
from engine.delivery.moving import move_late
from engine.delivery.preparing import prepare_group
from engine.delivery.reserve import CapStore, Epoch, EpochLost
from engine.delivery.sending import Desk, Pace, go_back, no_crash, why_back
from engine.delivery.terms import Book
from engine.errors import RedisUnavailable
from engine.store.database import Database, Transactions
from engine.store.partitions import ensure_partitions

if TYPE_CHECKING:
    from engine.planning.wake import Wake
    from engine.runtime import Runtime

logger = logging.getLogger(__name__)

DISPATCH_TASK = "horae.dispatch_due"
_CLOSED_AT_ONCE = 5_000


def dispatch_due(
    runtime: Runtime,
    now: datetime,
    wake: Wake | None = None,
    limit: int | None = None,
    pace: Pace = Pace(),  # noqa: B008 - frozen
    rng: Random | None = None,
    at: Callable[[str], None] = no_crash,
) -> dict[str, int]:
    """Send everything that is due at business time `now`, at most `limit` pushes, in one pass; returns counts.

    Counted are final states with their reasons (`accepted`, `suppressed.capped`, `expired.expired`, …), attempts that
    wait for another (`retry`, `throttled`, `unknown`), pushes put back untried (`back.…`), `later`, `late`,
    `lease_lost`, `channel_stopped`, and `waiting.caps_unreachable` where the caps' Redis does not answer.
    A pass ends after `pace.longest`; where more is due `wake` is asked for the next one. `rng` spreads retries.
    """
    database = runtime.database
    book = Book()
    with database.begin() as connection:
        book.refresh(connection)
        gates = Gates(connection, book.policy, runtime.gateways)
    caps, chance = CapStore(runtime.caps), rng or Random()
    desk = Desk(database, caps, book, _business_clock(database, now), pace, chance, Health(gates), at)
    today = now.astimezone(UTC).date()
    ensure_partitions(database, "deliveries", today, today + timedelta(days=1))
    close_late(database, now, desk.counts, every=False)
    with database.hold() as desk.database, Flight(desk) as flight:
        ended = _pass(desk, runtime.gateways, flight, limit)
    desk.counts.update(desk.health.flush(database, desk.now(), at_once=True))
    if not ended and wake is not None:
        wake(DISPATCH_TASK)
    return {name: number for name, number in sorted(desk.counts.items()) if number}


def close_late(database: Database, now: datetime, counts: dict[str, int], *, every: bool) -> None:
    """Close waiting pushes that are too late at `now` and have no other window, and those of cancelled campaigns: those
    that are due, or `every` one. Counted into `counts`."""
    counts["moved"] = counts.get("moved", 0) + move_late(database, now)
    for name, step in (("expired.expired", close_expired), ("cancelled.campaign_cancelled", close_cancelled)):
        closed = _CLOSED_AT_ONCE
        while closed == _CLOSED_AT_ONCE:
            with database.begin() as connection:
                closed = step(connection, now, _CLOSED_AT_ONCE, every=every)
            counts[name] = counts.get(name, 0) + closed


def outstanding(database: Database, now: datetime) -> int:
    """How many pushes are due at `now` or under way: what the driver of a virtual clock waits for before its next step.

    Pushes of paused campaigns and behind stop switches are not counted: no waiting helps them.
    """
    with database.begin() as connection:
        return int(
            connection.execute(
                text(
                    "SELECT count(*) FROM pushes p JOIN campaigns c ON c.id = p.campaign_id"
                    " WHERE p.send_at <= :now AND (p.state IN ('claimed', 'sending') OR (p.state = 'planned'"
                    f" AND c.state <> 'paused' AND NOT {STOPPED}))"
                ),
                {"now": now},
            ).scalar_one()
        )


def _pass(desk: Desk, gateways: Mapping[str, Gateway], flight: Flight, limit: int | None) -> bool:
    """Batch after batch; whether everything due was claimed, or `limit`."""
    end, claimed = clock.monotonic() + desk.pace.longest.total_seconds(), 0
    while limit is None or claimed < limit:
        if clock.monotonic() > end:
            return False
        number = _batch(
            desk, gateways, flight, desk.pace.batch if limit is None else min(desk.pace.batch, limit - claimed)
        )
        if number == 0 and not flight.land_all():
            break  # what came back for another attempt may be due by now
        claimed += number
    return True


def _batch(desk: Desk, gateways: Mapping[str, Gateway], flight: Flight, most: int) -> int:
    """Claim up to `most` pushes and let them leave; the number claimed, 0 where the pass should end."""
    pace = desk.pace
    try:
        epoch = current_epoch(desk.database, desk.caps, desk.book.horizon(pace.deadline))
    except RedisUnavailable as error:
        desk.counts["waiting.caps_unreachable"] += _due(desk.database, desk.now())
        logger.warning("nothing leaves: %s", error, extra={"action": "caps_unreachable"})
        return 0
    lease = _Lease(desk)
    with desk.database.apart() as connection:
        pushes = _claim(desk, connection, most)
    desk.at("after_claim")
    if pushes:
        lease.pushes = {push.id: push for push in pushes}
        _send_batch(desk, gateways, flight, lease, epoch)
    return len(pushes)


def _claim(desk: Desk, connection: Connection, most: int) -> list[Claimed]:
    """Up to `most` pushes, of what breakers and rates let leave."""
    found = list[Claimed]()
    for lane in desk.gates.lanes(connection, most):
        if room := min(lane.most, most - len(found)):
            found += claim(
                connection, desk.now(), lane.gateways, room, desk.pace.lease, campaign=lane.campaign, apart=lane.apart
            )
    return found


def _send_batch(desk: Desk, gateways: Mapping[str, Gateway], flight: Flight, lease: _Lease, epoch: Epoch) -> None:
    with desk.database.apart() as connection:
        facts = load_facts(connection, lease.remaining(), desk.book, desk.now(), reach_of(gateways))
    facts = _admitted(desk, lease, facts)
    try:
        for name, group in _groups(facts, desk.pace.group):
            flight.make_room()
            leaving = prepare_group(desk, gateways[name], lease.take(group), epoch)
            desk.gates.unused(group, [] if leaving is None else leaving.pushes)
            if leaving is not None:
                flight.launch(leaving)
    except (EpochLost, RedisUnavailable) as error:
        go_back(desk, lease.remaining(), why_back(error), None)
        logger.warning("nothing leaves: %s", error, extra={"action": "caps_in_doubt"})


def _admitted(desk: Desk, lease: _Lease, facts: Sequence[Facts]) -> list[Facts]:
    """Those of `facts` that breakers, rates and retry budgets let leave; the others go back, and take no caps."""
    passed, back = desk.gates.admit(desk.database, facts, desk.pace.deadline, desk.rng)
    if back:
        desk.counts.update({f"back.{why}": number for why, number in back.items()})
        ids = {one.push.id for one in passed}
        lease.done([one for one in facts if one.push.id not in ids])
    return passed


class _Lease:
    """A batch' lease, by this process' monotonic clock: begun before the claim, so that it errs on the short side."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._length = desk.pace.lease.total_seconds()
        self._end = clock.monotonic() + self._length
        self.pushes: dict[object, Claimed] = {}

    def remaining(self) -> list[Claimed]:
        """The claimed pushes whose turn has not come."""
        return list(self.pushes.values())

    def take(self, group: Sequence[Facts]) -> list[Facts]:
        """Those of `group` still held, from now on no longer this lease's matter; past half of it, it is extended first
        for all that remain."""
        if clock.monotonic() > self._end - self._length / 2:
            end = clock.monotonic() + self._length
            with self._desk.database.begin() as connection:
                held = heartbeat(connection, self.remaining(), self._desk.pace.lease)
            lost = [push for push in self.pushes if push not in held]
            self._desk.counts["lease_lost"] += len(lost)
            self.pushes = {push_id: push for push_id, push in self.pushes.items() if push_id in held}
            self._end = end
        return [facts for facts in group if self.pushes.pop(facts.push.id, None) is not None]

    def done(self, group: Sequence[Facts]) -> None:
        """The pushes of `group` are no longer this lease's matter."""
        for facts in group:
            self.pushes.pop(facts.push.id, None)


def _groups(facts: Sequence[Facts], size: int) -> Iterator[tuple[str, list[Facts]]]:
    """The batch in groups of one gateway each, in the order in which they are due."""
    by_gateway = sorted(facts, key=lambda one: one.push.gateway)
    for name, group in groupby(by_gateway, key=lambda one: one.push.gateway):
        members = list(group)
        for start in range(0, len(members), size):
            yield name, members[start : start + size]


def _business_clock(database: Transactions, now: datetime) -> Callable[[], datetime]:
    """Business time during a pass that began at `now`: virtual it stands still, else it runs with the machine."""
    with database.begin() as connection:
        virtual = connection.execute(text("SELECT business_now IS NOT NULL FROM workspace")).scalar_one()
    begun = clock.monotonic()
    return lambda: now if virtual else now + timedelta(seconds=clock.monotonic() - begun)


def _due(database: Transactions, now: datetime) -> int:
    with database.begin() as connection:
        query = text("SELECT count(*) FROM pushes WHERE state = 'planned' AND send_at <= :now")
        return int(connection.execute(query, {"now": now}).scalar_one())
