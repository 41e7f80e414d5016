"""Messages that come by HTTP into the store: each is accepted for good, or refused with a reason, and never lost.

First the events, with the queue of those no profile holds yet, in one transaction; then what was said about people
(traits and other names, then zones of devices). The caller answers after all of it: who gets no answer sends again, and
what was done already is not done twice.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, TypeVar

import numpy as np
import psycopg
import pyarrow as pa
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from engine.clock import business_now
from engine.errors import BadInput, Unavailable
from engine.ingest.block import Block, Reject
from engine.ingest.check import check_devices, check_events, check_users
from engine.ingest.devices import store_devices
from engine.ingest.entities import store_users
from engine.ingest.erased import ERASED, any_erased, erased_among
from engine.ingest.event_rows import EventRows
from engine.ingest.names import known_names, link_names, say_device_zones, say_new_zones
from engine.ingest.options import DEFAULTS
from engine.ingest.segment import Message, Refused, all_fit, read_message
from engine.ingest.write import Recording, claim_ids, ensure_months, months_of, record_events
from engine.store.bulk import fetch
from engine.store.database import Database, Transactions

SOURCE = "segment"
"""Whose event ids messageIds are."""

SLOWEST_MILLISECONDS = 15_000
"""Of one statement: then the caller is told to come again."""

ATTEMPTS = 3
"""At a transaction that another one stood in the way of."""

TOGETHER = 50
"""Messages whose size is looked at together."""

_IN_THE_WAY = {"40001", "40P01"}
_TOO_SLOW = {"57014", "55P03"}

T = TypeVar("T")


@dataclass
class Taken:
    """What became of some messages: `accepted` are in the store; `refused`: place → why."""

    accepted: int = 0
    refused: dict[int, str] = field(default_factory=dict)


class LiveIntake:
    """Takes messages into one store."""

    def __init__(self, database: Database, gateways: Collection[str] = ()) -> None:
        """`gateways`: those that devices may be registered for, by name."""
        self._database, self._gateways = database, gateways
        self._months: set[date] = set()
        self._all_new = True  # whether the last batch was: retries come in bursts

    def accept(
        self, raws: Sequence[object], *, kind: str | None = None, sent_at: object = None, history: bool = False
    ) -> Taken:
        """Take messages in Segment's specification; see segment.read_message.

        After it the accepted are durable. Raises StoreUnavailable or Unavailable, after which none, or only events, may
        be: sending all again is right.
        """
        with self._database.hold() as store:
            return self._accept(store, raws, kind, sent_at, history)

    def _accept(
        self, store: Transactions, raws: Sequence[object], kind: str | None, sent_at: object, history: bool
    ) -> Taken:
        with store.apart() as connection:
            now = business_now(connection)
            taken, messages = _read(raws, now, kind=kind, sent_at=sent_at, history=history)
            names = _Names(known_names(connection, [m.anonymous_id for m in messages.values() if m.anonymous_id]))
            users = {place: names.of(message) for place, message in messages.items()}
            # Who is erased from now on is left out where the rows are written.
            gone = erased_among(connection, set(users.values())) if any_erased(connection) else set()
        taken.refused |= {place: ERASED for place, user in users.items() if user in gone}
        people, problems = _people([messages[p] for p in messages if messages[p].traits is not None], users)
        rows, places, more = _events(messages, users, now, secrets.token_hex(8))
        for place, why in {**problems, **more}.items():
            taken.refused.setdefault(place, why)
        good = np.flatnonzero(~np.isin(places, np.array(list(taken.refused), np.int64)))
        zones = {users[p]: m.zone for p, m in messages.items() if m.zone is not None and p not in taken.refused}
        if len(good) < len(places):
            rows, places = rows.take(good), places[good]
        taken.refused |= self._record(store, (rows, places), zones, now)
        said = [one for one in people if one.place not in taken.refused]
        self._say(store, said, zones, {a: u for p, a, u in names.learned if p not in taken.refused})
        self._register(store, [(users[p], m) for p, m in messages.items() if m.device and p not in taken.refused], now)
        taken.accepted = len(raws) - len(taken.refused)
        return taken

    def _record(
        self, store: Transactions, events: tuple[EventRows, np.ndarray], zones: Mapping[str, str], now: datetime
    ) -> dict[int, str]:
        """Write events in one transaction; place → why, of those the store refuses: then the others are written in
        halves, so that one message harms no other."""
        rows, places = events
        if not len(rows):
            return {}
        missing = months_of(rows) - self._months
        ensure_months(self._database, missing)
        self._months |= missing

        def write(connection: Connection) -> None:
            recorded = record_events(connection, rows, now, Recording(SOURCE, fold=False, expect_new=self._all_new))
            self._all_new = not recorded.duplicates
            say_new_zones(connection, zones)

        try:
            _do(store, write)
        except (BadInput, DBAPIError, psycopg.Error) as error:
            if not _is_about_data(error):
                raise
            distinct = np.unique(places)
            if len(distinct) == 1:
                return {int(distinct[0]): str(error) if isinstance(error, BadInput) else "the store cannot hold it"}
            first = np.isin(places, distinct[: len(distinct) // 2])
            halves = (np.flatnonzero(first), np.flatnonzero(~first))
            parts = [self._record(store, (rows.take(half), places[half]), zones, now) for half in halves]
            return parts[0] | parts[1]
        return {}

    def _say(
        self, store: Transactions, people: Sequence[_Person], zones: Mapping[str, str], links: Mapping[str, str]
    ) -> None:
        def write(connection: Connection) -> None:
            fresh = claim_ids(connection, [one.key for one in people if one.key is not None], SOURCE)
            new = [one for one in people if one.key is None or one.key in fresh]
            if new:
                store_users(connection, check_users(_block([dict(one.columns) for one in new]))[0])
            link_names(connection, links)

        if people or links:
            _do(store, write)
        if zones:  # apart: it takes the fold lock before it locks any row
            _do(store, lambda connection: say_device_zones(connection, zones))

    def _register(self, store: Transactions, messages: Sequence[tuple[str, Message]], now: datetime) -> None:
        """Register the devices that messages (user, message) came from; what cannot be reached by its platform is not.

        Each message says its device again: seen to the hour, most of them change nothing.
        """
        seen: dict[tuple[str, ...], None] = {}
        for user, message in messages:
            assert message.device is not None
            hour = message.at.replace(minute=0, second=0, microsecond=0)
            seen[user, *message.device, hour.astimezone(UTC).isoformat()] = None
        if not seen:
            return
        names = ("user_id", "token", "platform", "registered_at")
        block = _block([dict(zip(names, each, strict=True)) for each in seen])
        rows, _ = check_devices(block, now, DEFAULTS, self._gateways)
        if len(rows):
            _do(store, lambda connection: store_devices(connection, rows, now))


def _do(store: Transactions, work: Callable[[Connection], T]) -> T:
    """`work` in a transaction, again where another one stood in its way."""
    for _ in range(ATTEMPTS):
        try:
            with store.begin() as connection:
                fetch(connection, f"SET LOCAL statement_timeout = {SLOWEST_MILLISECONDS}")
                return work(connection)
        except (DBAPIError, psycopg.Error) as error:
            state = _state(error)
            if state in _TOO_SLOW:
                raise Unavailable("the store is too slow just now", hint="send it again") from error
            if state not in _IN_THE_WAY:
                raise
    raise Unavailable("too many writers stand in each other's way", hint="send it again")


def _read(
    raws: Sequence[object], now: datetime, *, kind: str | None, sent_at: object, history: bool
) -> tuple[Taken, dict[int, Message]]:
    """The messages by place, and those refused."""
    taken, messages = Taken(), dict[int, Message]()
    for start in range(0, len(raws), TOGETHER):
        some = raws[start : start + TOGETHER]
        fits = all_fit(some)
        for place, raw in enumerate(some, start):
            try:
                messages[place] = read_message(place, raw, now, kind=kind, sent_at=sent_at, history=history, fits=fits)
            except Refused as refused:
                taken.refused[place] = str(refused)
    return taken, messages


@dataclass(frozen=True)
class _Person:
    place: int
    key: str | None
    columns: Mapping[str, str | None]


class _Names:
    """Whose an anonymous id is, as known and as the messages say one after the other."""

    def __init__(self, known: Mapping[str, str]) -> None:
        self._known = dict(known)
        self.learned: list[tuple[int, str, str]] = []
        """(place, other name, user) of what was not known."""

    def of(self, message: Message) -> str:
        """The user of a message."""
        user = message.user_id
        if user is None:
            assert message.anonymous_id is not None
            return self._known.get(message.anonymous_id, message.anonymous_id)
        for name in (message.anonymous_id, message.former):
            if name is not None and name != user and self._known.get(name) != user:
                self._known[name] = user
                self.learned.append((message.place, name, user))
        return user


def _people(messages: Sequence[Message], users: Mapping[int, str]) -> tuple[list[_Person], dict[int, str]]:
    """What was said about people, checked, and place → why of what is refused."""
    if not messages:
        return [], {}
    columns = [{"user_id": users[message.place], **(message.traits or {})} for message in messages]
    _, rejects = check_users(_block(columns))
    problems = {messages[reject.line].place: _said(reject) for reject in rejects}
    people = [_Person(m.place, m.key, held) for m, held in zip(messages, columns, strict=True)]
    return [one for one in people if one.place not in problems], problems


def _events(
    messages: Mapping[int, Message], users: Mapping[int, str], now: datetime, nonce: str
) -> tuple[EventRows, np.ndarray, dict[int, str]]:
    """The events of messages, checked, the place of each one's message (int64), and place → why of the refused.

    nonce: what nothing identifies is an event of its own, however equal it looks, by this and its place.
    """
    events: list[Mapping[str, str | None]] = []
    owners, keys, instants, places = [], [], [], []
    for place, message in messages.items():
        key = message.key or f"{nonce}:{place}"
        for number, event in enumerate(message.events):
            events.append(event)
            owners.append(users[place])
            keys.append(key if number == 0 else f"{number}:{key}")
            instants.append(message.at)
            places.append(place)
    columns = {
        **{name: pa.array([event.get(name) for event in events], pa.string()) for name in _SAID},
        "user_id": pa.array(owners, pa.string()),
        "event_id": pa.array(keys, pa.string()),
        "occurred_at": pa.array(instants, _INSTANT),
    }
    block = Block(columns, np.arange(len(events)), lambda row: events[row], _attributes(events))
    rows, rejects = check_events(block, now, DEFAULTS)
    kept = np.delete(np.array(places, np.int64), [reject.line for reject in rejects])
    return rows, kept, {places[reject.line]: _said(reject) for reject in rejects}


_INSTANT = pa.timestamp("us", "UTC")
_SAID = ("event_type", "item_id", "value", "quantity", "push_id")
"""What a message says of an event, as texts."""


def _block(rows: Sequence[Mapping[str, str | None]]) -> Block:
    """Rows of texts by canonical column, and `attributes`, as a block whose lines are positions."""
    names = {name for row in rows for name in row}
    columns: dict[str, Any] = {
        name: pa.array([row.get(name) for row in rows], pa.string()) for name in sorted(names - {"attributes"})
    }
    given = {name: np.array([name in row for row in rows], bool) for name in columns}
    return Block(columns, np.arange(len(rows)), lambda row: rows[row], _attributes(rows), given)


def _attributes(rows: Sequence[Mapping[str, str | None]]) -> pa.StringArray | None:
    attributes = [row.get("attributes") for row in rows]
    return pa.array(attributes, pa.string()) if any(attributes) else None


def _said(reject: Reject) -> str:
    return f"{reject.problem} ({reject.detail})" if reject.detail else reject.problem


def _is_about_data(error: Exception) -> bool:
    return isinstance(error, BadInput) or (_state(error) or "")[:2] in ("22", "23", "54")


def _state(error: Exception) -> str | None:
    cause = error.orig if isinstance(error, DBAPIError) else error
    return getattr(cause, "sqlstate", None)
