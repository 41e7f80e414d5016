"""What a provider received against what the ledger says, counted as by Jepsen's total-queue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from engine.campaigns.policy import Cap, Journalled, Policy, Violation, check_journal
from engine.localtime import local_day, zone
from tests.delivery_store import DeliveryShop, journal, received


@dataclass(frozen=True)
class Counters:
    """What the journal and the ledger say together.

    attempts: lines of the journal · lost: pushes without an end · duplicated: marketing received twice · recovered:
    pushes that ended after their first holder had died or let go.
    """

    attempts: int
    accepted: int
    unknown: int
    other: int
    lost: int
    duplicated: int
    recovered: int


def counters(shop: DeliveryShop, path: Path, transactional: frozenset[int] = frozenset()) -> Counters:
    """Count; `transactional` occurrences may be received twice."""
    ledger = shop.deliveries()
    states = Counter(row["state"] for row in ledger)
    twice = {key for key, times in received(path).items() if times > 1 and key[0] not in transactional}
    return Counters(
        attempts=len(journal(path)),
        accepted=states["accepted"],
        unknown=states["unknown"],
        other=sum(states.values()) - states["accepted"] - states["unknown"],
        lost=len(shop.hot()),
        duplicated=len(twice),
        recovered=sum(row["attempts"] > 1 or row["reason"] == "lease_expired" for row in ledger),
    )


def sends(lines: Iterable[dict[str, Any]], zones: Mapping[str, str] | None = None) -> list[Journalled]:
    """Lines of the log gateway's journal as the pure function takes them; users live in UTC where `zones` says nothing
    else."""
    return [
        Journalled(
            user=line["user_id"],
            at=datetime.fromisoformat(line["at"]),
            scopes=frozenset({"channel:log", f"campaign:{line['campaign']}"}),
            tz=zone((zones or {}).get(line["user_id"], "UTC")),
        )
        for line in lines
    ]


def broken_rules(policy: Policy, path: Path, transactional: frozenset[int] = frozenset()) -> list[Violation]:
    """Caps and gaps that the provider saw broken, by the pure function alone."""
    return check_journal(policy, sends(line for line in journal(path) if line["occurrence_id"] not in transactional))


def fullest(policy: Policy, received: Iterable[Journalled]) -> dict[str, int]:
    """The most pushes that any user got in any window of each cap, for the record."""
    by_user: dict[str, list[Journalled]] = {}
    for send in sorted(received, key=lambda send: send.at):
        by_user.setdefault(send.user, []).append(send)
    return {str(cap): max((_fullest(cap, theirs) for theirs in by_user.values()), default=0) for cap in policy.caps}


def _fullest(cap: Cap, theirs: list[Journalled]) -> int:
    covered = [send for send in theirs if send.counts and cap.covers(send.scopes)]
    if cap.width is not None:
        width = cap.width
        return max((sum(one.at - width <= other.at <= one.at for other in covered) for one in covered), default=0)
    days = [local_day(send.tz, send.at) for send in covered]
    if cap.window == "local_week":
        days = [day - timedelta(days=day.weekday()) for day in days]
    return max(Counter(days).values(), default=0)
