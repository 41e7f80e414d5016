"""The rules that hold for one campaign's pushes: the workspace's policy and the campaign's own, together (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, time
from zoneinfo import ZoneInfo

from engine.campaigns.definition import Campaign
from engine.campaigns.policy import Cap, Policy, Refusal, Sent, admits
from engine.localtime import Hours, in_hours


@dataclass(frozen=True)
class Rules:
    """What a campaign's pushes obey. Where it does not obey caps, `caps` are the quotas of providers alone (of a
    transactional campaign none) and `policy.min_gap` is None."""

    policy: Policy
    caps: tuple[Cap, ...]
    hours: Hours | None
    obeys_quiet_hours: bool

    def quiet(self, own: Hours | None) -> Hours | None:
        """The quiet hours that hold for a user whose own are `own`: theirs, else the workspace's."""
        return (own or self.policy.quiet_hours) if self.obeys_quiet_hours else None

    def refusal(
        self, sent: Sequence[Sent], at: datetime, scopes: frozenset[str], tz: ZoneInfo, own_quiet: Hours | None = None
    ) -> Refusal | None:
        """Why a push may not leave at `at`, or None; arguments as in `admits`. Outside `hours` is quiet_hours."""
        if self.hours and not in_hours(tz, at, *self.hours):
            return Refusal("quiet_hours")
        return admits(self.policy, self.caps, sent, at, scopes, tz, own_quiet if self.obeys_quiet_hours else None)


def workspace_caps(policy: Policy) -> tuple[Cap, ...]:
    """The caps of the workspace: those that were set, then the quotas of providers."""
    return (*policy.caps, *policy.quotas())


def binds(policy: Policy, cap: Cap, campaign: Campaign) -> bool:
    """Whether `cap`, one of the workspace's, holds for the campaign's pushes where it covers them."""
    return campaign.obeys_caps or (cap in policy.quotas() and campaign.class_ == "marketing")


def rules_of(policy: Policy, campaign: Campaign) -> Rules:
    """The rules of `campaign` in a workspace with `policy`."""
    held = policy.model_copy(
        update={
            "caps": (),
            "min_gap": policy.min_gap if campaign.obeys_caps else None,
            "quiet_hours": policy.quiet_hours if campaign.obeys_quiet_hours else None,
        }
    )
    own = campaign.own_caps() if campaign.obeys_caps else ()
    caps = tuple(cap for cap in workspace_caps(policy) if binds(policy, cap, campaign))
    return Rules(held, (*caps, *own), campaign.hours, campaign.obeys_quiet_hours)


def scopes_of(campaign: Campaign, category: str | None) -> frozenset[str]:
    """What the pushes of `campaign` about an item of `category` are counted under: what caps may have as scope.

    Kept with each push when it is sent, so that a later change of tags does not change history.
    """
    scopes = {f"channel:{campaign.gateway}", f"campaign:{campaign.name}", *(f"tag:{tag}" for tag in campaign.tags)}
    return frozenset(scopes | ({f"category:{category}"} if category else set()))


def own_hours(quiet_from: time | None, quiet_until: time | None) -> Hours | None:
    """A user's own quiet hours from the two columns; None where they have none. Equal ends are no quiet time at all."""
    return (quiet_from, quiet_until) if quiet_from is not None and quiet_until is not None else None
