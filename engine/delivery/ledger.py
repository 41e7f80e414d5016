"""The ledger of deliveries: one row for each push that came to its end, in the transaction that deletes the hot row."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection, text

from engine.delivery.claim import STATE
from engine.store import endings

REASONS = {
    "rejected": ("dead_device", "payload_refused", "template", "attempts"),
    "unknown": ("no_answer", "lease_expired"),
    "expired": ("expired", "retries"),
    "cancelled": ("campaign_cancelled", "no_candidate", "not_worth", "offer_ended", "failed_input", "called_off"),
    "suppressed": (
        "not_eligible", "no_consent", "no_device", "item_unavailable", "item_bought", "price_changed",
        "capped", "gap", "hours",
        "clock_unsure",
    ),
}  # fmt: skip
"""The closed list of reasons for which a push ended otherwise than accepted, by its final state. Those of `cancelled`
but the first, and those of `displaced`, are planning's."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A row of the ledger, for people."""

    at: datetime
    state: str
    reason: str | None
    campaign: str
    user_id: str | None
    item_id: str | None
    gateway: str
    attempts: int
    test: bool
    detail: str | None
    variant: str | None
    push_id: UUID


class End(NamedTuple):
    """How a push ended."""

    push_id: UUID
    fence: int
    state: str
    at: datetime
    reason: str | None = None
    local_day: date | None = None
    counts: bool = False
    scopes: tuple[str, ...] = ()
    provider_id: str | None = None
    detail: str | None = None
    variant: str | None = None
    """EXPERIMENT:ARM of its message."""


# A push that was sent is folded into the profiles like an event (type 11, push_sent): fatigue and exposure.
# What was deleted carries what it ended as: joined a second time, the two would be compared each with each.
_CLOSE = text(f"""
    WITH ending AS MATERIALIZED (
        SELECT push_id, fence, state, at, reason, local_day, counts, CAST(scopes AS text[]) AS scopes, provider_id,
               detail, variant
        FROM unnest(CAST(:push_id AS uuid[]), CAST(:fence AS bigint[]), CAST(:state AS text[]),
                    CAST(:at AS timestamptz[]), CAST(:reason AS text[]), CAST(:local_day AS date[]),
                    CAST(:counts AS boolean[]), CAST(:scopes AS text[]), CAST(:provider_id AS text[]),
                    CAST(:detail AS text[]), CAST(:variant AS text[]))
             AS e (push_id, fence, state, at, reason, local_day, counts, scopes, provider_id, detail, variant)
    ), gone AS (
        DELETE FROM pushes p USING ending e
        WHERE p.id = e.push_id AND p.fence = e.fence AND {STATE} = ANY(:states)
        RETURNING p.id, p.slot, p.occurrence_id, p.campaign_id, p.user_id, p.item_id, p.gateway, p.attempts, p.send_at,
                  e.state, e.at, e.reason, e.local_day, e.counts, e.scopes, e.provider_id, e.detail, e.variant
    ), sent AS (
        INSERT INTO unfolded_events (key, slot, user_id, item_id, event_type, occurred_at)
        SELECT id, slot, user_id, item_id, 11, at FROM gone WHERE state = 'accepted'
    ), told AS (
        INSERT INTO deliveries (day, id, push_id, state, reason, at, occurrence_id, campaign_id, user_id, item_id,
                                gateway, attempts, send_at, local_day, counts, scopes, provider_id, detail, variant)
        SELECT (at AT TIME ZONE 'UTC')::date, id, id, state, reason, at, occurrence_id, campaign_id, user_id, item_id,
               gateway, attempts, send_at, local_day, counts, scopes, provider_id, detail, variant
        FROM gone
    )
    SELECT push_id FROM ending EXCEPT SELECT id FROM gone
""")

# Pushes that nobody holds and that were never in doubt, closed in one statement. Row locks of a claim under way
# are skipped, not waited for.
_CLOSE_WAITING = """
    WITH over AS (
        SELECT p.id FROM pushes p WHERE {where} LIMIT :most FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM pushes p USING over WHERE p.id = over.id RETURNING p.*
    )
    {ended} RETURNING push_id
"""

# Dispatch closes what is due, which an index finds; upkeep looks through all that waits.
_DUE = "p.state = 'planned' AND p.send_at <= :now AND NOT p.in_doubt"
_WAITING = "p.state IN ('proposed', 'planned') AND NOT p.in_doubt"
_LATE = "(p.window_end <= :now OR p.not_after <= :now)"
_OF_CANCELLED = "p.campaign_id IN (SELECT id FROM campaigns WHERE state = 'cancelled')"

_EXPIRE, _CANCEL = (
    {
        every: text(
            _CLOSE_WAITING.format(
                where=f"{which} AND {what}", ended=endings.into_ledger("gone p", f"'{state}'", f"'{reason}'")
            )
        )
        for every, which in ((False, _DUE), (True, _WAITING))
    }
    for what, state, reason in (
        (_LATE, "expired", "expired"),
        (_OF_CANCELLED, "cancelled", "campaign_cancelled"),
    )
)


def close(connection: Connection, ends: Sequence[End], states: Collection[str]) -> set[UUID]:
    """Write the deliveries of pushes held by us in one of `states` and delete their rows; the ids that were not ours
    any more."""
    if not ends:
        return set()
    push_ids, fences, outcomes, ats, reasons, days, counts, scopes, provider_ids, details, variants = zip(
        *ends, strict=True
    )
    given = {
        "push_id": _array([push_id.hex for push_id in push_ids]),
        "fence": _array(map(str, fences)),
        "state": _array(outcomes),
        "at": _array(map(_iso, ats)),
        "reason": _array_of_texts(reasons),
        "local_day": _array(["NULL" if day is None else _iso(day) for day in days]),
        "counts": _array(map(str, counts)),
        "scopes": _array(map(_scopes, scopes)),
        "provider_id": _array_of_texts(provider_ids),
        "detail": _array_of_texts(details),
        "variant": _array_of_texts(variants),
        "states": list(states),
    }
    return set(connection.execute(_CLOSE, given).scalars().all())


def _array(elements: Iterable[str]) -> str:
    """An array as text: the driver looks at every element of a list, which took longer than PostgreSQL takes."""
    return f"{{{','.join(elements)}}}"


def _array_of_texts(elements: Sequence[str | None]) -> str:
    """An array of any texts; unnest ends a shorter one in NULLs, and most columns hold nothing else."""
    if elements.count(None) == len(elements):
        return "{}"
    return _array(["NULL" if each is None else _quoted(each) for each in elements])


def _quoted(element: str) -> str:
    return '"' + element.replace("\\", "\\\\").replace('"', '\\"') + '"'


@lru_cache(4096)
def _scopes(scopes: tuple[str, ...]) -> str:
    """An array as an element of an array: some are longer than others."""
    return _quoted(_array(map(_quoted, scopes)))


@lru_cache(64)
def _iso(moment: date) -> str:
    return moment.isoformat()


def close_expired(connection: Connection, now: datetime, most: int, *, every: bool) -> int:
    """Close up to `most` waiting pushes whose window or use is over at `now`; `every`: also proposals of runs that were
    never published."""
    return len(connection.execute(_EXPIRE[every], {"now": now, "most": most}).scalars().all())


def close_cancelled(connection: Connection, now: datetime, most: int, *, every: bool) -> int:
    """Close up to `most` waiting pushes of cancelled campaigns; `every`: also those that are not due yet."""
    return len(connection.execute(_CANCEL[every], {"now": now, "most": most}).scalars().all())


_RECENT = text("""
    SELECT d.at, d.state, d.reason, c.name AS campaign, u.external_id AS user_id, i.external_id AS item_id, d.gateway,
           d.attempts, d.test, d.detail, d.variant, d.push_id
    FROM deliveries d
    JOIN campaigns c ON c.id = d.campaign_id
    LEFT JOIN users u ON u.id = d.user_id
    LEFT JOIN items i ON i.id = d.item_id
    WHERE d.day >= CAST(:since AS date) AND (CAST(:campaign AS text) IS NULL OR c.name = :campaign)
      AND (CAST(:user AS text) IS NULL OR u.external_id = :user) AND (CAST(:state AS text) IS NULL OR d.state = :state)
    ORDER BY d.day DESC, d.at DESC, d.push_id LIMIT :most
""")


def recent(
    connection: Connection, since: date, most: int, *, campaign: str | None, user: str | None, state: str | None
) -> list[Delivery]:
    """The latest `most` deliveries since the day `since`, newest first; of one campaign, user (the shop's id) or state
    where given."""
    chosen = {"campaign": campaign, "user": user, "state": state}
    rows = connection.execute(_RECENT, {"since": since, "most": most, **chosen})
    return [Delivery(**row._mapping) for row in rows]
