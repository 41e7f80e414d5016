"""Claiming pushes: who may work on a row, for how long, and what a latecomer may still record (nothing).

    planned ──claim──► claimed ──intent──► sending ──► a delivery row, the push row is gone
       ▲                  │                   │
       └──── put_back ────┴──── put_back ─────┘   (not sent; or sent again)

A claim takes a batch with SKIP LOCKED, leases it and raises each row's fencing number; attempts are counted here, so a
push that kills its worker uses them up too. Everything after the claim is conditional on the fence: whoever was
presumed dead and comes back finds no row. Leases are measured by the database's own clock, one clock for all hosts; a
worker keeps its own end of the lease on its monotonic clock, started before the statement, and so errs on the short
side.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection, text

from engine.delivery.reserve import Epoch

STOPPED = (
    "EXISTS (SELECT 1 FROM switches s WHERE s.scope IN ('all', 'gateway:' || p.gateway, 'campaign:' || p.campaign_id))"
)
"""Whether a stop switch concerns the push `p`."""

STATE = "(p.state || '')"
"""The state of a push `p` that is looked for by its id. Written so that the planner has no statistics of it: by these
hardly anything is under way, and in truth it may be whatever was claimed since the last look."""


class Claimed(NamedTuple):
    """A push that this worker holds: the row as it was claimed."""

    id: UUID
    state: str
    fence: int
    attempts: int
    occurrence_id: int
    campaign_id: int
    user_id: int
    item_id: int | None
    gateway: str
    window_end: datetime
    send_at: datetime
    not_after: datetime
    in_doubt: bool
    """Whether an earlier attempt may have been received."""
    failed_before: bool
    """Whether its provider failed it, so that this attempt is a repeat; not where a worker died with it."""

    @property
    def end(self) -> datetime:
        """The instant at and after which it may not leave."""
        return self.window_end if self.window_end < self.not_after else self.not_after  # a call less, for each push


_COLUMNS = ", ".join(f"p.{name}" for name in Claimed._fields)

_CLAIM = text(f"""
    WITH due AS MATERIALIZED (
        SELECT p.id FROM pushes p JOIN campaigns c ON c.id = p.campaign_id
        WHERE p.state = 'planned' AND p.send_at <= :now AND p.window_end > :now AND p.not_after > :now
          AND (p.not_before IS NULL OR p.not_before <= clock_timestamp())
          AND p.gateway = ANY(:gateways) AND p.campaign_id <> ALL(CAST(:apart AS bigint[]))
          AND (CAST(:campaign AS bigint) IS NULL OR p.campaign_id = :campaign)
          AND c.state IN ('running', 'done') AND NOT {STOPPED}
        ORDER BY p.send_at LIMIT :most FOR UPDATE OF p SKIP LOCKED)
    UPDATE pushes p
    SET state = 'claimed', fence = p.fence + 1, attempts = p.attempts + 1,
        lease_until = clock_timestamp() + :lease, not_before = NULL
    FROM due WHERE p.id = due.id
    RETURNING {_COLUMNS}
""")

_EXPIRED_LEASES = text(f"""
    SELECT {_COLUMNS} FROM pushes p
    WHERE p.send_at <= :now AND p.state IN ('claimed', 'sending') AND p.lease_until <= clock_timestamp()
    ORDER BY p.lease_until LIMIT :most FOR UPDATE OF p SKIP LOCKED
""")

_OVERDUE_IN_DOUBT = text(f"""
    SELECT {_COLUMNS} FROM pushes p JOIN campaigns c ON c.id = p.campaign_id
    WHERE p.state = 'planned' AND p.in_doubt
      AND (p.window_end <= :now OR p.not_after <= :now OR c.state = 'cancelled')
    LIMIT :most FOR UPDATE OF p SKIP LOCKED
""")

_HEARTBEAT = text(f"""
    UPDATE pushes p SET lease_until = clock_timestamp() + :lease
    FROM unnest(CAST(:ids AS uuid[]), CAST(:fences AS bigint[])) AS mine (id, fence)
    WHERE p.id = mine.id AND p.fence = mine.fence AND {STATE} = 'claimed' AND p.lease_until > clock_timestamp()
    RETURNING p.id
""")

# The one statement after which a push may have left. It locks the epoch's row first: an epoch that is being moved is
# waited for, and read as it then is.
_INTENT = text(f"""
    WITH epoch AS MATERIALIZED (SELECT cap_epoch FROM workspace WHERE id = 1 FOR SHARE),
    mine AS (SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:fences AS bigint[])) AS m (id, fence)),
    held AS (
        UPDATE pushes p SET state = 'sending', lease_until = clock_timestamp() + :lease
        FROM epoch, campaigns c, mine
        WHERE p.id = mine.id AND p.fence = mine.fence AND {STATE} = 'claimed' AND p.lease_until > clock_timestamp()
          AND epoch.cap_epoch = :epoch AND c.id = p.campaign_id AND c.state IN ('running', 'done') AND NOT {STOPPED}
        RETURNING p.id)
    SELECT id FROM mine EXCEPT SELECT id FROM held
""")

_PUT_BACK = text(f"""
    UPDATE pushes p
    SET state = 'planned', lease_until = NULL, not_before = clock_timestamp() + mine.wait,
        attempts = p.attempts - mine.untried, in_doubt = p.in_doubt OR mine.in_doubt,
        failed_before = p.failed_before OR mine.failed, send_at = COALESCE(mine.send_at, p.send_at)
    FROM unnest(CAST(:ids AS uuid[]), CAST(:fences AS bigint[]), CAST(:waits AS interval[]), CAST(:untried AS int[]),
                CAST(:in_doubt AS boolean[]), CAST(:failed AS boolean[]), CAST(:send_at AS timestamptz[]))
         AS mine (id, fence, wait, untried, in_doubt, failed, send_at)
    WHERE p.id = mine.id AND p.fence = mine.fence AND {STATE} IN ('claimed', 'sending')
    RETURNING p.id
""")


def claim(
    connection: Connection,
    now: datetime,
    gateways: Collection[str],
    most: int,
    lease: timedelta,
    *,
    campaign: int | None = None,
    apart: Collection[int] = (),
) -> list[Claimed]:
    """Claim up to `most` pushes for `gateways` that are due at `now`, in time and not stopped; oldest first. Of one
    `campaign` where given, and of none that is `apart`."""
    chosen = {"campaign": campaign, "apart": list(apart)}
    rows = connection.execute(_CLAIM, {"now": now, "gateways": list(gateways), "most": most, "lease": lease, **chosen})
    return sorted(map(Claimed._make, rows.all()), key=lambda push: (push.send_at, push.id.int))


def heartbeat(connection: Connection, pushes: Sequence[Claimed], lease: timedelta) -> set[UUID]:
    """Extend the lease of claimed pushes; the ids still held. A lease that has ended cannot be extended."""
    return set(connection.execute(_HEARTBEAT, {**_mine(pushes), "lease": lease}).scalars().all())


def commit_intent(connection: Connection, pushes: Sequence[Claimed], epoch: Epoch, lease: timedelta) -> set[UUID]:
    """Mark pushes as `sending`; the ids that may not be sent. The others may, once this transaction has committed.

    In one statement: the fence is ours, the lease lives, nobody stopped it, the campaign runs, the caps' epoch holds.
    """
    parameters = {**_mine(pushes), "lease": lease, "epoch": epoch.number}
    return set(connection.execute(_INTENT, parameters).scalars().all())


class Back(NamedTuple):
    """A push that goes back to `planned`."""

    push: Claimed
    wait: timedelta
    """Machine time until the next attempt."""
    tried: bool = True
    """Whether the attempt counts: not where the reason lay elsewhere (a stop, the caps' Redis, a lost epoch)."""
    in_doubt: bool = False
    """Whether this attempt may have been received after all."""
    send_at: datetime | None = None
    """A later due instant (business time), where it has to wait for one."""
    failed: bool = False
    """Whether its provider failed it: the next attempt is a repeat, and taken from the retry budget."""


def put_back(connection: Connection, rows: Sequence[Back]) -> set[UUID]:
    """Put pushes back to `planned`; the ids that were still ours."""
    parameters = {
        **_mine([row.push for row in rows]),
        "waits": [row.wait for row in rows],
        "untried": [0 if row.tried else 1 for row in rows],
        "in_doubt": [row.in_doubt for row in rows],
        "failed": [row.failed for row in rows],
        "send_at": [row.send_at for row in rows],
    }
    return set(connection.execute(_PUT_BACK, parameters).scalars().all())


def expired_leases(connection: Connection, now: datetime, most: int) -> list[Claimed]:
    """Up to `most` pushes, due at `now` as all that were claimed, whose holder let the lease end; locked until this
    transaction does."""
    return [Claimed(**row._mapping) for row in connection.execute(_EXPIRED_LEASES, {"now": now, "most": most})]


def overdue_in_doubt(connection: Connection, now: datetime, most: int) -> list[Claimed]:
    """Up to `most` waiting pushes in doubt that will not be tried again, locked until this transaction ends."""
    return [Claimed(**row._mapping) for row in connection.execute(_OVERDUE_IN_DOUBT, {"now": now, "most": most})]


def _mine(pushes: Sequence[Claimed]) -> dict[str, object]:
    return {"ids": array_of(pushes), "fences": f"{{{','.join([str(push.fence) for push in pushes])}}}"}


def array_of(pushes: Iterable[Claimed]) -> str:
    """Their ids as the text of an array: the driver looks at every element of a list."""
    return f"{{{','.join([push.id.hex for push in pushes])}}}"
