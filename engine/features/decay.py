"""Decayed counters: the one implementation of profiles for streaming, batch and replay (pure).

A profile of a key is (n, first_at, last_at, S): how many events, the first and the last instant (epoch seconds), and
for each half-life h the decayed count as of `last_at`, S_h = Σ w·2^(−(last_at − t)/h) over its events. Read at
τ ≥ last_at it is S_h·2^(−(τ − last_at)/h). Merging two profiles moves both to the later `last_at` and adds: exact and
commutative, so late and out-of-order events give the same profile (to float8 rounding, 1e-9 in the tests).
`merge_assignments` writes the same arithmetic in SQL.

*Strictly before*: features as of τ count events with t < τ only. A stored profile holds all events known at the
time, all of which lie at or before it; recomputation for a past τ passes `before=τ` to `fold`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

DAY_SECONDS = 86_400.0

FORGOTTEN = 1000.0
"""Half-lives after which a counter decays no further: 2^−1000 ≈ 1e-301 is nothing beside any event, and PostgreSQL
raises on underflow where numpy returns 0."""


@dataclass(frozen=True)
class Folded:
    """Profiles of m keys, sorted by key.

    keys: int64[m] per key column · n: int64[m] · first_at, last_at: float64[m], epoch seconds ·
    s: float64[m, k], as of last_at, one column per half-life · value: float64[m], sum of the events' values.
    """

    keys: tuple[np.ndarray, ...]
    n: np.ndarray
    first_at: np.ndarray
    last_at: np.ndarray
    s: np.ndarray
    value: np.ndarray

    def __len__(self) -> int:
        return len(self.n)


def fold(
    keys: Sequence[np.ndarray],
    times: np.ndarray,
    weights: np.ndarray | None,
    half_lives_days: Sequence[float],
    *,
    values: np.ndarray | None = None,
    before: float | None = None,
) -> Folded:
    """Profiles of an event log, in any order.

    keys: one or more int arrays of length n · times: float64[n], epoch seconds · weights: float64[n], 1 where None ·
    values: float64[n], NaN counts as none · before: only events strictly before this instant.
    """
    columns = [np.asarray(key, np.int64) for key in keys]
    if before is not None:
        keep = times < before
        columns, times = [column[keep] for column in columns], times[keep]
        weights = None if weights is None else weights[keep]
        values = None if values is None else values[keep]
    order, starts = _grouped(columns)
    times = np.asarray(times, np.float64)[order]
    counts = np.diff(np.append(starts, len(times)))
    last_at = _reduce(np.maximum, times, starts)
    age_days = (np.repeat(last_at, counts) - times) / DAY_SECONDS
    s = np.empty((len(starts), len(half_lives_days)))
    for column, half_life in enumerate(half_lives_days):
        decayed = np.exp2(-np.minimum(age_days / half_life, FORGOTTEN))
        if weights is not None:
            decayed *= weights[order]
        s[:, column] = _reduce(np.add, decayed, starts)
    total = np.zeros(len(starts)) if values is None else _reduce(np.add, np.nan_to_num(values[order], nan=0.0), starts)
    first = order[starts]
    return Folded(
        tuple(column[first] for column in columns), counts, _reduce(np.minimum, times, starts), last_at, s, total
    )


def merge(a: Folded, b: Folded, half_lives_days: Sequence[float]) -> Folded:
    """The profiles of the events of `a` and of `b` together; an event must be in one of them only."""
    columns = [np.concatenate(pair) for pair in zip(a.keys, b.keys, strict=True)]
    order, starts = _grouped(columns)
    counts = np.diff(np.append(starts, len(order)))
    last_each = np.concatenate([a.last_at, b.last_at])[order]
    last_at = _reduce(np.maximum, last_each, starts)
    moved = decay(np.concatenate([a.s, b.s])[order], last_each, np.repeat(last_at, counts), half_lives_days)
    first = order[starts]
    return Folded(
        tuple(column[first] for column in columns),
        _reduce(np.add, np.concatenate([a.n, b.n])[order], starts),
        _reduce(np.minimum, np.concatenate([a.first_at, b.first_at])[order], starts),
        last_at,
        np.stack([_reduce(np.add, np.ascontiguousarray(column), starts) for column in moved.T], axis=1),
        _reduce(np.add, np.concatenate([a.value, b.value])[order], starts),
    )


def read(s: np.ndarray, last_at: np.ndarray, tau: np.ndarray | float, half_lives_days: Sequence[float]) -> np.ndarray:
    """Counters s (float64[m, k], as of last_at: float64[m]) read at τ (epoch seconds, one or m): float64[m, k].

    NaN in `last_at` (never) gives NaN. Raises ValueError where τ lies before a `last_at`: the profile holds that later
    event, and a past value cannot be had from it.
    """
    if np.any(np.asarray(tau) < last_at):
        raise ValueError("a profile cannot be read before its last event; fold the events before that instant")
    return decay(s, last_at, tau, half_lives_days)


def decay(s: np.ndarray, since: np.ndarray, until: np.ndarray | float, half_lives_days: Sequence[float]) -> np.ndarray:
    """Counters s (float64[m, k]) moved from `since` to `until` (float64[m], epoch seconds): float64[m, k]."""
    days = (np.asarray(until) - since) / DAY_SECONDS
    moved: np.ndarray = s * np.exp2(-np.minimum(days[:, None] / np.asarray(half_lives_days), FORGOTTEN))
    return moved


def merge_assignments(half_lives_days: Sequence[float], stored: str, added: str, *, valued: bool) -> Mapping[str, str]:
    """`merge` in SQL: column → expression, of the rows named `stored` and `added` (of one key)."""
    latest = f"greatest({stored}.last_at, {added}.last_at)"
    assignments = {
        "n": f"{stored}.n + {added}.n",
        "first_at": f"least({stored}.first_at, {added}.first_at)",
        "last_at": latest,
    }
    for column, half_life in enumerate(half_lives_days):
        moved = [
            f"{row}.s{column} * power(2::float8, -least(({latest} - {row}.last_at)"
            f" / {half_life * DAY_SECONDS!r}::float8, {FORGOTTEN!r}::float8))"
            for row in (stored, added)
        ]
        assignments[f"s{column}"] = " + ".join(moved)
    if valued:
        assignments["value"] = f"{stored}.value + {added}.value"
    return assignments


def _grouped(columns: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """An order that sorts rows by key, and where in that order each distinct key starts."""
    rows = len(columns[0])
    packed = _packed(columns)
    if packed is not None:
        order = np.argsort(packed)
        changes = packed[order][1:] != packed[order][:-1]
    else:
        order = np.lexsort(tuple(reversed(columns)))
        changes = np.zeros(max(rows - 1, 0), bool)
        for column in columns:
            sorted_column = column[order]
            changes |= sorted_column[1:] != sorted_column[:-1]
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1]) if rows else np.zeros(0, np.int64)
    return order, starts.astype(np.int64)


def _packed(columns: Sequence[np.ndarray]) -> np.ndarray | None:
    """One int64 that sorts as the columns together, or None where they need more than 63 bits."""
    packed = np.zeros(len(columns[0]), np.int64)
    bits = 0
    if not len(packed):
        return packed
    for column in columns:
        low, high = int(column.min()), int(column.max())
        width = (high - low).bit_length()
        bits += width
        if bits > 63:
            return None
        packed = (packed << width) | (column - low)
    return packed


def _reduce(operation: np.ufunc, values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    return operation.reduceat(values, starts) if len(starts) else values[:0]
