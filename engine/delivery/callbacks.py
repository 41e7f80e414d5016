"""Callbacks: what phones and browsers say became of a push, authenticated by the token that the push itself carried.

One callback is one JSON object; times are ISO 8601 with an offset:

    push_id, callback_token   as the push' payload carries them (required)
    event                     received | opened | clicked | dismissed | converted | uninstalled (required)
    at                        when it happened; absent: now
    user_id                   who is logged in; another user than the push' is refused
    item_id, value, quantity  of `converted`; absent: the push' item
    event_type                of `converted`: what the shop calls its goal; absent: purchase
    id                        of `converted`: the event_id that the shop's own log gives this event, if it does
    device_token              of `uninstalled`: the device that is gone

Each becomes an event on the ordinary path, with the push' id: from there it reaches labels, fatigue, hours and reports.
The same answer of the same push is one event, however often and from however many devices it comes; conversions with
ids of their own are as many events. Those ids are the shop's: where its log brings the same event, that is one too.

An answer may overtake our own ledger (a quick thumb while the provider's answer is being recorded): the token proves
that the push left, so pushes under way take answers too. Phones' clocks are wrong by minutes: within SKEW an answer
from the future happened now, and one from before the delivery at the delivery.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
from sqlalchemy import Connection, Row, text

from engine.delivery.callback_keys import verifying_keys
from engine.delivery.callback_token import TOKEN_LIFE
from engine.delivery.callback_words import Callback, Refused, read_callback
from engine.errors import BadInput
from engine.ingest.event_rows import EventRows
from engine.ingest.write import Recording, ensure_months, months_of, record_events
from engine.store import counters
from engine.store.database import Database

MOST_AT_ONCE = 500
"""Callbacks of one call, which is one transaction."""

SKEW = timedelta(minutes=5)
"""How wrong a phone's clock may be."""

OWN_SOURCE = "horae.callbacks"
"""Whose event ids those of callbacks are."""

_DELIVERED = ("accepted", "unknown")

# Tokens say when the push was attempted: only the partitions from there on are looked at. An attempt in doubt may be
# recorded with its push' end, days later.
_FIND = text("""
    SELECT x.push_id, x.state, x.at, x.left_here, x.test, u.id AS user_id, u.external_id AS user, i.external_id AS item
    FROM (
        SELECT d.push_id, d.state, d.at, d.state = ANY(:delivered) AS left_here, d.test, d.user_id, d.item_id
        FROM deliveries d
        WHERE d.push_id = ANY(CAST(:ids AS uuid[])) AND d.day BETWEEN CAST(:since AS date) AND CAST(:until AS date)
        UNION ALL
        SELECT p.id, p.state, NULL, p.state = 'sending' OR p.in_doubt, false, p.user_id, p.item_id
        FROM pushes p WHERE p.id = ANY(CAST(:ids AS uuid[]))
    ) x
    JOIN users u ON u.id = x.user_id
    LEFT JOIN items i ON i.id = x.item_id
""")

_BURY = text("""
    UPDATE devices d SET dead_at = gone.at, dead_reason = 'uninstalled'
    FROM unnest(CAST(:users AS bigint[]), CAST(:tokens AS text[]), CAST(:ats AS timestamptz[]))
         AS gone (user_id, token, at)
    WHERE d.user_id = gone.user_id AND d.token = gone.token AND d.dead_at IS NULL AND d.seen_at <= gone.at
""")


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one callback.

    status: accepted (an event now) | repeated (it was one already) | test (of a test push: counted nowhere) | refused ·
    reason: of REFUSALS, where refused · detail: for the person who reads it.
    """

    status: str
    reason: str | None = None
    detail: str | None = None


@dataclass(frozen=True)
class _Taken:
    """A callback that becomes an event: where it stood in the call, when it happened, whose it is."""

    place: int
    callback: Callback
    at: datetime
    push: Row[Any]


def accept(database: Database, now: datetime, callbacks: Sequence[object]) -> list[Answer]:
    """Take up to MOST_AT_ONCE callbacks (JSON objects as read) received at business time `now`; answers in their order.

    What is refused changes nothing and stops no other. Safe to repeat. Raises BadInput for more than MOST_AT_ONCE.
    """
    if len(callbacks) > MOST_AT_ONCE:
        raise BadInput(f"{len(callbacks):,} callbacks in one call", hint=f"send at most {MOST_AT_ONCE} at a time")
    answers: list[Answer] = [Answer("accepted")] * len(callbacks)
    with database.begin() as connection:
        keys = verifying_keys(connection)
        read: dict[int, Callback] = {}
        for place, raw in enumerate(callbacks):
            try:
                read[place] = read_callback(raw, keys, now)
            except Refused as refused:
                answers[place] = Answer("refused", refused.reason, refused.detail)
        pushes = _find(connection, read.values(), now)
    taken = []
    for place, callback in read.items():
        found = _place_of(callback, pushes.get(callback.push_id), now)
        if isinstance(found, Answer):
            answers[place] = found
        else:
            taken.append(_Taken(place, callback, *found))
    for own in (True, False):
        part = [one for one in taken if (one.callback.id is None) == own]
        for place in _record(database, part, now, OWN_SOURCE if own else ""):
            answers[place] = Answer("repeated")
    _count(database, [(read.get(place), answer) for place, answer in enumerate(answers)])
    return answers


def _find(connection: Connection, callbacks: Iterable[Callback], now: datetime) -> dict[UUID, Row[Any]]:
    """What is known of the pushes that these callbacks name."""
    known = list(callbacks)
    if not known:
        return {}
    first = min(callback.ends for callback in known) - TOKEN_LIFE
    given = {
        "ids": "{" + ",".join(sorted({str(callback.push_id) for callback in known})) + "}",
        "since": (first - timedelta(days=1)).date(),
        "until": (now + timedelta(days=1)).date(),
        "delivered": list(_DELIVERED),
    }
    return {row.push_id: row for row in connection.execute(_FIND, given)}


def _place_of(callback: Callback, push: Row[Any] | None, now: datetime) -> Answer | tuple[datetime, Row[Any]]:
    """When the callback's event happened, and its push; or why it is no event."""
    if push is None:
        return Answer("refused", "unknown_push", "no such push, or its user was erased, or it is too long ago")
    at = callback.at or now
    refusal = _refusal(callback, push, at, now)
    if refusal is not None:
        return Answer("refused", *refusal)
    if push.test:
        return Answer("test", detail="a test push: it counts nowhere")
    return min(max(at, push.at or at), now), push


def _refusal(callback: Callback, push: Row[Any], at: datetime, now: datetime) -> tuple[str, str] | None:
    """Why an answer at `at` is refused, and a detail; None where it is not."""
    if not push.left_here and push.at is None:
        return "before_delivery", "it has not been sent"
    if not push.left_here:
        return "not_delivered", f"it ended as {push.state}"
    if callback.user_id is not None and callback.user_id != push.user:
        return "foreign_push", "the push is another user's"
    if at > now + SKEW:
        return "from_the_future", f"at {at.isoformat()}, now it is {now.isoformat()}"
    if push.at is not None and at < push.at - SKEW:
        return "before_delivery", f"at {at.isoformat()}, delivered at {push.at.isoformat()}"
    return None


def _record(database: Database, taken: Sequence[_Taken], now: datetime, source: str) -> list[int]:
    """Write their events in one transaction; the places of those that were events already."""
    if not taken:
        return []
    rows = _rows(taken)
    keys = [key.tobytes() for key in rows.keys(source)]
    ensure_months(database, months_of(rows))
    with database.begin() as connection:
        known = _known(connection, keys)
        record_events(connection, rows, now, Recording(source, fold=False))
        gone = [one for one in taken if one.callback.device_token is not None]
        if gone:
            given = {
                "users": [one.push.user_id for one in gone],
                "tokens": [one.callback.device_token for one in gone],
                "ats": [one.at for one in gone],
            }
            connection.execute(_BURY, given)
    repeated = []
    for one, key in zip(taken, keys, strict=True):
        if key in known:
            repeated.append(one.place)
        known.add(key)
    return repeated


def _known(connection: Connection, keys: Sequence[bytes]) -> set[bytes]:
    query = text("SELECT key FROM event_keys WHERE key = ANY(CAST(:keys AS uuid[]))")
    given = "{" + ",".join(key.hex() for key in sorted(set(keys))) + "}"
    return {key.bytes for key in connection.execute(query, {"keys": given}).scalars()}


def _rows(taken: Sequence[_Taken]) -> EventRows:
    def numbers(name: str) -> np.ndarray:
        return np.array([_or_nan(getattr(one.callback, name)) for one in taken], np.float64)

    ids = np.frombuffer(b"".join(one.callback.push_id.bytes for one in taken), np.uint8).reshape(-1, 16)
    attributes = [one.callback.attributes for one in taken]
    return EventRows(
        pa.array([one.push.user for one in taken], pa.string()),
        pa.array([one.callback.item_id or one.push.item for one in taken], pa.string()),
        pa.array([one.callback.event_type for one in taken], pa.string()),
        np.array([one.at.astimezone(UTC).replace(tzinfo=None) for one in taken], "datetime64[us]"),
        numbers("value"),
        numbers("quantity"),
        (ids, np.ones(len(taken), bool)),
        pa.array(attributes, pa.string()) if any(attributes) else None,
        pa.array([one.callback.event_id for one in taken], pa.string()),
    )


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _count(database: Database, met: Sequence[tuple[Callback | None, Answer]]) -> None:
    """Count answers by event and what became of them; events of unreadable callbacks are "unread"."""
    counts = Counter(
        f"{callback.event if callback else 'unread'}:{answer.reason or answer.status}" for callback, answer in met
    )
    with database.begin() as connection:
        counters.add(connection, "callbacks", counts)


def summary(answers: Sequence[Answer]) -> Mapping[str, int]:
    """How many answers of each kind: accepted, repeated, test, refused.REASON."""
    counted = Counter(answer.status if answer.reason is None else f"refused.{answer.reason}" for answer in answers)
    return dict(sorted(counted.items()))
