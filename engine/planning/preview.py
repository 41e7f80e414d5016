"""The plan without writing it: the same scene, the same blocks, the same settlement, on one snapshot.

For the same seed and `as_of`, on a store that nobody wrote to in between, what it says is the plan bit for bit. Only
what constraints cost is estimated, on COST_USERS users where there are more, as each of them is solved again without
each constraint.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from sqlalchemy import text

from engine.campaigns.audience import REFUSALS
from engine.localtime import local_hours, wall_clock, zone
from engine.planning.allotment import Proposals, Terms, allot
from engine.planning.costs import constraint_costs
from engine.planning.decide import REASON
from engine.planning.occasions import variant_of
from engine.planning.opening import at_prices, set_scene
from engine.planning.prices import Capacities, shared
from engine.planning.pricing import sampled_prices
from engine.planning.relaxing import Cost
from engine.planning.runspec import RunSpec
from engine.planning.scarcity import read_capacities, read_incumbents
from engine.planning.scene import Block, Scene, blocks_of, count_users, plan_block
from engine.store.database import Database, Snapshot
from engine.store.tables import DECISION_REASONS, SLOTS

Progress = Callable[[int, int], None]
"""Told (users looked at, users in all)."""

EXAMPLES = 5


@dataclass(frozen=True)
class Example:
    """A push that would leave: user and item as the shop names them, `local` the reading of the user's clock;
    variant: the arm of the message's experiment, None where nothing is under test."""

    user: str
    item: str | None
    title: str | None
    local: datetime
    score: float
    value: float
    variant: str | None = None


@dataclass(frozen=True)
class Preview:
    """What a run would decide.

    reasons: users per reason, adding up to `asked`; by_hour: planned pushes per local hour; value: of the planned
    pushes, in the campaigns' unit; expected: the sum of their scores, which are P(click) or P(goal) by `regime`;
    costs: of each constraint, estimated from `cost_users` users; without_zone: users who live by the default zone;
    refused: why nobody could be scored; sample: (users planned, users in all) where only some were.
    """

    asked: int
    reasons: dict[str, int]
    by_hour: dict[int, int]
    value: float
    expected: float = 0.0
    regime: str = "baseline"
    costs: tuple[Cost, ...] = ()
    cost_users: int = 0
    examples: tuple[Example, ...] = ()
    without_zone: int = 0
    refused: str | None = None
    sample: tuple[int, int] | None = None

    @property
    def planned(self) -> int:
        """How many pushes would leave."""
        return self.reasons.get("planned", 0)

    @property
    def eligible(self) -> int:
        """How many of those asked for may be sent something: in the audience, with consent and a device."""
        return self.asked - sum(self.reasons.get(name, 0) for name in REFUSALS)


def preview(
    database: Database,
    gateways: Mapping[str, Any],
    spec: RunSpec,
    progress: Progress | None = None,
    sample: int | None = None,
) -> Preview:
    """Plan `spec` in this process and write nothing; of about `sample` users only, where given, with their share of
    every capacity."""
    with database.snapshot() as snapshot:
        scene = set_scene(snapshot, gateways, spec)
        capacities = read_capacities(snapshot.connection, spec, scene.as_of)
        scene = at_prices(scene, sampled_prices(scene, capacities))
        slots, total = _slots(snapshot, sample)
        users = int(count_users(snapshot, slots).sum())
        share = users / max(total, 1)
        capacities = capacities if sample is None else shared(capacities, share)
        kept = [_outline(block) for block in planned_blocks(scene, progress, slots)]
        found = _settled(scene, spec, capacities, kept)
        costs, cost_users = constraint_costs(scene, slots)
        return replace(
            found,
            regime=scene.scorer.regime,
            costs=tuple(costs),
            cost_users=cost_users,
            refused=scene.refused,
            sample=None if sample is None else (users, total),
        )


def planned_blocks(
    scene: Scene, progress: Progress | None = None, slots: tuple[int, int] = (0, SLOTS)
) -> Iterator[Block]:
    """Every block of the store (of `slots`, from and until), planned; nothing is written."""
    ranges = blocks_of(scene.snapshot, slots)
    total, seen = sum(count for _, _, count in ranges), 0
    for first, until, count in ranges:
        block = plan_block(scene, (first, until)) if count else None
        if block is not None:
            yield block
        seen += count
        if progress is not None:
            progress(seen, total)


def _slots(snapshot: Snapshot, sample: int | None) -> tuple[tuple[int, int], int]:
    """The first slots that hold `sample` users, and how many users there are in all: slots are a hash of the user."""
    counts = count_users(snapshot, (0, SLOTS))
    total = int(counts.sum())
    if sample is None or sample >= total:
        return (0, SLOTS), total
    return (0, int(np.searchsorted(np.cumsum(counts), sample)) + 1), total


@dataclass(frozen=True)
class _Outline:
    """What a preview keeps of a block: reasons int8[m]; of its proposals the terms, zones (names), items, scores and
    alternatives; how many of its users have no zone of their own."""

    reason: np.ndarray
    proposals: Proposals
    zone: np.ndarray
    item: np.ndarray
    score: np.ndarray
    alternatives: np.ndarray
    without_zone: int


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
    zones = np.array(roster.zones)[roster.zone[decided.row[at]]]
    return _Outline(
        decided.reason,
        proposals,
        zones,
        decided.item[at],
        decided.score[at].astype(np.float64),
        decided.alternatives[at],
        int((~roster.zoned).sum()),
    )


def _settled(scene: Scene, spec: RunSpec, capacities: Capacities, kept: Sequence[_Outline]) -> Preview:
    if not kept:
        return Preview(0, {}, {}, 0.0)
    counted = Counter(np.concatenate([outline.reason for outline in kept]).tolist())
    names = Proposals.__dataclass_fields__
    proposals = Proposals(*(np.concatenate([getattr(o.proposals, name) for o in kept]) for name in names))
    item, score = (np.concatenate([getattr(o, name) for o in kept]) for name in ("item", "score"))
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
        item[result.moved], score[result.moved] = result.to["item"], result.to["score"]
        stays[result.refused] = False
        counted[REASON["planned"]] -= len(result.refused)
        counted.update(result.reasons.tolist())
    zone_of = np.concatenate([outline.zone for outline in kept])
    zones, code = np.unique(zone_of, return_inverse=True)
    hours = local_hours(send_at[stays], code.reshape(-1)[stays], zones.tolist()) % 24
    shown = np.flatnonzero(stays)[:EXAMPLES]
    return Preview(
        asked=sum(counted.values()),
        reasons={DECISION_REASONS[code]: count for code, count in sorted(counted.items()) if count},
        by_hour=dict(sorted(Counter(hours.tolist()).items())),
        value=float(value[stays].sum()),
        expected=float(score[stays].sum()),
        without_zone=sum(outline.without_zone for outline in kept),
        examples=_examples(
            scene.snapshot,
            [
                (
                    proposals.user[i],
                    item[i],
                    send_at[i],
                    str(zone_of[i]),
                    score[i],
                    value[i],
                    variant_of(scene.terms.secret, spec.occasions[proposals.occurrence[i]], int(proposals.user[i])),
                )
                for i in shown
            ],
        ),
    )


def _examples(snapshot: Snapshot, shown: Sequence[tuple[Any, ...]]) -> tuple[Example, ...]:
    ask = snapshot.connection.execute
    users = ask(text("SELECT id, external_id FROM users WHERE id = ANY(:ids)"), {"ids": [int(row[0]) for row in shown]})
    items = ask(
        text("SELECT id, external_id, title FROM items WHERE id = ANY(:ids)"), {"ids": [int(row[1]) for row in shown]}
    )
    user_names = {row.id: row.external_id for row in users}
    item_names = {row.id: (row.external_id, row.title) for row in items}
    return tuple(
        Example(
            user_names[int(user)],
            *item_names.get(int(item), (None, None)),
            wall_clock(zone(zone_name), datetime.fromtimestamp(float(at), UTC)),
            float(score),
            float(value),
            variant,
        )
        for user, item, at, zone_name, score, value, variant in shown
    )


def _known(alternatives: np.ndarray) -> list[np.ndarray]:
    """The alternatives of each proposal without the unused places."""
    return [row[np.isfinite(row["slot"])] for row in alternatives]
