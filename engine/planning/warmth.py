"""What every request about a user needs of the shop, kept warm in this process: the champion's scorer and the items.

A thread looks LOOK_SECONDS apart whether the champion or an item changed, and then reads anew, beside the requests,
which are answered from what there is until the new is whole. So a new item, price or model is there within about a
second; what changes by itself (popularity, what is fresh) is read again every AGE_SECONDS. Reading takes a fraction of
a second for 50,000 items: where items change all the time, it takes at most a third of one core. Without requests for
IDLE_SECONDS the thread rests, and the next request reads anew itself if need be.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np
from sqlalchemy import Connection, text

from engine import clock
from engine.campaigns import store
from engine.campaigns.definition import Campaign
from engine.campaigns.policy import Policy
from engine.campaigns.policy_store import current_policy
from engine.errors import HoraeError
from engine.features.catalogue import Catalogue
from engine.learning.candidates import Shelf
from engine.learning.scoring import Scorer, load_scorer
from engine.planning.offers import CANDIDATES
from engine.planning.scene import allowed_items
from engine.store.database import Database, Snapshot

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
AGE_SECONDS = 60.0
IDLE_SECONDS = 600.0
REST_FACTOR = 2.0
"""After reading, the thread rests so many times as long as that took."""

STEP = timedelta(minutes=20)
"""Business time after which the catalogue is read again: a virtual clock goes in steps."""

_CHANGES = text("""
    SELECT (SELECT version FROM models WHERE state = 'champion') AS model,
           (SELECT max(version) FROM policies) AS policy,
           (SELECT max(updated_at) FROM items WHERE NOT stub) AS items
""")

_VERSION = text("SELECT id, version FROM campaigns WHERE name = :name")

_NAMES = "SELECT id, external_id, title FROM items ORDER BY id"


class Stamp(NamedTuple):
    """What the shop was at a moment: read anew where it differs."""

    model: int | None
    policy: int
    items: datetime | None


@dataclass(frozen=True)
class Ground:
    """The shop as of `as_of` (business time). names, titles: of the items, object[I] · shelf: of all items · shelves:
    of campaigns that were asked for, by (id, version)."""

    stamp: Stamp
    as_of: datetime
    read_at: float
    scorer: Scorer
    catalogue: Catalogue
    policy: Policy
    names: np.ndarray
    titles: np.ndarray
    shelf: Shelf
    shelves: dict[tuple[int, int], tuple[Campaign, Shelf]] = field(default_factory=dict)

    def of_campaign(self, snapshot: Snapshot, name: str) -> tuple[int, Campaign, Shelf]:
        """A campaign's id and definition, and what its pushes may be about; kept by its version. Raises UnknownName."""
        row = snapshot.connection.execute(_VERSION, {"name": name}).one_or_none()
        key = None if row is None else (row.id, row.version)
        if key is None or key not in self.shelves:
            stored = store.get(snapshot.connection, name)
            allowed = allowed_items(snapshot, stored.definition.items, self.catalogue)
            key = (stored.id, stored.version)
            self.shelves[key] = (stored.definition, self.scorer.shelf(self.catalogue, CANDIDATES, allowed))
        return key[0], *self.shelves[key]


class Warmth:
    """Keeps the ground of one database; from any thread."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ground: Ground | None = None
        self._reading = threading.Lock()
        self._asked_at = clock.monotonic()
        self._closing = threading.Event()
        self._keeper: threading.Thread | None = None

    def ground(self, now: datetime) -> Ground:
        """The ground to answer a request at business time `now` on."""
        self._asked_at = clock.monotonic()
        found = self._ground
        if found is None or self._is_old(found, now):
            with self._reading:
                found = self._ground
                if found is None or self._is_old(found, now):
                    found = self._ground = self._read()
        self._keep()
        return found

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        if self._keeper is not None:
            self._keeper.join()

    def _is_old(self, ground: Ground, now: datetime) -> bool:
        """Whether it is older than the thread, which keeps it younger, can be the reason for."""
        return clock.monotonic() - ground.read_at > 2 * AGE_SECONDS or abs(now - ground.as_of) > STEP

    def _keep(self) -> None:
        if self._keeper is None or not self._keeper.is_alive():
            with self._reading:
                if not self._closing.is_set() and (self._keeper is None or not self._keeper.is_alive()):
                    self._keeper = threading.Thread(target=self._run, name="horae-warmth", daemon=True)
                    self._keeper.start()

    def _run(self) -> None:
        wait = LOOK_SECONDS
        while not self._closing.wait(wait) and clock.monotonic() - self._asked_at < IDLE_SECONDS:
            began = clock.monotonic()
            try:
                self._look()
            except HoraeError as error:  # requests are told themselves; the next look tries again
                logger.warning("the shop was not read again: %s", error, extra={"action": "ground_kept"})
            wait = max(LOOK_SECONDS, REST_FACTOR * (clock.monotonic() - began))

    def _look(self) -> None:
        ground = self._ground
        with self._database.begin() as connection:
            changed = ground is None or _stamp(connection) != ground.stamp
        if ground is None or changed or clock.monotonic() - ground.read_at > AGE_SECONDS:
            with self._reading:
                self._ground = self._read()

    def _read(self) -> Ground:
        with self._database.snapshot() as snapshot:
            stamp = _stamp(snapshot.connection)
            now = clock.business_now(snapshot.connection)
            _, policy = current_policy(snapshot.connection)
            scorer = load_scorer(snapshot.connection, stamp.model)
            catalogue = scorer.catalogue(snapshot, now)
            names, titles = _names(snapshot)
        shelf = scorer.shelf(catalogue, CANDIDATES)
        return Ground(stamp, now, clock.monotonic(), scorer, catalogue, policy, names, titles, shelf)


def _stamp(connection: Connection) -> Stamp:
    return Stamp(*connection.execute(_CHANGES).one())


def _names(snapshot: Snapshot) -> tuple[np.ndarray, np.ndarray]:
    rows = snapshot.arrow(_NAMES)
    names, titles = (np.asarray(rows[name].to_pylist(), object) for name in ("external_id", "title"))
    return names, titles
