"""Steps through a log of events in time and says what was known at each instant, from earlier events only.

Profiles and co-occurrences are sums, so each step folds only the events since the last one and merges: walking through
a year costs what folding it once does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.features.catalogue import Items, build_catalogue, interest_weights
from engine.features.decay import Folded, merge
from engine.features.habits import LEAST_GAP_DAYS, Habits, habits_of
from engine.features.readings import positions
from engine.features.state import Profiles, State, build_state
from engine.ingest.profiles import FoldRows
from engine.learning import related
from engine.learning.history import NOBODY, item_profiles, user_profiles
from engine.store.tables import EVENT_TYPES, HALF_LIVES_DAYS

DAY_SECONDS = 86_400.0
ACTIVE_DAYS = 120.0
"""Users without any event for longer are left out: what they do next says little and is rare."""


@dataclass(frozen=True, eq=False)
class Moment:
    """What was known at an instant: the state of the users active until then, item-to-item neighbours, and habits."""

    state: State
    neighbours: Any
    habits: Habits


class Replay:
    """A walk through events, forward in time."""

    def __init__(self, events: FoldRows, item_ids: np.ndarray, share: float = 1.0) -> None:
        """`item_ids`: int64, sorted. `share`: of all users in `events`; what everybody did is scaled up by it."""
        self._events = events.where(np.argsort(events.at, kind="stable"))
        self._ids, self._share = item_ids, share
        beginning = float(self._events.at[0])
        self._until = 0
        self._profiles: Profiles | None = None
        self._items: Folded | None = None
        self._tail = self._events.where(np.zeros(0, np.int64))
        self._counter = related.Counter(len(self._ids), beginning)
        self._gaps = np.zeros((3, len(self._ids)))

    def at(self, tau: float, items: Items, most_users: int, active_days: float = ACTIVE_DAYS) -> Moment:
        """What was known at τ (epoch seconds, not before the last call's) of at most `most_users` active users.

        `items`: the same ids, as they were at τ.
        """
        stop = int(np.searchsorted(self._events.at, tau, side="left"))
        fresh = self._events.where(np.arange(self._until, stop))
        self._count(fresh)
        self._count_gaps(fresh)
        self._fold(fresh)
        self._until = stop
        assert self._profiles is not None
        assert self._items is not None
        habits = habits_of(self._ids, *self._gaps)
        catalogue = build_catalogue(items, _scaled(self._items, 1 / self._share), tau, habits)
        users = self._active(tau, most_users, active_days)
        state = build_state(users, self._profiles, catalogue, tau)
        return Moment(state, self._counter.neighbours(), habits)

    def _fold(self, fresh: FoldRows) -> None:
        profiles, items = user_profiles(fresh), item_profiles(fresh)
        if self._profiles is None or self._items is None:
            self._profiles, self._items = profiles, items
            return
        known = self._profiles
        self._items = merge(self._items, items, HALF_LIVES_DAYS["item_profiles"])
        self._profiles = Profiles(
            merge(known.users, profiles.users, HALF_LIVES_DAYS["user_profiles"]),
            merge(known.pairs, profiles.pairs, HALF_LIVES_DAYS["user_item_profiles"]),
            merge(known.hours, profiles.hours, HALF_LIVES_DAYS["user_hour_profiles"]),
        )

    def _count(self, fresh: FoldRows) -> None:
        """Co-occurrences whose later event is fresh; the users' last events before only open the pairs."""
        known_item = positions(self._ids, fresh.item) >= 0  # events outlive items that were deleted
        relevant = (fresh.user != NOBODY) & known_item & (interest_weights(fresh.event_type) > 0)
        if not relevant.any():
            return
        since = float(fresh.at[0])
        known = _joined(self._tail, fresh.where(relevant))
        known = known.where(np.lexsort((known.item, known.at, known.user)))
        known = known.where(_last_of_each(known.user, related.LAST_EVENTS))
        self._counter.add(
            known.user, positions(self._ids, known.item), known.at, interest_weights(known.event_type), since
        )
        self._tail = known.where(_last_of_each(known.user, related.REACH))

    def _count_gaps(self, fresh: FoldRows) -> None:
        """Gaps between purchases of one item by one user, the earlier of which may lie before."""
        bought = np.flatnonzero((fresh.event_type == EVENT_TYPES["purchase"]) & (fresh.user != NOBODY))
        user, item, at = fresh.user[bought], positions(self._ids, fresh.item[bought]), fresh.at[bought]
        if self._profiles is not None:
            known = self._profiles.pairs
            earlier = np.flatnonzero(known.keys[2] == EVENT_TYPES["purchase"])
            earlier_item = positions(self._ids, known.keys[1][earlier])
            user = np.concatenate([known.keys[0][earlier], user])
            item, at = np.concatenate([earlier_item, item]), np.concatenate([known.last_at[earlier], at])
        user, item, at = user[item >= 0], item[item >= 0], at[item >= 0]
        order = np.lexsort((at, item, user))
        user, item, at = user[order], item[order], at[order]
        days = np.diff(at) / DAY_SECONDS
        gap = (user[1:] == user[:-1]) & (item[1:] == item[:-1]) & (days > LEAST_GAP_DAYS)
        log, of = np.log(days[gap]), item[1:][gap]
        for row, weight in enumerate((np.ones(len(log)), log, log * log)):
            self._gaps[row] += np.bincount(of, weight, minlength=len(self._ids))

    def _active(self, tau: float, most: int, days: float) -> np.ndarray:
        assert self._profiles is not None
        folded = self._profiles.users
        ours = [EVENT_TYPES[name] for name in ("push_sent", "push_received")]
        acted = (folded.last_at >= tau - days * DAY_SECONDS) & ~np.isin(folded.keys[1], ours)
        active = np.unique(folded.keys[0][acted])
        if len(active) > most:
            active = np.sort(active[np.argsort(scrambled(active), kind="stable")[:most]])
        return active


def _joined(earlier: FoldRows, later: FoldRows) -> FoldRows:
    names = ("slot", "user", "item", "event_type", "at", "value", "zone")
    both = {name: np.concatenate([getattr(earlier, name), getattr(later, name)]) for name in names}
    return FoldRows(**both, zones=earlier.zones)


def _last_of_each(sorted_user: np.ndarray, most: int) -> np.ndarray:
    """A mask of the last `most` rows of each run of equal users."""
    ends = np.append(np.flatnonzero(sorted_user[1:] != sorted_user[:-1]) + 1, len(sorted_user))
    counts = np.diff(np.concatenate([[0], ends]))
    mask: np.ndarray = np.repeat(ends, counts) - np.arange(len(sorted_user)) <= most
    return mask


def scrambled(ids: np.ndarray) -> np.ndarray:
    """A fixed hash of ids (splitmix64's finalizer), uint64: an order of users that means nothing."""
    z = ids.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)), np.uint64)


def _scaled(items: Folded, factor: float) -> Folded:
    """Profiles as if every event had happened `factor` times."""
    if factor == 1:
        return items
    n = np.maximum(np.rint(items.n * factor), 1).astype(np.int64)
    return Folded(items.keys, n, items.first_at, items.last_at, items.s * factor, items.value * factor)
