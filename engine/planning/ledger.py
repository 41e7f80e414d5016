"""What a simulation gave users so far, and what they had from before: pushes that later runs see (pure)."""

from __future__ import annotations

from collections import Counter

import numpy as np

from engine.planning.prices import quarter_of
from engine.planning.usage import Pushes, Taken

GIVEN = np.dtype(
    [
        ("user", np.int64),
        ("at", np.int64),  # microseconds since 1970
        ("day", np.int32),  # ordinal of the user's local day
        ("kind", np.int32),  # number of what caps see of it
        ("run", np.int32),  # of the simulation, −1: from before
        ("occurrence", np.int64),
        ("campaign", np.int64),
        ("gateway", np.int32),  # number of its name
        ("item", np.int64),  # −1: none
        ("category", np.int32),
        ("value", np.float64),
        ("hour", np.int8),  # of the user's local day
        ("loose", bool),  # marketing, not explored: a better push may displace it until it is due
    ]
)
"""A push that a user got or was to get."""


class Ledger:
    """Pushes by range of slots; those of the simulation may be taken back."""

    def __init__(self) -> None:
        self._parts: dict[tuple[int, int], np.ndarray] = {}
        self._gateways: dict[str, int] = {}

    def __contains__(self, slots: tuple[int, int]) -> bool:
        return slots in self._parts

    def gateway(self, name: str) -> int:
        """The number of a gateway."""
        return self._gateways.setdefault(name, len(self._gateways))

    def of(self, slots: tuple[int, int]) -> np.ndarray:
        """GIVEN[m] of users of these slots."""
        return self._parts.get(slots, np.zeros(0, GIVEN))

    def add(self, slots: tuple[int, int], rows: np.ndarray) -> None:
        """More pushes, GIVEN[m]."""
        self._parts[slots] = np.concatenate([self.of(slots), rows])

    def take_back(self, occurrence: np.ndarray, user: np.ndarray) -> np.ndarray:
        """Remove the simulation's pushes of these pairs, int64 each; the removed ones, GIVEN[m]."""
        wanted = np.unique(_pairs(occurrence, user))
        gone = [np.zeros(0, GIVEN)]
        for slots, rows in self._parts.items():
            hit = (rows["run"] >= 0) & np.isin(_pairs(rows["occurrence"], rows["user"]), wanted)
            if hit.any():
                gone.append(rows[hit])
                self._parts[slots] = rows[~hit]
        return np.concatenate(gone)

    def taken(self, since: float) -> list[Taken]:
        """How many pushes use up rates from `since` (epoch seconds) on."""
        rows = self._everything()
        rows = rows[rows["at"] >= since * 1e6]
        keys = np.stack([rows["campaign"], rows["gateway"], quarter_of(rows["at"] / 1e6)])
        names = {number: name for name, number in self._gateways.items()}
        found, counts = np.unique(keys, axis=1, return_counts=True)
        return [
            Taken(int(campaign), names[int(gateway)], int(quarter), int(count))
            for (campaign, gateway, quarter), count in zip(found.T, counts, strict=True)
        ]

    def spent(self) -> Counter[int]:
        """The simulation's pushes by campaign."""
        rows = self._everything()
        return Counter(rows["campaign"][rows["run"] >= 0].tolist())

    def about(self, items: np.ndarray, since: float) -> np.ndarray:
        """int64: how many pushes from `since` (epoch seconds) on are about each of `items` (int64, sorted)."""
        rows = self._everything()
        known = rows["item"][(rows["at"] >= since * 1e6) & np.isin(rows["item"], items)]
        return np.bincount(np.searchsorted(items, known), minlength=len(items))

    def loose(self, after: float) -> Pushes:
        """The simulation's pushes that may be displaced: due later than `after` (epoch seconds)."""
        rows = self._everything()
        rows = rows[rows["loose"] & (rows["run"] >= 0) & (rows["at"] > after * 1e6)]
        names = np.array([*self._gateways, ""], object)
        return Pushes(
            rows["occurrence"], rows["user"], rows["campaign"], names[rows["gateway"]], rows["item"],
            rows["at"] / 1e6, rows["value"],
        )  # fmt: skip

    def _everything(self) -> np.ndarray:
        return np.concatenate([np.zeros(0, GIVEN), *self._parts.values()])


def _pairs(occurrence: np.ndarray, user: np.ndarray) -> np.ndarray:
    pairs = np.zeros(len(user), [("occurrence", np.int64), ("user", np.int64)])
    pairs["occurrence"], pairs["user"] = occurrence, user
    return pairs
