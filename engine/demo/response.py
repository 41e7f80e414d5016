"""Who answers a campaign: how well that is foretold on Complete Journey's coupon campaigns, by rolling origin.

What is known comes out of a store that `demo.coupons` filled through the ordinary intake: events by
`learning.history`, folded as every profile is, up to the campaign's start; the user's columns are those of the feature
schema (`features.state`), and beside them stand readings of the same profiles that no item needs: of coupon uses,
pushes and redemptions, and of the user's purchases of what the coupons are for. A redemption is credited to the push it
names as clicks are (`learning.pushes`). The model is `learning.logistic`: trees lose below a thousand successes (AUC
.754 beside .80 on the campaigns it was chosen on). Trained on campaigns that ended before the tested one began.

Not the product's path: a registered model scores items, not campaigns, and knows no such columns; and which products a
campaign's coupons are for is read from the package, since Horae's items have no such relation.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from engine.demo import coupons, data
from engine.demo.apart import Progress
from engine.features.catalogue import Catalogue, build_catalogue
from engine.features.decay import DAY_SECONDS
from engine.features.readings import HOURS_PER_DAY, Reading, Readings, positions
from engine.features.state import (
    LEAST_SESSIONS,
    P_120D,
    PAIR_HALF_LIVES,
    U_30D,
    U_120D,
    USER_HALF_LIVES,
    Profiles,
    build_state,
)
from engine.ingest.profiles import FoldRows
from engine.learning import logistic
from engine.learning.backtest.resampling import Draws, Judged, Week, interval
from engine.learning.history import item_profiles, read_events, user_profiles
from engine.learning.pushes import credited
from engine.learning.reading import read_items
from engine.store.database import Database, Snapshot
from engine.store.tables import EVENT_TYPES

TESTED = (13, 14, 16, 17, 18, 19)
"""Campaigns of the published protocol: begun after the first dozen, ended before the data do."""

RIDGE = 300.0
"""Chosen, as the columns were, on campaigns 8 to 12: AUC .803 over them, .805 within each; 100 gives .802 and .795."""

PRIOR_RATE = 0.12
"""Of campaigns answered, before any has ended."""

TYPE_PUSHES, OWN_PUSHES = 20.0, 2.0
"""Pushes' worth of everybody's rate in that of a type of campaign, and of the type's in a user's own."""

NARROW = 60
"""Coupons for at most so many products say what they are about."""


@dataclass(frozen=True)
class Sent:
    """Pushes about campaigns. user, item: int64 ids · at, first: float64, epoch seconds, of the push and of its first
    redemption, NaN for none."""

    user: np.ndarray
    item: np.ndarray
    at: np.ndarray
    first: np.ndarray

    def where(self, keep: np.ndarray) -> Sent:
        """Those at `keep` (bool[n])."""
        return Sent(self.user[keep], self.item[keep], self.at[keep], self.first[keep])


@dataclass(frozen=True)
class Rows:
    """A campaign's pushes as a model learns from them: rows float32[n, F] · answered: bool[n] · user: int64[n] ids ·
    start, end: epoch seconds."""

    rows: np.ndarray
    answered: np.ndarray
    user: np.ndarray
    start: float
    end: float


def measure(database: Database, now: datetime, tell: Progress) -> dict[str, Any]:
    """AUC, AP, NE and ECE of the response model on the tested campaigns, with intervals by household."""
    tell("reading campaigns", 0.0)
    about = coupons.of_campaigns(data.read(data.source(), "coupons", None))
    with database.snapshot() as snapshot:
        shop = Shop(snapshot, now, about)
    told = {}
    for number, name in enumerate(shop.names):
        tell(f"features as of {name}", 0.2 + 0.7 * number / len(shop.names))
        told[name] = shop.rows(name)
    found = []
    for name in (f"{coupons.PREFIX}{campaign}" for campaign in TESTED):
        tested = told[name]
        earlier = [rows for rows in told.values() if rows.end < tested.start]
        model = logistic.fit(
            np.concatenate([rows.rows for rows in earlier]),
            np.concatenate([rows.answered for rows in earlier]).astype(np.float32),
            seed=1,
            ridge=RIDGE,
        )
        found.append((tested, model.predict(tested.rows)))
    return _measured(found)


def _measured(found: list[tuple[Rows, np.ndarray]]) -> dict[str, Any]:
    ids, user = np.unique(np.concatenate([rows.user for rows, _ in found]), return_inverse=True)
    labels = np.concatenate([rows.answered for rows, _ in found])
    nobody = np.zeros(len(ids))
    week = Week(ids, user, labels, nobody, nobody)
    judged = Judged(week, np.concatenate([chances for _, chances in found]), True, np.inf, nobody, nobody)
    samples = judged.samples(Draws(ids, np.random.default_rng(1)))
    report: dict[str, Any] = {"pairs": len(labels), "answered": int(labels.sum())}
    for key in ("auc", "ap", "ne"):
        report |= interval(key, samples[key])
    return report | interval("ece", samples["ece_weekly"])


class Shop:
    """What the store holds, and the coupons of each campaign (by its item_id: coupon_upc, product_id)."""

    def __init__(self, snapshot: Snapshot, now: datetime, about: dict[str, pd.DataFrame]) -> None:
        self._items, self._events = read_items(snapshot, now), read_events(snapshot, until=now)
        self._types = _event_types(snapshot)
        self._sent = _sent(snapshot, self._types[coupons.REDEMPTION])
        names = snapshot.arrow("SELECT id, external_id FROM items ORDER BY id")
        ids = dict(zip(names["external_id"].to_pylist(), names["id"].to_pylist(), strict=True))
        self._about = {name: _known(told, ids) for name, told in about.items()}
        start = {name: float(self._items.available_from[self._at(ids[name])]) for name in about}
        self.names = sorted(about, key=lambda name: start[name])
        self._id = {name: int(ids[name]) for name in self.names}

    def _at(self, item: int) -> int:
        return int(positions(self._items.ids, np.array([item]))[0])

    def rows(self, name: str) -> Rows:
        """The pushes of a campaign with their features, as of its start."""
        at = self._at(self._id[name])
        tau, end = float(self._items.available_from[at]), float(self._items.available_until[at])
        ours = self._sent.where(self._sent.item == self._id[name])
        ours = ours.where(np.argsort(ours.user))
        past = self._events.where((self._events.at < tau) & np.isin(self._events.user, ours.user))
        profiles = user_profiles(past)
        state = build_state(ours.user, profiles, self._catalogue(past, tau), tau)
        own = _Own(ours.user, profiles, tau, self._types)
        columns = [
            state.user_block,
            *own.columns(),
            *self._rates(ours.user, at, tau),
            *own.affinity(*self._about[name]),
            np.broadcast_to(self._constants(at, len(ours.user), name), (len(ours.user), 4)),
        ]
        rows = np.concatenate([column.reshape(len(ours.user), -1) for column in columns], axis=1)
        return Rows(rows.astype(np.float32), ~np.isnan(ours.first), ours.user, tau, end)

    def _catalogue(self, past: FoldRows, tau: float) -> Catalogue:
        """The items without what everybody did with them: no column here depends on it."""
        return build_catalogue(self._items, item_profiles(past.where(np.zeros(len(past), bool))), tau)

    def _constants(self, at: int, sent: int, name: str) -> np.ndarray:
        """What a campaign offers: coupons, products, days, and to how many."""
        days = (self._items.available_until[at] - self._items.available_from[at]) / DAY_SECONDS
        return np.array([self._items.stock[at], len(self._about[name][0]), days, sent], np.float64)

    def _rates(self, users: np.ndarray, at: int, tau: float) -> list[np.ndarray]:
        """How campaigns before τ were answered: those of the type, and by each user, all and of the type."""
        items, sent = self._items, self._sent.where(self._sent.at < tau)
        place = positions(items.ids, sent.item)
        alike = items.category[place] == items.category[at]
        ended, answered = items.available_until[place] < tau, sent.first < tau
        usual = float(answered[ended].mean()) if ended.any() else PRIOR_RATE
        like = answered[ended & alike]
        rate = (float(like.sum()) + TYPE_PUSHES * usual) / (len(like) + TYPE_PUSHES)
        who = positions(users, sent.user)

        def count(keep: np.ndarray) -> np.ndarray:
            return np.bincount(who[keep & (who >= 0)], minlength=len(users)).astype(np.float64)

        all_sent, hit = count(who >= 0), count(answered)
        sent_alike, hit_alike = count(alike), count(alike & answered)
        return [
            np.full(len(users), rate),
            (hit + OWN_PUSHES * usual) / (all_sent + OWN_PUSHES),
            sent_alike,
            hit_alike,
            (hit_alike + OWN_PUSHES * rate) / (sent_alike + OWN_PUSHES),
        ]


class _Own:
    """The profiles of some users (int64 ids, sorted), read at τ."""

    def __init__(self, users: np.ndarray, profiles: Profiles, tau: float, types: dict[str, int]) -> None:
        self._n, self._types = len(users), types
        self._users = Readings(profiles.users, positions(users, profiles.users.keys[0]), tau, USER_HALF_LIVES)
        bought = profiles.pairs.keys[2] == EVENT_TYPES["purchase"]
        pairs = Readings(profiles.pairs, positions(users, profiles.pairs.keys[0]), tau, PAIR_HALF_LIVES)
        self._user, self._item = positions(users, profiles.pairs.keys[0])[bought], profiles.pairs.keys[1][bought]
        self._bought = pairs.s[bought, P_120D]

    def columns(self) -> list[np.ndarray]:
        """Coupon uses, how many a trip, pushes and redemptions."""
        uses, trips = self._spread(coupons.COUPON_USE), self._spread("app_open")
        per_trip = uses[:, :2] / np.maximum(trips[:, :2], LEAST_SESSIONS)
        return [uses, per_trip, self._spread("push_sent")[:, 1:3], self._spread(coupons.REDEMPTION)]

    def _spread(self, event_type: str) -> np.ndarray:
        """Decayed by 30 and by 120 days, how many ever, days since the last: float64[users, 4]."""
        read: Reading = self._users.of(self._types[event_type])
        found = np.zeros((self._n, 4))
        found[:, 3] = np.nan
        told = (read.s[:, U_30D], read.s[:, U_120D], read.n, read.hours_since / HOURS_PER_DAY)
        found[read.at] = np.stack(told, axis=1)
        return found

    def affinity(self, wide: np.ndarray, narrow: np.ndarray) -> list[np.ndarray]:
        """Purchases of the coupons' products (int64 ids): all, their share, by narrow coupons, and how many of them."""
        about = np.isin(self._item, wide)
        of_all, of_about, of_narrow = (
            np.bincount(self._user[keep], self._bought[keep], minlength=self._n)
            for keep in (np.ones(len(about), bool), about, np.isin(self._item, narrow))
        )
        kinds = np.bincount(self._user[about], minlength=self._n).astype(np.float64)
        return [of_about, of_about / np.maximum(of_all, 1), of_narrow, kinds]


def _event_types(snapshot: Snapshot) -> dict[str, int]:
    rows = snapshot.arrow("SELECT id, name FROM event_types")
    return dict(zip(rows["name"].to_pylist(), rows["id"].to_pylist(), strict=True))


def _sent(snapshot: Snapshot, redemption: int) -> Sent:
    """The pushes in the log, and when the first redemption was credited to each."""
    rows = snapshot.arrow(
        "SELECT push_id::text AS push_id, user_id, item_id, event_type,"
        " extract(epoch FROM occurred_at)::float8 AS at FROM events"
        f" WHERE event_type IN ({EVENT_TYPES['push_sent']:d}, {redemption:d}) ORDER BY occurred_at, key"
    )
    kind = np.asarray(rows["event_type"], np.int64)
    sent, told = (rows.filter(pa.array(mask)) for mask in (kind != redemption, kind == redemption))
    push = credited(sent, told)
    first = np.full(len(sent), np.inf)
    np.minimum.at(first, push[push >= 0], np.asarray(told["at"], np.float64)[push >= 0])
    user, item, at = (np.asarray(sent[name]) for name in ("user_id", "item_id", "at"))
    return Sent(user.astype(np.int64), item.astype(np.int64), at, np.where(np.isinf(first), np.nan, first))


def _known(told: pd.DataFrame, ids: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """The items that a campaign's coupons are for, and those of its narrow ones; none that nobody ever bought."""
    item = told["product_id"].astype(str).map(ids)
    width = told.groupby("coupon_upc")["product_id"].transform("nunique")
    narrow = item[width <= NARROW].dropna()
    return tuple(np.unique(found.to_numpy(np.int64)) for found in (item.dropna(), narrow))  # type: ignore[return-value]
