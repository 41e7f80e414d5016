"""Everything that is known of some users at a decision instant τ (pure).

Profiles come from the profile tables or from raw events through `decay.fold`; from there on it is one code path.
Features that a row is assembled from are computed once per user and per (user, item) here, so that assembling rows is
gathering. Tastes for categories and brands are sums over the pairs, hence exact when an item's metadata arrives late.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.features import habits, prices
from engine.features.catalogue import Catalogue, interest_weights
from engine.features.decay import Folded
from engine.features.readings import HOUR_SECONDS, HOURS_PER_DAY, Reading, Readings, positions, take
from engine.features.schema import Block
from engine.store.tables import EVENT_TYPES, HALF_LIVES_DAYS

USER_HALF_LIVES = HALF_LIVES_DAYS["user_profiles"]
PAIR_HALF_LIVES = HALF_LIVES_DAYS["user_item_profiles"]
HOUR_HALF_LIVES = HALF_LIVES_DAYS["user_hour_profiles"]
U_1H, U_1D, U_7D, U_30D, U_120D = (USER_HALF_LIVES.index(days) for days in (1 / 24, 1.0, 7.0, 30.0, 120.0))
P_1D, P_7D, P_14D, P_30D, P_45D, P_120D, P_240D = (
    PAIR_HALF_LIVES.index(days) for days in (1.0, 7.0, 14.0, 30.0, 45.0, 120.0, 240.0)
)
PAIR_COLUMNS = (P_1D, P_7D, P_14D, P_30D, P_45D, P_120D, P_240D)
LEAST_SESSIONS = 0.3
"""Decayed sessions taken for at least so many: a rate over next to none says nothing."""

RANGE = 0.25
"""Decayed purchases from which on an item belongs to what a user buys."""

HOUR_30D, HOUR_120D = (HOUR_HALF_LIVES.index(days) for days in (30.0, 120.0))


@dataclass(frozen=True)
class Profiles:
    """Folded profiles of some users.

    Keys: (user id, event type), (user id, item id, event type), (user id, rung, hour).
    """

    users: Folded
    pairs: Folded
    hours: Folded


@dataclass(frozen=True)
class Table:
    """Feature rows by key.

    keys: int64[m], sorted · block: float32[m + 1, columns], whose last row is NaN (no such key).
    """

    keys: np.ndarray
    block: np.ndarray

    def find(self, keys: np.ndarray, low: int = 0, high: int | None = None) -> np.ndarray:
        """Rows of `block` for `keys` (int64), searching keys[low:high] only: int64, the NaN row where absent."""
        part = self.keys[low:high]
        missing = len(self.keys)
        if not len(part):
            return np.full(len(keys), missing, np.int64)
        at = np.searchsorted(part, keys)
        at[at == len(part)] = 0
        return np.where(part[at] == keys, at + low, missing)


PUSHED = 3
"""The rung of `Hours` that counts pushes sent, not anything that the user did."""


@dataclass(frozen=True)
class Hours:
    """When users act, and when pushes were sent to them (rung PUSHED), in user order.

    user: int32[m] positions · rung, hour: int16[m] · weight: float64[m], events decayed with a half-life of 120 days ·
    recent: float64[m], of 30 days · count: float64[m], not decayed.
    """

    user: np.ndarray
    rung: np.ndarray
    hour: np.ndarray
    weight: np.ndarray
    recent: np.ndarray
    count: np.ndarray


@dataclass(frozen=True, eq=False)
class State:
    """What is known of U users at τ; every array is in user order.

    as_of: epoch seconds · users: int64[U] ids, sorted · user_block: float32[U, user features] · pairs: features by
    user position · I + item position · pair_start: int64[U + 1], each user's pairs · interest: float32[m, k], decayed
    interest in each pair at the pair half-lives · recent_share: float32[m], each pair's share of the user's recent
    interest (half-life 14 days), what relatedness starts from · category, brand: by user position · codes + code.
    """

    as_of: float
    users: np.ndarray
    catalogue: Catalogue
    user_block: np.ndarray
    pairs: Table
    pair_start: np.ndarray
    interest: np.ndarray
    recent_share: np.ndarray
    category: Table
    brand: Table
    hours: Hours

    def __len__(self) -> int:
        return len(self.users)

    @property
    def pair_item(self) -> np.ndarray:
        """The item position of each pair, int64[m]."""
        return self.pairs.keys % max(len(self.catalogue), 1)


def build_state(users: np.ndarray, profiles: Profiles, catalogue: Catalogue, as_of: float) -> State:
    """The state of `users` (int64 ids, sorted, distinct) at τ = `as_of` (epoch seconds).

    Profiles of other users and of items outside the catalogue are left out. Raises ValueError where a profile holds an
    event after τ: its past value cannot be had from it, fold the events before τ instead.
    """
    items = len(catalogue)
    pairs, pair_keys = _pair_rows(users, profiles.pairs, catalogue)
    keys, starts = np.unique(pair_keys, return_index=True)
    group = np.repeat(np.arange(len(keys)), np.diff(np.append(starts, len(pair_keys))))
    readings = Readings(pairs, group, as_of, PAIR_HALF_LIVES)
    weighted = interest_weights(pairs.keys[-1])[:, None] * readings.s
    interest = np.add.reduceat(weighted, starts) if len(starts) else weighted
    user_of, item_of = np.divmod(keys, max(items, 1))
    bought = readings.of(EVENT_TYPES["purchase"])
    viewed = readings.of(EVENT_TYPES["view"])
    own = _Own(len(users), user_of, interest[:, P_45D], bought, viewed)
    category = catalogue.items.category[item_of]
    of_users, sessions = _user_block(users, profiles.users, as_of)
    buyers, of_buyer = np.unique(user_of[bought.at], return_inverse=True)
    of_users.put("user_range", np.bincount(of_buyer, bought.s[:, P_120D] > RANGE, minlength=len(buyers)), buyers)
    of_pairs = _pair_block(len(keys), readings)
    _put_renewal(of_pairs, bought, catalogue, item_of)
    _put_shares(of_pairs, own, bought, sessions, category)
    _put_price_drop(of_pairs, viewed, catalogue, item_of, as_of)
    return State(
        as_of,
        users,
        catalogue,
        of_users.values,
        Table(keys, _with_missing_row(of_pairs.values)),
        np.searchsorted(user_of, np.arange(len(users) + 1)),
        interest.astype(np.float32),
        _recent_share(user_of, interest[:, P_14D], len(users)),
        _category_taste(own, category, len(catalogue.items.categories)),
        _brand_taste(own, catalogue.items.brand[item_of], len(catalogue.items.brands)),
        _hours(users, profiles.hours, as_of),
    )


def _put_renewal(block: Block, bought: Reading, catalogue: Catalogue, item_of: np.ndarray) -> None:
    """How soon each pair is due again by the item's usual gaps and its own."""
    item, age = item_of[bought.at], bought.hours_since / HOURS_PER_DAY
    mean, deviation = catalogue.log_gap[item], catalogue.gap_deviation[item]
    chance = habits.hazard(age, bought.gap / HOURS_PER_DAY, bought.n, mean, deviation)
    block.put("pair_hazard_7d", chance, bought.at)
    block.put("pair_due_by_item", age / np.exp(mean), bought.at)


def _put_shares(block: Block, own: _Own, bought: Reading, sessions: np.ndarray, category: np.ndarray) -> None:
    """What part of sessions, purchases and category each pair is. sessions: float64[U, 2], by 30 and 120 days."""
    user = own.user_of[bought.at]
    for name, column, counted in (("30d", P_30D, 0), ("120d", P_120D, 1)):
        per_session = bought.s[:, column] / np.maximum(sessions[user, counted], LEAST_SESSIONS)
        block.put(f"pair_per_session_{name}", per_session, bought.at)
    total = np.bincount(user, bought.s[:, P_120D], minlength=len(sessions))
    block.put("pair_share", bought.s[:, P_120D] / np.maximum(total[user], 0.1), bought.at)
    groups = _Groups(own, category, int(category.max(initial=-1)) + 1)
    mass = groups.spread(groups.sum(own.bought[P_120D]))
    newest = groups.spread(groups.least(own.hours_since))
    block.put("pair_category_share", bought.s[:, P_120D] / np.maximum(mass[bought.at], 1e-3), bought.at)
    block.put("pair_hours_since_sibling", bought.hours_since - newest[bought.at], bought.at)


def _put_price_drop(block: Block, viewed: Reading, catalogue: Catalogue, item_of: np.ndarray, as_of: float) -> None:
    """By how much each viewed item costs less than at its last view."""
    item, at = item_of[viewed.at], as_of - viewed.hours_since * HOUR_SECONDS
    price = catalogue.items.price
    before = prices.price_at(catalogue.items.changes, price, item, at)
    block.put("pair_price_drop", prices.fallen(before, price[item]), viewed.at)


def _recent_share(user_of: np.ndarray, interest: np.ndarray, users: int) -> np.ndarray:
    """Shares that sum to 1 per user: neither a long history nor a staple bought daily drowns the rest."""
    damped = np.log1p(interest)
    total = np.bincount(user_of, damped, minlength=users)[user_of]
    share = np.zeros(len(damped))
    np.divide(damped, total, out=share, where=total > 0)
    return share.astype(np.float32)


def _pair_rows(users: np.ndarray, folded: Folded, catalogue: Catalogue) -> tuple[Folded, np.ndarray]:
    """The pair profiles of these users and items in (user, item, type) order, and the pair key of each."""
    user, item = positions(users, folded.keys[0]), catalogue.positions(folded.keys[1])
    keys = user * len(catalogue) + item
    known = (user >= 0) & (item >= 0)
    in_order = len(keys) < 2 or bool(np.all(keys[1:] >= keys[:-1]))
    if known.all() and in_order:
        return folded, keys
    chosen = np.flatnonzero(known)
    chosen = chosen[np.argsort(keys[chosen], kind="stable")]
    return take(folded, chosen), keys[chosen]


def _user_block(users: np.ndarray, folded: Folded, as_of: float) -> tuple[Block, np.ndarray]:
    """The block, and the users' sessions decayed with half-lives of 30 and of 120 days: float64[U, 2], NaN for none."""
    at = positions(users, folded.keys[0])
    if np.any(at < 0):
        folded, at = take(folded, at >= 0), at[at >= 0]
    readings = Readings(folded, at, as_of, USER_HALF_LIVES)
    block = Block("user", len(users))
    for event, name, columns in (
        ("view", "views", {"1h": U_1H, "1d": U_1D, "7d": U_7D}),
        ("add_to_cart", "carts", {"1d": U_1D, "7d": U_7D}),
        ("purchase", "purchases", {"1d": U_1D, "7d": U_7D, "30d": U_30D, "120d": U_120D}),
        ("app_open", "sessions", {"1d": U_1D, "7d": U_7D, "30d": U_30D, "120d": U_120D}),
        ("push_open", "push_opens", {"7d": U_7D}),
        ("push_click", "push_clicks", {"7d": U_7D, "30d": U_30D}),
        ("push_dismiss", "push_dismissals", {"7d": U_7D}),
        ("push_sent", "pushes", {"1d": U_1D, "7d": U_7D, "30d": U_30D}),
    ):
        read = readings.of(EVENT_TYPES[event])
        for suffix, column in columns.items():
            block.put(f"user_{name}_{suffix}", read.s[:, column], read.at)
    for event, name in (
        ("view", "view"),
        ("add_to_cart", "cart"),
        ("purchase", "purchase"),
        ("app_open", "session"),
        ("push_open", "push_open"),
        ("push_click", "push_click"),
        ("push_sent", "push"),
    ):
        read = readings.of(EVENT_TYPES[event])
        block.put(f"user_hours_since_{name}", read.hours_since, read.at)
    bought = readings.of(EVENT_TYPES["purchase"])
    block.put("user_purchase_gap", bought.gap, bought.at)
    block.put("user_due_ratio", bought.hours_since / bought.gap, bought.at)
    block.put("user_mean_value", bought.value / bought.n, bought.at)
    block.put("user_known_days", readings.hours_known(len(users)) / HOURS_PER_DAY)
    opened = readings.of(EVENT_TYPES["app_open"])
    block.put("user_sessions", opened.n, opened.at)
    block.put("user_session_gap", opened.gap, opened.at)
    block.put("user_session_due", opened.hours_since / opened.gap, opened.at)
    _put_fatigue(block, readings, len(users))
    sessions = np.full((len(users), len(USER_HALF_LIVES)), np.nan)
    sessions[opened.at] = np.maximum(opened.s, LEAST_SESSIONS)
    block.put("user_basket_7d", bought.s[:, U_7D] / sessions[bought.at, U_7D], bought.at)
    block.put("user_basket_30d", bought.s[:, U_30D] / sessions[bought.at, U_30D], bought.at)
    return block, sessions[:, [U_30D, U_120D]]


OPENS_PRIOR, PUSHES_PRIOR = 0.5, 10.0
"""Opens and pushes put to each user's own: a first push that was not opened is no proof."""


def _put_fatigue(block: Block, readings: Readings, users: int) -> None:
    """How pushes fared with each user that got any."""
    sent, opened = readings.of(EVENT_TYPES["push_sent"]), np.zeros((users, len(USER_HALF_LIVES)))
    for event in ("push_open", "push_click"):  # a click without an open is one; with one it is no second
        read = readings.of(EVENT_TYPES[event])
        opened[read.at] = np.maximum(opened[read.at], read.s)
    of = opened[sent.at]
    block.put("user_pushes_ignored_7d", np.maximum(sent.s[:, U_7D] - of[:, U_7D], 0), sent.at)
    rate = (of[:, U_30D] + OPENS_PRIOR) / (sent.s[:, U_30D] + PUSHES_PRIOR)
    block.put("user_push_open_rate", np.minimum(rate, 1.0), sent.at)


def _pair_block(rows: int, readings: Readings) -> Block:
    block = Block("pair", rows)
    bought = readings.of(EVENT_TYPES["purchase"])
    for name, column in zip(("1d", "7d", "14d", "30d", "45d", "120d", "240d"), PAIR_COLUMNS, strict=True):
        block.put(f"pair_purchases_{name}", bought.s[:, column], bought.at)
    block.put("pair_purchases", bought.n, bought.at)
    block.put("pair_hours_since_purchase", bought.hours_since, bought.at)
    block.put("pair_purchase_gap", bought.gap, bought.at)
    block.put("pair_due_ratio", bought.hours_since / bought.gap, bought.at)
    block.put("pair_days_since_first", bought.hours_known / HOURS_PER_DAY, bought.at)
    for event, name in (("view", "views"), ("add_to_cart", "carts")):
        read = readings.of(EVENT_TYPES[event])
        block.put(f"pair_{name}_1d", read.s[:, P_1D], read.at)
        block.put(f"pair_{name}_14d", read.s[:, P_14D], read.at)
        block.put(f"pair_hours_since_{name[:-1]}", read.hours_since, read.at)
    clicks, ratings = readings.of(EVENT_TYPES["push_click"]), readings.of(EVENT_TYPES["rating"])
    block.put("pair_clicks_14d", clicks.s[:, P_14D], clicks.at)
    block.put("pair_hours_since_click", clicks.hours_since, clicks.at)
    pushed = readings.of(EVENT_TYPES["push_sent"])
    block.put("pair_pushes_14d", pushed.s[:, P_14D], pushed.at)
    block.put("pair_hours_since_push", pushed.hours_since, pushed.at)
    block.put("pair_rating", ratings.value / ratings.n, ratings.at)
    return block


class _Own:
    """The pairs of all users, as the tastes aggregate them: one row per pair, in user order."""

    def __init__(self, users: int, user_of: np.ndarray, interest: np.ndarray, bought: Reading, viewed: Reading) -> None:
        rows = len(user_of)
        self.user_of, self.interest = user_of, interest
        self.total = np.bincount(user_of, interest, minlength=users)
        self.bought = {column: np.zeros(rows) for column in (P_7D, P_14D, P_45D, P_120D)}
        for column, target in self.bought.items():
            target[bought.at] = bought.s[:, column]
        self.viewed_14d = np.zeros(rows)
        self.viewed_14d[viewed.at] = viewed.s[:, P_14D]
        self.hours_since = np.full(rows, np.inf)
        self.hours_since[bought.at] = bought.hours_since


class _Groups:
    """The pairs grouped by (user, code); sums and minima over each group."""

    def __init__(self, own: _Own, codes: np.ndarray, count: int) -> None:
        coded = np.flatnonzero(codes >= 0)
        keys = own.user_of[coded] * count + codes[coded]
        order = np.argsort(keys, kind="stable")
        self._rows, self._pairs = coded[order], len(codes)
        self.keys, self._starts = np.unique(keys[order], return_index=True)
        self.user = self.keys // max(count, 1)

    def sum(self, values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values[self._rows], self._starts) if len(self.keys) else np.zeros(0)

    def least(self, values: np.ndarray) -> np.ndarray:
        return np.minimum.reduceat(values[self._rows], self._starts) if len(self.keys) else np.zeros(0)

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Each group's value at all its pairs, float64[pairs]; NaN at pairs without a code."""
        of_pair = np.full(self._pairs, np.nan)
        sizes = np.diff(np.append(self._starts, len(self._rows)))
        of_pair[self._rows] = np.repeat(values, sizes)
        return of_pair

    def share(self, own: _Own) -> np.ndarray:
        total = own.total[self.user]
        share = np.full(len(self.keys), np.nan)
        np.divide(self.sum(own.interest), total, out=share, where=total > 0)
        return share


def _category_taste(own: _Own, codes: np.ndarray, count: int) -> Table:
    groups = _Groups(own, codes, count)
    block = Block("category", len(groups.keys))
    block.put("category_purchases_7d", groups.sum(own.bought[P_7D]))
    block.put("category_purchases_45d", groups.sum(own.bought[P_45D]))
    block.put("category_purchases_14d", groups.sum(own.bought[P_14D]))
    block.put("category_purchases_120d", groups.sum(own.bought[P_120D]))
    block.put("category_views_14d", groups.sum(own.viewed_14d))
    block.put("category_share", groups.share(own))
    block.put("category_hours_since_purchase", groups.least(own.hours_since))
    return Table(groups.keys, _with_missing_row(block.values))


def _brand_taste(own: _Own, codes: np.ndarray, count: int) -> Table:
    groups = _Groups(own, codes, count)
    block = Block("brand", len(groups.keys))
    block.put("brand_purchases_45d", groups.sum(own.bought[P_45D]))
    block.put("brand_share", groups.share(own))
    block.put("brand_hours_since_purchase", groups.least(own.hours_since))
    return Table(groups.keys, _with_missing_row(block.values))


def _with_missing_row(block: np.ndarray) -> np.ndarray:
    return np.concatenate([block, np.full((1, block.shape[1]), np.nan, np.float32)])


def _hours(users: np.ndarray, folded: Folded, as_of: float) -> Hours:
    user = positions(users, folded.keys[0])
    chosen = np.flatnonzero(user >= 0)
    chosen = chosen[np.lexsort((folded.keys[2][chosen], folded.keys[1][chosen], user[chosen]))]
    rows = take(folded, chosen)
    decayed = Readings(rows, user[chosen], as_of, HOUR_HALF_LIVES).s
    return Hours(
        user=user[chosen].astype(np.int32),
        rung=rows.keys[1].astype(np.int16),
        hour=rows.keys[2].astype(np.int16),
        weight=decayed[:, HOUR_120D],
        recent=decayed[:, HOUR_30D],
        count=rows.n.astype(np.float64),
    )
