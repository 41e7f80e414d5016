"""Recommendations and hours of one user, at once: what a plan would weigh, before caps and gaps; for a campaign without
what its item_once_days bars.

The user's own events count from the commit that accepted them; the shop is as `warmth` keeps it. Scores are those of
planning's second stage, in the window that the asked instant falls into.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
from sqlalchemy import text

from engine import clock
from engine.campaigns.definition import Campaign
from engine.campaigns.rules import own_hours, rules_of
from engine.errors import BadInput, UnknownName, UserErased
from engine.features.matrix import WindowCurves
from engine.ingest.erased import erased_among
from engine.learning.candidates import SOURCES, Candidates, Shelf
from engine.learning.explaining import REGIMES, Reason, reasons, reasons_of
from engine.learning.present import Present, read_present
from engine.localtime import WINDOWS_A_DAY, Hours, wall_clock, windows_between, zone
from engine.planning.warmth import Ground, Warmth
from engine.planning.windows import Open, Span, instant, open_stretches
from engine.store.bulk import fetch
from engine.store.database import Database

USUAL = 5
"""Items of a request that does not say how many: half of its time are the reasons of these."""

MOST = 50
MOST_REASONS = 10
AHEAD = timedelta(days=7)
"""How far ahead an instant may lie, and windows are looked for."""

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_WORKDAYS = 5
_HOURS = 24 // WINDOWS_A_DAY
_ALL = (len(DAYS) + 1) * WINDOWS_A_DAY
"""Windows within AHEAD, cut ones too."""

_USER = """
    SELECT id, slot, timezone, quiet_from, quiet_until, (SELECT business_now FROM workspace) FROM users
    WHERE external_id = %s
"""

# What a plan of the campaign would not offer again yet: planning.scene bars the same.
_REPEATS = text("""
    SELECT item_id FROM deliveries WHERE user_id = :user AND at > :since AND day >= CAST(:since AS date) - 1
        AND item_id IS NOT NULL AND NOT test AND state IN ('accepted', 'unknown')
    UNION SELECT p.item_id FROM pushes p WHERE p.user_id = :user AND p.item_id IS NOT NULL
        AND p.campaign_id <> :campaign
""")


@dataclass(frozen=True)
class Item:
    """A recommended item. score: of a push about it in the window · source: what proposed it first of all."""

    item: str
    title: str | None
    category: str | None
    price: float | None
    score: float
    source: str
    reasons: tuple[Reason, ...]


@dataclass(frozen=True)
class Recommended:
    """The best items of a user, best first. model None: none is trained yet, and `regime` is baseline · window: the
    local hours that `at` falls into · unfolded: events that no profile held yet, and which count."""

    user: str
    zone: str
    as_of: datetime
    at: datetime
    window: str
    model: int | None
    regime: str
    meaning: str
    unfolded: int
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Slot:
    """Three local hours of a weekday. share: of the user's activity of a week · rate: beside the user's best."""

    hours: str
    share: float
    rate: float


@dataclass(frozen=True)
class Best:
    """A window in which a push may leave: instants (UTC), the wall clock's reading, and how good it is."""

    starts_at: datetime
    ends_at: datetime
    local: datetime
    share: float
    rate: float


@dataclass(frozen=True)
class Hourly:
    """When a user is likely to act. evidence: decayed events behind it, 0: everybody's hours · week: by weekday · best:
    the best next windows outside quiet hours."""

    user: str
    zone: str
    as_of: datetime
    model: int | None
    evidence: float
    unfolded: int
    week: dict[str, tuple[Slot, ...]]
    best: tuple[Best, ...]


_NONE = np.zeros(0, np.int64)


@dataclass(frozen=True)
class _Asked:
    """Who is asked about, on what ground; of a campaign or of none."""

    ground: Ground
    now: datetime
    present: Present
    zone: str
    own_quiet: Hours | None
    campaign: Campaign | None
    shelf: Shelf
    repeats: np.ndarray
    """Items (ids, int64) that the campaign may not offer the user again yet."""

    @property
    def tz(self) -> ZoneInfo:
        return zone(self.zone)


class Recommender:
    """Answers for single users; from any thread."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._warmth = Warmth(database)

    def close(self) -> None:
        """Let the shop cool down."""
        self._warmth.close()

    def recommend(
        self, user: str, n: int = USUAL, campaign: str | None = None, at: datetime | None = None, told: int = 3
    ) -> Recommended:
        """The `n` best items for `user` (the shop's id) at `at` (aware; now), of those a campaign may be about, with
        `told` reasons each.

        Raises UnknownName for a user or campaign that is not there, UserErased; BadInput for an `at` in the past or
        more than a week ahead, and where the campaign's pushes are about no items.
        """
        asked = self._ask(user, campaign)
        if asked.campaign is not None and asked.campaign.items.kind == "none":
            raise BadInput(f"the pushes of campaign {campaign} are about no items")
        at = asked.now if at is None else clock.require_aware(at)
        if not asked.now - timedelta(minutes=1) <= at <= asked.now + AHEAD:
            raise BadInput(f"{at.isoformat()} is not within the next 7 days", hint="leave `at` out for now")
        ground, scorer, state = asked.ground, asked.ground.scorer, asked.present.state
        window = windows_between(asked.tz, at, at + timedelta(seconds=1))[0]
        found = scorer.candidates_of(state, asked.shelf)
        fit = _on_offer(ground, found.item, at.timestamp()) & ~np.isin(ground.catalogue.ids[found.item], asked.repeats)
        found = found.at(np.flatnonzero(fit))
        cell = np.full(len(found), window.cell, np.int8)
        score = scorer.offers(state, found.user, found.item, cell, found.related)
        best = np.argsort(-score, kind="stable")[:n]
        return Recommended(
            user=user,
            zone=asked.zone,
            as_of=asked.now,
            at=at,
            window=_hours_text(window.cell),
            model=scorer.version,
            regime=scorer.regime,
            meaning=REGIMES[scorer.regime],
            unfolded=asked.present.unfolded,
            items=_items(asked, found.at(best), score[best], cell[best], told),
        )

    def hours(self, user: str, campaign: str | None = None, n: int = 5) -> Hourly:
        """When `user` is likely to act, and the `n` best next windows in which a push (of `campaign`) may leave.

        Raises UnknownName, UserErased.
        """
        asked = self._ask(user, campaign)
        curves = asked.ground.scorer.curves(asked.present.state)
        policy, allowed = asked.ground.policy, None
        quiet = asked.own_quiet or policy.quiet_hours
        if asked.campaign is not None:
            rules = rules_of(policy, asked.campaign)
            allowed, quiet = rules.hours, rules.quiet(asked.own_quiet)
        span = Span(asked.now, asked.now + AHEAD, allowed)
        stretches, _ = open_stretches(asked.tz, span, quiet, asked.now, most=_ALL)
        stretches = sorted(stretches, key=lambda each: (-curves.rate[0, each.cell], each.first))[:n]
        return Hourly(
            user=user,
            zone=asked.zone,
            as_of=asked.now,
            model=asked.ground.scorer.version,
            evidence=float(curves.evidence[0]),
            unfolded=asked.present.unfolded,
            week={day: _day(curves, number) for number, day in enumerate(DAYS)},
            best=tuple(_best(curves, each, asked.tz) for each in stretches),
        )

    def _ask(self, name: str, campaign: str | None) -> _Asked:
        with self._database.apart() as connection:
            rows = fetch(connection, _USER, (name,))
            if not rows:
                raise self._unknown(name)
            [(user, slot, own_zone, quiet_from, quiet_until, virtual)] = rows
            now = clock.at_virtual(virtual)
            ground = self._warmth.ground(now)
            zone_name = own_zone or ground.policy.default_timezone
            present = read_present(connection, user, slot, zone_name, ground.catalogue, now)
        quiet = own_hours(quiet_from, quiet_until)
        asked = _Asked(ground, now, present, zone_name, quiet, None, ground.shelf, _NONE)
        return asked if campaign is None else self._of_campaign(asked, campaign, user)

    def _of_campaign(self, asked: _Asked, campaign: str, user: int) -> _Asked:
        """What a campaign may be about, but for what it may not offer this user again yet."""
        with self._database.snapshot() as snapshot:
            stored, definition, shelf = asked.ground.of_campaign(snapshot, campaign)
            repeats = _NONE
            if definition.item_once_days:
                since = asked.now - timedelta(days=definition.item_once_days)
                given = {"user": user, "since": since, "campaign": stored}
                repeats = np.array(snapshot.connection.execute(_REPEATS, given).scalars().all(), np.int64)
        return replace(asked, campaign=definition, shelf=shelf, repeats=repeats)

    def _unknown(self, name: str) -> UnknownName:
        with self._database.begin() as connection:
            if name in erased_among(connection, [name]):
                return UserErased("this user was erased: nothing is held about them")
        return UnknownName(f"there is no user {name!r}", hint="users come with their first event, or by horae ingest")


def _on_offer(ground: Ground, item: np.ndarray, at: float) -> np.ndarray:
    """bool[n]: items (positions) that are on offer at `at`, not only when the catalogue was read."""
    items = ground.catalogue.items
    return np.asarray(~(items.available_from[item] > at) & ~(items.available_until[item] <= at))


def _items(asked: _Asked, best: Candidates, score: np.ndarray, cell: np.ndarray, told: int) -> tuple[Item, ...]:
    ground = asked.ground
    items = ground.catalogue.items
    why = _reasons(asked, best, cell, told)
    return tuple(
        Item(
            ground.names[at],
            ground.titles[at],
            items.categories[items.category[at]] if items.category[at] >= 0 else None,
            None if np.isnan(items.price[at]) else float(items.price[at]),
            float(score[row]),
            SOURCES[best.source[row]],
            why[row],
        )
        for row, at in enumerate(best.item.tolist())
    )


def _reasons(asked: _Asked, best: Candidates, cell: np.ndarray, told: int) -> list[tuple[Reason, ...]]:
    scorer = asked.ground.scorer
    if not told or not len(best):
        return [()] * len(best)
    rows = scorer.features(asked.present.state, best.user, best.item, cell, best.related)
    if scorer.model is None:
        return [reasons(scorer, row, told) for row in rows]
    return reasons_of(scorer.model, rows, told)


def _day(curves: WindowCurves, day: int) -> tuple[Slot, ...]:
    first = WINDOWS_A_DAY * (day >= _WORKDAYS)
    return tuple(
        Slot(_hours_text(cell), _share(curves, cell), float(curves.rate[0, cell]))
        for cell in range(first, first + WINDOWS_A_DAY)
    )


def _share(curves: WindowCurves, cell: int) -> float:
    """A cell's share of one day: it stands for five workdays or two of a weekend."""
    days = _WORKDAYS if cell < WINDOWS_A_DAY else len(DAYS) - _WORKDAYS
    return float(curves.preference[0, cell]) / days


def _hours_text(cell: int) -> str:
    start = cell % WINDOWS_A_DAY * _HOURS
    return f"{start:02d}:00-{start + _HOURS:02d}:00"


def _best(curves: WindowCurves, stretch: Open, tz: ZoneInfo) -> Best:
    begins = instant(stretch.first)
    share, rate = _share(curves, stretch.cell), float(curves.rate[0, stretch.cell])
    return Best(begins, instant(stretch.end), wall_clock(tz, begins), share, rate)
