"""Why pushes are due in the first hour of their window: weeks of real trips, long before those of the demo."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from engine.demo.data import TIMEZONE, read, source
from engine.planning.windows import LAST_CALL, SPREAD

WINDOW = timedelta(hours=3)
FIRST_DAY, END = pd.Timestamp("2017-08-01"), pd.Timestamp("2017-10-01")
OPEN = (3, 4, 5, 6)
"""The 3-hour windows of the day that quiet hours from 22 to 8 leave whole."""


def test_a_trip_follows_more_often_after_the_first_hour_of_a_window_than_after_the_whole_of_it() -> None:
    trips = read(source(), "transactions", ["household_id", "transaction_timestamp"]).drop_duplicates()
    at = trips["transaction_timestamp"].dt.tz_localize("UTC").dt.tz_convert(TIMEZONE).dt.tz_localize(None)
    trips = trips.assign(at=at).sort_values(["household_id", "at"])
    pushes = _in_each_ones_favourite_window(trips[trips["at"] < FIRST_DAY])
    whole = WINDOW - LAST_CALL
    shares = {spread: _followed(trips, pushes, spread) for spread in (SPREAD, whole)}

    assert shares[SPREAD] == pytest.approx(0.053, abs=0.001)
    assert shares[whole] == pytest.approx(0.047, abs=0.001)


def _in_each_ones_favourite_window(past: pd.DataFrame) -> pd.DataFrame:
    """A push a day to every household: `household_id`, and `start` of the window in which it shopped most, by kind of
    day, before those days."""
    weekend = (past["at"].dt.day_of_week >= 5).rename("weekend")
    counts = pd.crosstab([past["household_id"], weekend], (past["at"].dt.hour // 3).rename("window"))
    favourite = counts.reindex(columns=OPEN, fill_value=0).idxmax(axis=1).rename("window").reset_index()
    days = pd.DataFrame({"day": pd.date_range(FIRST_DAY, END, inclusive="left")})
    days["weekend"] = days["day"].dt.day_of_week >= 5
    pushes = favourite.merge(days, on="weekend")
    return pushes.assign(start=pushes["day"] + pd.to_timedelta(3.0 * pushes["window"], unit="h"))


def _followed(trips: pd.DataFrame, pushes: pd.DataFrame, spread: timedelta) -> float:
    """The share of pushes, each at a random instant of the first `spread` of its window, with a trip within 3 hours."""
    draw = np.random.default_rng(0).random(len(pushes))
    sent = _keys(pushes["household_id"], pushes["start"]) + draw * spread.total_seconds()
    known = _keys(trips["household_id"], trips["at"])
    hours = WINDOW.total_seconds()
    return float(np.mean(np.searchsorted(known, sent + hours, "right") > np.searchsorted(known, sent, "right")))


def _keys(household: pd.Series, at: pd.Series) -> np.ndarray:
    """(household, second) as one number, in order."""
    return household.to_numpy(np.float64) * 1e10 + at.to_numpy("datetime64[s]").astype(np.float64)
