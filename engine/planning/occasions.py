"""The occurrences of a run as planning sees them, and what they make of the workspace's rules (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np

from engine.campaigns.definition import Campaign
from engine.campaigns.experiment import split_of
from engine.campaigns.policy import Cap, Policy
from engine.campaigns.rules import binds, rules_of, scopes_of, workspace_caps
from engine.campaigns.schedule import user_span
from engine.localtime import Hours, zone
from engine.planning import limits, windows
from engine.planning.windows import Open, Span

_MICROSECOND = timedelta(microseconds=1)
_NO_SUCH_CATEGORY = 1 << 30
"""Code of a category that no item has: such a cap never binds."""


@dataclass(frozen=True)
class Occasion:
    """An occurrence with its campaign's definition of the version that the run uses.

    `occurrence_id` is 0 in a preview. `listed`: its audience is a list, `users` (int64, sorted) where the list is not
    in the store, else `occurrence_users`.
    """

    occurrence_id: int
    campaign_id: int
    version: int
    label: str
    starts_at: datetime
    ends_at: datetime
    definition: Campaign
    at_once: bool = False
    listed: bool = False
    users: np.ndarray | None = None

    @property
    def date(self) -> date:
        """The UTC date of its start: the partition of its decisions."""
        return self.starts_at.date()

    @property
    def exploration(self) -> float:
        """Share of users who explore: nobody where the send is transactional, whatever its definition says."""
        return self.definition.exploration if self.definition.class_ == "marketing" else 0.0

    @property
    def holdout(self) -> float:
        """Share of users held out of the campaign; NaN where the send is transactional: then nobody is, of anything."""
        return self.definition.holdout if self.definition.class_ == "marketing" else float("nan")

    @property
    def displaces(self) -> bool:
        """Whether its pushes may take the place of planned ones that are worth less."""
        return self.definition.overflow == "replace"


def variant_of(secret: bytes, occasion: Occasion, user_id: int) -> str | None:
    """The arm of its message's experiment that a user gets, by the workspace's secret; None: nothing is under test."""
    tested = occasion.definition.message.experiment
    return None if tested is None else split_of(secret, occasion.campaign_id, tested).arm(user_id)


def stretches_of(
    occasion: Occasion, policy: Policy, group: tuple[str, Hours | None], now: datetime
) -> tuple[list[Open], str, datetime]:
    """The stretches in which users of a (zone, own quiet hours) may get it, why there are none, and when it is over."""
    tz: ZoneInfo = zone(group[0])
    start, end = user_span(occasion.definition, occasion, tz)
    quiet = rules_of(policy, occasion.definition).quiet(group[1])
    limited = occasion.definition.per_quarter or policy.per_quarter(occasion.definition.gateway)
    spread = None if limited else windows.SPREAD
    span = Span(start, end, occasion.definition.hours, occasion.at_once, spread)
    found, why = windows.open_stretches(tz, span, quiet, now)
    return found, why, end


@dataclass(frozen=True)
class RunRules:
    """The caps of a run as arrays (`rules`), and as they were written: `caps`, by the rule's position."""

    rules: limits.Rules
    caps: tuple[Cap, ...]


def run_rules(policy: Policy, occasions: Sequence[Occasion], categories: Sequence[str]) -> RunRules:
    """The workspace's caps (those set, then the quotas of providers), then each campaign's own; `categories` are the
    catalogue's, by code."""
    own = [(cap, occasion.campaign_id) for occasion in occasions for cap in occasion.definition.own_caps()]
    own = list(dict.fromkeys(own))
    everybodys = workspace_caps(policy)
    caps = [*everybodys, *(cap for cap, _ in own)]
    owners = [None] * len(everybodys) + [owner for _, owner in own]
    shape = (len(caps), len(occasions))
    binding, counted = np.zeros(shape, bool), np.zeros(shape, bool)
    for o, occasion in enumerate(occasions):
        campaign = occasion.definition
        scopes = scopes_of(campaign, None)
        for r, (cap, owner) in enumerate(zip(caps, owners, strict=True)):
            covered = cap.covers(scopes) or cap.scope.startswith("category:")
            mine = campaign.obeys_caps and owner == occasion.campaign_id
            binding[r, o] = covered and (mine if owner is not None else binds(policy, cap, campaign))
            counted[r, o] = covered and campaign.counts_toward_caps
    codes = {name: code for code, name in enumerate(categories)}
    return RunRules(
        limits.Rules(
            tuple(_rule(cap, codes) for cap in caps),
            binding,
            counted,
            (policy.min_gap or timedelta()) // _MICROSECOND,
            np.array([occasion.definition.obeys_caps for occasion in occasions], bool),
            np.array([occasion.definition.counts_toward_caps for occasion in occasions], bool),
        ),
        tuple(caps),
    )


def look_back(policy: Policy, occasions: Sequence[Occasion]) -> timedelta:
    """How far back pushes matter to these occurrences: caps, gap, and items that come once a period."""
    caps = [*workspace_caps(policy), *(cap for occasion in occasions for cap in occasion.definition.own_caps())]
    repeats = [timedelta(days=occasion.definition.item_once_days or 0) for occasion in occasions]
    widths = [cap.width or timedelta(days=8) for cap in caps]
    return max([policy.min_gap or timedelta(), *repeats, *widths, timedelta(hours=1)])


def _rule(cap: Cap, codes: dict[str, int]) -> limits.Rule:
    kind, _, name = cap.scope.partition(":")
    category = codes.get(name, _NO_SUCH_CATEGORY) if kind == "category" else -1
    if cap.width is not None:
        return limits.Rule(cap.limit, "rolling", cap.width // _MICROSECOND, category)
    return limits.Rule(cap.limit, "day" if cap.window == "local_day" else "week", 0, category)
