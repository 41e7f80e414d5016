"""Scopes, and the roles that are names for sets of them (pure).

    write     events, items, devices and callbacks come in
    read      what is known and was decided: recommendations, explanations, campaigns, runs, reports, metrics
    operate   campaigns are created, edited, launched, triggered, paused; sending is stopped and let go on
    admin     keys, users, the policy, the audit log, exporting and erasing people

A key has scopes, a person at the console a role. Each role may what those before it may.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from engine.errors import UnknownName, did_you_mean

SCOPES = ("write", "read", "operate", "admin")

ROLES = {
    "viewer": frozenset({"read"}),
    "operator": frozenset({"read", "operate"}),
    "admin": frozenset(SCOPES),
}


@dataclass(frozen=True)
class Grant:
    """What a caller may do. actor: what the audit log calls them · key_id: the key they came with, None for people ·
    rate: messages a second of that key, None: the deployment's."""

    actor: str
    scopes: frozenset[str]
    key_id: str | None = None
    rate: int | None = None

    def may(self, scope: str) -> bool:
        """Whether this covers `scope`."""
        return scope in self.scopes


def scopes_of(role: str) -> frozenset[str]:
    """What `role` may. Raises UnknownName."""
    if role not in ROLES:
        raise UnknownName(f"unknown role {role!r}", hint=did_you_mean(role, ROLES) or ", ".join(ROLES))
    return ROLES[role]


def role_of(scopes: Collection[str]) -> str | None:
    """The role that is exactly these scopes; None where none is."""
    return next((role for role, those in ROLES.items() if those == frozenset(scopes)), None)


def least_role(scope: str) -> str | None:
    """The first role that may `scope`; None for no scope of ours."""
    return next((role for role, those in ROLES.items() if scope in those), None)
