"""What the pushes of one run led to, by arm, beside those who were held out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import text

from engine.campaigns.policy_store import current_policy
from engine.errors import UnknownName
from engine.learning.timeline import ATTRIBUTION
from engine.report import reading
from engine.report.campaign import Arm, Variant, arms_of, goal_of, variants_of
from engine.report.intervals import Difference, Rate, difference, rate_of
from engine.report.reading import Asked
from engine.store.database import Database


@dataclass(frozen=True)
class RunReport:
    """What a run led to, seen at `now` (business time).

    sent: pushes put to a provider · arms: accepted pushes by arm, and how they were answered; variants: the same by
    arm of an experiment with the message · users, held_out: those who were drawn for
    the run's campaigns, and those held out, by who reached the goal since, whether a push reached them or not ·
    difference: of these two rates; None where either is of nobody · open_windows: accepted pushes whose attribution
    window is not over.
    """

    goal: str
    now: datetime
    sent: int
    arms: tuple[Arm, ...]
    variants: tuple[Variant, ...]
    users: Rate
    held_out: Rate
    difference: Difference | None
    open_windows: int


def report_run(database: Database, now: datetime, run_id: int, goal: str = "purchase") -> RunReport:
    """The report of run `run_id`; goal: the event type that counts as a conversion.

    Raises UnknownName for a run or an event type that is not there.
    """
    with database.snapshot() as snapshot:
        snapshot.sort_in_memory(reading.MEGABYTES)
        dates = snapshot.connection.execute(
            text("SELECT min(date) AS first, max(date) AS last FROM occurrences WHERE run_id = :run"), {"run": run_id}
        ).one()
        if dates.first is None:
            raise UnknownName(f"there is no run {run_id}", hint="see: horae runs list")
        _, policy = current_policy(snapshot.connection)
        asked = Asked(
            reading.of_run(run_id), dates.first, dates.last + timedelta(days=1), now, goal_of(snapshot, goal),
            policy.default_timezone,
        )  # fmt: skip
        ends, sent = reading.read_ends(snapshot, asked), reading.read_sent(snapshot, asked)
        treated, held, _ = reading.read_groups(snapshot, asked)
    users, held_out = rate_of(treated.converted, treated.users), rate_of(held.converted, held.users)
    return RunReport(
        goal=goal,
        now=now,
        sent=ends.tried,
        arms=arms_of(sent),
        variants=variants_of(sent),
        users=users,
        held_out=held_out,
        difference=difference(users, held_out),
        open_windows=int((sent.at > now.timestamp() - ATTRIBUTION.total_seconds()).sum()),
    )
