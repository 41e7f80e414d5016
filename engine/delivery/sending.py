"""One group of claimed pushes on its way out: check, render, reserve, commit the intent, send, record.

The order is the protocol; `dispatch` has the essay. Every step closes or puts back what it refuses, under the fence,
and hands the rest on.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import partial
from random import Random
from time import sleep
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import text

from engine import clock
from engine.campaigns.template import render
from engine.delivery.check import Later, Refused, check
from engine.delivery.claim import Back, Claimed, commit_intent, put_back
from engine.delivery.counted import ledger_entries
from engine.delivery.facts import Book, Facts
from engine.delivery.gates import Gates
from engine.delivery.gateways import ATTEMPT, Gateway
from engine.delivery.gateways.exchange import NO_TIME
from engine.delivery.health import Health
from engine.delivery.ledger import End, close
from engine.delivery.limits import GAP, OVERTAKING, Attempt, Entry, Limit, Reservation
from engine.delivery.messages import Kind, Outcome, Outgoing
from engine.delivery.moving import find, move
from engine.delivery.outcomes import ACCEPTED, Again, Ended, Tried, combine, end_in_doubt, settle, stops_channel
from engine.delivery.overflow import REASONS
from engine.delivery.reserve import CapStore, Epoch, EpochLost
from engine.delivery.switches import stop_channel
from engine.errors import BadInput, RedisUnavailable, StoreUnavailable
from engine.localtime import local_day
from engine.store.database import Transactions

logger = logging.getLogger(__name__)

PAUSE = timedelta(seconds=1)
"""Machine time for which a push rests that went back for no fault of its own: longer than a pass takes to end."""

HELD = timedelta(seconds=30)
"""Machine time for which a push rests whose user's devices are all of stopped gateways."""

LATE = timedelta(minutes=1)
"""An accepted push counts as late from here on."""

RECORD_TRIES = 3

KEPT = ("accepted", "unknown")
"""Final states that keep their place under the caps."""


@dataclass(frozen=True)
class Pace:
    """Sizes and times of dispatch; the defaults are for production, tests shorten them."""

    batch: int = 1_000
    """Pushes claimed at once."""
    group: int = 100
    """Pushes per intent: with `in_flight`, the bound on what one kill leaves in doubt and `stop` cannot hold back."""
    lease: timedelta = timedelta(seconds=60)
    in_flight: int = 4
    """Groups under way at once: while some are answered, the next ones are prepared."""
    deadline: timedelta = ATTEMPT
    """δ: from the reservation to the last moment at which the provider may receive it."""
    longest: timedelta = timedelta(seconds=60)
    """Machine time after which a pass ends, though more is due: the next one goes on."""


_BURY = text("""
    UPDATE devices d SET dead_at = greatest(coalesce(gone.since, :now), d.seen_at), dead_reason = gone.reason
    FROM unnest(CAST(:ids AS bigint[]), CAST(:seen AS timestamptz[]), CAST(:since AS timestamptz[]),
                CAST(:reasons AS text[])) AS gone (id, seen, since, reason)
    WHERE d.id = gone.id AND d.dead_at IS NULL AND d.seen_at IS NOT DISTINCT FROM gone.seen
""")


def no_crash(point: str) -> None:
    """Passes a named crash point."""


@dataclass
class Desk:
    """What every group needs: the store, the caps, this pass' clock, pace, chance and counts."""

    database: Transactions
    caps: CapStore
    book: Book
    now: Callable[[], datetime]
    """Business time."""
    pace: Pace
    rng: Random
    health: Health
    at: Callable[[str], None] = no_crash
    """Called at the named crash points; chaos tests kill the process there."""
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def gates(self) -> Gates:
        """What holds pushes back before anything is taken for them."""
        return self.health.gates

    def count(self, ended: Ended, number: int = 1) -> None:
        """Count pushes that ended."""
        self.counts[ended.state if ended.reason is None else f"{ended.state}.{ended.reason}"] += number


class Ready(NamedTuple):
    """A push that may leave, rendered, with what it asks of the caps."""

    facts: Facts
    messages: tuple[Outgoing, ...]
    reservation: Reservation

    @property
    def push(self) -> Claimed:
        """The claimed row."""
        return self.facts.push


@dataclass(frozen=True)
class Leaving:
    """A group whose intent is committed. No request of it may start after `start_by` (clock.monotonic)."""

    gateway: Gateway
    held: tuple[Ready, ...]
    epoch: Epoch
    start_by: float

    @property
    def ids(self) -> set[UUID]:
        """The pushes that leave."""
        return {one.push.id for one in self.held}

    def send(self) -> list[list[Outcome]]:
        """Send it: the outcomes of each push, one per message."""
        messages = [message for one in self.held for message in one.messages]
        answers = iter(self.gateway.send_many(messages, self.start_by))
        return [[next(answers) for _ in one.messages] for one in self.held]


def prepare_group(desk: Desk, gateway: Gateway, group: Sequence[Facts], epoch: Epoch) -> Leaving | None:
    """Check, render, reserve and commit the intent of a group of claimed pushes of one gateway: what may now leave.

    Raises RedisUnavailable and EpochLost; then nothing of the group leaves, and it is back in `planned`.
    """
    begun, now = clock.monotonic(), desk.now()
    checked = _checked(desk, gateway, group, now)
    try:
        ready = _reserved(desk, checked, epoch, now)
    except (EpochLost, RedisUnavailable) as error:
        go_back(desk, [one.push for one in checked], why_back(error), None)
        raise
    desk.at("after_reserve")
    intended = clock.monotonic()
    held = _intended(desk, ready, epoch)
    if not held:
        return None
    desk.at("after_intent")
    spare = min(begun + desk.pace.deadline.total_seconds(), intended + desk.pace.lease.total_seconds())
    return Leaving(gateway, tuple(held), epoch, spare - gateway.timeout.total_seconds())


# --- before the intent -----------------------------------------------------------------------------------------------


def _checked(desk: Desk, gateway: Gateway, group: Sequence[Facts], now: datetime) -> list[Ready]:
    ready, ends, backs = [], list[tuple[Facts, Ended, str | None]](), list[Back]()
    sign = desk.book.signer(now)
    for facts in group:
        if facts.held:
            backs.append(Back(facts.push, HELD, tried=False))
            desk.counts["back.stopped"] += 1
            continue
        verdict = check(facts, now, desk.pace.deadline, needs_device=gateway.needs_device)
        if isinstance(verdict, Refused):
            ends.append((facts, Ended(verdict.state, verdict.reason), None))
        elif isinstance(verdict, Later):
            backs.append(Back(facts.push, timedelta(0), tried=False, send_at=verdict.send_at))
        else:
            try:
                ready.append(_rendered(desk, gateway, facts, now, sign))
            except BadInput as error:
                ends.append((facts, Ended("rejected", "template"), str(error)))
    desk.counts["later"] += sum(back.send_at is not None for back in backs)
    _finish(desk, ends, backs, now)
    return ready


def _rendered(desk: Desk, gateway: Gateway, facts: Facts, now: datetime, sign: Callable[[UUID], str]) -> Ready:
    push, campaign, user = facts.push, facts.terms.campaign, facts.user
    if user is None or user.tz is None:
        raise ValueError("only users who passed the check are rendered")
    message = render(
        facts.message,
        user.fields(),
        facts.item.fields() if facts.item else None,
        facts.data,
        user.locale,
        campaign={"name": campaign.name},
        push={"id": str(push.id)},
    )
    token = sign(push.id)
    outgoing = [
        Outgoing(
            push_id=push.id,
            occurrence_id=push.occurrence_id,
            campaign=campaign.name,
            user_id=user.external_id,
            item_id=facts.item.external_id if facts.item else None,
            title=message.title,
            body=message.body,
            data=message.data,
            collapse_id=push.id.hex,
            at=now,
            ttl=push.end - now,
            urgent=facts.terms.transactional,
            device=device,
            callback_token=token,
        )
        for device in (facts.chosen if gateway.needs_device else (None,))
    ]
    return Ready(facts, tuple(outgoing), _asking(facts, Attempt(now, user.tz, desk.pace.deadline)))


def _asking(facts: Facts, attempt: Attempt) -> Reservation:
    push, standing = facts.push, facts.standing
    counts = facts.terms.campaign.counts_toward_caps
    return Reservation(push.user_id, push.id, push.fence, standing.scopes, attempt, standing.limits, counts)


def _reserved(desk: Desk, ready: Sequence[Ready], epoch: Epoch, now: datetime) -> list[Ready]:
    """Those whose places under the caps were granted; the others end as suppressed, or wait for their turn."""
    asking = [one for one in ready if one.reservation.limits or one.reservation.counts]
    refusals: list[Limit | None] = []
    if asking:
        attempts = {one.push.user_id: one.reservation.attempt for one in asking}
        ledger = partial(_ledger, desk, attempts, now - epoch.horizon)
        refusals = desk.caps.reserve(epoch, [one.reservation for one in asking], ledger)
    refused = {one.push.id: limit for one, limit in zip(asking, refusals, strict=True) if limit is not None}
    ends, backs, later = list[tuple[Facts, Ended, str | None]](), list[Back](), now + desk.pace.deadline
    for one in ready:
        if (limit := refused.get(one.push.id)) is None:
            continue
        if limit.rule == OVERTAKING and later + desk.pace.deadline < one.push.end:
            backs.append(Back(one.push, timedelta(0), tried=False, send_at=later))
        elif limit.rule == OVERTAKING:
            ends.append((one.facts, Ended("expired", "expired"), None))
        else:
            reason = "gap" if limit.rule == GAP else "capped"
            ends.append((one.facts, Ended("suppressed", reason), limit.rule))
    desk.counts["later"] += len(backs)
    _finish(desk, ends, backs, now)
    return [one for one in ready if one.push.id not in refused]


def _ledger(
    desk: Desk, attempts: Mapping[int, Attempt], since: datetime, users: Collection[int]
) -> Mapping[int, Sequence[Entry]]:
    with desk.database.begin() as connection:
        return ledger_entries(connection, desk.book, {user: attempts[user] for user in users}, since)


def _intended(desk: Desk, ready: Sequence[Ready], epoch: Epoch) -> list[Ready]:
    """Those that may now be sent: their intent is committed. The others go back, untried, or are no longer ours."""
    if not ready:
        return []
    with desk.database.apart() as connection:
        kept = commit_intent(connection, [one.push for one in ready], epoch, desk.pace.lease)
    if not kept:
        return list(ready)
    go_back(desk, [one.push for one in ready if one.push.id in kept], "stopped", epoch)
    return [one for one in ready if one.push.id not in kept]


def why_back(error: EpochLost | RedisUnavailable) -> str:
    """What a push is counted under that goes back because the caps are in doubt."""
    return "epoch_lost" if isinstance(error, EpochLost) else "caps_unreachable"


def go_back(desk: Desk, pushes: Sequence[Claimed], why: str, epoch: Epoch | None) -> None:
    """Put claimed pushes back untried and free their places, counted under `back.why`."""
    backs = [Back(push, PAUSE, tried=False) for push in pushes]
    with desk.database.begin() as connection:
        ours = put_back(connection, backs) if backs else set()
    desk.counts[f"back.{why}"] += len(ours)
    desk.counts["lease_lost"] += len(backs) - len(ours)
    if epoch is not None:
        _release(desk, epoch, [push for push in pushes if push.id in ours and not push.in_doubt])


# --- after the intent ------------------------------------------------------------------------------------------------


def record(desk: Desk, landed: Sequence[tuple[Leaving, Sequence[Sequence[Outcome]]]]) -> None:
    """Write down what became of some groups, in one transaction."""
    now = desk.now()
    ends, backs, free = list[End](), list[Back](), list[tuple[Epoch, Claimed]]()
    for leaving, outcomes in landed:
        for one, answers in zip(leaving.held, outcomes, strict=True):
            outcome = combine(answers)
            luck = desk.rng.random()
            result = (
                ACCEPTED
                if outcome.kind is Kind.ACCEPTED
                else settle(outcome, _tried(desk, leaving.gateway, one, now), luck)
            )
            desk.health.heard(leaving.gateway.name, answers, first=not one.push.failed_before)
            if isinstance(result, Again):
                failed = result.tried and outcome.detail != NO_TIME
                backs.append(Back(one.push, result.wait, result.tried, result.in_doubt, failed=failed))
                desk.counts[outcome.kind.value] += 1
            else:
                ends.append(end_of(one.facts, result, now, outcome))
                desk.health.ended(one.push.campaign_id, result.state, result.reason, now)
                desk.count(result)
                desk.counts["late"] += result.state == "accepted" and now - one.push.send_at > LATE
            if not (one.push.in_doubt or (result.in_doubt if isinstance(result, Again) else result.state in KEPT)):
                free.append((leaving.epoch, one.push))
        _bury(desk, leaving.held, outcomes)
    lost = _written(desk, ends, backs)
    desk.at("after_commit")
    desk.counts["lease_lost"] += len(lost)
    for leaving, outcomes in landed:
        _release(desk, leaving.epoch, [push for epoch, push in free if epoch is leaving.epoch and push.id not in lost])
        free = [(epoch, push) for epoch, push in free if epoch is not leaving.epoch]
        _stop_if_refused(desk, leaving.gateway, [outcome for answers in outcomes for outcome in answers])
    desk.counts.update(desk.health.flush(desk.database, now))


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


def _bury(desk: Desk, held: Sequence[Ready], outcomes: Sequence[Sequence[Outcome]]) -> None:
    """Mark devices dead of which the provider says so, with its reason, unless they were registered again meanwhile."""
    dead = {
        message.device.id: (message.device.seen_at, outcome.since, outcome.detail)
        for one, answers in zip(held, outcomes, strict=True)
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


def _stop_if_refused(desk: Desk, gateway: Gateway, outcomes: Sequence[Outcome]) -> None:
    """Stop every gateway that was refused itself: of a channel of several only those."""
    refused: dict[str, Outcome] = {}
    for outcome in outcomes:
        if stops_channel(outcome.kind, needs_device=gateway.needs_device):
            refused.setdefault(outcome.gateway or gateway.name, outcome)
    for name, outcome in refused.items():
        why = f"{outcome.kind.value}: {outcome.detail or 'the provider refuses us'}"
        with desk.database.begin() as connection:
            stop_channel(connection, name, why)
        desk.counts["channel_stopped"] += 1
        logger.error("gateway %s is stopped, its pushes wait: %s", name, why, extra={"action": "channel_stopped"})


# --- common ----------------------------------------------------------------------------------------------------------


def _finish(desk: Desk, ends: Sequence[tuple[Facts, Ended, str | None]], backs: Sequence[Back], now: datetime) -> None:
    """Close and put back what a step before the intent refused."""
    if not ends and not backs:
        return
    refused = [facts for facts, ended, _ in ends if ended.reason in REASONS]
    if refused:
        with desk.database.begin() as connection:
            moves = find(connection, desk.book, refused, now, desk.pace.deadline)
            moved = move(connection, moves)
        desk.counts["moved"] += len(moved)
        ends = [each for each in ends if each[0].push.id not in moved]
    rows = []
    for facts, given, detail in ends:
        ended = end_in_doubt(given, in_doubt=facts.push.in_doubt)
        rows.append(end_of(facts, ended, now, detail=detail))
        desk.count(ended)
    with desk.database.begin() as connection:
        lost = len(close(connection, rows, ("claimed",)))
        lost += len(backs) - (len(put_back(connection, backs)) if backs else 0)
    desk.counts["lease_lost"] += lost


def end_of(
    facts: Facts, ended: Ended, now: datetime, outcome: Outcome | None = None, *, detail: str | None = None
) -> End:
    """The ledger's row of a push that ended; one that keeps its place carries what caps count it under."""
    keeps = ended.state in KEPT
    return End(
        push_id=facts.push.id,
        fence=facts.push.fence,
        state=ended.state,
        at=now,
        reason=ended.reason,
        local_day=_local_day(facts, now),
        counts=keeps and facts.terms.campaign.counts_toward_caps,
        scopes=facts.standing.scopes if keeps else (),
        provider_id=outcome.provider_id if outcome else None,
        detail=outcome.detail if outcome else detail,
        variant=facts.variant,
    )


def _local_day(facts: Facts, now: datetime) -> date:
    tz = facts.user.tz if facts.user else None
    return local_day(tz, now) if tz else now.astimezone(UTC).date()


def _release(desk: Desk, epoch: Epoch, pushes: Sequence[Claimed]) -> None:
    """Give places back; where Redis does not answer upkeep does it, and until then fewer pushes leave, not more."""
    try:
        desk.caps.release(epoch, [(push.user_id, push.id, push.fence) for push in pushes])
    except RedisUnavailable as error:
        desk.counts["unreleased"] += len(pushes)
        logger.warning("%d reservations wait for upkeep: %s", len(pushes), error, extra={"action": "unreleased"})
