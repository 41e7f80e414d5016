"""What the data says happened after each push, beside two baselines (pure).

The households of the data never saw these pushes. So nothing here measures an *effect*: it measures whether Horae chose
items that the household went on to buy, and moments at which it was about to shop, more often than two simple rules
would have for the very same pushes:
- *the most popular item*: the k-th push to a household carries the k-th most popular item (Horae does not repeat an
  item to a household within days either, so neither does the baseline);
- *the most popular hour*: the push leaves on the same local day at the one hour after which most trips began.

Frames carry `user` (str), `item` (str) and `at` (datetime64, UTC). Intervals are 95 % bootstrap intervals by household:
all pushes of a household are drawn together, since they are not independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

BOUGHT_WITHIN = pd.Timedelta(days=7)
TRIP_WITHIN = pd.Timedelta(hours=3)
SAME_TRIP = pd.Timedelta(hours=1)
"""Baskets of a household closer than this are one trip: a basket is often split at the till."""

DRAWS = 2_000


@dataclass(frozen=True)
class Estimate:
    """A share (0 … 1), or a difference of shares, with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """How often something happened after Horae's pushes and after the baseline's; `gain` is the paired difference."""

    horae: Estimate
    baseline: Estimate
    gain: Estimate
    pushes: int
    households: int


def trips_of(events: pd.DataFrame) -> pd.DataFrame:
    """The trips (`user`, `at`) behind purchase events: a household's baskets at least an hour apart."""
    baskets = events[["user", "at"]].drop_duplicates().sort_values(["user", "at"], kind="stable")
    gap = baskets["at"].diff()
    new = (baskets["user"] != baskets["user"].shift()) | (gap >= SAME_TRIP)
    return baskets[new].reset_index(drop=True)


def followed_by(pushes: pd.DataFrame, events: pd.DataFrame, keys: list[str], within: pd.Timedelta) -> np.ndarray:
    """For each push, whether an event with the same `keys` lies in (at, at + within]; bool[len(pushes)]."""
    left = pushes[[*keys, "at"]].reset_index(drop=True).reset_index(names="row").sort_values("at", kind="stable")
    right = events[[*keys, "at"]].sort_values("at", kind="stable").assign(next_at=lambda frame: frame["at"])
    joined = pd.merge_asof(
        left, right, on="at", by=keys, direction="forward", allow_exact_matches=False, tolerance=within
    )
    return joined.sort_values("row")["next_at"].notna().to_numpy()


def most_popular_items(purchases: pd.DataFrame, n: int) -> list[str]:
    """The `n` items bought by most (household, day) pairs, best first; ties by item id."""
    once = purchases.assign(day=purchases["at"].dt.floor("D"))[["user", "item", "day"]].drop_duplicates()
    counts = once.groupby("item").size().reset_index(name="n").sort_values(["n", "item"], ascending=[False, True])
    return [str(item) for item in counts["item"].head(n)]


def with_popular_items(pushes: pd.DataFrame, ranking: Sequence[str]) -> pd.DataFrame:
    """The same pushes, the k-th to a household carrying the k-th item of `ranking`."""
    order = pushes.sort_values("at", kind="stable")
    k = order.groupby("user").cumcount().reindex(pushes.index).to_numpy()
    return pushes.assign(item=np.asarray(ranking, dtype=object)[k % len(ranking)])


def most_popular_hour(trips: pd.DataFrame, timezone: str, hours: Sequence[int]) -> int:
    """The local hour among `hours` (those a push may leave in) after which most trips begin within TRIP_WITHIN.

    Ties to the earlier. It is the strongest rule of one hour for everybody.
    """
    local = trips["at"].dt.tz_convert(timezone).dt.hour
    counts = np.bincount(local.to_numpy(), minlength=24)
    width = int(TRIP_WITHIN / pd.Timedelta(hours=1))
    following = [int(counts[hour : hour + width].sum()) for hour in hours]
    return int(hours[int(np.argmax(following))])


def at_popular_hour(pushes: pd.DataFrame, timezone: str, hour: int) -> pd.DataFrame:
    """The same pushes, each on its local day at `hour` o'clock local time."""
    midnight = pushes["at"].dt.tz_convert(timezone).dt.tz_localize(None).dt.normalize()
    moved = (midnight + pd.Timedelta(hours=hour)).dt.tz_localize(timezone, ambiguous="NaT", nonexistent="shift_forward")
    return pushes.assign(at=moved.dt.tz_convert("UTC"))


def compare(users: pd.Series, horae: np.ndarray, baseline: np.ndarray, rng: np.random.Generator) -> Comparison:
    """Compare two outcomes (bool[n]) of the same pushes to `users` ([n]), with intervals by household."""
    household, index = np.unique(users.to_numpy(dtype=str), return_inverse=True)
    sizes = np.bincount(index, minlength=len(household)).astype(float)
    hits = np.stack([np.bincount(index, weights=hit, minlength=len(household)) for hit in (horae, baseline)])
    draws = rng.multinomial(len(household), np.full(len(household), 1 / len(household)), size=DRAWS)
    shares = (draws @ hits.T) / (draws @ sizes)[:, None]
    observed = hits.sum(axis=1) / sizes.sum()
    return Comparison(
        horae=_estimate(observed[0], shares[:, 0]),
        baseline=_estimate(observed[1], shares[:, 1]),
        gain=_estimate(observed[0] - observed[1], shares[:, 0] - shares[:, 1]),
        pushes=len(users),
        households=len(household),
    )


def _estimate(value: float, draws: np.ndarray) -> Estimate:
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(float(value), float(low), float(high))
