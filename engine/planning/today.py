"""A decision weighed once more on today's profiles, with a rule left out that receipts cannot answer for.

Where quiet hours left no window, or a user was held out, nothing was scored and no receipt remembers an alternative.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np

from engine.planning import allocation
from engine.planning.case import Case
from engine.planning.opening import set_scene
from engine.planning.scene import Scene, weigh_block
from engine.store.database import Snapshot


@dataclass(frozen=True)
class Today:
    """What would be chosen. item: id, −1 without; at: epoch seconds."""

    item: int
    at: float
    value: float
    price: float


def weigh_today(snapshot: Snapshot, gateways: Mapping[str, Any], case: Case, o: int, rule: str) -> Today | None:
    """The best push of occurrence `o` for the case's user without `rule` (quiet_hours or holdout); None: none at all.

    Windows are those of the decision's own time; scores are today's.
    """
    occasion = replace(case.spec.occasions[o], listed=True, users=np.array([case.user.id], np.int64))
    if rule == "quiet_hours":
        free_hours = occasion.definition.model_copy(update={"obeys_quiet_hours": False, "hours": None})
        occasion = replace(occasion, definition=free_hours)
    scene = set_scene(snapshot, gateways, replace(case.spec, occasions=(occasion,)))
    scene = _as_then(scene, case.as_of, holdout=rule != "holdout")
    weighed = weigh_block(scene, (case.user.slot, case.user.slot + 1))
    if weighed is None:
        return None
    options, width = weighed.options, weighed.options.price.shape[2]
    (choice,) = allocation.best_sets(options.problem)[:, 0]
    if choice < 0:
        return None
    k, w = divmod(int(choice), width)
    return Today(
        int(weighed.goods.item[0, 0, k]),
        float(options.at[0, 0, w]),
        float(options.value[0, 0, k, w]),
        float(options.price[0, 0, w]),
    )


def _as_then(scene: Scene, as_of: datetime, *, holdout: bool) -> Scene:
    """The scene with its clock at `as_of`, without holdout unless `holdout`."""
    if not holdout:
        none = np.full(len(scene.occasions), np.nan)
        scene = replace(scene, terms=replace(scene.terms, holdout=none))
    return replace(scene, as_of=as_of)
