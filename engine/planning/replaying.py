"""One past run planned again over its receipts: chosen, contended for, settled, and late-bound as it really was."""

from __future__ import annotations

from dataclasses import replace
from datetime import time, timedelta
from typing import Any, NamedTuple

import numpy as np

from engine.campaigns.policy_store import policy_version
from engine.campaigns.rules import scopes_of, workspace_caps
from engine.localtime import local_days, local_hours
from engine.planning import arms, inbox, receipt
from engine.planning.allocation import NOTHING
from engine.planning.allotment import Incumbents, Proposals, Terms, allot
from engine.planning.case import ORDINAL_1970
from engine.planning.inbox import Contest
from engine.planning.ledger import GIVEN
from engine.planning.limits import Sends
from engine.planning.occasions import RunRules, look_back, run_rules
from engine.planning.period import Period
from engine.planning.recall import REASON, Recalled, recall
from engine.planning.remembered import (
    Kind,
    Solved,
    Standing,
    flat_of,
    net_in,
    places_of,
    problem_of,
    solve,
)
from engine.planning.roster import FROZEN
from engine.planning.runspec import RunSpec
from engine.planning.sides import KEPT, WEIGHED, add, reasons_of, take_back
from engine.planning.standing import Loose, rivals_among
from engine.planning.usage import incumbents_of


class Part(NamedTuple):
    """A range of slots of a run: what was decided about its users, the choice anew, and, as int64[d, 2], users (rows)
    and the occurrences (ids) of the planned pushes that give way to their choices."""

    slots: tuple[int, int]
    found: Recalled
    solved: Solved
    gone: np.ndarray


class Pushes(NamedTuple):
    """What decisions come to, all [n, O]: some bool, at, value float64, item int64, category, day int32."""

    some: np.ndarray
    at: np.ndarray
    value: np.ndarray
    item: np.ndarray
    category: np.ndarray
    day: np.ndarray


class Replanned:
    """One run being planned again."""

    def __init__(self, period: Period, spec: RunSpec) -> None:
        self.period, self.spec = period, spec
        policy = policy_version(period.snapshot.connection, spec.policy_version)
        self.policy = period.change.of(policy)
        self.caps: RunRules = run_rules(self.policy, spec.occasions, period.items.categories)
        self.once = np.array([bool(o.definition.item_once_days) for o in spec.occasions])
        self.displaces = np.array([o.displaces for o in spec.occasions], bool)
        self.parts: list[Part] = []
        period.definitions |= {o.campaign_id: o.definition for o in spec.occasions}

    def plan(self, slots: tuple[int, int]) -> None:
        """Choose again for the users of `slots`."""
        period = self.period
        since = self.spec.as_of - look_back(self.policy, self.spec.occasions)
        past = period.past(slots, since - timedelta(days=1))
        found = recall(period.snapshot, self.spec, slots, period.items, self.policy.default_timezone)
        if found is None:
            return
        weighed = found.asked & found.kept & (found.arm != arms.HOLDOUT) & WEIGHED[found.reason]
        found = replace(found, what=found.what.only(weighed[..., None] & self._open(found)))
        if period.change.capacity is not None or period.change.pushes_per_stock is not None:
            found = replace(found, what=replace(found.what, price=np.zeros(found.what.price.shape)))
        past = self._mine(past, found)
        sends = self._sends(past, found)
        drawn = (found.arm == arms.EXPLORE) & found.chosen & found.what.there[:, :, 0]
        first = solve(found.what, self.caps.rules, sends, self.once)
        fixed = np.where(drawn & (first.barred[:, :, 0] == receipt.FREE), 0, NOTHING).astype(np.int32)
        closed = (found.arm == arms.EXPLORE) & (fixed == NOTHING)
        found = replace(found, what=found.what.only(~closed[..., None]))
        solved = solve(found.what, self.caps.rules, sends, self.once, fixed)
        contest = Contest(self.caps.rules, self.displaces, sends, self._rivals(past, found))
        solved, gone = self._contend(contest, found, solved)
        self.parts.append(Part(slots, found, solved, gone))

    def _contend(self, contest: Contest, found: Recalled, solved: Solved) -> tuple[Solved, np.ndarray]:
        """The choices beside or instead of the pushes planned before, as the inbox weighs them."""
        what, rules = found.what, contest.rules
        problem, _ = problem_of(what, rules, contest.sends, self.once)
        chosen, displaced = inbox.compete(
            contest, problem, flat_of(solved.chosen), lambda rows, room: net_in(what.of(rows), rules, room)
        )
        displaced &= ~(found.arm == arms.EXPLORE).any(1)[:, None]
        better = np.asarray(displaced.any(1))
        row, column = np.nonzero(displaced)
        gone = np.stack([row, contest.rivals.occurrence[row, column]], axis=1)
        return replace(solved, chosen=np.where(better[:, None], places_of(chosen), solved.chosen)), gone

    def _open(self, found: Recalled) -> np.ndarray:
        """bool[n, O, P]: outside the changed quiet hours, where those of the workspace hold."""
        quiet = self.period.change.quiet_hours
        if quiet is None or isinstance(quiet, str):
            return np.ones(found.local.shape, bool)
        begin, until = (_seconds(each) for each in quiet)
        inside = (found.local >= begin) & (found.local < until)
        if begin > until:
            inside = (found.local >= begin) | (found.local < until)
        obeys = np.array([o.definition.obeys_quiet_hours for o in self.spec.occasions])
        closed: np.ndarray = inside & obeys[None, :, None] & ~found.own[:, None, None]
        return ~closed

    def _mine(self, past: np.ndarray, found: Recalled) -> np.ndarray:
        """The pushes of the users found, in the order of their rows and instants."""
        past = past[np.isin(past["user"], found.users)]
        return past[np.lexsort((past["at"], past["user"]))]

    def _sends(self, past: np.ndarray, found: Recalled) -> Sends:
        row = np.searchsorted(found.users, past["user"])
        now = int(self.spec.as_of.timestamp() * 1e6)
        standing = Standing(row, past["at"], past["day"], past["at"] > now, past["kind"], self.period.kinds)
        return standing.sends(len(found.users), self.caps, len(workspace_caps(self.policy)))

    def _rivals(self, past: np.ndarray, found: Recalled) -> inbox.Rivals:
        loose = past["loose"] & (past["at"] > (self.spec.as_of + FROZEN).timestamp() * 1e6) & self.displaces.any()
        at = np.flatnonzero(loose)
        mine = past[at]
        pushes = Loose(
            np.searchsorted(found.users, mine["user"]), mine["campaign"], mine["occurrence"], mine["value"],
            mine["at"], mine["day"], mine["item"], mine["category"], at,
        )  # fmt: skip
        return rivals_among(pushes, self.period.definitions, self.policy, self.caps.caps, len(found.users))

    def settle(self) -> None:
        """Give the capacity there is, let pushes give way, follow late binding, and count both sides."""
        refused, moved = self._allot()
        for number, part in enumerate(self.parts):
            chosen, kept = part.solved.chosen.copy(), part.solved.chosen >= 0
            for place, to in moved.get(number, ()):
                chosen[place], kept[place] = to, False
            lost = np.full(chosen.shape, KEPT, np.int8)
            for place, reason in refused.get(number, ()):
                lost[place], chosen[place], kept[place] = reason, NOTHING, False
            row, occurrence = part.gone.T
            gives = kept[row].any(1)  # what was moved or refused displaces nobody
            self._give_way(occurrence[gives], part.found.users[row[gives]])
            self._finish(part, chosen, lost)

    def _give_way(self, occurrence: np.ndarray, user: np.ndarray) -> None:
        if len(user):
            gone = self.period.ledger.take_back(occurrence, user)
            take_back(self.period.simulated, gone["value"], gone["hour"])

    def _allot(self) -> tuple[dict[int, list[Any]], dict[int, list[Any]]]:
        """By part: the decisions refused with their reason, and those moved with their new place."""
        refused: dict[int, list[Any]] = {}
        moved: dict[int, list[Any]] = {}
        capacities = self.period.capacities(self.spec, self.policy)
        if not capacities.bounded() or not self.parts:
            return refused, moved
        where = [np.nonzero(part.solved.chosen >= 0) for part in self.parts]
        number = np.repeat(np.arange(len(where)), [len(rows) for rows, _ in where])
        row, occurrence = (np.concatenate([pair[axis] for pair in where]) for axis in (0, 1))
        pairs = list(zip(self.parts, where, strict=True))
        place = np.concatenate([part.solved.chosen[w] for part, w in pairs])

        def gather(name: str) -> np.ndarray:
            return np.concatenate([getattr(part.found.what, name)[(*w, part.solved.chosen[w])] for part, w in pairs])

        users = np.concatenate([part.found.users[w[0]] for part, w in pairs])
        proposals = Proposals(
            np.zeros((len(row), 16), np.uint8), occurrence, users,
            *(gather(name) for name in ("item", "at", "value", "price")),
        )  # fmt: skip
        terms = Terms(self.period.secret, self.spec.seed, self.spec.occasions)

        def alternatives(at: np.ndarray) -> list[np.ndarray]:
            return [self._alternatives(int(number[i]), (int(row[i]), int(occurrence[i])), int(place[i])) for i in at]

        def incumbents() -> Incumbents:
            planned = self.period.ledger.loose((self.spec.as_of + FROZEN).timestamp())
            return incumbents_of(self.spec.occasions, capacities, planned)

        result = allot(terms, capacities, proposals, alternatives, incumbents, self.spec.as_of)
        for i, reason in zip(result.refused.tolist(), result.reasons.tolist(), strict=True):
            refused.setdefault(int(number[i]), []).append(((row[i], occurrence[i]), reason))
        for i, to in zip(result.moved.tolist(), result.to, strict=True):
            what = self.parts[int(number[i])].found.what
            at = np.flatnonzero(what.at[row[i], occurrence[i]] == to["send_at"])
            moved.setdefault(int(number[i]), []).append(((row[i], occurrence[i]), int(at[0])))
        self._give_way(*result.displaced.T)
        return refused, moved

    def _alternatives(self, part: int, at: tuple[int, int], place: int) -> np.ndarray:
        """A decision's other options, and whether the user's other choices of the run stand in their way."""
        _, found, solved, _ = self.parts[part]
        there = found.what.there[at] & (solved.barred[at] == receipt.FREE)
        there[place] = False
        options = np.flatnonzero(there)
        made = np.zeros(len(options), receipt.ALTERNATIVE)
        for name, of in (("item", "item"), ("slot", "slot"), ("send_at", "at"), ("value", "value"), ("price", "price")):
            made[name] = getattr(found.what, of)[at][options]
        made["code"] = np.where(solved.beside[at][options], receipt.BESIDE, receipt.FREE)
        return made

    def _finish(self, part: Part, chosen: np.ndarray, lost: np.ndarray) -> None:
        """Count both sides, and keep what users got for the runs that follow."""
        found, counts = part.found, self.period.counts
        asked = found.asked
        reasons = reasons_of(found, part.solved, chosen, lost)
        same = asked & ~found.kept & (found.really == REASON["planned"])  # stays as it was
        pushes = self._pushes(found, chosen)
        follows, moved = self._late(part, chosen)
        reasons = np.where(follows, found.late.reason, reasons)
        ended = follows & (found.late.reason != REASON["planned"])
        pushes = pushes._replace(
            some=pushes.some & ~ended,
            **{name: np.where(follows, getattr(moved, name), getattr(pushes, name)) for name in Pushes._fields[1:]},
        )
        counts["decisions"] += int(asked.sum())
        counts["without_receipt"] += int((asked & ~found.kept).sum())
        counts["late_bound"] += int(follows.sum())
        counts["not_late_bound"] += int((found.late.there & pushes.some & ~follows).sum())
        at, value = np.where(same, found.really_at, pushes.at), np.where(same, found.really_value, pushes.value)
        add(self.period.simulated, found, reasons[asked], (pushes.some | same, at, value))
        planned = asked & (found.really == REASON["planned"])
        add(self.period.really, found, found.really[asked], (planned, found.really_at, found.really_value))
        self._remember(part, pushes)

    def _pushes(self, found: Recalled, chosen: np.ndarray) -> Pushes:
        def of(values: np.ndarray) -> np.ndarray:
            picked: np.ndarray = np.take_along_axis(values, np.maximum(chosen, 0)[..., None], 2)[..., 0]
            return picked

        what = found.what
        some = (chosen >= 0) & found.asked
        return Pushes(some, of(what.at), of(what.value), of(what.item), of(what.category), of(what.day))

    def _late(self, part: Part, chosen: np.ndarray) -> tuple[np.ndarray, Pushes]:
        """bool[n, O]: the pushes that are as they really were when late binding came, and what became of all.

        A change is followed where the user's pushes, so changed, keep the rules of the simulation.
        """
        found, late = part.found, part.found.late
        pushes = self._pushes(found, chosen)
        follows = late.there & pushes.some & (np.abs(pushes.at - late.from_at) < 1e-3) & (pushes.item == late.from_item)
        became = self._placed(found, np.where(follows, late.at, pushes.at), np.where(follows, late.item, pushes.item))
        became = became._replace(some=pushes.some, value=np.where(follows, late.value, pushes.value))
        changed = follows & (late.reason == REASON["planned"])
        rows = np.flatnonzero(changed.any(1))
        if not len(rows):
            return follows, became
        few = replace(found, users=found.users[rows])
        past = self._mine(self.period.past(part.slots, self.spec.as_of), few)
        sends = self._sends(past, few)
        what = found.what.of(rows)
        first: np.ndarray = np.arange(what.at.shape[2]) == 0
        ends = follows[rows] & ~changed[rows]
        there = (pushes.some[rows] & ~ends)[..., None] & first

        def put(values: np.ndarray, old: np.ndarray) -> np.ndarray:
            return np.where(first, values[rows][..., None], old)

        what = replace(
            what, there=there, at=put(became.at, what.at), item=put(became.item, what.item),
            category=put(became.category, what.category), day=put(became.day, what.day),
            value=put(became.value, what.value), price=np.zeros(what.price.shape),
        )  # fmt: skip
        solved = solve(what, self.caps.rules, sends, self.once)
        fits = ((solved.chosen == 0) == there[:, :, 0]).all(1)
        follows[rows[~fits]] &= ~changed[rows[~fits]]
        return follows, became

    def _placed(self, found: Recalled, at: np.ndarray, item: np.ndarray) -> Pushes:
        """Pushes at other instants, about other items, with their local days and categories."""
        known = np.isfinite(at)
        day = np.zeros(at.shape, np.int32)
        row = np.broadcast_to(np.arange(len(at))[:, None], at.shape)[known]
        day[known] = local_days(at[known], found.zone[row], found.zones).astype(np.int64) + ORDINAL_1970
        return Pushes(known, at, np.zeros(at.shape), item, self.period.items.category_of(item), day)

    def _remember(self, part: Part, pushes: Pushes) -> None:
        """Keep what the users got, for the runs that follow; not what failed to reach the provider in reality."""
        found, period = part.found, self.period
        row, occurrence = place = np.nonzero(pushes.some & ~found.failed)
        occasions = self.spec.occasions
        rows = np.zeros(len(row), GIVEN)
        rows["user"] = found.users[row]
        rows["at"] = np.round(pushes.at[place] * 1e6).astype(np.int64)
        for name in ("day", "item", "category", "value"):
            rows[name] = getattr(pushes, name)[place]
        rows["kind"] = self._kinds(occurrence, rows["category"])
        rows["run"] = self.spec.run_id
        rows["occurrence"] = np.array([o.occurrence_id for o in occasions], np.int64)[occurrence]
        rows["campaign"] = np.array([o.campaign_id for o in occasions], np.int64)[occurrence]
        rows["gateway"] = np.array([period.ledger.gateway(o.definition.gateway) for o in occasions])[occurrence]
        rows["hour"] = local_hours(pushes.at[place], found.zone[row], found.zones) % 24
        marketing = np.array([o.definition.class_ == "marketing" for o in occasions], bool)
        rows["loose"] = marketing[occurrence] & (found.arm[place] != arms.EXPLORE)
        period.ledger.add(part.slots, rows)

    def _kinds(self, occurrence: np.ndarray, category: np.ndarray) -> np.ndarray:
        names = [*self.period.items.categories, None]
        kinds = np.zeros(len(occurrence), np.int64)
        for o, c in np.unique(np.stack([occurrence, category]), axis=1).T:
            definition = self.spec.occasions[o].definition
            made = Kind(
                scopes_of(definition, names[c]), definition.counts_toward_caps, definition.obeys_caps,
                definition.own_caps(),
            )  # fmt: skip
            here = (occurrence == o) & (category == c)
            kinds[here] = self.period.kind((self.spec.occasions[o].campaign_id, self.spec.run_id, int(c)), made)
        return kinds


def _seconds(clock: time) -> float:
    return clock.hour * 3600 + clock.minute * 60 + clock.second
