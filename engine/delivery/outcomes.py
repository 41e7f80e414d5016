"""What a provider's answer makes of a push (pure).

A push that certainly was not taken gives its place under the caps back; one that may have been taken keeps it.
Marketing in doubt ends as `unknown`. A transactional push in doubt is tried again under the same collapse id, and
remembers the doubt: whatever becomes of its later attempts, it ends as accepted or unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

from engine.delivery.messages import Kind, Outcome
from engine.delivery.retry import FIRST_WAIT, MOST_ATTEMPTS, backoff


class Tried(NamedTuple):
    """What an outcome is judged by."""

    attempts: int
    transactional: bool
    needs_device: bool
    in_doubt: bool
    """Whether an earlier attempt may have been received."""
    left: timedelta
    """Time in which another attempt may begin."""
    others: bool = False
    """Whether the user has other live devices, which this attempt left out."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The push ends, in `state` for `reason` (one of ledger.REASONS[state])."""

    state: str
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Again:
    """The push waits for another attempt."""

    wait: timedelta
    tried: bool = True
    """Whether this attempt counts."""
    in_doubt: bool = False
    """Whether this attempt may have been received."""


ACCEPTED = Ended("accepted")
_FIRST = (Kind.ACCEPTED, Kind.UNKNOWN, Kind.RETRY, Kind.THROTTLED, Kind.CREDENTIALS_REFUSED, Kind.PAYLOAD_REFUSED)


def combine(outcomes: Sequence[Outcome]) -> Outcome:
    """The outcome of a push sent to several devices: accepted if any was, in doubt if any may have been."""
    if len(outcomes) == 1:
        return outcomes[0]
    rank = {kind: number for number, kind in enumerate(_FIRST)}
    return min(outcomes, key=lambda outcome: rank.get(outcome.kind, len(rank)))


def stops_channel(kind: Kind, *, needs_device: bool) -> bool:
    """Whether nothing more should go this way until a person has looked: our credentials, or the address of a channel
    that has only one, are refused."""
    return kind is Kind.CREDENTIALS_REFUSED or (kind is Kind.DEAD_DEVICE and not needs_device)


def settle(outcome: Outcome, tried: Tried, luck: float) -> Ended | Again:
    """What becomes of a push after `outcome`; `luck` in [0, 1) spreads the waiting."""
    kind = outcome.kind
    if kind is Kind.ACCEPTED:
        return ACCEPTED
    if stops_channel(kind, needs_device=tried.needs_device):
        return Again(FIRST_WAIT, tried=False)
    doubt = tried.in_doubt or kind is Kind.UNKNOWN
    if kind is Kind.DEAD_DEVICE and tried.others:
        return _next_device(tried, doubt=doubt)
    if kind in (Kind.PAYLOAD_REFUSED, Kind.DEAD_DEVICE):
        return end_in_doubt(Ended("rejected", kind.value), in_doubt=doubt)
    if kind is Kind.UNKNOWN and not tried.transactional:
        return Ended("unknown", "no_answer")
    return _again(backoff(tried.attempts, outcome.delay, luck), tried, doubt=doubt)


def _again(wait: timedelta, tried: Tried, *, doubt: bool) -> Ended | Again:
    if tried.attempts >= MOST_ATTEMPTS:
        return end_in_doubt(Ended("rejected", "attempts"), in_doubt=doubt)
    if wait >= tried.left:
        return end_in_doubt(Ended("expired", "retries"), in_doubt=doubt)
    return Again(wait, in_doubt=doubt)


def _next_device(tried: Tried, *, doubt: bool) -> Ended | Again:
    """The device is buried: the next newest is tried. For its provider that is no repeat, so it counts as no attempt;
    it ends where the devices do."""
    if tried.left <= timedelta(0):
        return end_in_doubt(Ended("expired", "retries"), in_doubt=doubt)
    return Again(timedelta(0), tried=False, in_doubt=doubt)


def end_in_doubt(ended: Ended, *, in_doubt: bool) -> Ended:
    """`ended`, or unknown where an attempt may have been received."""
    return Ended("unknown", "no_answer") if in_doubt else ended
