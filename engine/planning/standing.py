"""What users get anyway: pushes sent and planned, as the rules of a run see them, and which of them are rivals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from sqlalchemy import select

from engine.campaigns import store
from engine.campaigns.definition import Campaign
from engine.campaigns.policy import Cap, Policy
from engine.campaigns.rules import binds, scopes_of, workspace_caps
from engine.planning import limits
from engine.planning.inbox import Rivals, no_rivals
from engine.planning.roster import Past
from engine.store.tables import campaigns

if TYPE_CHECKING:
    from engine.planning.scene import Scene


def sends_of(scene: Scene, past: Past, users: int) -> limits.Sends:
    """What counts toward each rule. Pending pushes have no scopes of their own yet: they are their campaign's."""
    counts = np.zeros((len(scene.caps.caps), len(past)), bool)
    binding = np.zeros_like(counts)
    gap_counts, gap_binds = past.counts & ~past.pending, np.zeros(len(past), bool)
    for r, cap in enumerate(scene.caps.caps):
        counts[r] = (past.in_scope(cap.scope) if cap.scope != "all" else True) & past.counts & ~past.pending
    category = _categories(scene, past)
    for campaign_id in np.unique(past.campaign[past.pending]).tolist():
        definition = definition_of(scene, campaign_id)
        mine = past.pending & (past.campaign == campaign_id)
        gap_counts |= mine & definition.counts_toward_caps
        gap_binds |= mine & definition.obeys_caps
        for r, cap in enumerate(scene.caps.caps):
            covered = mine & _covers(cap, definition)
            if cap.scope.startswith("category:"):
                covered &= category == scene.caps.rules.rules[r].category
            counts[r] |= covered & definition.counts_toward_caps
            binding[r] |= covered & _binds(scene.policy, cap, definition)
    return limits.Sends(past.offsets(users), past.at, past.day, counts, binding, gap_counts, gap_binds)


def rivals_of(scene: Scene, past: Past, users: int) -> Rivals:
    """The planned pushes that may be displaced: loose ones of marketing campaigns."""
    none = no_rivals(users, len(scene.caps.caps))
    loose = past.loose & (past.row >= 0) & scene.terms.displaces.any()
    marketing = [
        campaign
        for campaign in np.unique(past.campaign[loose]).tolist()
        if definition_of(scene, campaign).class_ == "marketing"
    ]
    at = np.flatnonzero(loose & np.isin(past.campaign, marketing))
    if not len(at):
        return none
    pushes = Loose(
        past.row[at], past.campaign[at], past.occurrence[at], past.value[at], past.at[at], past.day[at], past.item[at],
        _categories(scene, past)[at].astype(np.int32), at.astype(np.int64),
    )  # fmt: skip
    definitions = {campaign: definition_of(scene, campaign) for campaign in marketing}
    return rivals_among(pushes, definitions, scene.policy, scene.caps.caps, users)


class Loose(NamedTuple):
    """Planned pushes that may be displaced, ordered by row. row int64 (of the user), campaign, occurrence int64 ids,
    value float64, at int64 (microseconds), day int32, item int64, category int32, send int64: the position among the
    users' sends."""

    row: np.ndarray
    campaign: np.ndarray
    occurrence: np.ndarray
    value: np.ndarray
    at: np.ndarray
    day: np.ndarray
    item: np.ndarray
    category: np.ndarray
    send: np.ndarray


def rivals_among(
    pushes: Loose, definitions: Mapping[int, Campaign], policy: Policy, caps: Sequence[Cap], users: int
) -> Rivals:
    """The rivals of `users` rows. One column for each campaign and each further push of it that a user has; caps as
    in the run's rules."""
    if not len(pushes.row):
        return no_rivals(users, len(caps))
    number = _numbers(pushes.row, pushes.campaign)
    kinds, column = np.unique(np.stack([pushes.campaign, number]), axis=1, return_inverse=True)
    own = [definitions[int(campaign)] for campaign in kinds[0]]
    place = (pushes.row, column.reshape(-1))

    def put(values: np.ndarray, otherwise: float) -> np.ndarray:
        out = np.full((users, kinds.shape[1]), otherwise, values.dtype)
        out[place] = values
        return out

    covered = np.array([[_covers(cap, each) for each in own] for cap in caps], bool)
    bound = np.array([[_binds(policy, cap, each) for each in own] for cap in caps], bool)
    counting = np.array([each.counts_toward_caps for each in own], bool)
    shape = (len(caps), len(own))
    return Rivals(
        occurrence=put(pushes.occurrence, -1),
        value=put(pushes.value, -np.inf),
        at=put(pushes.at, 0),
        day=put(pushes.day, 0),
        item=put(pushes.item, -1),
        category=put(pushes.category, -1),
        send=put(pushes.send, -1),
        binds=covered.reshape(shape) & bound.reshape(shape),
        counted=covered.reshape(shape) & counting[None, :],
        gap_binds=np.array([each.obeys_caps for each in own], bool),
        gap_counted=counting,
    )


def definition_of(scene: Scene, campaign_id: int) -> Campaign:
    """The definition of a campaign that has pushes planned, in its latest version."""
    if campaign_id not in scene.waiting:
        connection = scene.snapshot.connection
        version = connection.execute(select(campaigns.c.version).where(campaigns.c.id == campaign_id)).scalar_one()
        scene.waiting[campaign_id] = store.get_version(connection, campaign_id, version)
    return scene.waiting[campaign_id]


def _categories(scene: Scene, past: Past) -> np.ndarray:
    place = scene.catalogue.positions(past.item)
    found: np.ndarray = np.append(scene.catalogue.items.category, -1)[place]  # the last place is nobody's: place −1
    return found


def _covers(cap: Cap, definition: Campaign) -> bool:
    """Whether a cap concerns the campaign's pushes, or may by their item."""
    return cap.covers(scopes_of(definition, None)) or cap.scope.startswith("category:")


def _binds(policy: Policy, cap: Cap, definition: Campaign) -> bool:
    if cap in workspace_caps(policy):
        return binds(policy, cap, definition)
    return definition.obeys_caps and cap in definition.own_caps()


def _numbers(row: np.ndarray, campaign: np.ndarray) -> np.ndarray:
    """int64: the how-manieth push of its campaign each one is for its user, from 0 on."""
    order = np.lexsort((np.arange(len(row)), campaign, row))
    key = np.stack([row[order], campaign[order]])
    begins = np.append(True, (key[:, 1:] != key[:, :-1]).any(0)) if len(row) else np.zeros(0, bool)
    starts = np.flatnonzero(begins)
    number = np.empty(len(row), np.int64)
    number[order] = np.arange(len(row)) - np.repeat(starts, np.diff(np.append(starts, len(row))))
    return number
