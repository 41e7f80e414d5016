"""Why a user got what they got, or nothing: read from the receipt and checked by computing it again.

Everything that a decision rested on and that can be had again is computed anew (score, value, price, instant, arm, what
forbade each alternative, the choice among what is remembered) and compared with what was stored: the explanation
*agrees*, or *differs*, which somebody must look into, or is *not comparable*, and says why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from sqlalchemy import Connection, text

from engine.campaigns.fields import in_words
from engine.campaigns.rules import workspace_caps
from engine.localtime import wall_clock, zone
from engine.planning import arms, receipt
from engine.planning.allocation import NOTHING
from engine.planning.because import Because, because
from engine.planning.case import Case, read_case
from engine.planning.checking import Check, checks_of, verdict
from engine.planning.limits import Sends
from engine.planning.occasions import variant_of
from engine.planning.remembered import Solved, solve, without
from engine.planning.rescoring import ScoreParts, score_parts
from engine.planning.rewriting import REFRESHED
from engine.planning.today import weigh_today
from engine.store.database import Database, Snapshot
from engine.store.tables import ARMS, DECISION_REASONS, EVENT_TYPES

UNWEIGHED = ("quiet_hours", "holdout")
"""Reasons for which nothing was weighed, and which can be left out of a rule today."""


@dataclass(frozen=True)
class Option:
    """Something that could have been sent. send_at UTC, local the wall clock's reading of it; bound: what stood in its
    way, None where it was worth less than what was chosen; net = value − price."""

    item: str | None
    title: str | None
    send_at: datetime
    local: datetime
    value: float
    price: float
    bound: str | None = None

    @property
    def net(self) -> float:
        """Value less price."""
        return self.value - self.price


@dataclass(frozen=True)
class Without:
    """What would have been chosen without a constraint, and how much more the user's pushes of the run would have been
    worth; `today`: scored on today's profiles, as the receipt remembers nothing there."""

    constraint: str
    chosen: Option | None
    gain: float
    today: bool = False


@dataclass(frozen=True)
class Revision:
    """One revision of a decision, and what it says."""

    revision: int
    reason: str
    item: str | None
    send_at: datetime | None
    value: float | None


@dataclass(frozen=True)
class Fate:
    """What became of the push. state: of the hot row or of its delivery; events: what the user did with it."""

    state: str
    reason: str | None
    at: datetime | None
    events: tuple[tuple[str, datetime], ...]
    variant: str | None = None


@dataclass(frozen=True)
class Explanation:
    """A decision, explained. reason is the latest revision's; chosen is the latest revision's too."""

    user: str
    zone: str
    campaign: str
    occurrence: str
    run: int
    as_of: datetime
    arm: str
    reason: str
    propensity: float | None
    options: int | None
    chosen: Option | None
    exploit: Option | None
    score: ScoreParts | None
    alternatives: tuple[Option, ...]
    without: tuple[Without, ...]
    revisions: tuple[Revision, ...]
    fate: Fate | None
    verdict: str
    checks: tuple[Check, ...]
    variant: str | None = None
    """EXPERIMENT:ARM of the message that the push carried, or would carry; None: nothing was under test."""
    because: Because | None = None
    """Of an event-triggered campaign: what made it due for the user."""


def explain(
    database: Database, gateways: Mapping[str, Any], user: str, campaign: str | None = None, run_id: int | None = None
) -> list[Explanation]:
    """The decisions of the latest run about `user` (the shop's id), of one campaign or all; of run `run_id` if given.

    Raises UnknownName for a user, campaign or run that is not there, BadInput where nothing was decided about the user.
    """
    with database.snapshot() as snapshot:
        case = read_case(snapshot.connection, user, campaign, run_id)
        wanted = [o for o in case.decided if campaign in (None, case.names[o])]
        return [_explained(snapshot, gateways, case, o) for o in wanted]


def plain(one: Explanation) -> Any:
    """An explanation as JSON holds it; NaN has no place there."""
    return _without_nan(asdict(one))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _explained(snapshot: Snapshot, gateways: Mapping[str, Any], case: Case, o: int) -> Explanation:
    first, last = case.rows[o][0], case.rows[o][-1]
    stored = case.receipts[o]
    parts = None
    if stored is not None:
        definition = case.spec.occasions[o].definition
        unit = (definition.value_click + definition.margin) * definition.priority
        parts = score_parts(snapshot.connection, stored.model, stored.features, first.score, unit)
    solved = _solve(case)
    checks = checks_of(case, o, solved, parts)
    reason = DECISION_REASONS[last.reason]
    fate = _fate(snapshot.connection, case, last)
    return Explanation(
        user=case.user.external_id,
        zone=case.user.zone,
        campaign=case.names[o],
        occurrence=case.spec.occasions[o].label,
        run=case.spec.run_id,
        as_of=case.as_of,
        arm=ARMS[first.arm],
        reason=reason,
        propensity=first.propensity,
        options=None if stored is None else stored.options,
        chosen=_chosen(case, last),
        exploit=_exploit(case, o),
        score=parts,
        alternatives=tuple(
            _option(case, o, place) for place in _alternatives(case, o) if not _is(case, o, place, last)
        ),
        without=_without(snapshot, gateways, case, o, reason),
        revisions=tuple(_revision(case, row) for row in case.rows[o]),
        fate=fate,
        verdict=verdict(stored, checks),
        checks=tuple(checks),
        variant=_variant(case, o, fate),
        because=because(
            snapshot.connection,
            case.spec.occasions[o].definition,
            case.spec.occasions[o].occurrence_id,
            case.user.id,
        ),
    )


def _variant(case: Case, o: int, fate: Fate | None) -> str | None:
    """As recorded where the push has ended, else as it will be drawn."""
    if fate is not None and fate.variant is not None:
        return fate.variant
    occasion = case.spec.occasions[o]
    arm, tested = variant_of(case.secret, occasion, case.user.id), occasion.definition.message.experiment
    return None if fate is None or arm is None or tested is None else f"{tested.name}:{arm}"


def _solve(case: Case, code: int = receipt.FREE) -> Solved:
    """The best set of what is remembered, without the constraint of a receipt code."""
    rules, remembered = without(case.caps.rules, case.weighed, code)
    return solve(remembered, rules, _sends(case), case.once, case.fixed)


def _sends(case: Case) -> Sends:
    return case.standing.sends(1, case.caps, len(workspace_caps(case.policy)))


# --- options ---------------------------------------------------------------------------------------------------------


def _alternatives(case: Case, o: int) -> list[int]:
    return [place for place in range(1, case.remembered.there.shape[2]) if case.remembered.there[0, o, place]]


def _is(case: Case, o: int, place: int, row: Any) -> bool:
    """Whether an alternative is what settlement moved the push to."""
    at, item = float(case.remembered.at[0, o, place]), int(case.remembered.item[0, o, place])
    moved = row.send_at is not None and row.revision > 0 and abs(row.send_at.timestamp() - at) < 1e-3
    return bool(moved and item == (-1 if row.item_id is None else row.item_id))


def _option(case: Case, o: int, place: int) -> Option:
    known, at = case.remembered, (0, o, place)
    price = float(known.price[at])
    bound = _bound(case, int(known.code[at]), float(known.value[at]), price)
    return _made(case, int(known.item[at]), float(known.at[at]), (float(known.value[at]), price), bound)


def _made(case: Case, item: int, at: float, worth: tuple[float, float], bound: str | None = None) -> Option:
    instant = datetime.fromtimestamp(at, UTC)
    name, title = case.items.get(item, (f"#{item}", "an item that was deleted")) if item >= 0 else (None, None)
    return Option(name, title, instant, wall_clock(zone(case.user.zone), instant), *worth, bound)


def _chosen(case: Case, row: Any) -> Option | None:
    if row.send_at is None:
        return None
    item = -1 if row.item_id is None else row.item_id
    return _made(case, item, row.send_at.timestamp(), (row.value, row.price))


def _exploit(case: Case, o: int) -> Option | None:
    """What exploiting would have chosen, for who explored, as far as the receipt remembers its value."""
    stored = case.receipts[o]
    if stored is None or case.rows[o][0].arm != arms.EXPLORE or np.isnan(stored.exploit_slot):
        return None
    known = case.remembered
    same = known.there[0, o] & (known.item[0, o] == stored.exploit_item) & (known.slot[0, o] == stored.exploit_slot)
    place = np.flatnonzero(same)
    if len(place):
        return replace(_option(case, o, int(place[0])), bound=None)
    return _made(case, stored.exploit_item, stored.exploit_slot, (float("nan"), float("nan")))


def _bound(case: Case, code: int, value: float, price: float) -> str | None:
    """A receipt code in words; None where nothing stood in the way."""
    if code >= receipt.FIRST_CAP:
        at = code - receipt.FIRST_CAP
        cap = case.caps.caps[at] if at < len(case.caps.caps) else None
        return f"{cap.id}: {cap}" if cap is not None else f"cap {at} of the run's rules"
    if code == receipt.GAP:
        return f"the minimum gap of {in_words(case.policy.min_gap)}" if case.policy.min_gap else "the minimum gap"
    if code == receipt.FREE:
        return "the price of its capacity" if price > 0 and value - price <= 0 else None
    return {
        receipt.EXPIRED: "the item or the offer ends before it",
        receipt.PRICE: "the price of its capacity",
        receipt.BESIDE: "the user's other push of the run",
        receipt.BUDGET: "the price of the budget or stock",
        receipt.WORTHLESS: "it is worth nothing",
    }.get(code, f"code {code}")


# --- what if ---------------------------------------------------------------------------------------------------------


def _without(snapshot: Snapshot, gateways: Mapping[str, Any], case: Case, o: int, reason: str) -> tuple[Without, ...]:
    """What each constraint that bound an alternative cost this user, by solving again without it."""
    if reason in UNWEIGHED:
        found = weigh_today(snapshot, gateways, case, o, reason)
        chosen = None if found is None else _made(case, found.item, found.at, (found.value, found.price))
        if chosen is not None and chosen.item is not None and found is not None and found.item not in case.items:
            chosen = _named(snapshot.connection, chosen, found.item)
        name = "quiet hours" if reason == "quiet_hours" else "the holdout"
        return (Without(name, chosen, 0.0 if chosen is None else chosen.value, today=True),)
    codes = [int(case.remembered.code[0, o, place]) for place in _alternatives(case, o)]
    priced = [place for place in _alternatives(case, o) if case.remembered.price[0, o, place] > 0]
    distinct = dict.fromkeys(code for code in codes if code not in (receipt.FREE, receipt.WORTHLESS))
    if priced or case.remembered.price[0, o, 0] > 0:
        distinct[receipt.PRICE] = None
    base = _worth(case, _solve(case))
    settled = [row for row in case.rows[o] if row.shard != REFRESHED][-1]
    lost = _own(case, o) - (settled.value or 0.0) if settled.revision > 0 else 0.0  # what settlement took away
    return tuple(_relaxed(case, o, code, base - (lost if code == receipt.PRICE else 0.0)) for code in distinct)


def _relaxed(case: Case, o: int, code: int, base: float) -> Without:
    name = _bound(case, code, 0.0, 0.0) or ""
    if code == receipt.BESIDE:
        only = np.zeros(case.remembered.there.shape, bool)
        only[:, o] = True
        lone = solve(case.remembered.only(only), case.caps.rules, _sends(case), case.once)
        return Without(name, _solved_option(case, o, lone), _worth(case, lone) - _own(case, o))
    solved = _solve(case, code)
    return Without(name, _solved_option(case, o, solved), _worth(case, solved) - base)


def _solved_option(case: Case, o: int, solved: Solved) -> Option | None:
    place = int(solved.chosen[0, o])
    return None if place == NOTHING else replace(_option(case, o, place), bound=None)


def _worth(case: Case, solved: Solved) -> float:
    """The value of the chosen pushes of all the user's decisions of the run."""
    at = np.maximum(solved.chosen, 0)[..., None]
    value = np.take_along_axis(case.remembered.value, at, 2)[..., 0]
    return float(np.where(solved.chosen >= 0, value, 0.0).sum())


def _own(case: Case, o: int) -> float:
    return float(case.remembered.value[0, o, 0]) if case.remembered.there[0, o, 0] else 0.0


def _named(connection: Connection, option: Option, item: int) -> Option:
    row = connection.execute(text("SELECT external_id, title FROM items WHERE id = :id"), {"id": item}).one_or_none()
    return option if row is None else replace(option, item=row.external_id, title=row.title)


# --- what became of it -----------------------------------------------------------------------------------------------


def _revision(case: Case, row: Any) -> Revision:
    item = case.items.get(row.item_id, (f"#{row.item_id}", None))[0] if row.item_id is not None else None
    return Revision(row.revision, DECISION_REASONS[row.reason], item, row.send_at, row.value)


def _fate(connection: Connection, case: Case, row: Any) -> Fate | None:
    """None where no push was made. The user's events that name it, in order."""
    push = next((one.push_id for one in reversed(case.rows_of(row)) if one.push_id is not None), None)
    if push is None:
        return None
    given = {"push": push, "user": case.user.id}
    ended = connection.execute(
        text("SELECT state, reason, at, variant FROM deliveries WHERE push_id = :push AND user_id = :user"), given
    ).one_or_none()
    hot = connection.execute(text("SELECT state FROM pushes WHERE id = :push"), given).one_or_none()
    events = connection.execute(
        text("SELECT event_type, occurred_at FROM events WHERE user_id = :user AND push_id = :push ORDER BY 2"), given
    ).all()
    names = {number: name for name, number in EVENT_TYPES.items()}
    seen = tuple((names.get(event.event_type, str(event.event_type)), event.occurred_at) for event in events)
    if ended is not None:
        return Fate(ended.state, ended.reason, ended.at, seen, ended.variant)
    return Fate(hot.state if hot is not None else "not published", None, None, seen)
