"""Groups that are back from their providers: what became of each push, written down under its fence."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from time import sleep
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy import text

from engine.delivery.claim import Back, Claimed, put_back
from engine.delivery.gateways import Gateway
from engine.delivery.gateways.exchange import NO_TIME
from engine.delivery.ledger import End, close
from engine.delivery.messages import Kind, Outcome
from engine.delivery.outcomes import ACCEPTED, Again, Tried, combine, settle, stops_channel
from engine.delivery.reserve import Epoch
from engine.delivery.sending import KEPT, Desk, Leaving, Ready, end_of, release
from engine.delivery.switches import stop_channel
from engine.errors import StoreUnavailable
from engine.localtime import local_day

logger = logging.getLogger(__name__)

LATE = timedelta(minutes=1)
"""An accepted push counts as late from here on."""

RECORD_TRIES = 3

_BURY = text("""
    UPDATE devices d SET dead_at = greatest(coalesce(gone.since, :now), d.seen_at), dead_reason = gone.reason
    FROM unnest(CAST(:ids AS bigint[]), CAST(:seen AS timestamptz[]), CAST(:since AS timestamptz[]),
                CAST(:reasons AS text[])) AS gone (id, seen, since, reason)
    WHERE d.id = gone.id AND d.dead_at IS NULL AND d.seen_at IS NOT DISTINCT FROM gone.seen
""")


def record(desk: Desk, landed: Sequence[tuple[Leaving, Sequence[Sequence[Outcome]]]]) -> None:
    """Write down what became of some groups, in one transaction."""
    now = desk.now()
    book = _Sorted(desk, now)
    for leaving, outcomes in landed:
        book.sort(leaving, outcomes)
    _bury(desk, book.told)
    lost = _written(desk, book.ends, book.backs)
    desk.at("after_commit")
    desk.counts["lease_lost"] += len(lost)
    for epoch, pushes in book.free:
        release(desk, epoch, [push for push in pushes if push.id not in lost])
    _stop_if_refused(desk, book.told)
    desk.counts.update(desk.health.flush(desk.database, now))


class _Sorted:
    """What pushes end as, go back as, and give back, all at `now`. Most are accepted: these are counted together."""

    def __init__(self, desk: Desk, now: datetime) -> None:
        self._desk = desk
        self._now = now
        self._days: dict[ZoneInfo | None, date] = {}
        self.ends: list[End] = []
        self.backs: list[Back] = []
        self.free: list[tuple[Epoch, list[Claimed]]] = []
        """Pushes whose reservations go, with the epoch of these."""
        self.told: list[tuple[Gateway, Ready, Sequence[Outcome]]] = []
        """All answers to each push that had more than one, or another than "accepted"."""

    def sort(self, leaving: Leaving, outcomes: Sequence[Sequence[Outcome]]) -> None:
        """Add a group."""
        heard: dict[bool, list[Outcome]] = {True: [], False: []}
        accepted, free, latest = Counter[int](), list[Claimed](), self._now - LATE
        for one, answers in zip(leaving.held, outcomes, strict=True):
            push = one.push
            outcome = combine(answers)
            heard[not push.failed_before].extend(answers)
            if len(answers) > 1 or outcome.kind is not Kind.ACCEPTED:
                self.told.append((leaving.gateway, one, answers))
            if outcome.kind is Kind.ACCEPTED:
                self.ends.append(self._accepted(one, outcome))
                accepted[push.campaign_id] += 1
                if push.send_at < latest:
                    self._desk.counts["late"] += 1
            elif not self._otherwise(leaving.gateway, one, outcome):
                free.append(push)
        for first, answers in heard.items():
            self._desk.health.heard(leaving.gateway.name, answers, first=first)
        for campaign_id, number in accepted.items():
            self._desk.health.ended(campaign_id, ACCEPTED.state, None, self._now, number)
            self._desk.count(ACCEPTED, number)
        if free:
            self.free.append((leaving.epoch, free))

    def _accepted(self, one: Ready, outcome: Outcome) -> End:
        """As `end_of` has it, for the many."""
        push, facts, asked = one.push, one.facts, one.reservation
        tz = asked.attempt.tz
        if (day := self._days.get(tz)) is None:
            day = self._days[tz] = local_day(tz, self._now)
        return End(
            push.id, push.fence, ACCEPTED.state, self._now, None, day, asked.counts, asked.scopes,
            outcome.provider_id, outcome.detail, facts.variant,
        )  # fmt: skip

    def _otherwise(self, gateway: Gateway, one: Ready, outcome: Outcome) -> bool:
        """Add a push that was not accepted; whether it keeps its place under the caps."""
        desk, now, push = self._desk, self._now, one.push
        result = settle(outcome, _tried(desk, gateway, one, now), desk.rng.random())
        if isinstance(result, Again):
            failed = result.tried and outcome.detail != NO_TIME
            self.backs.append(Back(push, result.wait, result.tried, result.in_doubt, failed=failed))
            desk.counts[outcome.kind.value] += 1
            return push.in_doubt or result.in_doubt
        self.ends.append(end_of(one.facts, result, now, outcome))
        desk.health.ended(push.campaign_id, result.state, result.reason, now)
        desk.count(result)
        return push.in_doubt or result.state in KEPT


def _written(desk: Desk, ends: Sequence[End], backs: Sequence[Back]) -> set[UUID]:
    """Close and put back what was sent; the ids that were not ours any more.

    A connection that was lost is taken anew: what happened at the provider is known, and would else be in doubt.
    """
    for attempt in range(RECORD_TRIES):
        try:
            with desk.database.begin() as connection:
                lost = close(connection, ends, ("sending",))
                if backs:
                    lost |= {back.push.id for back in backs} - put_back(connection, backs)
                desk.at("after_record")
        except StoreUnavailable:
            if attempt == RECORD_TRIES - 1:
                raise
            sleep(0.2 * 4**attempt)
        else:
            return lost
    raise AssertionError("a loop that returns or raises")


def _tried(desk: Desk, gateway: Gateway, one: Ready, now: datetime) -> Tried:
    return Tried(
        attempts=one.push.attempts,
        transactional=one.facts.terms.transactional,
        needs_device=gateway.needs_device,
        in_doubt=one.push.in_doubt,
        left=one.push.end - now - desk.pace.deadline,
        others=len(one.facts.devices) > len(one.messages),
    )


def _bury(desk: Desk, told: Sequence[tuple[Gateway, Ready, Sequence[Outcome]]]) -> None:
    """Mark devices dead of which the provider says so, with its reason, unless they were registered again meanwhile."""
    dead = {
        message.device.id: (message.device.seen_at, outcome.since, outcome.detail)
        for _, one, answers in told
        for message, outcome in zip(one.messages, answers, strict=True)
        if message.device is not None and outcome.kind is Kind.DEAD_DEVICE
    }
    if dead:
        seen, since, reasons = zip(*dead.values(), strict=True)
        parameters = {
            "now": desk.now(),
            "ids": list(dead),
            "seen": list(seen),
            "since": list(since),
            "reasons": list(reasons),
        }
        with desk.database.begin() as connection:
            connection.execute(_BURY, parameters)


def _stop_if_refused(desk: Desk, told: Sequence[tuple[Gateway, Ready, Sequence[Outcome]]]) -> None:
    """Stop every gateway that was refused itself: of a channel of several only those."""
    refused: dict[str, Outcome] = {}
    for gateway, _, answers in told:
        for outcome in answers:
            if stops_channel(outcome.kind, needs_device=gateway.needs_device):
                refused.setdefault(outcome.gateway or gateway.name, outcome)
    for name, outcome in refused.items():
        why = f"{outcome.kind.value}: {outcome.detail or 'the provider refuses us'}"
        with desk.database.begin() as connection:
            stop_channel(connection, name, why)
        desk.counts["channel_stopped"] += 1
        logger.error("gateway %s is stopped, its pushes wait: %s", name, why, extra={"action": "channel_stopped"})
