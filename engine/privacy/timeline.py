"""What was decided about a user, and what became of their pushes: the latest first."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, text

from engine.localtime import wall_clock
from engine.localtime import zone as zone_of
from engine.store.tables import ARMS, DECISION_REASONS, EVENT_TYPES

LATE = timedelta(days=2)
"""How long after its occurrence's end a push may still be answered or recorded."""


@dataclass(frozen=True)
class Entry:
    """A decision by its latest revision, or a test push (run None). date, occurrence: they order and name it · send_at
    UTC, local: the user's clock · state: of the push: of its row while it waits, else of its delivery; None where there
    is no push · why: of a state that is not accepted · at: when it ended · answers: (event type, instant), in order."""

    date: date
    occurrence: int
    campaign: str
    label: str
    run: int | None
    reason: str
    arm: str | None
    revisions: int
    item: str | None
    title: str | None
    send_at: datetime | None
    local: datetime | None
    state: str | None
    why: str | None
    at: datetime | None
    answers: tuple[tuple[str, datetime], ...]

    @property
    def key(self) -> str:
        """What the next page begins after."""
        return f"{self.date.isoformat()}.{self.occurrence}"


_DECISIONS = text("""
    SELECT l.*, c.name AS campaign, o.label, o.ends_at, i.external_id AS item, i.title FROM (
        SELECT DISTINCT ON (d.date, d.occurrence_id) d.date, d.occurrence_id, d.run_id, d.reason, d.arm, d.revision,
               d.push_id, d.item_id, d.send_at
        FROM decisions d WHERE d.user_id = :user AND d.date <= :date
             AND (d.date < :date OR d.occurrence_id < :occurrence)
        ORDER BY d.date DESC, d.occurrence_id DESC, d.revision DESC LIMIT :most
    ) l JOIN occurrences o ON o.id = l.occurrence_id JOIN campaigns c ON c.id = o.campaign_id
    LEFT JOIN items i ON i.id = l.item_id ORDER BY l.date DESC, l.occurrence_id DESC
""")

_HOT = text("SELECT id AS push_id, state, send_at FROM pushes WHERE user_id = :user AND state <> 'proposed'")

_ENDED = text("""
    SELECT push_id, state, reason, at FROM deliveries
    WHERE user_id = :user AND day >= :first AND day <= :last AND NOT test
""")

_TESTS = text("""
    SELECT x.day AS date, x.push_id, x.state, x.reason, x.at, x.send_at, c.name AS campaign, i.external_id AS item,
           i.title
    FROM deliveries x JOIN campaigns c ON c.id = x.campaign_id LEFT JOIN items i ON i.id = x.item_id
    WHERE x.user_id = :user AND x.day >= :first AND x.day <= :last AND x.test ORDER BY x.at DESC LIMIT 20
""")

_ANSWERED = text("""
    SELECT push_id, event_type, min(occurred_at) AS at FROM events
    WHERE user_id = :user AND occurred_at >= :first AND occurred_at < :last AND push_id IS NOT NULL
    GROUP BY 1, 2 ORDER BY 3
""")


def read_timeline(
    connection: Connection, user_id: int, zone: str, today: date, most: int, after: str | None = None
) -> list[Entry]:
    """At most `most` decisions about a user whose clock is `zone` (IANA), with the test pushes of the same days, the
    latest first; after key `after` where given. today: the UTC date of business time. No later than 92 days on."""
    begin, occurrence = _place(after) or (today + timedelta(days=92), 2**62)
    given: dict[str, Any] = {"user": user_id, "date": begin, "occurrence": occurrence, "most": most}
    rows = connection.execute(_DECISIONS, given).all()
    if rows:
        first, last = rows[-1].date - timedelta(days=1), max(row.ends_at.date() for row in rows) + LATE
    else:
        first, last = today - timedelta(days=30), today + timedelta(days=1)
    span = {"user": user_id, "first": first, "last": last}
    pushes = {row.push_id: (row.state, row.reason, row.at) for row in connection.execute(_ENDED, span)}
    pushes |= {row.push_id: (row.state, None, None) for row in connection.execute(_HOT, {"user": user_id})}
    answers = _answers(connection, span)
    found = [_decided(row, zone, pushes.get(row.push_id), answers.get(row.push_id, ())) for row in rows]
    if after is None:
        found += [_test(row, zone, answers.get(row.push_id, ())) for row in connection.execute(_TESTS, span)]
        found.sort(key=lambda one: (one.date, one.occurrence), reverse=True)
    return found


def _place(after: str | None) -> tuple[date, int] | None:
    """The date and the occurrence of a key; None of none, and of what is no key."""
    day, _, occurrence = (after or "").partition(".")
    try:
        return date.fromisoformat(day), int(occurrence)
    except ValueError:
        return None


def _answers(connection: Connection, span: dict[str, Any]) -> dict[Any, tuple[tuple[str, datetime], ...]]:
    names = {number: name for name, number in EVENT_TYPES.items()}
    found: dict[Any, tuple[tuple[str, datetime], ...]] = {}
    for row in connection.execute(_ANSWERED, span):
        name = names.get(row.event_type, str(row.event_type))
        found[row.push_id] = (*found.get(row.push_id, ()), (name, row.at))
    return found


def _decided(
    row: Any, zone: str, push: tuple[str, str | None, datetime | None] | None,
    answers: tuple[tuple[str, datetime], ...],
) -> Entry:  # fmt: skip
    state, why, at = push or (None, None, None)
    return Entry(
        date=row.date,
        occurrence=row.occurrence_id,
        campaign=row.campaign,
        label=row.label,
        run=row.run_id,
        reason=DECISION_REASONS[row.reason],
        arm=ARMS[row.arm],
        revisions=row.revision,
        item=row.item,
        title=row.title,
        send_at=row.send_at,
        local=None if row.send_at is None else wall_clock(zone_of(zone), row.send_at),
        state=state,
        why=why,
        at=at,
        answers=answers,
    )


def _test(row: Any, zone: str, answers: tuple[tuple[str, datetime], ...]) -> Entry:
    local = wall_clock(zone_of(zone), row.send_at)
    return Entry(
        row.date, 2**62, row.campaign, "", None, "planned", None, 0, row.item, row.title, row.send_at, local, row.state,
        row.reason, row.at, answers,
    )  # fmt: skip
