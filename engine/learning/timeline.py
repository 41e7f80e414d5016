"""At which past instants a model learns and is tested (pure).

Labels of an instant τ are what happens in [τ, τ + attribution window). The newest instant is the latest whose window
has closed: immature labels hurt more than anything else (AUC 0.834 → 0.750 was measured with a quarter immature).
Instants lie one window apart, so that no label is used twice; the two newest test and validate, the older ones train.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

ATTRIBUTION = timedelta(days=7)
MOST_TRAINING = 8
"""Six more would add 0.0014 of NDCG@10 on Complete Journey, and half a gigabyte and half a minute to a training."""

LEAST_WARM_UP = timedelta(days=7)
MOST_WARM_UP = timedelta(days=28)
"""History that precedes the first instant: features need a past."""


@dataclass(frozen=True)
class Timeline:
    """Instants in order of time: train < validate < test."""

    train: tuple[datetime, ...]
    validate: datetime
    test: datetime

    @property
    def instants(self) -> tuple[datetime, ...]:
        """All of them, oldest first."""
        return (*self.train, self.validate, self.test)


def choose(first: datetime, now: datetime) -> Timeline | None:
    """The timeline of a history that began at `first`; None where it is too short for one."""
    warm_up = min(MOST_WARM_UP, max(LEAST_WARM_UP, (now - first) / 4))
    newest = now - ATTRIBUTION
    room = (newest - (first + warm_up)) // ATTRIBUTION + 1
    if room < 3:
        return None
    count = min(room, MOST_TRAINING + 2)
    instants = [newest - ATTRIBUTION * back for back in reversed(range(count))]
    return Timeline(tuple(instants[:-2]), instants[-2], instants[-1])


def needed(first: datetime) -> datetime:
    """When a history that began at `first` will be long enough for a model."""
    return first + LEAST_WARM_UP + ATTRIBUTION * 3
