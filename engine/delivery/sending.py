"""What every group of pushes on its way out needs, before its intent (`preparing`) and after it (`recording`)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from random import Random
from typing import NamedTuple

from engine.delivery.claim import Back, Claimed, put_back
from engine.delivery.facts import Facts
from engine.delivery.gates import Gates
from engine.delivery.gateways import ATTEMPT, Gateway
from engine.delivery.health import Health
from engine.delivery.ledger import End, close
from engine.delivery.limits import Reservation
from engine.delivery.messages import Outcome, Outgoing
from engine.delivery.moving import find, move
from engine.delivery.outcomes import Ended, end_in_doubt
from engine.delivery.overflow import REASONS
from engine.delivery.reserve import CapStore, Epoch, EpochLost
from engine.delivery.terms import Book
from engine.errors import RedisUnavailable
from engine.localtime import local_day
from engine.store.database import Transactions

logger = logging.getLogger(__name__)

PAUSE = timedelta(seconds=1)
"""Machine time for which a push rests that went back for no fault of its own: longer than a pass takes to end."""

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

    push: Claimed
    facts: Facts
    messages: tuple[Outgoing, ...]
    reservation: Reservation


@dataclass(frozen=True)
class Leaving:
    """A group whose intent is committed. No request of it may start after `start_by` (clock.monotonic)."""

    gateway: Gateway
    held: tuple[Ready, ...]
    epoch: Epoch
    start_by: float

    @property
    def pushes(self) -> list[Claimed]:
        """The pushes that leave."""
        return [one.push for one in self.held]

    def send(self) -> list[list[Outcome]]:
        """Send it: the outcomes of each push, one per message."""
        messages = [message for one in self.held for message in one.messages]
        outcomes = self.gateway.send_many(messages, self.start_by)
        if len(messages) == len(self.held):
            return [[outcome] for outcome in outcomes]
        answers = iter(outcomes)
        return [[next(answers) for _ in one.messages] for one in self.held]


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
        release(desk, epoch, [push for push in pushes if push.id in ours and not push.in_doubt])


def finish(desk: Desk, ends: Sequence[tuple[Facts, Ended, str | None]], backs: Sequence[Back], now: datetime) -> None:
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


def release(desk: Desk, epoch: Epoch, pushes: Sequence[Claimed]) -> None:
    """Give places back; where Redis does not answer upkeep does it, and until then fewer pushes leave, not more."""
    try:
        desk.caps.release(epoch, [(push.user_id, push.id, push.fence) for push in pushes])
    except RedisUnavailable as error:
        desk.counts["unreleased"] += len(pushes)
        logger.warning("%d reservations wait for upkeep: %s", len(pushes), error, extra={"action": "unreleased"})
