"""Whom the occurrences of a run ask for, and what stands in the way of each before anything is weighed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from sqlalchemy import select

from engine.campaigns.audience import AudienceQuery, as_sql, audience_select
from engine.planning.decide import NOT_ASKED, OPEN, REASON
from engine.store.database import Snapshot

if TYPE_CHECKING:
    from engine.planning.scene import Scene


def who_is_asked(scene: Scene, slots: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Who is asked for, int64[n] sorted, and reason int8[n, O] as far as it is known from the audience."""
    found = [_asked(scene, o, slots) for o in range(len(scene.occasions))]
    everyone = np.unique(np.concatenate([ids for ids, _ in found]))
    reason = np.full((len(everyone), len(found)), NOT_ASKED, np.int8)
    for o, (ids, refusals) in enumerate(found):
        reason[np.searchsorted(everyone, ids), o] = refusals
    return everyone, reason


def _asked(scene: Scene, o: int, slots: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    occasion = scene.occasions[o]
    query = AudienceQuery(
        where=occasion.definition.audience,
        now=scene.as_of,
        gateway=occasion.definition.gateway,
        needs_device=scene.needs_device[o],
        default_timezone=scene.policy.default_timezone,
        slots=slots,
        listed=occasion.occurrence_id if occasion.listed and occasion.users is None else None,
        topics=occasion.definition.topics,
        only=None if scene.again is None else tuple(scene.again.of(o).tolist()),
    )
    if occasion.users is None:
        return _select(scene.snapshot, query)
    # A list that is not in the store (a preview's): everybody's refusals, and those the filter does not hold for.
    ids, refusals = _select(scene.snapshot, replace(query, where=None))
    fits = ids if query.where is None else _select(scene.snapshot, query)[0]
    refusals = np.where(np.isin(ids, fits), refusals, REASON["not_eligible"])
    listed = np.isin(ids, occasion.users)
    return ids[listed], refusals[listed]


def _select(snapshot: Snapshot, query: AudienceQuery) -> tuple[np.ndarray, np.ndarray]:
    audience = audience_select(query).order_by(None).subquery()
    rows = snapshot.arrow(as_sql(snapshot.connection, select(audience.c.id, audience.c.refusal)))
    ids = np.asarray(rows["id"], np.int64)
    refusal = rows["refusal"].combine_chunks().dictionary_encode()
    codes = np.array([REASON[name] for name in refusal.dictionary.to_pylist()] + [OPEN], np.int8)
    at = refusal.indices.fill_null(len(codes) - 1).to_numpy(zero_copy_only=False)
    return ids, codes[at]
