"""The plan without writing it: the same scene, the same blocks, the same settlement, on one snapshot.

For the same seed and `as_of`, on a store that nobody wrote to in between, what it says is the plan bit for bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.localtime import local_hours
from engine.planning.allotment import Proposals, Terms, allot
from engine.planning.decide import REASON
from engine.planning.opening import RunSpec, at_prices, read_capacities, read_incumbents, set_scene
from engine.planning.prices import Capacities
from engine.planning.pricing import sampled_prices
from engine.planning.scene import Block, Scene, blocks_of, plan_block
from engine.store.database import Database
from engine.store.tables import DECISION_REASONS, SLOTS

Progress = Callable[[int, int], None]
"""Told (users looked at, users in all)."""


@dataclass(frozen=True)
class Preview:
    """What a run would decide. reasons: users per reason, adding up to `asked`; by_hour: planned pushes per local hour;
    value: of the planned pushes, in the campaigns' unit."""

    asked: int
    reasons: dict[str, int]
    by_hour: dict[int, int]
    value: float

    @property
    def planned(self) -> int:
        """How many pushes would leave."""
        return self.reasons.get("planned", 0)


def preview(
    database: Database, gateways: Mapping[str, Any], spec: RunSpec, progress: Progress | None = None
) -> Preview:
    """Plan `spec` in this process and write nothing."""
    with database.snapshot() as snapshot:
        scene = set_scene(snapshot, gateways, spec)
        capacities = read_capacities(snapshot.connection, spec, scene.as_of)
        scene = at_prices(scene, sampled_prices(scene, capacities))
        kept = [_outline(block) for block in planned_blocks(scene, progress)]
        return _settled(spec, scene, capacities, kept)


def planned_blocks(scene: Scene, progress: Progress | None = None) -> Iterator[Block]:
    """Every block of the whole store, planned; nothing is written."""
    ranges = blocks_of(scene.snapshot, (0, SLOTS))
    total, seen = sum(count for _, _, count in ranges), 0
    for first, until, count in ranges:
        block = plan_block(scene, (first, until)) if count else None
        if block is not None:
            yield block
        seen += count
        if progress is not None:
            progress(seen, total)


@dataclass(frozen=True)
class _Outline:
    """What a preview keeps of a block: reasons int8[m]; of its proposals the terms, zones (names) and alternatives."""

    reason: np.ndarray
    proposals: Proposals
    zone: np.ndarray
    alternatives: np.ndarray


def _outline(block: Block) -> _Outline:
    decided, roster = block.decided, block.roster
    at = np.flatnonzero(decided.planned)
    proposals = Proposals(
        np.zeros((len(at), 16), np.uint8),
        decided.occurrence[at],
        decided.user[at],
        decided.item[at],
        *(getattr(decided, name)[at] for name in ("send_at", "value", "price")),
    )
    return _Outline(
        decided.reason, proposals, np.array(roster.zones)[roster.zone[decided.row[at]]], decided.alternatives[at]
    )


def _settled(spec: RunSpec, scene: Scene, capacities: Capacities, kept: Sequence[_Outline]) -> Preview:
    if not kept:
        return Preview(0, {}, {}, 0.0)
    counted = Counter(np.concatenate([outline.reason for outline in kept]).tolist())
    names = Proposals.__dataclass_fields__
    proposals = Proposals(*(np.concatenate([getattr(o.proposals, name) for o in kept]) for name in names))
    send_at, value, stays = proposals.send_at.copy(), proposals.value.copy(), np.ones(len(proposals.user), bool)
    if capacities.bounded():
        alternatives = np.concatenate([outline.alternatives for outline in kept])
        terms = Terms(scene.terms.secret, spec.seed, spec.occasions)
        connection, as_of = scene.snapshot.connection, scene.as_of
        result = allot(
            terms,
            capacities,
            proposals,
            lambda at: _known(alternatives[at]),
            lambda: read_incumbents(connection, spec, capacities, as_of),
            as_of,
        )
        send_at[result.moved], value[result.moved] = result.to["send_at"], result.to["value"]
        stays[result.refused] = False
        counted[REASON["planned"]] -= len(result.refused)
        counted.update(result.reasons.tolist())
    zones, zone = np.unique(np.concatenate([outline.zone for outline in kept]), return_inverse=True)
    hours = local_hours(send_at[stays], zone.reshape(-1)[stays], zones.tolist()) % 24
    return Preview(
        asked=sum(counted.values()),
        reasons={DECISION_REASONS[code]: count for code, count in sorted(counted.items()) if count},
        by_hour=dict(sorted(Counter(hours.tolist()).items())),
        value=float(value[stays].sum()),
    )


def _known(alternatives: np.ndarray) -> list[np.ndarray]:
    """The alternatives of each proposal without the unused places."""
    return [row[np.isfinite(row["slot"])] for row in alternatives]
