"""What was planned and what would have been: how both sides of a simulation are counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from engine.localtime import local_hours
from engine.planning import arms, receipt
from engine.planning.recall import REASON, Recalled
from engine.planning.remembered import Solved
from engine.store.tables import DECISION_REASONS

WEIGHED = np.array([name in ("planned", "not_worth", "capped", "gap", "capacity", "budget", "expired")
                     for name in DECISION_REASONS])  # fmt: skip
"""Reasons of decisions that were weighed: only these are made again."""

KEPT = -1
"""Instead of a reason: settlement had room."""


@dataclass
class Side:
    """What was, or would have been, planned: users per reason, value of the pushes, pushes per local hour."""

    reasons: Counter[str] = field(default_factory=Counter)
    value: float = 0.0
    by_hour: Counter[int] = field(default_factory=Counter)

    @property
    def planned(self) -> int:
        """How many pushes."""
        return self.reasons["planned"]


def reasons_of(found: Recalled, solved: Solved, chosen: np.ndarray, lost: np.ndarray) -> np.ndarray:
    """int8[n, O]: planned; of who got nothing, what stood in the way of the best option; else as it was.

    lost int8[n, O]: why settlement refused a choice, KEPT where it did not.
    """
    worth = np.where(found.what.there, found.what.value, -np.inf)
    nearest = np.argmax(worth, 2)[..., None]
    code = np.take_along_axis(solved.barred, nearest, 2)[..., 0]
    best = np.take_along_axis(worth, nearest, 2)[..., 0]
    price = np.take_along_axis(found.what.price, nearest, 2)[..., 0]
    reason = np.where(best - price <= 0, REASON["capacity"], REASON["capped"])  # free: another push of the run
    reason = np.where(best <= 0, REASON["not_worth"], reason)
    reason = np.where(code >= receipt.FIRST_CAP, REASON["capped"], reason)
    reason = np.where(code == receipt.GAP, REASON["gap"], reason)
    reason = np.where(code == receipt.EXPIRED, REASON["expired"], reason)
    remembers = found.what.there.any(2)
    weighed = found.kept & WEIGHED[found.reason] & (found.arm == arms.EXPLOIT)
    hidden = weighed & ~remembers & found.chosen
    reason = np.where(remembers & weighed, reason, np.where(hidden, REASON["quiet_hours"], found.reason))
    drawn = found.kept & (found.arm == arms.EXPLORE) & found.chosen
    reason = np.where(drawn, REASON["explored_nothing"], reason)
    reason = np.where(lost != KEPT, lost, reason)
    kept = np.where(found.kept, reason, found.really)
    return np.where(chosen >= 0, REASON["planned"], kept).astype(np.int8)


def add(side: Side, found: Recalled, reasons: np.ndarray, pushes: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    """Count decisions (reasons int8[m]) and pushes: some bool, at and value float64, all [n, O]."""
    some, at, value = pushes
    codes, counts = np.unique(reasons, return_counts=True)
    side.reasons.update({DECISION_REASONS[code]: int(n) for code, n in zip(codes.tolist(), counts, strict=True)})
    row, occurrence = np.nonzero(some)
    hours = local_hours(at[row, occurrence], found.zone[row], found.zones) % 24
    side.by_hour.update(hours.tolist())
    side.value += float(value[row, occurrence].sum())


def take_back(side: Side, value: np.ndarray, hour: np.ndarray) -> None:
    """Pushes counted as planned gave way to better ones: value float64[m], local hour int8[m]."""
    side.reasons.subtract({"planned": len(value)})
    side.reasons["displaced"] += len(value)
    side.by_hour.subtract(hour.tolist())
    side.value -= float(value.sum())
