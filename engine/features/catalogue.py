"""The items as of a decision instant, as arrays (pure)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from engine.features import prices, promotions
from engine.features.decay import Folded
from engine.features.habits import Habits, nothing
from engine.features.prices import PriceChanges
from engine.features.promotions import Promotions
from engine.features.readings import HOUR_SECONDS, HOURS_PER_DAY, Reading, Readings, positions, take
from engine.features.schema import Block
from engine.store.tables import EVENT_TYPES, HALF_LIVES_DAYS

HALF_LIVES = HALF_LIVES_DAYS["item_profiles"]
H1, H3, H7, H30, H120 = (HALF_LIVES.index(days) for days in (1.0, 3.0, 7.0, 30.0, 120.0))


@dataclass(frozen=True)
class Items:
    """The items' own columns, all of length I, sorted by id.

    ids: int64, distinct · versions: int32 · category, brand: int32 codes into `categories`, `brands`, −1 for none ·
    price, stock: float64, NaN for unknown or unlimited · available_from, available_until: float64 epoch seconds, NaN
    for open · stub: bool, known only from events · changes: of prices, before τ · promotions: as announced before τ.
    """

    ids: np.ndarray
    versions: np.ndarray
    category: np.ndarray
    brand: np.ndarray
    categories: tuple[str, ...]
    brands: tuple[str, ...]
    price: np.ndarray
    stock: np.ndarray
    available_from: np.ndarray
    available_until: np.ndarray
    stub: np.ndarray
    changes: PriceChanges = field(default_factory=prices.none)
    promotions: Promotions = field(default_factory=promotions.none)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Items and what everybody did with them, as of τ.

    as_of: epoch seconds · items · block: float32[I, item features] · popularity: float32[I], decayed interest of
    everybody (half-life 7 days), what orders the fill · hours: float64[48], everybody's decayed activity by day type
    × 24 + local hour, zeros where nobody needs it: a model has its own · log_gap, gap_deviation: float64[I], how the
    items are bought again.
    """

    as_of: float
    items: Items
    block: np.ndarray
    popularity: np.ndarray
    hours: np.ndarray
    log_gap: np.ndarray
    gap_deviation: np.ndarray

    def __len__(self) -> int:
        return len(self.items)

    @property
    def ids(self) -> np.ndarray:
        """The items' ids, int64[I], sorted: positions everywhere else are positions in this array."""
        return self.items.ids

    def positions(self, ids: np.ndarray) -> np.ndarray:
        """Positions of item ids (int64), −1 for unknown ones."""
        return positions(self.items.ids, np.asarray(ids, np.int64))

    @cached_property
    def available(self) -> np.ndarray:
        """bool[I]: on offer at τ: known (not a stub), begun, not ended, in stock."""
        items = self.items
        begun = ~(items.available_from > self.as_of)
        ended = items.available_until <= self.as_of
        on_offer: np.ndarray = begun & ~ended & ~(items.stock <= 0) & ~items.stub
        return on_offer


INTEREST = {"view": 0.2, "add_to_cart": 0.5, "purchase": 1.0, "rating": 0.5, "push_open": 0.1, "push_click": 0.3}
"""How much an event says of a user's interest in an item, beside a purchase; judgement, as in session recommenders."""

OTHER_INTEREST = 0.1
"""The same for event types that Horae does not know."""

_NO_INTEREST = ("search", "app_open", "push_dismiss", "unsubscribe", "push_sent", "push_received")


def interest_weights(event_types: np.ndarray) -> np.ndarray:
    """The interest weight of each event type id: float64, same length."""
    weights = np.where(event_types >= 100, OTHER_INTEREST, 0.0)
    for name, weight in INTEREST.items():
        weights[event_types == EVENT_TYPES[name]] = weight
    return weights


def build_catalogue(items: Items, profiles: Folded, as_of: float, habits: Habits | None = None) -> Catalogue:
    """The catalogue as of τ from the items and their profiles (keys: item id, event type; every event before τ).

    habits: the model's, or as of τ; what is believed without any where None.
    """
    at = positions(items.ids, profiles.keys[0])
    if np.any(at < 0):
        profiles, at = take(profiles, at >= 0), at[at >= 0]
    readings = Readings(profiles, at, as_of, HALF_LIVES)
    weights = interest_weights(profiles.keys[1])
    log_gap, gap_deviation = (habits or nothing()).of(items.ids)
    block = _block(items, readings, as_of)
    block.put("item_gap", log_gap)
    block.put("item_gap_deviation", gap_deviation)
    return Catalogue(
        as_of,
        items,
        block.values,
        np.bincount(at, weights * readings.s[:, H7], minlength=len(items)).astype(np.float32),
        np.zeros(48),
        log_gap,
        gap_deviation,
    )


def _block(items: Items, readings: Readings, as_of: float) -> Block:
    block = Block("item", len(items))
    for event, name in (("view", "views"), ("purchase", "purchases")):
        read = readings.of(EVENT_TYPES[event])
        block.put(f"item_{name}_1d", read.s[:, H1], read.at)
        block.put(f"item_{name}_7d", read.s[:, H7], read.at)
    views, bought = readings.of(EVENT_TYPES["view"]), readings.of(EVENT_TYPES["purchase"])
    carts, clicks = readings.of(EVENT_TYPES["add_to_cart"]), readings.of(EVENT_TYPES["push_click"])
    block.put("item_carts_7d", carts.s[:, H7], carts.at)
    block.put("item_push_clicks_30d", clicks.s[:, H30], clicks.at)
    _put_pushes(block, readings.of(EVENT_TYPES["push_sent"]), clicks, len(items))
    block.put("item_view_trend", views.s[:, H1] / (views.s[:, H7] + 1), views.at)
    block.put("item_purchases_3d", bought.s[:, H3], bought.at)
    block.put("item_purchases_30d", bought.s[:, H30], bought.at)
    block.put("item_purchases_120d", bought.s[:, H120], bought.at)
    block.put("item_trend_30_120", bought.s[:, H30] / (bought.s[:, H120] + 1), bought.at)
    block.put("item_share", bought.s[:, H30] / max(bought.s[:, H30].sum(), 1e-9), bought.at)
    block.put("item_trend_1_7", bought.s[:, H1] / (bought.s[:, H7] + 1), bought.at)
    block.put("item_trend_7_30", bought.s[:, H7] / (bought.s[:, H30] + 1), bought.at)
    block.put("item_hours_since_purchase", bought.hours_since, bought.at)
    block.put("item_known_days", readings.hours_known(len(items)) / HOURS_PER_DAY)
    block.put("item_price", items.price)
    block.put("item_price_in_category", items.price / _category_median(items))
    block.put("item_stock", items.stock)
    block.put("item_hours_left", (items.available_until - as_of) / HOUR_SECONDS)
    block.put("item_offered_days", (as_of - items.available_from) / HOUR_SECONDS / HOURS_PER_DAY)
    block.put("item_price_drop", prices.drop(items.changes, items.price, as_of))
    ahead, beside = promotions.strengths(items.promotions, items.ids, as_of)
    for column, kind in enumerate(promotions.KINDS):
        block.put(f"item_{kind}_7d", ahead[:, column])
        block.put(f"item_{kind}_usual", beside[:, column])
    return block


PUSHES_PRIOR = 50.0
"""Pushes' worth of everybody's click rate in each item's own."""


def _put_pushes(block: Block, sent: Reading, clicks: Reading, items: int) -> None:
    """How often each item was pushed, and clicked then."""
    block.put("item_pushes_30d", sent.s[:, H30], sent.at)
    clicked = np.zeros(items)
    clicked[clicks.at] = clicks.s[:, H30]
    usual = clicked[sent.at].sum() / max(sent.s[:, H30].sum(), 1e-9)
    rate = (clicked[sent.at] + PUSHES_PRIOR * usual) / (sent.s[:, H30] + PUSHES_PRIOR)
    block.put("item_click_rate", np.minimum(rate, 1.0), sent.at)


def _category_median(items: Items) -> np.ndarray:
    """The median price of each item's category, float64[I]; NaN without a category, a price or at price 0."""
    medians = np.full(len(items.categories) + 1, np.nan)
    known = np.flatnonzero(np.isfinite(items.price) & (items.category >= 0))
    order = known[np.lexsort((items.price[known], items.category[known]))]
    codes, starts, counts = np.unique(items.category[order], return_index=True, return_counts=True)
    middle = items.price[order[starts + counts // 2]] if len(order) else np.zeros(0)
    medians[codes] = np.where(middle > 0, middle, np.nan)
    of_item: np.ndarray = medians[items.category]
    return of_item
