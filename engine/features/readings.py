"""Profiles read at a decision instant τ, by event type (pure).

The step that state and catalogue share: folded profiles in, what each event type says about each key out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.features import decay
from engine.features.decay import Folded

HOUR_SECONDS = 3600.0
HOURS_PER_DAY = 24.0


@dataclass(frozen=True)
class Reading:
    """What one event type says at τ about the keys that have it.

    at: int64[m], which rows of the caller's table · n: float64[m] · hours_since, hours_known: float64[m], since the
    last and the first event · s: float64[m, k], decayed counters at τ · value: float64[m], sum of values.
    """

    at: np.ndarray
    n: np.ndarray
    hours_since: np.ndarray
    hours_known: np.ndarray
    s: np.ndarray
    value: np.ndarray

    @property
    def gap(self) -> np.ndarray:
        """Mean hours between events, float64[m]; NaN for a single event or several at one instant."""
        between = self.hours_known - self.hours_since
        gap = np.full(len(self.n), np.nan)
        np.divide(between, self.n - 1, out=gap, where=between > 0)
        return gap


class Readings:
    """Folded profiles (last key column: event type) read at τ, to be taken type by type."""

    def __init__(self, folded: Folded, rows: np.ndarray, tau: float, half_lives_days: tuple[float, ...]) -> None:
        """`rows`: int64[m], for each profile the row of the caller's table it belongs to."""
        self._types, self._rows, self._folded, self._tau = folded.keys[-1], rows, folded, tau
        self._s = decay.read(folded.s, folded.last_at, tau, half_lives_days)

    @property
    def s(self) -> np.ndarray:
        """Decayed counters of every profile at τ, float64[m, k]."""
        return self._s

    def hours_known(self, rows: int) -> np.ndarray:
        """Hours since the first event of any type, float64[rows]; NaN for rows without one."""
        first = np.full(rows, np.inf)
        np.minimum.at(first, self._rows, self._folded.first_at)
        return np.where(np.isfinite(first), (self._tau - first) / HOUR_SECONDS, np.nan)

    def of(self, event_type: int) -> Reading:
        """The reading of one event type; empty where no key has it."""
        chosen = np.flatnonzero(self._types == event_type)
        folded = self._folded
        return Reading(
            at=self._rows[chosen],
            n=folded.n[chosen].astype(np.float64),
            hours_since=(self._tau - folded.last_at[chosen]) / HOUR_SECONDS,
            hours_known=(self._tau - folded.first_at[chosen]) / HOUR_SECONDS,
            s=self._s[chosen],
            value=folded.value[chosen],
        )


def take(folded: Folded, rows: np.ndarray) -> Folded:
    """The profiles at `rows` (int positions or a boolean mask), in that order."""
    return Folded(
        tuple(column[rows] for column in folded.keys),
        folded.n[rows],
        folded.first_at[rows],
        folded.last_at[rows],
        folded.s[rows],
        folded.value[rows],
    )


def positions(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where each of `wanted` stands in the sorted, distinct `ids` (both int64): int64, −1 where it does not."""
    if not len(ids):
        return np.full(len(wanted), -1, np.int64)
    low, high = int(ids[0]), int(ids[-1])
    if high - low < 8 * len(ids) + 1024:  # dense ids, the usual case: a table beats a search four times over
        table = np.full(high - low + 2, -1, np.int64)
        table[ids - low] = np.arange(len(ids))
        return table[np.where((wanted >= low) & (wanted <= high), wanted - low, high - low + 1)]
    at = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    return np.where(ids[at] == wanted, at, -1)
