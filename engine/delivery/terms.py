"""The terms of campaigns, parsed once: rules, limits and messages under the policy in force, and the key that signs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Connection

from engine.campaigns.definition import Campaign
from engine.campaigns.experiment import Split, split_of
from engine.campaigns.policy import Policy
from engine.campaigns.policy_store import current_policy
from engine.campaigns.rules import Rules, rules_of, scopes_of
from engine.campaigns.store import get_version
from engine.campaigns.template import Compiled, compile_message
from engine.delivery.callback_keys import signing_key
from engine.delivery.callback_token import CallbackKey
from engine.delivery.limits import Limit, Limits, horizon_of, limits_of
from engine.planning.runspec import secret_of


@dataclass(frozen=True)
class Standing:
    """What pushes of one campaign about items of one category count under, sorted, and what they obey."""

    scopes: tuple[str, ...]
    limits: Limits


@dataclass(frozen=True)
class Terms:
    """One version of a campaign with the rules that hold for it and its parsed message."""

    campaign: Campaign
    rules: Rules
    message: Compiled
    split: Split | None = None
    """How its users get variants of the message; None: nothing is under test."""
    _standings: dict[str | None, Standing] = field(default_factory=dict, compare=False)
    _limits: dict[tuple[Limit, ...], Limits] = field(default_factory=dict, compare=False)

    def standing(self, category: str | None) -> Standing:
        """How caps see a push about an item of `category`; equal limits are one object, which is compiled once."""
        if category not in self._standings:
            scopes = scopes_of(self.campaign, category)
            unasked = self.campaign.counts_toward_caps and not self.campaign.obeys_caps and not self.transactional
            limits = limits_of(self.rules.caps, self.rules.policy.min_gap, scopes, unasked=unasked)
            self._standings[category] = Standing(tuple(sorted(scopes)), self._limits.setdefault(limits.each, limits))
        return self._standings[category]

    @property
    def transactional(self) -> bool:
        """Whether its pushes are sent at least once, instead of at most once."""
        return self.campaign.class_ == "transactional"


class Book:
    """The policy in force, the terms of campaigns, parsed once, and the key that signs callback tokens; `refresh` reads
    policy and key again."""

    def __init__(self) -> None:
        self.policy = Policy.model_validate({})
        self.callback_key: CallbackKey | None = None
        self._policy_version = 0
        self._terms: dict[tuple[int, int], Terms] = {}

    def refresh(self, connection: Connection) -> None:
        """Take over a newer policy and key."""
        self.callback_key = signing_key(connection)
        version, policy = current_policy(connection)
        if version != self._policy_version:
            self._policy_version, self.policy, self._terms = version, policy, {}

    def terms(self, connection: Connection, campaign_id: int, version: int) -> Terms:
        """The terms of one version of a campaign under the policy in force."""
        key = (campaign_id, version)
        if key not in self._terms:
            campaign = get_version(connection, campaign_id, version)
            tested = campaign.message.experiment
            split = None if tested is None else split_of(secret_of(connection), campaign_id, tested)
            message = compile_message(campaign.message)
            self._terms[key] = Terms(campaign, rules_of(self.policy, campaign), message, split)
        return self._terms[key]

    def signer(self, at: datetime) -> Callable[[UUID], str]:
        """Gives the tokens by which callbacks about pushes attempted at `at` are authenticated. After `refresh`."""
        if self.callback_key is None:
            raise ValueError("the book has not been refreshed")
        return self.callback_key.signer(at)

    def horizon(self, deadline: timedelta) -> timedelta:
        """How far back the caps look that hold for any campaign seen so far."""
        caps = [*self.policy.caps, *(cap for terms in self._terms.values() for cap in terms.rules.caps)]
        return horizon_of(caps, self.policy.min_gap, deadline)
