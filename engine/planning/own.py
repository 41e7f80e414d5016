"""The item that each user's own trigger is about: what a campaign with `items: event` offers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.planning.offers import MISSING

if TYPE_CHECKING:
    from engine.planning.scene import Scene


def places(scene: Scene, o: int, users: np.ndarray, rows: np.ndarray, barred: np.ndarray) -> np.ndarray:
    """int32[n]: the position in the catalogue of each user's (int64, sorted) item; MISSING where there is none.

    rows int64[n]: each user's position in the state; barred: sorted pairs as of `offers.top`, not offered again yet.
    """
    found = np.full(len(users), MISSING, np.int32)
    occurrence, allowed = scene.occasions[o].occurrence_id, scene.allowed[o]
    if not len(users) or allowed is None:
        return found
    listed = scene.snapshot.arrow(
        f"SELECT user_id, item_id FROM occurrence_users WHERE occurrence_id = {int(occurrence)}"
        f" AND item_id IS NOT NULL AND user_id BETWEEN {int(users[0])} AND {int(users[-1])}"
    )
    user = np.asarray(listed["user_id"], np.int64)
    at = np.minimum(np.searchsorted(users, user), len(users) - 1)
    place = scene.catalogue.positions(np.asarray(listed["item_id"], np.int64))
    known = (users[at] == user) & (place >= 0) & (rows[at] >= 0)
    at, place = at[known], place[known]
    free = allowed[place] & ~np.isin(rows[at] * len(scene.catalogue) + place, barred)
    found[at[free]] = place[free]
    return found
