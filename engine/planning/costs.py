"""What each constraint costs a run, measured on a sample of its users."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from engine.planning.occasions import Occasion
from engine.planning.relaxing import Cost, Weighed, best_worth, cost, costs
from engine.planning.scene import Scene, Weighing, blocks_of, count_users, weigh_block

COST_USERS = 3_000
"""Users on which costs are measured where there are more."""

Variant = tuple[str, Callable[[Scene], Scene]]


def constraint_costs(scene: Scene, slots: tuple[int, int]) -> tuple[list[Cost], int]:
    """The costs, dearest first, for all users of slots [from, until), and how many users they were measured on."""
    counts = count_users(scene.snapshot, slots)
    total = int(counts.sum())
    width = min(len(counts), int(np.searchsorted(np.cumsum(counts), COST_USERS)) + 1)
    measured = int(counts[:width].sum())
    found: dict[str, Cost] = {}
    names = tuple(f"{cap.id}: {cap}" if cap.id else str(cap) for cap in scene.caps.caps)
    for first, until, count in blocks_of(scene.snapshot, (slots[0], slots[0] + width)):
        weighed = weigh_block(scene, (first, until)) if count else None
        if weighed is None:
            continue
        for one in [*costs(scene.terms, _part(weighed), names), *_varied(scene, weighed, (first, until))]:
            found[one.constraint] = found[one.constraint] + one if one.constraint in found else one
    scaled = [one.scaled(total / max(measured, 1)) for one in found.values()]
    return sorted(scaled, key=lambda one: -one.value), measured


def _varied(scene: Scene, weighed: Weighing, slots: tuple[int, int]) -> list[Cost]:
    """Costs of what decides who is scored and in which windows: these users are read and scored again without it."""
    base = best_worth(scene.terms, _part(weighed))
    found = []
    for name, variant in _variants(scene):
        freer = variant(scene)
        again = weigh_block(freer, slots)
        if again is not None:
            found.append(cost(name, base, best_worth(freer.terms, _part(again))))
    return [one for one in found if one.users]


def _part(weighed: Weighing) -> Weighed:
    return Weighed(weighed.people, weighed.goods, weighed.options)


def _variants(scene: Scene) -> list[Variant]:
    variants: list[Variant] = []
    definitions = [occasion.definition for occasion in scene.occasions]
    if any(definition.obeys_quiet_hours for definition in definitions):
        variants.append(("quiet hours", lambda scene: _redefined(scene, obeys_quiet_hours=False)))
    if any(definition.hours for definition in definitions):
        variants.append(("the campaign's hours", lambda scene: _redefined(scene, hours=None)))
    if scene.terms.everywhere > 0 or (np.nan_to_num(scene.terms.holdout) > 0).any():
        variants.append(("holdout", _unheld))
    return variants


def _redefined(scene: Scene, **changes: object) -> Scene:
    def changed(occasion: Occasion) -> Occasion:
        return replace(occasion, definition=occasion.definition.model_copy(update=changes))

    return replace(scene, occasions=tuple(changed(occasion) for occasion in scene.occasions), stretches={})


def _unheld(scene: Scene) -> Scene:
    none = np.full(len(scene.occasions), np.nan)
    return replace(scene, terms=replace(scene.terms, holdout=none))
