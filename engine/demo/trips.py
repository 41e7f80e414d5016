"""A household's shopping trips: its baskets less than an hour apart."""

from __future__ import annotations

import pandas as pd

TRIP_SECONDS = 3600.0


def trips(lines: pd.DataFrame) -> pd.DataFrame:
    """Each basket's trip: household_id, basket_id, at, trip; by household and time."""
    baskets = lines.groupby("basket_id", as_index=False).agg(
        household_id=("household_id", "first"), at=("transaction_timestamp", "first")
    )
    baskets = baskets.sort_values(["household_id", "at"], ignore_index=True)
    gap = baskets["at"].diff().dt.total_seconds()
    begins = (baskets["household_id"] != baskets["household_id"].shift()) | (gap >= TRIP_SECONDS)
    return baskets.assign(trip=begins.cumsum())


def opens(found: pd.DataFrame) -> pd.DataFrame:
    """The beginning of each trip as an `app_open` event: when a household shops, whatever it buys."""
    first = found.drop_duplicates("trip")
    return pd.DataFrame(
        {
            "event_id": "trip:" + first["basket_id"].astype(str),
            "user_id": first["household_id"].astype(str),
            "event_type": "app_open",
            "occurred_at": first["at"].astype("datetime64[us]"),
        }
    )
