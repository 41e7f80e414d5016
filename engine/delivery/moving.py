"""Moves pushes to another window, the planner's way: the row changes, and the decision gets a revision that says so.

Two kinds are moved: those that caps, the gap or the hours refuse right now, and those whose window passed while they
waited for a provider or a rate. The place is found in the decision's receipt; it must have room under the campaign's
and the gateway's capacity, and, as far as the ledger knows, under the user's caps. What was explored is not moved:
another window has another propensity. Neither is what is sent at once or in doubt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from engine.delivery.claim import STOPPED
from engine.delivery.counted import ledger_entries
from engine.delivery.facts import Facts
from engine.delivery.limits import Attempt, Entry
from engine.delivery.overflow import Place, first_free, places, wants_another, within
from engine.delivery.terms import Book, Terms
from engine.planning import receipt
from engine.store.database import Database

QUARTER = timedelta(minutes=15)
_AT_ONCE = 500

_REMEMBERED = text("""
    SELECT p.id, d.receipt FROM pushes p
    JOIN occurrences o ON o.id = p.occurrence_id
    JOIN decisions d ON d.date = p.date AND d.occurrence_id = p.occurrence_id AND d.user_id = p.user_id
                    AND d.revision = p.revision
    WHERE p.id = ANY(CAST(:ids AS uuid[])) AND NOT p.explored AND NOT p.in_doubt AND NOT o.at_once
""")

_LATE = text(f"""
    SELECT p.id, p.fence, p.campaign_id, o.version, p.gateway, d.receipt FROM pushes p
    JOIN campaigns c ON c.id = p.campaign_id
    JOIN occurrences o ON o.id = p.occurrence_id
    JOIN decisions d ON d.date = p.date AND d.occurrence_id = p.occurrence_id AND d.user_id = p.user_id
                    AND d.revision = p.revision
    WHERE p.state = 'planned' AND p.send_at <= :now AND p.window_end <= :now AND p.id > :after
      AND NOT p.explored AND NOT p.in_doubt AND NOT o.at_once AND c.state IN ('running', 'done') AND NOT {STOPPED}
    ORDER BY p.id LIMIT :most FOR UPDATE OF p SKIP LOCKED
""")

_MOVE = text(f"""
    WITH hit AS (
        UPDATE pushes p
        SET state = 'planned', lease_until = NULL, not_before = NULL, revision = p.revision + 1,
            attempts = p.attempts - CASE WHEN p.state = 'claimed' THEN 1 ELSE 0 END, item_id = m.item_id,
            window_start = m.window_start, window_end = m.window_end, send_at = m.send_at,
            not_after = CASE WHEN m.item_id IS NOT DISTINCT FROM p.item_id THEN greatest(p.not_after, m.window_end)
                             ELSE m.window_end END,
            value = m.value, price = m.price, planned_at = clock_timestamp()
        FROM unnest(CAST(:ids AS uuid[]), CAST(:fences AS bigint[]), CAST(:items AS bigint[]),
                    CAST(:starts AS timestamptz[]), CAST(:ends AS timestamptz[]), CAST(:instants AS timestamptz[]),
                    CAST(:scores AS float8[]), CAST(:values AS float8[]), CAST(:prices AS float8[]))
             AS m (id, fence, item_id, window_start, window_end, send_at, score, value, price)
        WHERE p.id = m.id AND p.fence = m.fence AND p.state IN ('planned', 'claimed')
        RETURNING p.id, p.date, p.occurrence_id, p.user_id, p.revision, p.item_id, p.window_start, p.send_at, m.score,
                  p.value, p.price
    ), told AS (
        INSERT INTO decisions (date, occurrence_id, user_id, revision, run_id, shard, arm, reason, push_id, item_id,
                               window_start, send_at, score, value, price, propensity, receipt)
        SELECT d.date, d.occurrence_id, d.user_id, h.revision, d.run_id, d.shard, d.arm, d.reason, h.id, h.item_id,
               h.window_start, h.send_at, h.score, h.value, h.price, d.propensity,
               {receipt.WITHOUT_FEATURES}
        FROM hit h JOIN decisions d ON d.date = h.date AND d.occurrence_id = h.occurrence_id AND d.user_id = h.user_id
                                   AND d.revision = h.revision - 1
    )
    SELECT id FROM hit
""")

_IN_QUARTER = text("""
    SELECT count(*) FROM pushes p WHERE p.state <> 'proposed' AND p.send_at >= :since AND p.send_at < :until
      AND (p.campaign_id = :campaign OR p.gateway = :gateway)
""")


@dataclass(frozen=True, slots=True)
class Move:
    """A push, held by us or nobody, and where it goes."""

    push_id: UUID
    fence: int
    place: Place


def find(
    connection: Connection, book: Book, refused: Sequence[Facts], now: datetime, deadline: timedelta
) -> list[Move]:
    """Where those of `refused`, which caps, gap or hours refuse at business time `now`, may go instead."""
    wanting = {one.push.id: one for one in refused if wants_another(one.terms.campaign) and one.user and one.user.tz}
    if not wanting:
        return []
    rows = connection.execute(_REMEMBERED, {"ids": list(wanting)}).all()
    options = {row.id: found for row in rows if (found := places(row.receipt, now))}
    if not options:
        return []
    attempts = {one.push.user_id: _attempt(one, now, deadline) for one in wanting.values()}
    entries = ledger_entries(connection, book, attempts, now - book.horizon(deadline))
    categories = _categories(connection, {place.item_id for found in options.values() for place in found})
    room, moves = _Room(connection, book), list[Move]()
    for push_id, found in options.items():
        one = wanting[push_id]

        def admits(place: Place, one: Facts = one) -> bool:
            kept = _kept(one, place, categories.get(place.item_id), deadline, entries[one.push.user_id])
            return kept and room.has(place, one.terms, one.push.campaign_id, one.push.gateway)

        if (place := first_free(found, admits)) is not None:
            room.take(place, one.push.campaign_id, one.push.gateway)
            moves.append(Move(push_id, one.push.fence, place))
    return moves


def move(connection: Connection, moves: Sequence[Move]) -> set[UUID]:
    """Move pushes; the ids that were still ours, or nobody's."""
    if not moves:
        return set()
    to = [one.place for one in moves]
    parameters: dict[str, Any] = {
        "ids": [one.push_id for one in moves],
        "fences": [one.fence for one in moves],
        "items": [place.item_id for place in to],
        "starts": [place.window_start for place in to],
        "ends": [place.window_end for place in to],
        "instants": [place.send_at for place in to],
        "scores": [place.score for place in to],
        "values": [place.value for place in to],
        "prices": [place.price for place in to],
    }
    return set(connection.execute(_MOVE, parameters).scalars().all())


def move_late(database: Database, now: datetime) -> int:
    """Move the waiting pushes whose window is over at business time `now` and that have another one left; how many.

    Pushes of paused campaigns and behind stop switches stay: what somebody stopped does not come later by itself.
    """
    book, after, moved = Book(), UUID(int=0), 0
    while True:
        with database.begin() as connection:
            rows = connection.execute(_LATE, {"now": now, "after": after, "most": _AT_ONCE}).all()
            if rows:
                book.refresh(connection)
                moved += len(move(connection, _late_moves(connection, book, rows, now)))
        if len(rows) < _AT_ONCE:
            return moved
        after = rows[-1].id


def _late_moves(connection: Connection, book: Book, rows: Sequence[Any], now: datetime) -> list[Move]:
    room, moves = _Room(connection, book), list[Move]()
    for row in rows:
        terms = book.terms(connection, row.campaign_id, row.version)
        if not wants_another(terms.campaign):
            continue

        def admits(place: Place, row: Any = row, terms: Terms = terms) -> bool:
            return room.has(place, terms, row.campaign_id, row.gateway)

        if (place := first_free(places(row.receipt, now), admits)) is not None:
            room.take(place, row.campaign_id, row.gateway)
            moves.append(Move(row.id, row.fence, place))
    return moves


@dataclass
class _Room:
    """What capacities leave in the quarter-hours that pushes are moved to, as far as rows and moves tell."""

    connection: Connection
    book: Book
    _used: dict[tuple[str, int | str, datetime], int] = field(default_factory=dict)

    def has(self, place: Place, terms: Terms, campaign_id: int, gateway: str) -> bool:
        """Whether one more push fits."""
        limits = (
            ("campaign", campaign_id, terms.campaign.per_quarter),
            ("gateway", gateway, self.book.policy.per_quarter(gateway)),
        )
        return all(limit is None or self._count(kind, which, place) < limit for kind, which, limit in limits)

    def take(self, place: Place, campaign_id: int, gateway: str) -> None:
        """Count one more."""
        for key in (("campaign", campaign_id, _quarter(place)), ("gateway", gateway, _quarter(place))):
            if key in self._used:
                self._used[key] += 1

    def _count(self, kind: str, which: int | str, place: Place) -> int:
        since = _quarter(place)
        key = (kind, which, since)
        if key not in self._used:
            given = {"since": since, "until": since + QUARTER, "campaign": None, "gateway": None, kind: which}
            self._used[key] = int(self.connection.execute(_IN_QUARTER, given).scalar_one())
        return self._used[key]


def _quarter(place: Place) -> datetime:
    return place.send_at.replace(minute=place.send_at.minute // 15 * 15, second=0, microsecond=0)


def _attempt(one: Facts, at: datetime, deadline: timedelta) -> Attempt:
    if one.user is None or one.user.tz is None:
        raise ValueError("only pushes of users with a clock are moved")
    return Attempt(at, one.user.tz, deadline)


def _kept(one: Facts, place: Place, category: str | None, deadline: timedelta, entries: Sequence[Entry]) -> bool:
    """Whether the user's caps and gap would admit the push at that place, by what they got so far."""
    return within(one.terms.standing(category).limits, entries, _attempt(one, place.send_at, deadline))


def _categories(connection: Connection, ids: set[int | None]) -> dict[int | None, str | None]:
    given = {"ids": [one for one in ids if one is not None]}
    rows = connection.execute(text("SELECT id, category FROM items WHERE id = ANY(:ids)"), given)
    return {row.id: row.category for row in rows}
