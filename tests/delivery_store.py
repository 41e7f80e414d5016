"""Planned pushes for delivery's tests, written directly: no planner is needed to be able to send."""

from __future__ import annotations

import json
import math
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

from sqlalchemy import Connection, text

from engine import clock
from engine.campaigns import store
from engine.campaigns.definition import Campaign
from engine.campaigns.policy import Cap, Policy
from engine.campaigns.policy_store import save_policy
from engine.delivery.dispatch import dispatch_due
from engine.delivery.gateways import Gateway, Kind, Outcome, Outgoing
from engine.runtime import Runtime
from engine.store.database import Database
from engine.store.slots import slot_of
from engine.store.tables import EVENT_TYPES

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
"""A Monday; business time stands still here unless a test moves it."""

POINTS = ("after_claim", "after_reserve", "after_intent", "after_send", "after_record", "after_commit")
"""Where a worker may be killed."""


@dataclass
class DeliveryShop:
    """A workspace with users, items, campaigns and planned pushes. Business time is virtual, at `now`."""

    database: Database
    now: datetime = NOON
    run_id: int = 0
    occurrences: dict[str, int] = field(default_factory=dict)
    _open: Connection | None = None

    def __post_init__(self) -> None:
        with self.database.begin() as connection:
            clock.start_virtual(connection, self.now)
            self.run_id = connection.execute(
                text(
                    "INSERT INTO runs (state, as_of, seed, policy_version, shards_total)"
                    " VALUES ('published', :as_of, 1, 1, 1) RETURNING id"
                ),
                {"as_of": self.now - timedelta(hours=6)},
            ).scalar_one()
        self.policy()

    def policy(self, *caps: Cap, **rules: Any) -> Policy:
        """The workspace's rules from now on: `caps`, no quiet hours unless given."""
        definition = {"quiet_hours": None, "caps": [cap.model_dump(mode="json") for cap in caps], **rules}
        with self.database.begin() as connection:
            return save_policy(connection, lambda _: Policy.model_validate(definition))[1]

    def campaign(self, name: str = "bread", **definition: Any) -> int:
        """A running campaign with one occurrence; its id."""
        spec = {
            "name": name,
            "class": "marketing",
            "message": {"title": "Hello {{ user.id }}", "body": "News from {{ campaign.name }}"},
            **definition,
        }
        with self.database.begin() as connection:
            stored = store.create(connection, Campaign.model_validate(spec), self.now).stored
            self.occurrences[name] = self._occurrence(connection, stored.id, "first")
        return stored.id

    def another_occurrence(self, name: str, label: str) -> None:
        """Pushes of campaign `name` belong to this new occurrence from now on."""
        with self.database.begin() as connection:
            self.occurrences[name] = self._occurrence(connection, store.get(connection, name).id, label)

    def _occurrence(self, connection: Any, campaign_id: int, label: str) -> int:
        found: int = connection.execute(
            text(
                "INSERT INTO occurrences (campaign_id, version, label, date, starts_at, ends_at, run_id, data)"
                " VALUES (:campaign, 1, :label, :date, :starts, :ends, :run, :data) RETURNING id"
            ),
            {
                "campaign": campaign_id,
                "label": label,
                "date": self.now.date(),
                "starts": self.now - timedelta(hours=1),
                "ends": self.now + timedelta(days=1),
                "run": self.run_id,
                "data": json.dumps({"code": "SPRING"}),
            },
        ).scalar_one()
        return found

    def user(self, name: str, *, consent: bool | None = True, timezone: str | None = "UTC", **columns: Any) -> int:
        """A user; their id. The same name is the same user."""
        values = {"timezone": timezone, "consent": consent, "external_id": name, "slot": slot_of(name), **columns}
        return int(self._insert("users", values, conflict="external_id"))

    def item(self, name: str, **columns: Any) -> int:
        """An item; its id."""
        return int(
            self._insert("items", {"external_id": name, "title": name.title(), **columns}, conflict="external_id")
        )

    def device(self, user: str, token: str, gateway: str, **columns: Any) -> int:
        """A device of a user; its id."""
        values = {"user_id": self.user(user), "gateway": gateway, "token": token, "seen_at": self.now, **columns}
        return int(self._insert("devices", values, conflict="gateway, token"))

    def push(
        self,
        user: str = "u1",
        campaign: str = "bread",
        *,
        item: str | None = None,
        send_at: datetime | None = None,
        window_end: datetime | None = None,
        **columns: Any,
    ) -> uuid.UUID:
        """A planned push, due now unless told otherwise, in a window that ends in two hours."""
        with self._together() as connection:
            stored = store.get(connection, campaign)
        item_id = self.item(item) if item else None
        when = {"send_at": send_at, "window_end": window_end}
        values = self._planned(stored, user, self.user(user), **when, **{"item_id": item_id, **columns})
        self._insert("pushes", values)
        return uuid.UUID(str(values["id"]))

    def _planned(
        self,
        stored: store.Stored,
        user: str,
        whose: int,
        *,
        send_at: datetime | None = None,
        window_end: datetime | None = None,
        **columns: Any,
    ) -> dict[str, Any]:
        send_at = send_at or self.now
        return {
            "id": uuid.uuid4(),
            "state": "planned",
            "date": self.now.date(),
            "occurrence_id": self.occurrences[stored.name],
            "campaign_id": stored.id,
            "run_id": self.run_id,
            "user_id": whose,
            "slot": slot_of(user),
            "revision": 0,
            "gateway": stored.definition.gateway,
            "window_start": send_at - timedelta(hours=1),
            "window_end": window_end or send_at + timedelta(hours=2),
            "send_at": send_at,
            "not_after": self.now + timedelta(days=2),
            "value": 1.0,
            "price": 0.0,
            **columns,
        }

    def pushes(
        self, users: Sequence[str], campaign: str = "bread", *, item: str | None = None, **columns: Any
    ) -> list[uuid.UUID]:
        """A planned push for each of `users`."""
        with self._together() as connection:
            stored = store.get(connection, campaign)
            added = text(
                "INSERT INTO users (external_id, slot, timezone, consent)"
                " SELECT name, slot, 'UTC', true"
                " FROM unnest(CAST(:names AS text[]), CAST(:slots AS int[])) AS u (name, slot)"
                " ON CONFLICT (external_id) DO UPDATE SET external_id = excluded.external_id RETURNING external_id, id"
            )
            given = {"names": list(users), "slots": [slot_of(user) for user in users]}
            ids = {row.external_id: row.id for row in connection.execute(added, given)}
            item_id = self.item(item) if item else None
            rows = [self._planned(stored, user, ids[user], **{"item_id": item_id, **columns}) for user in users]
            names = list(rows[0])
            places = ", ".join(f":{name}" for name in names)
            connection.execute(text(f"INSERT INTO pushes ({', '.join(names)}) VALUES ({places})"), rows)
        return [row["id"] for row in rows]

    def purchase(self, user: str, item: str, at: datetime, received: datetime | None = None) -> None:
        """A purchase event."""
        self._insert(
            "events",
            {
                "key": uuid.uuid4(),
                "user_id": self.user(user),
                "item_id": self.item(item),
                "event_type": EVENT_TYPES["purchase"],
                "occurred_at": at,
                "received_at": received or at,
            },
            returning="key",
        )

    def deliveries(self) -> list[Mapping[str, Any]]:
        """The ledger, oldest first."""
        with self.database.begin() as connection:
            rows = connection.execute(text("SELECT * FROM deliveries ORDER BY recorded_at, id"))
            return [dict(row._mapping) for row in rows]

    def ended(self) -> Counter[str]:
        """How many pushes ended in each state and reason."""
        return Counter(
            row["state"] + (f".{row['reason']}" if row["reason"] else "")
            for row in self.deliveries()
            if not row["test"]
        )

    def hot(self) -> list[Mapping[str, Any]]:
        """The push rows that are left."""
        with self.database.begin() as connection:
            return [dict(row._mapping) for row in connection.execute(text("SELECT * FROM pushes ORDER BY send_at, id"))]

    def left(self) -> int:
        """How many push rows are left."""
        with self.database.begin() as connection:
            return int(connection.execute(text("SELECT count(*) FROM pushes")).scalar_one())

    def sql(self, statement: str, **parameters: Any) -> None:
        """Run a statement."""
        with self.database.begin() as connection:
            connection.execute(text(statement), parameters)

    def waited(self) -> None:
        """Machine time passes until open breakers may be probed and backoffs are over."""
        self.sql("UPDATE breakers SET until = clock_timestamp() WHERE state <> 'closed'")
        self.sql("UPDATE pushes SET not_before = NULL")

    def _insert(
        self, table: str, values: Mapping[str, Any], *, conflict: str | None = None, returning: str = "id"
    ) -> Any:
        shown = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in values.items()}
        columns = ", ".join(shown)
        places = ", ".join(f":{name}" for name in shown)
        first = conflict.partition(",")[0] if conflict else ""
        clash = f"ON CONFLICT ({conflict}) DO UPDATE SET {first} = excluded.{first}" if conflict else ""
        statement = f"INSERT INTO {table} ({columns}) VALUES ({places}) {clash} RETURNING {returning}"
        with self._together() as connection:
            return connection.execute(text(statement), shown).scalar_one()

    @contextmanager
    def _together(self) -> Iterator[Connection]:
        """One transaction for everything inside."""
        if self._open is not None:
            yield self._open
            return
        with self.database.begin() as connection:
            self._open = connection
            try:
                yield connection
            finally:
                self._open = None


class Pigeon:
    """A provider with devices that answers as told: `answers` in turn, then ACCEPTED."""

    name = "pigeon"
    timeout = timedelta(seconds=1)

    def __init__(self, *answers: Outcome, needs_device: bool = False) -> None:
        self.needs_device = needs_device
        self.answers = list(answers)
        self.answer: Callable[[Outgoing], Outcome] = lambda message: (
            self.answers.pop(0) if self.answers else Outcome(Kind.ACCEPTED)
        )
        self.got: list[Outgoing] = []

    def send_many(self, messages: Sequence[Outgoing], start_by: float = math.inf) -> list[Outcome]:
        self.got += messages
        return [self.answer(message) for message in messages]

    def close(self) -> None:
        """Nothing is open."""


def with_gateway(runtime: Runtime, gateway: Gateway) -> Runtime:
    """The same deployment with one more gateway."""
    opened = Runtime(runtime.settings, runtime.database, runtime.redis_url, runtime.broker_url, runtime.caps_url)
    opened.__dict__["gateways"] = {**runtime.gateways, gateway.name: gateway}  # where cached_property keeps it
    return opened


def dispatch(runtime: Runtime, gateway: Gateway, now: datetime = NOON, **options: Any) -> dict[str, int]:
    """One pass with one more gateway, with the same chance each time."""
    return dispatch_due(with_gateway(runtime, gateway), now, rng=Random(1), **options)


def users(number: int, name: str = "u") -> list[str]:
    """Names of users."""
    return [f"{name}{n}" for n in range(number)]


def journal(path: Path) -> list[dict[str, Any]]:
    """The lines of a log gateway's journal."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def received(path: Path) -> Counter[tuple[int | None, str]]:
    """How often the provider received each (occurrence, user)."""
    return Counter((line["occurrence_id"], line["user_id"]) for line in journal(path))
