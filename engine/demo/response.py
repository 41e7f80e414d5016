"""Who answers a campaign: 6,589 pairs of household and coupon campaign of Complete Journey, 792 of them redeemed.

Read as a shop's own log would be, from the package's tables: a campaign's start is a delivery to each of its
households, a first redemption its conversion, a basket with a coupon an event. Counters are the profiles' own
(`features.decay`), as of the campaign's start. The model is the backtest's logistic regression on campaign features,
not a registered model: those score items. Linear, since trees lose below a thousand successes (AUC .754 beside .801 on
the campaigns it was chosen on). Trained on campaigns that ended before the tested one began.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, time
from typing import Any

import numpy as np
import pandas as pd

from engine.demo import data
from engine.demo.apart import Progress
from engine.features import decay
from engine.learning.backtest import logistic
from engine.learning.backtest.resampling import Draws, Judged, Week, interval
from engine.localtime import resolve, zone

TESTED = (13, 14, 16, 17, 18, 19)
"""Campaigns of the published protocol: begun after the first dozen, ended before the data do."""

RIDGE = 100.0
EVER = 1e4
PRIOR_RATE = 0.12
NARROW = 60
"""Coupons for at most so many products say what they are about."""

DAY = decay.DAY_SECONDS
_LINES = [
    "household_id",
    "basket_id",
    "product_id",
    "sales_value",
    "retail_disc",
    "coupon_disc",
    "coupon_match_disc",
    "transaction_timestamp",
]


@dataclass(frozen=True)
class Events:
    """user: int64[n] positions · at: float64[n], epoch seconds · weight: float64[n]."""

    user: np.ndarray
    at: np.ndarray
    weight: np.ndarray

    def where(self, keep: np.ndarray) -> Events:
        """Those at `keep` (bool[n])."""
        return Events(self.user[keep], self.at[keep], self.weight[keep])


@dataclass(frozen=True)
class Counted:
    """Of every user at τ: s: float64[U, k], decayed · n: float64[U] · age: float64[U], days, NaN for never."""

    s: np.ndarray
    n: np.ndarray
    age: np.ndarray


def measure(tell: Progress) -> dict[str, Any]:
    """AUC, AP and NE of the response model on the tested campaigns, with intervals by household."""
    tell("reading Complete Journey", 0.0)
    shop = _Shop()
    tell("campaigns that ended before", 0.5)
    rows = {campaign: shop.rows(campaign) for campaign in shop.campaigns.index}
    user, labels, chances = [], [], []
    for campaign in TESTED:
        start = shop.campaigns.loc[campaign, "start"]
        earlier = shop.campaigns.index[shop.campaigns["end"] < start]
        model = logistic.fit(
            np.concatenate([rows[other][0] for other in earlier]),
            np.concatenate([rows[other][1] for other in earlier]).astype(np.float32),
            seed=1,
            ridge=RIDGE,
        )
        features, answered, households = rows[campaign]
        user.append(households)
        labels.append(answered)
        chances.append(model.predict(features))
    return _measured(shop.households, np.concatenate(user), np.concatenate(labels), np.concatenate(chances))


def _measured(households: int, user: np.ndarray, labels: np.ndarray, chances: np.ndarray) -> dict[str, Any]:
    nobody, ids = np.zeros(households), np.arange(households)
    judged = Judged(Week(ids, user, labels, nobody, nobody), chances, True, np.inf, nobody, nobody)
    found = judged.samples(Draws(ids, np.random.default_rng(1)))
    report: dict[str, Any] = {"pairs": len(labels), "answered": int(labels.sum())}
    for key in ("auc", "ap", "ne"):
        report |= interval(key, found[key])
    return report | interval("ece", found["ece_weekly"])


class _Shop:
    """The tables as events."""

    def __init__(self) -> None:
        source = data.source()
        lines = data.read(source, "transactions", _LINES)
        ids = np.sort(lines["household_id"].unique())
        self.households = len(ids)
        lines["user"] = np.searchsorted(ids, lines["household_id"])
        lines["at"] = lines["transaction_timestamp"].astype("datetime64[us]").astype("int64") / 1e6
        self.lines = Events(lines["user"].to_numpy(), lines["at"].to_numpy(), np.ones(len(lines)))
        products = pd.Index(lines["product_id"].astype(str).unique())
        self.product = products.get_indexer(lines["product_id"].astype(str))
        self.products = len(products)
        self._baskets(lines)
        told = data.read(source, "campaign_descriptions", None).set_index("campaign_id")
        told["start"], told["end"] = (told[name].map(_midnight) for name in ("start_date", "end_date"))
        self.campaigns = told.sort_index()
        sent = data.read(source, "campaigns", None)
        self.sent = sent.assign(
            user=np.searchsorted(ids, sent["household_id"]),
            start=sent["campaign_id"].map(told["start"]),
            end=sent["campaign_id"].map(told["end"]),
            kind=sent["campaign_id"].map(told["campaign_type"]).astype(str),
        )
        self.coupons = data.read(source, "coupons", None).drop_duplicates()
        self.coupons["product_id"] = products.get_indexer(self.coupons["product_id"].astype(str))  # -1: never bought
        used = data.read(source, "coupon_redemptions", None)
        used = used.assign(
            user=np.searchsorted(ids, used["household_id"]),
            at=used["redemption_date"].map(_midnight),
            kind=used["campaign_id"].map(told["campaign_type"]).astype(str),
        )
        self.used = used.sort_values("at")
        self.first = self.used.drop_duplicates(["user", "campaign_id"])
        pairs = set(zip(self.first["user"], self.first["campaign_id"], strict=True))
        self.sent["answered"] = [
            pair in pairs for pair in zip(self.sent["user"], self.sent["campaign_id"], strict=True)
        ]

    def _baskets(self, lines: pd.DataFrame) -> None:
        for name, column in (("reduced", "retail_disc"), ("coupon", "coupon_disc"), ("match", "coupon_match_disc")):
            lines[name] = (lines[column] != 0).astype(float)
        baskets = lines.groupby("basket_id").agg(
            user=("user", "first"),
            at=("at", "first"),
            spent=("sales_value", "sum"),
            items=("product_id", "size"),
            reduced=("reduced", "mean"),
            coupon=("coupon", "max"),
            match=("match", "max"),
        )
        user, at = baskets["user"].to_numpy(), baskets["at"].to_numpy()
        self.trips = Events(user, at, np.ones(len(user)))
        self.spent = Events(user, at, baskets["spent"].to_numpy(np.float64))
        self.items = Events(user, at, baskets["items"].to_numpy(np.float64))
        self.reduced = Events(user, at, baskets["reduced"].to_numpy(np.float64))
        self.coupon = self.trips.where(baskets["coupon"].to_numpy() > 0)
        self.match = self.trips.where(baskets["match"].to_numpy() > 0)

    def count(self, events: Events, tau: float, *half_lives: float) -> Counted:
        """The profiles of all users, of events strictly before τ."""
        folded = decay.fold((events.user,), events.at, events.weight, half_lives, before=tau)
        s, n, age = (
            np.zeros((self.households, len(half_lives))),
            np.zeros(self.households),
            np.full(self.households, np.nan),
        )
        at = folded.keys[0]
        s[at] = decay.read(folded.s, folded.last_at, tau, half_lives)
        n[at], age[at] = folded.n, (tau - folded.last_at) / DAY
        return Counted(s, n, age)

    def rows(self, campaign: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Feature rows float32[n, F], answers bool[n] and households of a campaign, as of its start."""
        pairs = self.sent[self.sent["campaign_id"] == campaign]
        tau, kind = float(pairs["start"].iloc[0]), str(pairs["kind"].iloc[0])
        by_user = self._shopping(tau) + self._coupons(tau) + self._answers(tau, kind) + self._affinity(tau, campaign)
        user = pairs["user"].to_numpy()
        columns = [column[user] for column in by_user]
        told = self.coupons[self.coupons["campaign_id"] == campaign]
        constants = [
            *(float(kind.endswith(letter)) for letter in "ABC"),
            np.log1p(told["coupon_upc"].nunique()),
            np.log1p(told["product_id"].nunique()),
            (float(pairs["end"].iloc[0]) - tau) / DAY,
            np.log(len(pairs)),
        ]
        columns += [np.full(len(user), value) for value in constants]
        return np.stack(columns, axis=1).astype(np.float32), pairs["answered"].to_numpy(bool), user

    def _shopping(self, tau: float) -> list[np.ndarray]:
        trips = self.count(self.trips, tau, 7, 30, 120)
        spent = self.count(self.spent, tau, 30, 120)
        items, reduced = self.count(self.items, tau, 120), self.count(self.reduced, tau, 120)
        share = reduced.s[:, 0] / np.maximum(trips.s[:, 2], 0.1)
        return [*trips.s.T, trips.age, *spent.s.T, items.s[:, 0], share]

    def _coupons(self, tau: float) -> list[np.ndarray]:
        coupon, match = self.count(self.coupon, tau, 30, 90), self.count(self.match, tau, 90)
        trips = self.count(self.trips, tau, 90).s[:, 0]
        return [*coupon.s.T, coupon.n, coupon.age, coupon.s[:, 1] / np.maximum(trips, 0.3), match.s[:, 0]]

    def _answers(self, tau: float, kind: str) -> list[np.ndarray]:
        sent, first, used = _events(self.sent, "start"), _events(self.first, "at"), _events(self.used, "at")
        alike = self.sent["kind"].to_numpy() == kind, self.first["kind"].to_numpy() == kind
        sends, answers, all_used = (
            self.count(events, tau, *half) for events, half in ((sent, (90,)), (first, (30, 90)), (used, (90,)))
        )
        sends_alike = self.count(sent.where(alike[0]), tau, 90).n
        answers_alike = self.count(first.where(alike[1]), tau, 90).n
        ended = self.sent[self.sent["end"] < tau]
        usual = float(ended["answered"].mean()) if len(ended) else PRIOR_RATE
        like = ended[ended["kind"] == kind]["answered"]
        rate = (float(like.sum()) + 20 * usual) / (len(like) + 20)
        return [
            sends.s[:, 0],
            sends.n,
            *answers.s.T,
            answers.n,
            all_used.s[:, 0],
            all_used.n,
            all_used.age,
            np.full(self.households, rate),
            (answers.n + 2 * usual) / (sends.n + 2),
            sends_alike,
            answers_alike,
            (answers_alike + 2 * rate) / (sends_alike + 2),
        ]

    def _affinity(self, tau: float, campaign: int) -> list[np.ndarray]:
        told = self.coupons[self.coupons["campaign_id"] == campaign]
        width = told.groupby("coupon_upc")["product_id"].transform("nunique")
        about = self._among(told["product_id"])
        narrow = self._among(told["product_id"][width <= NARROW])
        wide = self.count(self.lines.where(about), tau, 120).s[:, 0]
        items = self.count(self.items, tau, 120).s[:, 0]
        before = about & (self.lines.at < tau)
        pairs = np.unique(self.lines.user[before].astype(np.int64) * self.products + self.product[before])
        return [
            wide,
            wide / np.maximum(items, 1),
            self.count(self.lines.where(narrow), tau, 120).s[:, 0],
            np.bincount(pairs // self.products, minlength=self.households).astype(np.float64),
        ]

    def _among(self, products: pd.Series) -> np.ndarray:
        """The lines (mask) of any of `products` (codes; those never bought are -1)."""
        wanted = np.zeros(self.products + 1, bool)
        wanted[products.to_numpy()] = True
        wanted[-1] = False
        return np.asarray(wanted[self.product], bool)


def _events(frame: pd.DataFrame, at: str) -> Events:
    return Events(frame["user"].to_numpy(), frame[at].to_numpy(np.float64), np.ones(len(frame)))


def _midnight(day: Any) -> float:
    return resolve(datetime.combine(pd.Timestamp(day).date(), time()), zone(data.TIMEZONE)).timestamp()
