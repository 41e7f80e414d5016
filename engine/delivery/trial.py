"""A marked push to one user, to see what a campaign looks like on a phone. It counts nowhere: not toward caps, not in
reports, not for learning. Quiet hours and caps do not hold it back; consent and stop switches do.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import Connection, text

from engine import audit
from engine.campaigns import store
from engine.campaigns.audience import CONSENTLESS, as_sql, items_select
from engine.campaigns.experiment import split_of
from engine.campaigns.policy_store import current_policy
from engine.campaigns.store import Stored
from engine.campaigns.template import Message, arm_spec, compile_message, render
from engine.delivery.callback_keys import signing_key
from engine.delivery.callback_token import CallbackKey
from engine.delivery.facts import ITEM_COLUMNS, USER_COLUMNS, Item, User, chosen_devices, reach_of, user_of
from engine.delivery.gateways import Device, Gateway
from engine.delivery.ledger import REASONS
from engine.delivery.messages import Kind, Outcome, Outgoing
from engine.delivery.outcomes import combine
from engine.delivery.switches import stopped
from engine.errors import BadInput, UnknownName
from engine.ingest.erased import audit_subject
from engine.learning.scoring import load_scorer
from engine.planning.offers import pool
from engine.planning.runspec import secret_of
from engine.store.database import Database
from engine.store.partitions import ensure_partitions

if TYPE_CHECKING:
    from engine.runtime import Runtime

TTL = timedelta(hours=1)

_RECORD = text("""
    INSERT INTO deliveries (day, id, push_id, state, reason, at, campaign_id, user_id, item_id, gateway, attempts,
                            send_at, counts, scopes, test, provider_id, detail)
    VALUES (:day, :id, :id, :state, :reason, :now, :campaign, :user, :item, :gateway, 1,
            :now, false, '{}', true, :provider_id, :detail)
""")


@dataclass(frozen=True)
class Wanted:
    """What a test shows. user: who gets it, by the shop's id · item: what it is about, None: their best · data: for the
    template · variant: the arm of a message under test, None: their own."""

    user: str
    item: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    variant: str | None = None


@dataclass(frozen=True)
class Trial:
    """What was sent for a test and what became of it: `state` is accepted, unknown or rejected."""

    push_id: uuid.UUID
    state: str
    reason: str | None
    detail: str | None
    gateway: str
    user_id: str
    item_id: str | None
    title: str
    body: str
    data: Mapping[str, str]
    variant: str | None = None
    """The arm of the message's experiment that they saw."""


@dataclass(frozen=True)
class _Target:
    """Whom and what a test is about: the store's ids beside what templates see."""

    stored: Stored
    user_id: int
    user: User
    item_id: int | None
    item: Item | None
    devices: tuple[Device, ...]
    key: CallbackKey
    """Signs the push' callback token."""
    variant: str | None


def send_test(
    runtime: Runtime,
    now: datetime,
    campaign: str,
    wanted: Wanted,
    author: str | None = None,
) -> Trial:
    """Send one push of `campaign` as `wanted`. The audit log says that `author` did.

    Raises UnknownName for a campaign, user, item or variant that is not there; BadInput where the gateway is not
    configured or is stopped, the user has not consented or has no device, no item can be found, or the message cannot
    be rendered.
    """
    with runtime.database.begin() as connection:
        stored = store.get(connection, campaign)
        gateway = _gateway(connection, runtime.gateways, stored)
        user_id, person = _find_user(connection, wanted.user)
        devices = chosen_devices(stored.definition, _devices(connection, user_id, gateway))
        arm = _arm(connection, stored, user_id, wanted.variant)
        item_id = _find_item(connection, wanted.item) if wanted.item is not None else None
    _require_willing(person, gateway, devices)
    if item_id is None and stored.definition.items.kind != "none":
        item_id = best_item(runtime.database, stored, user_id, now)
    with runtime.database.begin() as connection:
        thing = _read_item(connection, item_id) if item_id is not None else None
        key = signing_key(connection)
    target = _Target(stored, user_id, person, item_id, thing, devices, key, arm)
    push_id = uuid.uuid4()
    message = _render(target, push_id, wanted.data)
    outcome = combine(gateway.send_many(_outgoing(target, gateway, push_id, message, now)))
    state, reason = _state(outcome)
    _record(runtime.database, target, push_id, now, (state, reason, outcome), author)
    return Trial(
        push_id=push_id,
        state=state,
        reason=reason,
        detail=outcome.detail,
        gateway=gateway.name,
        user_id=person.external_id,
        item_id=thing.external_id if thing else None,
        title=message.title,
        body=message.body,
        data=dict(message.data),
        variant=arm,
    )


def best_item(database: Database, stored: Stored, user_id: int, now: datetime) -> int:
    """The id of the item that the champion model finds best for a user now, among the campaign's items.

    Raises BadInput where there is none.
    """
    with database.snapshot() as snapshot:
        slot = snapshot.connection.execute(text("SELECT slot FROM users WHERE id = :id"), {"id": user_id}).scalar_one()
        scorer = load_scorer(snapshot.connection)
        catalogue = scorer.catalogue(snapshot, now)
        chosen = snapshot.arrow(as_sql(snapshot.connection, items_select(stored.definition.items)))
        allowed = np.isin(catalogue.ids, np.asarray(chosen["id"], np.int64))
        state = scorer.state(snapshot, (slot, slot + 1), now, catalogue, np.array([user_id], np.int64))
        found = pool(scorer, state, allowed)
    if not len(found.item):
        raise BadInput(
            f"campaign {stored.name} has no available item for this user",
            hint="is its items filter too narrow? --item ID tests with a given one",
        )
    return int(catalogue.ids[found.item[np.argmax(found.goal)]])


# --- who and what ----------------------------------------------------------------------------------------------------


def _gateway(connection: Connection, gateways: Mapping[str, Gateway], stored: Stored) -> Gateway:
    name = stored.definition.gateway
    if name not in gateways:
        raise BadInput(f"gateway {name} of campaign {stored.name} is not configured", hint="see the HORAE_ settings")
    scopes = {"all", f"gateway:{name}", f"campaign:{stored.id}"}
    off = next((switch for switch in stopped(connection) if switch.scope in scopes), None)
    if off is not None:
        raise BadInput(f"{off.scope} is stopped" + (f": {off.why}" if off.why else ""), hint="see: horae start")
    return gateways[name]


def _arm(connection: Connection, stored: Stored, user_id: int, wanted: str | None) -> str | None:
    message = stored.definition.message
    if wanted is not None:
        arm_spec(message, wanted)  # that it is under test
        return wanted
    return (
        None
        if message.experiment is None
        else split_of(secret_of(connection), stored.id, message.experiment).arm(user_id)
    )


def _find_user(connection: Connection, external_id: str) -> tuple[int, User]:
    query = text(f"SELECT {USER_COLUMNS} FROM users u WHERE u.external_id = :id")
    row = connection.execute(query, {"id": external_id}).one_or_none()
    if row is None:
        raise UnknownName(f"there is no user {external_id!r}", hint="users come from: horae ingest users FILE")
    return int(row.id), user_of(row, current_policy(connection)[1])


def _find_item(connection: Connection, external_id: str) -> int:
    query = text("SELECT id FROM items WHERE external_id = :id")
    found = connection.execute(query, {"id": external_id}).scalar_one_or_none()
    if found is None:
        raise UnknownName(f"there is no item {external_id!r}", hint="items come from: horae ingest items FILE")
    return int(found)


def _read_item(connection: Connection, item_id: int) -> Item:
    query = text(f"SELECT {ITEM_COLUMNS} FROM items i WHERE i.id = :id")
    return Item._make(connection.execute(query, {"id": item_id}).one())


def _devices(connection: Connection, user_id: int, gateway: Gateway) -> tuple[Device, ...]:
    query = text(
        "SELECT id, token, gateway, seen_at, attributes FROM devices d"
        " WHERE user_id = :user AND gateway = ANY(:gateways) AND dead_at IS NULL"
        " AND NOT EXISTS (SELECT 1 FROM switches s WHERE s.scope = 'gateway:' || d.gateway)"
        " ORDER BY seen_at DESC, id DESC"
    )
    reached = reach_of({gateway.name: gateway}).get(gateway.name, frozenset())
    rows = connection.execute(query, {"user": user_id, "gateways": sorted(reached)})
    return tuple(Device(*row) for row in rows)


def _require_willing(user: User, gateway: Gateway, devices: tuple[Device, ...]) -> None:
    if user.consent is False or (user.consent is None and gateway.name not in CONSENTLESS):
        raise BadInput(f"user {user.external_id} has not consented to pushes")
    if gateway.needs_device and not devices:
        raise BadInput(f"user {user.external_id} has no device registered for {gateway.name}")


# --- sending ---------------------------------------------------------------------------------------------------------


def _render(target: _Target, push_id: uuid.UUID, data: Mapping[str, Any]) -> Message:
    return render(
        compile_message(target.stored.definition.message).of(target.variant),
        target.user.fields(),
        target.item.fields() if target.item else None,
        data,
        target.user.locale,
        campaign={"name": target.stored.name},
        push={"id": str(push_id)},
    )


def _outgoing(target: _Target, gateway: Gateway, push_id: uuid.UUID, message: Message, now: datetime) -> list[Outgoing]:
    return [
        Outgoing(
            push_id=push_id,
            occurrence_id=None,
            campaign=target.stored.name,
            user_id=target.user.external_id,
            item_id=target.item.external_id if target.item else None,
            title=message.title,
            body=message.body,
            data=message.data,
            collapse_id=push_id.hex,
            at=now,
            ttl=TTL,
            urgent=True,
            test=True,
            device=device,
            callback_token=target.key.sign(push_id, now),
        )
        for device in (target.devices if gateway.needs_device else (None,))
    ]


def _state(outcome: Outcome) -> tuple[str, str | None]:
    if outcome.kind is Kind.ACCEPTED:
        return "accepted", None
    if outcome.kind is Kind.UNKNOWN:
        return "unknown", "no_answer"
    return "rejected", outcome.kind.value if outcome.kind.value in REASONS["rejected"] else "attempts"


def _record(
    database: Database,
    target: _Target,
    push_id: uuid.UUID,
    now: datetime,
    end: tuple[str, str | None, Outcome],
    author: str | None,
) -> None:
    state, reason, outcome = end
    day = now.astimezone(UTC).date()
    ensure_partitions(database, "deliveries", day, day)
    row = {
        "day": day,
        "id": push_id,
        "state": state,
        "reason": reason,
        "now": now,
        "campaign": target.stored.id,
        "user": target.user_id,
        "item": target.item_id,
        "gateway": target.stored.definition.gateway,
        "provider_id": outcome.provider_id,
        "detail": outcome.detail,
    }
    with database.begin() as connection:
        connection.execute(_RECORD, row)
        # Not the user's id: the audit log forgets nothing.
        after = {"push": push_id, "user": audit_subject(connection, target.user.external_id), "state": state}
        audit.record(connection, author, "campaign.test", f"campaign:{target.stored.name}", None, after)
