"""A group of claimed pushes until its intent is committed: check, render, reserve, commit.

The order is the protocol; `dispatch` has the essay. Every step closes or puts back what it refuses, under the fence,
and hands the rest on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID
from zoneinfo import ZoneInfo

from engine import clock
from engine.campaigns.template import render
from engine.delivery.check import Refused, check
from engine.delivery.claim import Back, commit_intent
from engine.delivery.counted import ledger_entries
from engine.delivery.facts import Facts
from engine.delivery.gateways import Gateway
from engine.delivery.limits import GAP, OVERTAKING, Attempt, Entry, Reservation
from engine.delivery.messages import Outgoing
from engine.delivery.outcomes import Ended
from engine.delivery.reserve import Epoch, EpochLost
from engine.delivery.sending import Desk, Leaving, Ready, finish, go_back, why_back
from engine.errors import BadInput, RedisUnavailable

HELD = timedelta(seconds=30)
"""Machine time for which a push rests whose user's devices are all of stopped gateways."""

_NO_DEVICE = (None,)


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


def _checked(desk: Desk, gateway: Gateway, group: Sequence[Facts], now: datetime) -> list[Ready]:
    ready, ends, backs = [], list[tuple[Facts, Ended, str | None]](), list[Back]()
    deadline, needs_device = desk.pace.deadline, gateway.needs_device
    pen = _Pen(now, deadline, desk.book.signer(now), needs_device=needs_device)
    for facts in group:
        if facts.held:
            backs.append(Back(facts.push, HELD, tried=False))
            desk.counts["back.stopped"] += 1
            continue
        verdict = check(facts, now, deadline, needs_device=needs_device)
        if verdict is None:
            try:
                ready.append(pen.write(facts))
            except BadInput as error:
                ends.append((facts, Ended("rejected", "template"), str(error)))
        elif isinstance(verdict, Refused):
            ends.append((facts, Ended(verdict.state, verdict.reason), None))
        else:
            backs.append(Back(facts.push, timedelta(0), tried=False, send_at=verdict.send_at))
            desk.counts["later"] += 1
    finish(desk, ends, backs, now)
    return ready


class _Pen:
    """Renders the pushes of one group, all at one instant."""

    def __init__(self, now: datetime, deadline: timedelta, sign: Callable[[UUID], str], *, needs_device: bool) -> None:
        self._now = now
        self._deadline = deadline
        self._sign = sign
        self._needs_device = needs_device
        self._attempts: dict[ZoneInfo, Attempt] = {}

    def write(self, facts: Facts) -> Ready:
        """The messages of a push that passed the check, and what it asks of the caps. Raises BadInput."""
        push, terms, user, item = facts.push, facts.terms, facts.user, facts.item
        if user is None or user.tz is None:
            raise ValueError("only users who passed the check are rendered")
        campaign = terms.campaign
        message = render(
            facts.message,
            user.fields(),
            None if item is None else item.fields(),
            facts.data,
            user.locale,
            campaign={"name": campaign.name},
            push={"id": str(push.id)},
        )
        draft = Outgoing(
            push_id=push.id,
            occurrence_id=push.occurrence_id,
            campaign=campaign.name,
            user_id=user.external_id,
            item_id=None if item is None else item.external_id,
            title=message.title,
            body=message.body,
            data=message.data,
            collapse_id=push.id.hex,
            at=self._now,
            ttl=push.end - self._now,
            urgent=terms.transactional,
            device=facts.devices[0] if self._needs_device else None,
            callback_token=self._sign(push.id),
        )
        chosen = facts.chosen if self._needs_device else _NO_DEVICE
        messages = (draft,) if len(chosen) == 1 else tuple([draft._replace(device=device) for device in chosen])
        return Ready(push, facts, messages, self._asking(facts, user.tz))

    def _asking(self, facts: Facts, tz: ZoneInfo) -> Reservation:
        push, standing = facts.push, facts.standing
        attempt = self._attempts.get(tz)
        if attempt is None:
            attempt = self._attempts[tz] = Attempt(self._now, tz, self._deadline)
        counts = facts.terms.campaign.counts_toward_caps
        return Reservation(push.user_id, push.id, push.fence, standing.scopes, attempt, standing.limits, counts)


def _reserved(desk: Desk, ready: Sequence[Ready], epoch: Epoch, now: datetime) -> Sequence[Ready]:
    """Those whose places under the caps were granted; the others end as suppressed, or wait for their turn."""
    asking = [one.reservation for one in ready if one.reservation.counts or one.reservation.limits]
    if not asking:
        return ready
    refusals = desk.caps.reserve(epoch, asking, partial(_ledger, desk, asking, now - epoch.horizon))
    if all(limit is None for limit in refusals):
        return ready
    refused = {one.push_id: limit for one, limit in zip(asking, refusals, strict=True) if limit is not None}
    ends, backs, granted = list[tuple[Facts, Ended, str | None]](), list[Back](), list[Ready]()
    later = now + desk.pace.deadline
    for one in ready:
        if (limit := refused.get(one.push.id)) is None:
            granted.append(one)
        elif limit.rule == OVERTAKING and later + desk.pace.deadline < one.push.end:
            backs.append(Back(one.push, timedelta(0), tried=False, send_at=later))
        elif limit.rule == OVERTAKING:
            ends.append((one.facts, Ended("expired", "expired"), None))
        else:
            reason = "gap" if limit.rule == GAP else "capped"
            ends.append((one.facts, Ended("suppressed", reason), limit.rule))
    desk.counts["later"] += len(backs)
    finish(desk, ends, backs, now)
    return granted


def _ledger(
    desk: Desk, asking: Sequence[Reservation], since: datetime, users: Collection[int]
) -> Mapping[int, Sequence[Entry]]:
    attempts = {one.user_id: one.attempt for one in asking if one.user_id in users}
    with desk.database.apart() as connection:
        return ledger_entries(connection, desk.book, attempts, since)


def _intended(desk: Desk, ready: Sequence[Ready], epoch: Epoch) -> Sequence[Ready]:
    """Those that may now be sent: their intent is committed. The others go back, untried, or are no longer ours."""
    if not ready:
        return ready
    with desk.database.apart() as connection:
        kept = commit_intent(connection, [one.push for one in ready], epoch, desk.pace.lease)
    if not kept:
        return ready
    go_back(desk, [one.push for one in ready if one.push.id in kept], "stopped", epoch)
    return [one for one in ready if one.push.id not in kept]
