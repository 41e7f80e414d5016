"""What if: a past period planned again over its receipts, under other caps, gap, quiet hours or capacity.

Run after run, each user's choice is made again among what their receipts remember, beside the pushes that the
simulation itself gave them before. Arms stay as they were drawn. What receipts cannot know is said: offers and windows
that were never weighed (so looser rules are a lower bound, and quiet hours can only grow), budgets and stock (they act
through the prices of then), and pushes that take another's place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, time, timedelta
from typing import Any

import numpy as np
from sqlalchemy import text

from engine.campaigns.policy import Cap, Policy
from engine.campaigns.policy_store import policy_version
from engine.campaigns.rules import scopes_of, workspace_caps
from engine.errors import BadInput
from engine.localtime import Hours
from engine.planning import arms, receipt
from engine.planning.allocation import NOTHING
from engine.planning.allotment import Incumbents, Proposals, Terms, allot
from engine.planning.occasions import RunRules, look_back, run_rules
from engine.planning.opening import RunSpec, read_run, secret_of
from engine.planning.prices import QUARTER, UNLIMITED, Capacities, quarter_of, rates
from engine.planning.recall import REASON, Items, Recalled, read_items, recall
from engine.planning.remembered import Kind, Solved, Standing, solve
from engine.planning.sides import WEIGHED, Side, add, reasons_of
from engine.store.database import Database, Snapshot
from engine.store.slots import shard_ranges

Progress = Callable[[int, int], None]
"""Told (parts done, parts in all)."""

_SLOTS = 64


@dataclass(frozen=True)
class Change:
    """What is to be different; None: as it was. quiet_hours, min_gap and capacity (pushes of each campaign per UTC
    quarter-hour) may also be "none"."""

    caps: tuple[Cap, ...] | None = None
    min_gap: timedelta | str | None = None
    quiet_hours: Hours | str | None = None
    capacity: int | str | None = None

    def of(self, policy: Policy) -> Policy:
        """The workspace's rules with the change."""
        given = {"caps": self.caps, "min_gap": self.min_gap, "quiet_hours": self.quiet_hours}
        changes = {name: None if value == "none" else value for name, value in given.items() if value is not None}
        return policy.model_copy(update=changes)

    def capacity_of(self, own: int | None) -> int | None:
        """A campaign's capacity with the change."""
        return own if self.capacity is None else None if isinstance(self.capacity, str) else self.capacity


@dataclass(frozen=True)
class Simulation:
    """Both sides, of how many runs and decisions; without_receipt: decisions that could not be made again and stay as
    they were."""

    runs: int
    decisions: int
    without_receipt: int
    really: Side
    simulated: Side


def simulate(
    database: Database, change: Change, begin: datetime, end: datetime, progress: Progress | None = None
) -> Simulation:
    """Plan the runs opened in [begin, end) again. Raises BadInput where there are none."""
    if begin >= end:
        raise BadInput(f"the time from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} is empty")
    with database.snapshot() as snapshot:
        ids = snapshot.connection.execute(
            text(
                "SELECT id FROM runs WHERE state = 'published' AND as_of >= :begin AND as_of < :end ORDER BY as_of, id"
            ),
            {"begin": begin, "end": end},
        ).scalars()
        specs = [read_run(snapshot.connection, run_id) for run_id in ids]
        if not specs:
            raise BadInput("no run was opened in that time", hint="see: horae runs list")
        return _Period(snapshot, change, specs).play(progress)


class _Period:
    """The period being played: what each slot range of users has got so far, and both sides' counts."""

    def __init__(self, snapshot: Snapshot, change: Change, specs: list[RunSpec]) -> None:
        self.snapshot, self.change, self.specs = snapshot, change, specs
        self.secret = secret_of(snapshot.connection)
        self.items: Items = read_items(snapshot)
        self.kinds: list[Kind] = []
        self.kind_of: dict[Any, int] = {}
        self.history: dict[tuple[int, int], list[np.ndarray]] = {}
        self.used: Counter[tuple[int, int]] = Counter()
        self.really, self.simulated = Side(), Side()
        self.decisions = self.without = 0

    def play(self, progress: Progress | None) -> Simulation:
        ranges = shard_ranges(_SLOTS)
        for number, spec in enumerate(self.specs):
            run = _Run(self, spec)
            for part, slots in enumerate(ranges, 1):
                run.plan(slots)
                if progress is not None:
                    progress(number * len(ranges) + part, len(self.specs) * len(ranges))
            run.settle()
        return Simulation(len(self.specs), self.decisions, self.without, self.really, self.simulated)

    def past(self, slots: tuple[int, int], since: datetime) -> list[np.ndarray]:
        """What the users of `slots` got: real pushes before the period, then the simulation's; columns user, at, day,
        kind (int64)."""
        if slots not in self.history:
            self.history[slots] = [self._delivered(slots, since)]
        return self.history[slots]

    def _delivered(self, slots: tuple[int, int], since: datetime) -> np.ndarray:
        begin = self.specs[0].as_of
        rows = self.snapshot.arrow(
            "SELECT d.user_id, (extract(epoch FROM d.at) * 1000000)::bigint AS at,"
            " coalesce(d.local_day, d.day) - DATE '0001-01-01' + 1 AS day, d.counts,"
            " array_to_string(d.scopes, chr(10)) AS scopes FROM deliveries d JOIN users u ON u.id = d.user_id"
            f" WHERE u.slot >= {slots[0]:d} AND u.slot < {slots[1]:d} AND d.at >= '{since.isoformat()}'"
            f" AND d.day >= DATE '{since.date().isoformat()}' AND d.at < '{begin.isoformat()}'"
            " AND NOT d.test AND d.state IN ('accepted', 'unknown')"
        )
        pairs = zip(rows["scopes"].to_pylist(), rows["counts"].to_pylist(), strict=True)
        kind = [self.kind(pair, Kind(frozenset(pair[0].split("\n")), pair[1])) for pair in pairs]
        columns = [np.asarray(rows[name], np.int64) for name in ("user_id", "at", "day")]
        return np.stack([*columns, np.array(kind, np.int64)])

    def kind(self, key: Any, made: Kind) -> int:
        """The number of a kind of push."""
        if key not in self.kind_of:
            self.kind_of[key] = len(self.kinds)
            self.kinds.append(made)
        return self.kind_of[key]


class _Run:
    """One run being planned again."""

    def __init__(self, period: _Period, spec: RunSpec) -> None:
        self.period, self.spec = period, spec
        policy = policy_version(period.snapshot.connection, spec.policy_version)
        self.policy = period.change.of(policy)
        self.caps: RunRules = run_rules(self.policy, spec.occasions, period.items.categories)
        self.once = np.array([bool(o.definition.item_once_days) for o in spec.occasions])
        self.capacities = self._capacities()
        self.parts: list[tuple[tuple[int, int], Recalled, Solved]] = []

    def _capacities(self) -> Capacities:
        """What campaigns may send per quarter-hour, less what the simulation gave them in earlier runs."""
        occasions = self.spec.occasions
        most = [self.period.change.capacity_of(o.definition.per_quarter) for o in occasions]
        bounded = sorted({o.campaign_id for o, each in zip(occasions, most, strict=True) if each is not None})
        first = int(self.spec.as_of.timestamp() // QUARTER)
        last = max(int(o.ends_at.timestamp() // QUARTER) for o in occasions)
        left = np.zeros((len(bounded), last - first + 1), np.int64)
        of = np.full(len(occasions), UNLIMITED, np.int32)
        for o, (occasion, each) in enumerate(zip(occasions, most, strict=True)):
            if each is not None:
                of[o] = bounded.index(occasion.campaign_id)
                taken = [self.period.used[occasion.campaign_id, first + q] for q in range(left.shape[1])]
                left[of[o]] = np.maximum(each - np.array(taken), 0)
        return rates(first, left, of)

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
        if period.change.capacity is not None:
            found = replace(found, what=replace(found.what, price=np.zeros(found.what.price.shape)))
        sends = self._standing(past, found).sends(len(found.users), self.caps, len(workspace_caps(self.policy)))
        drawn = (found.arm == arms.EXPLORE) & found.chosen & found.what.there[:, :, 0]
        first = solve(found.what, self.caps.rules, sends, self.once)
        fixed = np.where(drawn & (first.barred[:, :, 0] == receipt.FREE), 0, NOTHING).astype(np.int32)
        closed = (found.arm == arms.EXPLORE) & (fixed == NOTHING)
        what = found.what.only(~closed[..., None])
        self.parts.append((slots, found, solve(what, self.caps.rules, sends, self.once, fixed)))

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

    def _standing(self, past: list[np.ndarray], found: Recalled) -> Standing:
        user, at, day, kind = np.concatenate(past, axis=1)
        row = np.minimum(np.searchsorted(found.users, user), len(found.users) - 1)
        mine = found.users[row] == user
        now = int(self.spec.as_of.timestamp() * 1e6)
        return Standing(row[mine], at[mine], day[mine].astype(np.int32), at[mine] > now, kind[mine], self.period.kinds)

    def settle(self) -> None:
        """Give the capacity there is, and count both sides."""
        refused, moved = self._allot()
        for number, (slots, found, solved) in enumerate(self.parts):
            chosen = solved.chosen.copy()
            for place, to in moved.get(number, ()):
                chosen[place] = to
            lost = np.zeros(chosen.shape, bool)
            for place in refused.get(number, ()):
                lost[place], chosen[place] = True, NOTHING
            self._count(found, solved, chosen, lost)
            self._remember(slots, found, chosen)

    def _allot(self) -> tuple[dict[int, list[Any]], dict[int, list[Any]]]:
        """By part: the decisions refused, and those moved with their new place."""
        refused: dict[int, list[Any]] = {}
        moved: dict[int, list[Any]] = {}
        if not self.capacities.bounded() or not self.parts:
            return refused, moved
        where = [np.nonzero(solved.chosen >= 0) for _, _, solved in self.parts]
        part = np.repeat(np.arange(len(where)), [len(rows) for rows, _ in where])
        row, occurrence = (np.concatenate([pair[axis] for pair in where]) for axis in (0, 1))
        place = np.concatenate([s.chosen[w] for (_, _, s), w in zip(self.parts, where, strict=True)])

        def gather(name: str) -> np.ndarray:
            pairs = zip(self.parts, where, strict=True)
            return np.concatenate([getattr(f.what, name)[(*w, s.chosen[w])] for (_, f, s), w in pairs])

        users = np.concatenate([f.users[w[0]] for (_, f, _), w in zip(self.parts, where, strict=True)])
        proposals = Proposals(
            np.zeros((len(row), 16), np.uint8), occurrence, users,
            *(gather(name) for name in ("item", "at", "value", "price")),
        )  # fmt: skip
        terms = Terms(self.period.secret, self.spec.seed, self.spec.occasions)

        def alternatives(at: np.ndarray) -> list[np.ndarray]:
            return [self._alternatives(int(part[i]), (int(row[i]), int(occurrence[i])), int(place[i])) for i in at]

        result = allot(terms, self.capacities, proposals, alternatives, _nobody, self.spec.as_of)
        for i in result.refused.tolist():
            refused.setdefault(int(part[i]), []).append((row[i], occurrence[i]))
        for i, to in zip(result.moved.tolist(), result.to, strict=True):
            what = self.parts[int(part[i])][1].what
            at = np.flatnonzero(what.at[row[i], occurrence[i]] == to["send_at"])
            moved.setdefault(int(part[i]), []).append(((row[i], occurrence[i]), int(at[0])))
        return refused, moved

    def _alternatives(self, part: int, at: tuple[int, int], place: int) -> np.ndarray:
        """A decision's other options, and whether the user's other choices of the run stand in their way."""
        _, found, solved = self.parts[part]
        there = found.what.there[at] & (solved.barred[at] == receipt.FREE)
        there[place] = False
        options = np.flatnonzero(there)
        made = np.zeros(len(options), receipt.ALTERNATIVE)
        for name, of in (("item", "item"), ("slot", "slot"), ("send_at", "at"), ("value", "value"), ("price", "price")):
            made[name] = getattr(found.what, of)[at][options]
        made["code"] = np.where(solved.beside[at][options], receipt.BESIDE, receipt.FREE)
        return made

    def _count(self, found: Recalled, solved: Solved, chosen: np.ndarray, lost: np.ndarray) -> None:
        asked = found.asked
        self.period.decisions += int(asked.sum())
        self.period.without += int((asked & ~found.kept).sum())
        reasons = reasons_of(found, solved, chosen, lost)
        got = (chosen >= 0) & asked
        at = np.take_along_axis(found.what.at, np.maximum(chosen, 0)[..., None], 2)[..., 0]
        value = np.take_along_axis(found.what.value, np.maximum(chosen, 0)[..., None], 2)[..., 0]
        same = asked & ~found.kept & (found.really == REASON["planned"])  # stays as it was
        at, value = np.where(same, found.really_at, at), np.where(same, found.really_value, value)
        add(self.period.simulated, found, reasons[asked], (got | same, at, value))
        planned = asked & (found.really == REASON["planned"])
        add(self.period.really, found, found.really[asked], (planned, found.really_at, found.really_value))

    def _remember(self, slots: tuple[int, int], found: Recalled, chosen: np.ndarray) -> None:
        """Keep what the users got, for the runs that follow; not what failed to reach the provider in reality."""
        row, occurrence = np.nonzero((chosen >= 0) & ~found.failed)
        place = (row, occurrence, chosen[row, occurrence])
        at, category = found.what.at[place], found.what.category[place]
        names = [*self.period.items.categories, None]
        kinds = np.zeros(len(row), np.int64)
        for o, c in np.unique(np.stack([occurrence, category]), axis=1).T:
            definition = self.spec.occasions[o].definition
            made = Kind(
                scopes_of(definition, names[c]), definition.counts_toward_caps, definition.obeys_caps,
                definition.own_caps(),
            )  # fmt: skip
            here = (occurrence == o) & (category == c)
            kinds[here] = self.period.kind((self.spec.occasions[o].campaign_id, self.spec.run_id, int(c)), made)
        micros = np.round(at * 1e6).astype(np.int64)
        columns = [found.users[row], micros, found.what.day[place].astype(np.int64), kinds]
        self.period.history[slots].append(np.stack(columns))
        campaigns = np.array([o.campaign_id for o in self.spec.occasions])[occurrence]
        self.period.used.update(zip(campaigns.tolist(), quarter_of(at).tolist(), strict=True))


def _nobody() -> Incumbents:
    none = np.zeros(0, np.int64)
    return Incumbents(none, none, np.zeros((0, 3), np.int64), np.zeros(0))


def _seconds(clock: time) -> float:
    return clock.hour * 3600 + clock.minute * 60 + clock.second
