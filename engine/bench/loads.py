"""The seeded loads of the benches: a shop's users, items and events as arrays, equal for equal seeds.

`retail_load` is the load of `ingest` and `plan`: 50,000 items in 300 categories (Zipf 1.1), a log-normal number of
events a user (median 20, at most 5,000) over 90 days, 24 time zones. Every user has a few favourite categories, an hour
of the day at which they are mostly active, and buys again what they bought. A large load comes in parts of PART_USERS:
other users of the same shop, drawn apart, so that memory is bounded and parts can be made side by side.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv

from engine.store.tables import EVENT_TYPES

ZONES = (
    "Pacific/Honolulu",
    "America/Anchorage",
    "America/Los_Angeles",
    "America/Denver",
    "America/Chicago",
    "America/New_York",
    "America/Sao_Paulo",
    "Atlantic/Azores",
    "Europe/London",
    "Europe/Berlin",
    "Europe/Madrid",
    "Europe/Istanbul",
    "Europe/Athens",
    "Africa/Cairo",
    "Africa/Lagos",
    "Asia/Dubai",
    "Asia/Karachi",
    "Asia/Kolkata",
    "Asia/Dhaka",
    "Asia/Bangkok",
    "Asia/Shanghai",
    "Asia/Tokyo",
    "Australia/Sydney",
    "Pacific/Auckland",
)
"""The load's 24 time zones."""

END = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
"""No event of a load occurs at or after this instant: business time of the benches."""

DAYS = 90
ITEMS, CATEGORIES, BRANDS = 50_000, 300, 800
ZIPF = 1.1
MEDIAN_EVENTS, SIGMA_EVENTS, MOST_EVENTS = 20, 1.1, 5_000
FAVOURITES = 5
PART_USERS = 100_000

TYPE_SHARES = {
    "view": 0.62,
    "search": 0.06,
    "add_to_cart": 0.10,
    "purchase": 0.12,
    "rating": 0.01,
    "app_open": 0.07,
    "push_open": 0.015,
    "push_dismiss": 0.005,
}
"""Share of each event type; searches and openings of the app are about no item."""

ITEMLESS = ("search", "app_open")


@dataclass(frozen=True)
class RetailLoad:
    """A shop. Users and items are positions; their external ids are `user_ids[position]`, `item_ids[position]`.

    Of users: zone int16 (index into ZONES; −1: none, 2 %), consent bool. Of items: category int16, brand int16,
    price float64. Of events, ordered by time: user int32, item int32 (−1: none), event_type object (names),
    occurred_at float64 (epoch seconds, whole milliseconds), value float64 (NaN: none).
    """

    seed: int
    user_ids: pa.StringArray
    zone: np.ndarray
    consent: np.ndarray
    item_ids: pa.StringArray
    category: np.ndarray
    brand: np.ndarray
    price: np.ndarray
    user: np.ndarray
    item: np.ndarray
    event_type: np.ndarray
    occurred_at: np.ndarray
    value: np.ndarray

    def description(self) -> dict[str, object]:
        """The load in a bench's result: its sizes and seed."""
        return {
            "seed": self.seed,
            "users": len(self.user_ids),
            "items": len(self.item_ids),
            "categories": int(self.category.max()) + 1,
            "zones": len(ZONES),
            "events": len(self.user),
        }


def part_sizes(users: int) -> list[int]:
    """Into how many users in each part a load of `users` users is cut."""
    return [min(PART_USERS, users - start) for start in range(0, users, PART_USERS)]


def retail_load(users: int, seed: int = 1, *, items: int = ITEMS, part: int = 0) -> RetailLoad:
    """The retail load of `users` users, or the part `part` of a larger one; see the module."""
    shop = np.random.default_rng([seed, items])
    category = np.sort(_zipf(shop, CATEGORIES, items)).astype(np.int16)
    price = np.round(np.exp(shop.normal(2.5, 0.9, items)), 2)
    brand = shop.integers(0, BRANDS, items).astype(np.int16)
    popular = shop.permutation(items)
    rng = np.random.default_rng([seed, users, items, part])
    counts = np.clip(np.exp(rng.normal(np.log(MEDIAN_EVENTS), SIGMA_EVENTS, users)), 1, MOST_EVENTS).astype(np.int64)
    user = np.repeat(np.arange(users, dtype=np.int32), counts)
    names = np.array(list(TYPE_SHARES), object)
    shares = np.array(list(TYPE_SHARES.values()))
    kind = rng.choice(len(names), len(user), p=shares / shares.sum())
    item = _items(rng, user, users, (category, popular))
    item[np.isin(names[kind], ITEMLESS)] = -1
    zone = rng.integers(0, len(ZONES), users).astype(np.int16)
    zone[rng.random(users) < 0.02] = -1
    occurred_at = _instants(rng, user, users, zone)
    value = np.where((names[kind] == "purchase") & (item >= 0), price[item], np.nan)
    order = np.argsort(occurred_at, kind="stable")
    return RetailLoad(
        seed=seed,
        user_ids=_identifiers("u", part * PART_USERS, users),
        zone=zone,
        consent=rng.random(users) < 0.9,
        item_ids=_identifiers("sku-", 0, items),
        category=category,
        brand=brand,
        price=price,
        user=user[order],
        item=item[order],
        event_type=names[kind[order]],
        occurred_at=occurred_at[order],
        value=value[order],
    )


def ending(load: RetailLoad, end: datetime) -> RetailLoad:
    """The load, moved to end at `end`; by whole days, so that everybody's hours stay theirs."""
    return replace(load, occurred_at=load.occurred_at + (end - END).total_seconds())


@dataclass(frozen=True)
class Files:
    """A load as the CSV files a shop would export."""

    users: Path
    items: Path
    events: Path


def write_csv(load: RetailLoad, folder: Path) -> Files:
    """Write a load as `users.csv`, `items.csv` and `events.csv` for `horae ingest`; events are in order of time."""
    zones = pa.array([*ZONES, None], pa.string()).take(pa.array(load.zone % (len(ZONES) + 1)))
    none = pa.array(load.item < 0)
    stamps = np.datetime_as_string((load.occurred_at * 1e3).round().astype("datetime64[ms]"), timezone="UTC")
    tables = {
        "users": {"user_id": load.user_ids, "timezone": zones, "consent": pa.array(load.consent)},
        "items": {
            "item_id": load.item_ids,
            "category": pa.array([f"category {number}" for number in load.category.tolist()]),
            "brand": pa.array([f"brand {number}" for number in load.brand.tolist()]),
            "price": pa.array(load.price),
        },
        "events": {
            "user_id": load.user_ids.take(pa.array(load.user)),
            "item_id": load.item_ids.take(pa.array(load.item, mask=np.asarray(none))),
            "event_type": pa.array(load.event_type, pa.string()),
            "occurred_at": pa.array(stamps.tolist(), pa.string()),
            "value": pa.array(load.value, mask=np.isnan(load.value)),
        },
    }
    for name, columns in tables.items():
        csv.write_csv(pa.table(columns), folder / f"{name}.csv", csv.WriteOptions(quoting_style="none"))
    return Files(*(folder / f"{name}.csv" for name in tables))


def type_ids(load: RetailLoad) -> np.ndarray:
    """The events' fixed type ids, int16."""
    return np.array([EVENT_TYPES[name] for name in load.event_type], np.int16)


def _zipf(rng: np.random.Generator, kinds: int, size: int) -> np.ndarray:
    weights = np.arange(1, kinds + 1) ** -ZIPF
    drawn: np.ndarray = rng.choice(kinds, size, p=weights / weights.sum())
    return drawn


def _items(rng: np.random.Generator, user: np.ndarray, users: int, shop: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Items of the events: 60 % from the user's favourite categories, a quarter of all seen by this user before.

    shop: each item's category (sorted), and the items by popularity.
    """
    category, popular = shop
    items = len(category)
    kinds = int(category.max()) + 1
    starts = np.searchsorted(category, np.arange(kinds + 1))
    favourites = _zipf(rng, kinds, users * FAVOURITES).reshape(users, FAVOURITES)
    chosen = favourites[user, rng.integers(0, FAVOURITES, len(user))]
    low, size = starts[chosen], starts[chosen + 1] - starts[chosen]
    # Within a category popularity falls off as u^3: close to Zipf, in one vectorised draw.
    within = low + (np.maximum(size, 1) * rng.random(len(user)) ** 3).astype(np.int64)
    everywhere = popular[_zipf(rng, items, len(user))]
    item = np.where((rng.random(len(user)) < 0.6) & (size > 0), within, everywhere)
    again = rng.random(len(user)) < 0.25
    earlier = np.maximum(np.arange(len(user)) - rng.integers(1, 8, len(user)), 0)
    same = again & (user[earlier] == user)
    item[same] = item[earlier[same]]
    items_of: np.ndarray = np.minimum(item, items - 1).astype(np.int32)
    return items_of


def _instants(rng: np.random.Generator, user: np.ndarray, users: int, zone: np.ndarray) -> np.ndarray:
    """Epoch seconds, to the millisecond: a random day, around the user's own hour of the (roughly local) day."""
    own_hour = rng.normal(18.0, 4.0, users)
    offset = (zone.astype(np.float64) / len(ZONES) - 0.5) * 24
    hour = (own_hour[user] + rng.normal(0.0, 2.5, len(user)) - offset[user]) % 24
    day = rng.integers(0, DAYS - 1, len(user))
    start = (END - timedelta(days=DAYS)).replace(hour=0).timestamp()
    instants: np.ndarray = np.round(start + day * 86_400.0 + hour * 3600.0, 3)
    return instants


def _identifiers(prefix: str, first: int, count: int) -> pa.StringArray:
    return pa.array([f"{prefix}{number:07d}" for number in range(first, first + count)], pa.string())
