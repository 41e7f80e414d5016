"""The feature schema: one list that code, models, explanations and documentation share (pure).

A feature is a float32 as of a decision instant τ, from events strictly before τ. NaN means never or unknown; ±inf never
occurs. Columns come in groups by what they depend on, so that a row is assembled from blocks: the user's, the item's,
the pair's, the user's taste for the item's category and brand, relatedness to the user's history, and the window's.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

import numpy as np

GROUPS = ("user", "item", "pair", "category", "brand", "related", "window")
"""The groups, in column order."""


@dataclass(frozen=True)
class Feature:
    """One column: what it means, where it comes from, and which way a model may let it act (monotone −1, 0, +1)."""

    name: str
    group: str
    meaning: str
    source: str
    monotone: int = 0
    dtype: str = "float32"

    @property
    def unit(self) -> str:
        """h: hours · d: days · share: of a whole · x: times something · '': a number, or decayed events."""
        name = self.name.removeprefix(f"{self.group}_")
        if name.startswith("hours_") or (name.endswith("_gap") and self.group != "item"):
            return "h"
        if name.endswith("_days") or name.startswith("days_"):
            return "d"
        if name.endswith(("share", "_rate", "hazard_7d", "price_drop")) or name in {"preference", "rate"}:
            return "share"
        return "x" if name.startswith("due_") or name.endswith(("_due", "in_category", "_usual")) else ""


def _user(name: str, meaning: str, monotone: int = 0) -> Feature:
    return Feature(f"user_{name}", "user", meaning, "user_profiles", monotone)


def _item(name: str, meaning: str, source: str = "item_profiles") -> Feature:
    return Feature(f"item_{name}", "item", meaning, source)


def _pair(name: str, meaning: str, monotone: int = 0) -> Feature:
    return Feature(f"pair_{name}", "pair", meaning, "user_item_profiles", monotone)


def _taste(group: str, name: str, meaning: str, monotone: int = 0) -> Feature:
    return Feature(f"{group}_{name}", group, meaning, "user_item_profiles over items of one " + group, monotone)


def _window(name: str, meaning: str) -> Feature:
    return Feature(f"window_{name}", "window", meaning, "user_hour_profiles through the window model")


FEATURES: tuple[Feature, ...] = (
    _user("views_1h", "views, decayed with a half-life of an hour"),
    _user("views_1d", "views, half-life 1 day"),
    _user("views_7d", "views, half-life 7 days"),
    _user("carts_1d", "carts, half-life 1 day"),
    _user("carts_7d", "carts, half-life 7 days"),
    _user("purchases_1d", "purchases, half-life 1 day"),
    _user("purchases_7d", "purchases, half-life 7 days"),
    _user("purchases_30d", "purchases, half-life 30 days"),
    _user("sessions_7d", "app sessions, half-life 7 days"),
    _user("sessions_1d", "app sessions, half-life 1 day"),
    _user("sessions_30d", "app sessions, half-life 30 days"),
    _user("sessions_120d", "app sessions, half-life 120 days"),
    _user("sessions", "app sessions, ever"),
    _user("session_gap", "mean hours between app sessions"),
    _user("session_due", "hours since the last app session over the mean gap"),
    _user("purchases_120d", "purchases, half-life 120 days"),
    _user("basket_7d", "purchases per app session, half-life 7 days"),
    _user("basket_30d", "purchases per app session, half-life 30 days"),
    _user("range", "items bought whose purchases, half-life 120 days, exceed a quarter"),
    _user("hours_since_view", "hours since the last view"),
    _user("hours_since_cart", "hours since the last cart"),
    _user("hours_since_purchase", "hours since the last purchase"),
    _user("hours_since_session", "hours since the last app session"),
    _user("purchase_gap", "mean hours between purchases"),
    _user("due_ratio", "hours since the last purchase over the mean gap"),
    _user("known_days", "days since the first event"),
    _user("mean_value", "mean value of a purchase"),
    _user("push_opens_7d", "push opens, half-life 7 days"),
    _user("push_clicks_7d", "push clicks, half-life 7 days"),
    _user("push_clicks_30d", "push clicks, half-life 30 days"),
    _user("push_dismissals_7d", "dismissed pushes, half-life 7 days", -1),
    _user("hours_since_push_open", "hours since a push was opened"),
    _user("hours_since_push_click", "hours since a push was clicked"),
    _user("pushes_1d", "pushes sent to the user, half-life 1 day", -1),
    _user("pushes_7d", "pushes sent to the user, half-life 7 days", -1),
    _user("pushes_30d", "pushes sent to the user, half-life 30 days", -1),
    _user("pushes_ignored_7d", "pushes sent less opened, half-life 7 days", -1),
    _user("push_open_rate", "pushes opened per push sent, half-life 30 days", 1),
    _user("hours_since_push", "hours since a push was sent to the user"),
    _item("views_1d", "views by anyone, half-life 1 day"),
    _item("views_7d", "views by anyone, half-life 7 days"),
    _item("carts_7d", "carts by anyone, half-life 7 days"),
    _item("purchases_1d", "purchases by anyone, half-life 1 day"),
    _item("purchases_7d", "purchases by anyone, half-life 7 days"),
    _item("purchases_30d", "purchases by anyone, half-life 30 days"),
    _item("purchases_3d", "purchases by anyone, half-life 3 days"),
    _item("purchases_120d", "purchases by anyone, half-life 120 days"),
    _item("trend_30_120", "purchases: half-life 30 days over 1 + half-life 120 days"),
    _item("gap", "mean log days between a user's purchases of it", "the model's habits"),
    _item("gap_deviation", "standard deviation of those log days", "the model's habits"),
    _item("share", "share of all purchases, half-life 30 days"),
    _item("view_trend", "views: half-life 1 day over 1 + half-life 7 days"),
    _item("trend_1_7", "purchases: half-life 1 day over 1 + half-life 7 days"),
    _item("trend_7_30", "purchases: half-life 7 days over 1 + half-life 30 days"),
    _item("push_clicks_30d", "push clicks by anyone, half-life 30 days"),
    _item("pushes_30d", "pushes about it to anyone, half-life 30 days"),
    _item("click_rate", "clicks per push about it, half-life 30 days, drawn to everybody's"),
    _item("hours_since_purchase", "hours since anyone bought it"),
    _item("known_days", "days since its first event"),
    _item("price", "price", "items"),
    _item("price_in_category", "price over the median of its category", "items"),
    _item("stock", "pieces in stock", "items"),
    _item("hours_left", "hours until it ends", "items"),
    _item("offered_days", "days since it is on offer", "items"),
    _item("price_drop", "share that it costs less than within the last 28 days", "item_versions"),
    _item("advert_7d", "how strongly it will be advertised within 7 days", "promotions"),
    _item("advert_usual", "that over how strongly it usually is", "promotions"),
    _item("placement_7d", "how well it will be placed within 7 days", "promotions"),
    _item("placement_usual", "that over how well it usually is", "promotions"),
    _item("discount_7d", "how strongly it will be reduced within 7 days", "promotions"),
    _item("discount_usual", "that over how strongly it usually is", "promotions"),
    _pair("purchases_1d", "the user's purchases of the item, half-life 1 day"),
    _pair("purchases_14d", "the user's purchases of the item, half-life 14 days", 1),
    _pair("purchases_45d", "the user's purchases of the item, half-life 45 days", 1),
    _pair("purchases_120d", "the user's purchases of the item, half-life 120 days", 1),
    _pair("purchases_7d", "the user's purchases of the item, half-life 7 days"),
    _pair("purchases_30d", "the user's purchases of the item, half-life 30 days", 1),
    _pair("purchases_240d", "the user's purchases of the item, half-life 240 days", 1),
    _pair("per_session_30d", "purchases of the item per app session, half-life 30 days"),
    _pair("per_session_120d", "purchases of the item per app session, half-life 120 days"),
    _pair("share", "the item's share of the user's purchases, half-life 120 days"),
    _pair("category_share", "the item's share of the user's purchases in its category, half-life 120 days"),
    _pair("hours_since_sibling", "hours that the user bought another item of the category after this one"),
    _pair("hazard_7d", "chance of a purchase within 7 days by the item's and the user's own gaps", 1),
    _pair("due_by_item", "days since the user's last purchase over the item's usual gap"),
    _pair("purchases", "the user's purchases of the item, ever"),
    _pair("hours_since_purchase", "hours since the user bought the item"),
    _pair("purchase_gap", "mean hours between the user's purchases of the item"),
    _pair("due_ratio", "hours since the user's last purchase of the item over the mean gap"),
    _pair("days_since_first", "days since the user first bought the item"),
    _pair("views_1d", "the user's views of the item, half-life 1 day", 1),
    _pair("views_14d", "the user's views of the item, half-life 14 days", 1),
    _pair("hours_since_view", "hours since the user viewed the item"),
    Feature("pair_price_drop", "pair", "share that it costs less than when the user last viewed it", "item_versions"),
    _pair("carts_1d", "the user's carts of the item, half-life 1 day", 1),
    _pair("carts_14d", "the user's carts of the item, half-life 14 days", 1),
    _pair("hours_since_cart", "hours since the user put the item into a cart"),
    _pair("clicks_14d", "the user's push clicks on the item, half-life 14 days", 1),
    _pair("hours_since_click", "hours since the user clicked a push about the item"),
    _pair("pushes_14d", "pushes about the item to the user, half-life 14 days", -1),
    _pair("hours_since_push", "hours since a push about the item to the user"),
    _pair("rating", "the user's mean rating of the item"),
    _taste("category", "purchases_14d", "the user's purchases in the category, half-life 14 days"),
    _taste("category", "purchases_7d", "the user's purchases in the category, half-life 7 days"),
    _taste("category", "purchases_45d", "the user's purchases in the category, half-life 45 days"),
    _taste("category", "purchases_120d", "the user's purchases in the category, half-life 120 days"),
    _taste("category", "views_14d", "the user's views in the category, half-life 14 days"),
    _taste("category", "share", "the category's share of the user's events, half-life 45 days"),
    _taste("category", "hours_since_purchase", "hours since the user bought in the category"),
    _taste("brand", "purchases_45d", "the user's purchases of the brand, half-life 45 days"),
    _taste("brand", "share", "the brand's share of the user's events, half-life 45 days"),
    _taste("brand", "hours_since_purchase", "hours since the user bought the brand"),
    Feature("related_score", "related", "how related the item is to the user's recent items", "item-to-item model", 1),
    Feature(
        "related_latent", "related", "how the item fits the user in the factors of all users' purchases", "factors"
    ),
    Feature("related_neighbours", "related", "how much users alike take the item", "neighbours"),
    _window("preference", "the user's share of activity in this window"),
    _window("log_ratio", "log of that share over everybody's"),
    _window("rate", "how good the window is beside the user's best"),
    _window("evidence", "decayed events behind the user's curve"),
    _window("weekend", "1 on Saturday and Sunday, else 0"),
    _window("hour", "local hour at which the window starts"),
)
"""Every feature, in column order: the schema of a feature row."""

NAMES: tuple[str, ...] = tuple(feature.name for feature in FEATURES)
COUNT = len(FEATURES)
MONOTONE: tuple[int, ...] = tuple(feature.monotone for feature in FEATURES)


def width(group: str) -> int:
    """How many columns `group` has."""
    return sum(feature.group == group for feature in FEATURES)


def columns(group: str) -> slice:
    """The columns of `group` in a feature row."""
    first = next(i for i, feature in enumerate(FEATURES) if feature.group == group)
    return slice(first, first + width(group))


SLICES: dict[str, slice] = {group: columns(group) for group in GROUPS}


def group_names(group: str) -> tuple[str, ...]:
    """The names of `group`'s columns, in order."""
    return NAMES[SLICES[group]]


def definition() -> list[dict[str, object]]:
    """The schema as JSON values: stored with a model, printed by documentation."""
    return [asdict(feature) for feature in FEATURES]


def fingerprint() -> str:
    """SHA-256 (hex) of names, order and types: a model trained on another schema is refused."""
    shape = [(feature.name, feature.dtype) for feature in FEATURES]
    return hashlib.sha256(json.dumps(shape).encode()).hexdigest()


class Block:
    """A float32 [rows, columns of one group] table being filled by column name; starts as NaN everywhere."""

    def __init__(self, group: str, rows: int) -> None:
        self._columns = {name: i for i, name in enumerate(group_names(group))}
        self.values = np.full((rows, len(self._columns)), np.nan, np.float32)

    def put(self, name: str, values: np.ndarray, rows: np.ndarray | slice = slice(None)) -> None:
        """Fill column `name` at `rows`; ±inf becomes NaN. Raises KeyError for a name that is not in the schema."""
        with np.errstate(over="ignore"):  # beyond float32 is ±inf, and that is unknown
            narrow = np.asarray(values).astype(np.float32)
        narrow[np.isinf(narrow)] = np.nan
        self.values[rows, self._columns[name]] = narrow
