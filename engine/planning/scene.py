"""Plans blocks of users of a run on one snapshot: reads, scores, decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np

from engine.campaigns.audience import as_sql, items_select
from engine.campaigns.definition import Campaign, Items
from engine.campaigns.policy import Policy
from engine.features import schema
from engine.features.catalogue import Catalogue
from engine.features.state import State
from engine.learning.scoring import Scorer
from engine.localtime import Hours
from engine.planning import decide, offers, own, record, standing, windows, worth
from engine.planning.asking import who_is_asked
from engine.planning.decide import OPEN, REASON, Choice, Goods, Options, People, Terms
from engine.planning.occasions import Occasion, RunRules, look_back, stretches_of
from engine.planning.offers import MISSING, NO_ITEM
from engine.planning.record import Decided, Weighed
from engine.planning.roster import Look, Past, Roster, read_past, read_roster
from engine.store.database import Snapshot

Stretches = tuple[list[windows.Open], str, datetime]

BLOCK_USERS = 6_000
"""Users planned at a time, of two occurrences: bounds memory whatever the shard; the answer is the same anyway."""


@dataclass(frozen=True)
class Again:
    """Planned pushes that are planned again, alone: user int64 ids, occurrence int64 (positions), slot, at float64, the
    start of their window and their instant; no other instant before `earliest` (epoch seconds); still bool[O]: of these
    occurrences the window stays; bought: pairs (user, item) of ids, int64[m, 2], bought since the first plan."""

    user: np.ndarray
    occurrence: np.ndarray
    slot: np.ndarray
    at: np.ndarray
    earliest: float
    still: np.ndarray
    bought: np.ndarray

    def of(self, o: int) -> np.ndarray:
        """The users with a push of occurrence `o`."""
        users: np.ndarray = self.user[self.occurrence == o]
        return users

    def kept(self, users: np.ndarray) -> decide.Kept:
        """The same by user (int64, sorted, all of them) and occurrence."""
        slot = np.full((len(users), len(self.still)), np.nan)
        at = slot.copy()
        here = np.isin(self.user, users)
        place = np.searchsorted(users, self.user[here]), self.occurrence[here]
        slot[place], at[place] = self.slot[here], self.at[here]
        return decide.Kept(slot, at, self.earliest, self.still)


@dataclass(frozen=True)
class Scene:
    """A run on a snapshot. allowed: bool[I] per occurrence, the items it may be about (None: without item); waiting
    and stretches keep what is needed again: definitions of campaigns that have pushes planned, windows of zones. again:
    only these pushes are planned (a refresh); refused: why the model cannot be used, and so nobody gets anything."""

    snapshot: Snapshot
    as_of: datetime
    terms: Terms
    policy: Policy
    caps: RunRules
    occasions: tuple[Occasion, ...]
    needs_device: tuple[bool, ...]
    scorer: Scorer
    catalogue: Catalogue
    allowed: tuple[np.ndarray | None, ...]
    waiting: dict[int, Campaign] = field(default_factory=dict)
    most_offers: int = offers.MOST_OFFERS
    stretches: dict[tuple[int, tuple[str, Hours | None]], Stretches] = field(default_factory=dict)
    again: Again | None = None
    refused: str | None = None


class Weighing(NamedTuple):
    """A block before the choice. rows int64[n]: each user's position in `state`, −1 where nothing is asked of it."""

    roster: Roster
    state: State
    rows: np.ndarray
    people: People
    goods: Goods
    options: Options


@dataclass(frozen=True)
class Block:
    """A planned block: its users with their slots, what was decided, the feature rows of planned pushes, and, as
    int64[d, 3], the user, the occurrence (position) and the occurrence (id) of the planned push it would displace."""

    roster: Roster
    decided: Decided
    features: np.ndarray
    displaced: np.ndarray


def read_allowed(snapshot: Snapshot, occasions: Sequence[Occasion], catalogue: Catalogue) -> list[np.ndarray | None]:
    """bool[I] per occurrence: the items it may be about; None for those without items. Equal rules share one array."""
    known: dict[object, np.ndarray] = {}
    found: list[np.ndarray | None] = []
    for occasion in occasions:
        items = occasion.definition.items
        if items.kind == "none":
            found.append(None)
            continue
        if items not in known:
            known[items] = allowed_items(snapshot, items, catalogue)
        found.append(known[items])
    return found


def allowed_items(snapshot: Snapshot, items: Items, catalogue: Catalogue) -> np.ndarray:
    """bool[I]: what a campaign's pushes may be about."""
    rows = snapshot.arrow(as_sql(snapshot.connection, items_select(items)))
    return np.isin(catalogue.ids, np.asarray(rows["id"], np.int64))


def count_users(snapshot: Snapshot, slots: tuple[int, int]) -> np.ndarray:
    """How many users each of slots [from, until) has, int64."""
    rows = snapshot.arrow(
        f"SELECT slot, count(*) AS n FROM users WHERE slot >= {slots[0]:d} AND slot < {slots[1]:d} GROUP BY slot"
    )
    counts = np.zeros(slots[1] - slots[0], np.int64)
    counts[np.asarray(rows["slot"], np.int64) - slots[0]] = np.asarray(rows["n"], np.int64)
    return counts


def blocks_of(snapshot: Snapshot, slots: tuple[int, int], most: int = BLOCK_USERS) -> list[tuple[int, int, int]]:
    """Slots [from, until) cut into ranges of at most `most` users (or one slot): (from, until, users)."""
    ranges, start, held = [], slots[0], 0
    for slot, count in enumerate(count_users(snapshot, slots).tolist(), slots[0]):
        if held and held + count > most:
            ranges.append((start, slot, held))
            start, held = slot, 0
        held += count
    return [*ranges, (start, slots[1], held)]


def plan_block(scene: Scene, slots: tuple[int, int]) -> Block | None:
    """Decide for everyone of slots [from, until) whom an occurrence asks for; None where nobody is asked."""
    weighed = weigh_block(scene, slots)
    if weighed is None:
        return None
    _, _, _, people, goods, options = weighed
    return finish_block(scene, weighed, decide.choose(scene.terms, people, goods, options))


def finish_block(scene: Scene, weighed: Weighing, choice: Choice) -> Block:
    """The block that a choice makes."""
    roster, state, rows, people, goods, options = weighed
    decided = record.record(scene.terms, Weighed(people, goods, options, choice), scene.as_of.timestamp())
    at = np.flatnonzero(decided.planned & (decided.place >= 0))
    features = np.full((int(decided.planned.sum()), 0), np.nan, np.float32)
    if len(at):
        user = rows[decided.row[at]]
        made = scene.scorer.features(state, user, decided.place[at], decided.cell[at], decided.related[at])
        features = np.full((len(features), made.shape[1]), np.nan, np.float32)
        features[(decided.place >= 0)[decided.planned]] = made
    return Block(roster, decided, features, _displaced(people, choice))


def _displaced(people: People, choice: Choice) -> np.ndarray:
    """Each planned push that gives way, beside every new push of its user: any of them needs its place."""
    row, column = np.nonzero(choice.displaced)
    number, occurrence = np.nonzero(choice.chosen[row] >= 0)
    user, rival = people.users[row[number]], people.rivals.occurrence[row[number], column[number]]
    return np.stack([user, occurrence.astype(np.int64), rival], axis=1)


def weigh_block(scene: Scene, slots: tuple[int, int]) -> Weighing | None:
    """Everything up to the choice: what could be sent to whom, when, and what it is worth."""
    asked, reason = who_is_asked(scene, slots)
    if not len(asked):
        return None
    roster = read_roster(scene.snapshot, slots, scene.policy.default_timezone, asked)
    since = scene.as_of - look_back(scene.policy, scene.occasions)
    ids = np.array([occasion.occurrence_id for occasion in scene.occasions], np.int64)
    again = None if scene.again is None else (ids[scene.again.occurrence], scene.again.user)
    look = Look(since, scene.as_of, ids.tolist(), again)
    past = read_past(scene.snapshot, slots, roster, look)
    sends = standing.sends_of(scene, past, len(roster))
    rivals = standing.rivals_of(scene, past, len(roster))
    kept = None if scene.again is None else scene.again.kept(roster.users)
    people = People(roster.users, reason, roster.group, _table(scene, roster), sends, rivals, kept)
    people = decide.screen(scene.terms, people)
    if scene.refused is not None:
        people.reason[people.reason == OPEN] = REASON["failed_input"]
    wanted = roster.users[(people.reason == OPEN).any(1)]
    state = scene.scorer.state(scene.snapshot, slots, scene.as_of, scene.catalogue, wanted)
    rows = _rows(state, roster)
    goods = _goods(scene, people, state, rows, past)
    return Weighing(roster, state, rows, people, goods, decide.weigh(scene.terms, people, goods))


def _table(scene: Scene, roster: Roster) -> windows.Table:
    """Stretches are computed once per (occurrence, zone, quiet hours) of the whole run."""

    def cell(o: int, group: tuple[str, Hours | None]) -> Stretches:
        key = (o, group)
        if key not in scene.stretches:
            scene.stretches[key] = stretches_of(scene.occasions[o], scene.policy, group, scene.as_of)
        return scene.stretches[key]

    count = len(scene.occasions)
    return windows.table([[cell(o, group) for o in range(count)] for group in roster.groups], count)


def _rows(state: State, roster: Roster) -> np.ndarray:
    """Each user's position in the state, −1 for those who need none."""
    at = np.minimum(np.searchsorted(state.users, roster.users), max(len(state.users) - 1, 0))
    there = state.users[at] == roster.users if len(state.users) else np.zeros(len(roster), bool)
    return np.where(there, at, -1)


def _goods(scene: Scene, people: People, state: State, rows: np.ndarray, past: Past) -> Goods:
    n, occurrences = people.reason.shape
    shape = (n, occurrences, scene.most_offers)
    best = offers.Top(np.full(shape, MISSING, np.int32), np.zeros(shape, np.float32))
    pools: dict[int, offers.Pool] = {}
    here, bought = np.flatnonzero(rows >= 0), _bought(scene, people, rows)
    for o in range(occurrences):
        allowed = scene.allowed[o]
        open_to = people.reason[:, o] == OPEN
        if allowed is None:
            best.item[open_to, o, 0] = NO_ITEM
        elif scene.occasions[o].definition.items.kind == "event":
            barred = np.union1d(_barred(scene, o, rows, past), bought)
            best.item[:, o, 0] = own.places(scene, o, people.users, rows, barred)
            best.item[~open_to, o, 0] = MISSING
        elif len(here):
            if id(allowed) not in pools:
                pools[id(allowed)] = offers.pool(scene.scorer, state, allowed)
            wanted = np.zeros(len(state), bool)
            wanted[rows[open_to]] = True
            barred = np.union1d(_barred(scene, o, rows, past), bought)
            found = offers.top(pools[id(allowed)], wanted, barred, len(scene.catalogue), scene.most_offers)
            best.item[here, o], best.related[here, o] = found.item[rows[here]], found.related[rows[here]]
    score = offers.scored(scene.scorer, state, rows, best, _cells(people))
    return _described(scene, best, score, _annoyed(state, rows))


_USER_COLUMNS = schema.group_names("user")
_ANSWERS = ("user_push_dismissals_7d", "user_push_opens_7d", "user_push_clicks_7d")


def _annoyed(state: State, rows: np.ndarray) -> np.ndarray:
    """P(dismissed or opted out) of a push, float64[n], from each user's answers of late."""
    known = np.zeros((len(rows), len(_ANSWERS)), np.float32)
    here = np.flatnonzero(rows >= 0)
    for column, name in enumerate(_ANSWERS):
        known[here, column] = np.nan_to_num(state.user_block[rows[here], _USER_COLUMNS.index(name)])
    return worth.annoyance(known[:, 0], known.sum(1))


def _cells(people: People) -> np.ndarray:
    return np.where((people.reason == OPEN)[..., None], people.table.cell[people.group], np.int8(-1))


def _barred(scene: Scene, o: int, rows: np.ndarray, past: Past) -> np.ndarray:
    """Pairs (state position · items + item position), sorted, that the campaign may not offer again yet."""
    days = scene.occasions[o].definition.item_once_days
    if not days or not len(past):
        return np.zeros(0, np.int64)
    since = int((scene.as_of - timedelta(days=days)).timestamp() * 1e6)
    user = np.where(past.row >= 0, rows[past.row], -1)  # row −1: somebody whom nobody asked for
    return _pairs(scene, user, past.item, past.pending | (past.at > since))


def _bought(scene: Scene, people: People, rows: np.ndarray) -> np.ndarray:
    """Pairs as above that were bought since these pushes were planned."""
    if scene.again is None or not len(scene.again.bought):
        return np.zeros(0, np.int64)
    user, item = scene.again.bought.T
    at = np.minimum(np.searchsorted(people.users, user), len(people.users) - 1)
    return _pairs(scene, np.where(people.users[at] == user, rows[at], -1), item, np.ones(len(user), bool))


def _pairs(scene: Scene, user: np.ndarray, item: np.ndarray, some: np.ndarray) -> np.ndarray:
    place = scene.catalogue.positions(item)
    known = some & (place >= 0) & (user >= 0)
    return np.unique(user[known] * len(scene.catalogue) + place[known])


def _described(scene: Scene, best: offers.Top, score: np.ndarray, annoyed: np.ndarray) -> Goods:
    items, place = scene.catalogue.items, best.item
    there, at = place >= 0, np.maximum(place, 0)

    def of_item(values: np.ndarray, otherwise: float) -> np.ndarray:
        if not len(values):
            return np.full(place.shape, otherwise)
        return np.where(there & ~np.isnan(values[at]), values[at], otherwise)

    return Goods(
        place=place,
        related=best.related,
        item=np.where(there, scene.catalogue.ids[at], place) if len(items) else place.astype(np.int64),
        category=of_item(items.category.astype(np.float64), -1).astype(np.int32),
        since=of_item(items.available_from, -np.inf),
        until=of_item(items.available_until, np.inf),
        score=score,
        annoyed=annoyed,
    )
