"""The workspace's policy in the store: every change is a new version, made from the latest, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from sqlalchemy import Connection, insert, select, text

from engine import audit
from engine.campaigns.loading import build
from engine.campaigns.policy import Cap, GatewayRule, Policy
from engine.errors import BadInput, Conflict, Faulty, UnknownName, did_you_mean
from engine.ingest.hours import refold_default_zone
from engine.store.tables import policies


def current_policy(connection: Connection) -> tuple[int, Policy]:
    """The latest policy with its version. The first migration makes version 1: the defaults."""
    row = connection.execute(select(policies).order_by(policies.c.version.desc()).limit(1)).one()
    return int(row.version), Policy.model_validate(row.definition)


def policy_version(connection: Connection, version: int) -> Policy:
    """The policy of a version. Raises UnknownName."""
    row = connection.execute(select(policies.c.definition).where(policies.c.version == version)).one_or_none()
    if row is None:
        raise UnknownName(f"there is no policy version {version}")
    return Policy.model_validate(row.definition)


def save_policy(
    connection: Connection, change: Callable[[Policy], Policy], author: str | None = None
) -> tuple[int, Policy]:
    """Apply `change` to the latest policy and store the result as a new version; unchanged, it keeps its version.

    Concurrent changes wait for each other until the transaction ends, so none is lost. Another default zone moves the
    hour profiles of the users who live by it, in the same transaction.
    """
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('horae.policy'))"))
    version, policy = current_policy(connection)
    changed = change(policy)
    if changed == policy:
        return version, policy
    definition = changed.model_dump(mode="json")
    row = insert(policies).values(definition=definition, author=author).returning(policies.c.version)
    saved = int(connection.execute(row).scalar_one())
    before, after = audit.differing(policy.model_dump(mode="json"), definition)
    audit.record(connection, author, "policy.change", "policy", before, after)
    if changed.default_timezone != policy.default_timezone:
        refold_default_zone(connection)
    return saved, changed


RULES = (
    "default_timezone",
    "quiet_hours",
    "min_gap",
    "holdout",
    "pushes_per_stock",
    "keep_events_days",
    "keep_deliveries_days",
    "keep_decisions_days",
)
"""The workspace's rules that are single values."""


def change_rules(
    connection: Connection, changes: Mapping[str, object], author: str | None = None
) -> tuple[int, Policy]:
    """Change some of RULES, as their text or JSON value, None for none; the policy's version, and the policy.

    Raises BadInput where nothing or another rule is to be changed, Faulty for values that make no sense.
    """
    if not changes:
        raise BadInput("nothing to set", hint=f"there is {', '.join(RULES)}")
    for name in changes:
        if name not in RULES:
            said = f"{name} is no rule of the workspace"
            raise Faulty(said, [((name,), said)], hint=did_you_mean(name, RULES) or f"there is {', '.join(RULES)}")
    return save_policy(connection, lambda policy: build(Policy, {**policy.model_dump(mode="json"), **changes}), author)


def add_cap(connection: Connection, cap: Cap, author: str | None = None) -> tuple[int, Cap]:
    """Add a cap under the next id (cap-1, cap-2, …); returns the policy's version and the cap with its id.

    Raises Conflict where a cap of the same scope and window exists: two limits for one thing are a mistake.
    """
    added: list[Cap] = []

    def change(policy: Policy) -> Policy:
        same = next((old for old in policy.caps if (old.scope, old.window) == (cap.scope, cap.window)), None)
        if same is not None:
            raise Conflict(f"{same.id} already says {same}", hint=f"remove it first: horae caps remove {same.id}")
        added.append(cap.model_copy(update={"id": f"cap-{_next_number(connection)}"}))
        return policy.model_copy(update={"caps": (*policy.caps, added[0])})

    version, _ = save_policy(connection, change, author)
    return version, added[0]


def remove_cap(connection: Connection, cap_id: str, author: str | None = None) -> tuple[int, Cap]:
    """Remove a cap by its id; returns the policy's version and the cap. Raises UnknownName with the ids there are."""
    removed: list[Cap] = []

    def change(policy: Policy) -> Policy:
        removed.extend(cap for cap in policy.caps if cap.id == cap_id)
        if not removed:
            ids = ", ".join(cap.id for cap in policy.caps)
            raise UnknownName(f"there is no cap {cap_id!r}", hint=f"caps: {ids}" if ids else "there are no caps")
        return policy.model_copy(update={"caps": tuple(cap for cap in policy.caps if cap.id != cap_id)})

    version, _ = save_policy(connection, change, author)
    return version, removed[0]


def set_gateway(
    connection: Connection,
    name: str,
    limits: Mapping[str, str | None],
    known: Collection[str],
    author: str | None = None,
) -> tuple[int, GatewayRule | None]:
    """Change what a gateway's provider takes: per_quarter, per_minute and per_device_day, "none" for no limit, None to
    leave it.

    Returns the policy's version and the rule, None where there is no limit left. Raises UnknownName for a gateway that
    is not configured, BadInput for a limit that is no whole number above 0.
    """
    if name not in known:
        hint = did_you_mean(name, known)
        raise UnknownName(f"there is no gateway {name!r}", hint=hint or f"configured: {', '.join(sorted(known))}")
    given = {key: None if value == "none" else value for key, value in limits.items() if value is not None}
    if not given:
        raise BadInput("nothing to set", hint="say --per-quarter, --per-minute or --per-device-day")
    found: list[GatewayRule] = []

    def change(policy: Policy) -> Policy:
        old = next((rule for rule in policy.gateways if rule.gateway == name), None)
        merged = {**(old.model_dump() if old else {}), "gateway": name, **given}
        if any(merged.get(key) is not None for key in limits):
            found.append(build(GatewayRule, merged))
        others = tuple(rule for rule in policy.gateways if rule.gateway != name)
        return policy.model_copy(update={"gateways": (*others, *found)})

    version, _ = save_policy(connection, change, author)
    return version, found[0] if found else None


def _next_number(connection: Connection) -> int:
    """One more than any cap ever had: an id names one cap in all versions, refusals and receipts."""
    highest = connection.execute(
        text(
            "SELECT max(substring(cap->>'id' FROM '^cap-([0-9]{1,9})$')::bigint)"
            " FROM policies, jsonb_array_elements(coalesce(definition->'caps', '[]'::jsonb)) cap"
        )
    ).scalar()
    return (highest or 0) + 1
