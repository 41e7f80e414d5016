"""The scenes that a process plans again on: today's model, policy, catalogue and capacities, for each run.

Making one takes a second or so for 50,000 items, and events are to change a plan within one. So a scene is used for
KEPT_SECONDS, and from then on while a thread makes the next; only a new model or policy is waited for.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from engine import clock
from engine.campaigns.policy_store import current_policy
from engine.errors import HoraeError
from engine.learning import registry
from engine.planning.opening import at_prices, set_scene
from engine.planning.prices import Capacities, priced
from engine.planning.runspec import RunSpec, read_run
from engine.planning.scarcity import read_capacities
from engine.planning.scene import Scene
from engine.store.database import Snapshot

if TYPE_CHECKING:
    from engine.runtime import Runtime

logger = logging.getLogger(__name__)

KEPT_SECONDS = 60.0
LATEST_SECONDS = 180.0
"""After so long a scene is not used any more, though the thread has not made the next."""

AGE = timedelta(hours=6)
"""For how much business time a process plans on the same catalogue and capacities."""


class _Key(NamedTuple):
    """What a scene depends on; another database, model or policy is another scene."""

    database: str
    run: int
    seed: int
    model: int | None
    policy: int


@dataclass(frozen=True)
class _Kept:
    """A scene, as of when (business time), when it was made and when its catalogue was read (monotonic clock)."""

    scene: Scene
    as_of: datetime
    made_at: float
    read_at: float

    def serves(self, now: datetime) -> bool:
        """Whether it may still be planned on."""
        return clock.monotonic() < self.made_at + LATEST_SECONDS and self.as_of <= now <= self.as_of + AGE


class Scenes:
    """Scenes by run; from any thread."""

    def __init__(self) -> None:
        self._kept: dict[_Key, _Kept] = {}
        self._renewing: set[_Key] = set()
        self._lock = threading.Lock()

    def of(self, runtime: Runtime, snapshot: Snapshot, run_id: int, now: datetime) -> Scene:
        """The scene of a run, to plan again on `snapshot` at business time `now`; nothing is displaced."""
        spec = read_run(snapshot.connection, run_id)
        policy, _ = current_policy(snapshot.connection)
        model = registry.champion(snapshot.connection)
        key = _Key(runtime.database.libpq_url, run_id, spec.seed, model, policy)
        spec = replace(spec, model_version=model, policy_version=policy)
        for old, kept in list(self._kept.items()):
            if not kept.serves(now):
                self._kept.pop(old, None)
        found = self._kept.get(key)
        if found is None:
            found = self._kept[key] = self._make(runtime, snapshot, (key, spec), now)
        elif clock.monotonic() > found.made_at + KEPT_SECONDS:
            self._renew(runtime, (key, spec), now)
        return replace(found.scene, snapshot=snapshot, as_of=now, waiting={}, stretches={})

    def _renew(self, runtime: Runtime, which: tuple[_Key, RunSpec], now: datetime) -> None:
        """Make a scene anew in a thread, unless one does."""
        key, _ = which
        with self._lock:
            if key in self._renewing:
                return
            self._renewing.add(key)

        def work() -> None:
            try:
                with runtime.database.snapshot() as snapshot:
                    self._kept[key] = self._make(runtime, snapshot, which, now)
            except HoraeError as error:  # what there is serves on; the next refresh tries again
                logger.warning("the scene was not made anew: %s", error, extra={"action": "scene_kept"})
            finally:
                self._renewing.discard(key)

        threading.Thread(target=work, name="horae-scene", daemon=True).start()

    def _make(self, runtime: Runtime, snapshot: Snapshot, which: tuple[_Key, RunSpec], now: datetime) -> _Kept:
        key, spec = which
        made_at = clock.monotonic()
        known = next(
            (
                kept
                for other, kept in list(self._kept.items())
                if (other.database, other.model) == (key.database, key.model) and made_at <= kept.read_at + KEPT_SECONDS
            ),
            None,
        )
        scene = set_scene(snapshot, runtime.gateways, spec, None if known is None else known.scene)
        capacities = read_capacities(snapshot.connection, replace(spec, run_id=0), now)
        scene = at_prices(scene, priced(capacities, _closed(capacities)))
        scene = replace(scene, terms=replace(scene.terms, displaces=np.zeros(len(scene.occasions), bool)))
        return _Kept(scene, now, made_at, made_at if known is None else known.read_at)


SCENES = Scenes()
"""This process'."""


def _closed(capacities: Capacities) -> np.ndarray:
    """Prices, float64[R]: what is used up may not be had; rates are nobody's, since windows stay."""
    flat = capacities.flat()
    prices = np.where(flat <= 0, np.finfo(np.float32).max, 0.0).astype(np.float64)
    prices[: capacities.rates + len(capacities.budget)] = 0.0
    return prices
