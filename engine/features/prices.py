"""What items cost in the past, from the versions that a change leaves behind (pure)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

DAY_SECONDS = 86_400.0
REMEMBERED_DAYS = 120.0
"""Changes are looked back at for so long."""

DROP_DAYS = 28.0
"""An item is cheaper than it was where it cost more at any time within so many days."""

_MILLIS = 1_000.0


@dataclass(frozen=True, eq=False)
class PriceChanges:
    """Prices before each change, sorted by (item, at).

    item: int64[m] positions · at: float64[m], epoch seconds of the change · price: float64[m], before it, NaN unknown.
    """

    item: np.ndarray
    at: np.ndarray
    price: np.ndarray

    def __len__(self) -> int:
        return len(self.item)


def none() -> PriceChanges:
    """No changes."""
    return PriceChanges(np.zeros(0, np.int64), np.zeros(0), np.zeros(0))


def price_at(changes: PriceChanges, price: np.ndarray, item: np.ndarray, at: np.ndarray) -> np.ndarray:
    """What `item` (int64[n] positions) cost at `at` (float64[n], epoch seconds), float64[n]; price: float64[I], now."""
    then: np.ndarray = price[item].astype(np.float64)
    if not len(changes):
        return then
    keys = _key(changes.item, changes.at)
    next_change = np.searchsorted(keys, _key(item, at), side="right")
    inside = np.minimum(next_change, len(changes) - 1)
    changed = (next_change < len(changes)) & (changes.item[inside] == item)
    price_then: np.ndarray = np.where(changed, changes.price[inside], then)
    return price_then


def drop(changes: PriceChanges, price: np.ndarray, as_of: float) -> np.ndarray:
    """By what share each item costs less than its highest price within DROP_DAYS before τ; float64[I], NaN unknown."""
    highest = price.astype(np.float64).copy()
    recent = np.flatnonzero((changes.at > as_of - DROP_DAYS * DAY_SECONDS) & np.isfinite(changes.price))
    np.fmax.at(highest, changes.item[recent], changes.price[recent])
    return fallen(highest, price)


def fallen(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """(before − now) / before, float64[n]: negative where dearer, NaN where a price is unknown or was 0."""
    share = np.full(len(now), np.nan)
    np.divide(before - now, before, out=share, where=before > 0)
    return share


def _key(item: np.ndarray, at: np.ndarray) -> np.ndarray:
    """One int64 that sorts as (item, instant): milliseconds fit into 42 bits until the year 2109."""
    key: np.ndarray = (np.asarray(item, np.int64) << 42) | (np.asarray(at) * _MILLIS).astype(np.int64)
    return key
