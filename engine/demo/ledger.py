"""What happened in the demo: decisions from the store, sends from the gateway's journal."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
from sqlalchemy import Connection, text

from engine.campaigns.policy import Journalled, Policy, check_journal
from engine.campaigns.schedule import user_span
from engine.campaigns.store import get_all
from engine.demo.report import CampaignLedger, CapCheck, Chance, Spacing
from engine.localtime import in_hours, zone
from engine.planning.rewriting import REFRESHED
from engine.store.database import Database
from engine.store.tables import ARMS, DECISION_REASONS

OPEN = "still open"
"""The reason of a planned push without a terminal state: none may be left when the demo reports."""

_FINAL_DECISIONS = """
    SELECT DISTINCT ON (occurrence_id, user_id) occurrence_id, user_id, reason, arm, push_id
    FROM decisions WHERE occurrence_id = ANY(:over) ORDER BY occurrence_id, user_id, revision DESC
"""


_REBOUND = text("""
    WITH told AS (
        SELECT d.*, row_number() OVER (PARTITION BY occurrence_id, user_id ORDER BY revision DESC) AS back
        FROM decisions d WHERE occurrence_id = ANY(:over)
    ), changes AS (
        SELECT occurrence_id, user_id, count(*) FILTER (WHERE shard = :refresh AND send_at IS NOT NULL) AS changes,
               bool_or(shard = :refresh AND send_at IS NULL) AS ended
        FROM told GROUP BY 1, 2
    ), last AS (SELECT * FROM told WHERE back = 1), first AS (SELECT * FROM told WHERE revision = 0)
    SELECT u.external_id AS user_id, f.revision, f.send_at IS NOT NULL AS planned, c.changes, c.ended,
           c.changes > 0 AND l.item_id IS DISTINCT FROM f.item_id AND l.send_at IS NOT NULL AS other_item,
           c.changes > 0 AND l.window_start IS DISTINCT FROM f.window_start AND l.send_at IS NOT NULL AS other_window,
           i.external_id AS item, j.external_id AS first_item, x.at AS sent_at,
           r.as_of AS planned_at
    FROM first f JOIN changes c USING (occurrence_id, user_id) JOIN last l USING (occurrence_id, user_id)
    JOIN runs r ON r.id = f.run_id JOIN users u ON u.id = f.user_id LEFT JOIN items i ON i.id = l.item_id
    LEFT JOIN items j ON j.id = f.item_id
    LEFT JOIN deliveries x ON x.push_id = f.push_id AND x.state = 'accepted' AND NOT x.test
    WHERE f.send_at IS NOT NULL ORDER BY 1
""")


def read_journal(path: Path) -> pd.DataFrame:
    """The sends in the log gateway's journal, in order of time: `user`, `item` (str), `at` (UTC), `campaign`,
    `occurrence`, `title`. Test sends are left out."""
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    rows = [line for line in lines if not line["test"]]
    frame = pd.DataFrame(
        {
            "user": [row["user_id"] for row in rows],
            "item": [row["item_id"] for row in rows],
            "at": pd.to_datetime([row["at"] for row in rows], utc=True, format="ISO8601"),
            "campaign": [row["campaign"] for row in rows],
            "occurrence": [row["occurrence_id"] for row in rows],
            "title": [row["title"] for row in rows],
        }
    )
    return frame.sort_values("at", kind="stable").reset_index(drop=True)


def sent_so_far(database: Database) -> int:
    """How many pushes the gateway has taken."""
    with database.begin() as connection:
        return int(connection.execute(text("SELECT count(*) FROM deliveries WHERE state = 'accepted'")).scalar_one())


def over(connection: Connection, timezone: str, at: datetime) -> list[int]:
    """The ids of the occurrences that had ended in `timezone` by business time `at`: what can be reported on."""
    tz = zone(timezone)
    definitions = {stored.id: stored.definition for stored in get_all(connection)}
    rows = connection.execute(text("SELECT id, campaign_id, label, starts_at, ends_at FROM occurrences ORDER BY id"))
    return [row.id for row in rows if user_span(definitions[row.campaign_id], row, tz)[1] <= at]


def campaign_ledgers(
    connection: Connection, audiences: Mapping[str, int], occurrences: Sequence[int]
) -> tuple[CampaignLedger, ...]:
    """What became of every user of these occurrences, per campaign, beside its audience as counted from the data."""
    parameters = {"over": list(occurrences)}
    named = connection.execute(
        text("SELECT c.name FROM campaigns c JOIN occurrences o ON o.campaign_id = c.id WHERE o.id = ANY(:over)"),
        parameters,
    )
    counted = Counter(named.scalars())
    rows = connection.execute(
        text(
            f"SELECT c.name, d.reason, x.state, x.reason AS why, count(*) AS n FROM ({_FINAL_DECISIONS}) d"
            " JOIN occurrences o ON o.id = d.occurrence_id JOIN campaigns c ON c.id = o.campaign_id"
            " LEFT JOIN deliveries x ON x.push_id = d.push_id AND NOT x.test GROUP BY 1, 2, 3, 4"
        ),
        parameters,
    ).all()
    planned: dict[str, int] = defaultdict(int)
    ends: dict[str, dict[str, int]] = {name: defaultdict(int) for name in audiences}
    for name, reason, state, why, n in rows:
        is_planned = DECISION_REASONS[reason] == "planned"
        planned[name] += n if is_planned else 0
        ends[name][_end(state, why) if is_planned else DECISION_REASONS[reason]] += n
    return tuple(
        CampaignLedger(
            name=name,
            occurrences=counted[name],
            audience=audience,
            planned=planned[name],
            sent=ends[name].pop("sent", 0),
            reasons={reason.replace("_", " "): n for reason, n in ends[name].items()},
        )
        for name, audience in audiences.items()
    )


def _end(state: str | None, why: str | None) -> str:
    """How a planned push ended, in the report's words."""
    if state is None:
        return OPEN
    if state == "accepted":
        return "sent"
    return f"{state} at dispatch ({why})" if why else f"{state} at dispatch"


def chance(connection: Connection, occurrences: Sequence[int], asked: tuple[float, float]) -> Chance:
    """The shares held out and explored in these occurrences, beside what was `asked` for (holdout, exploration)."""
    rows = connection.execute(
        text(f"SELECT reason, arm, count(*) FROM ({_FINAL_DECISIONS}) d GROUP BY 1, 2"), {"over": list(occurrences)}
    ).all()
    total = sum(n for _, _, n in rows)
    held_out = sum(n for reason, _, n in rows if DECISION_REASONS[reason] == "holdout")
    planned = sum(n for reason, _, n in rows if DECISION_REASONS[reason] == "planned")
    explored = sum(n for reason, arm, n in rows if DECISION_REASONS[reason] == "planned" and ARMS[arm] == "explore")
    return Chance(
        holdout=held_out / max(total, 1),
        holdout_asked=asked[0],
        exploration=explored / max(planned, 1),
        exploration_asked=asked[1],
    )


def rebound(connection: Connection, occurrences: Sequence[int]) -> tuple[pd.DataFrame, dict[str, int]]:
    """The pushes sent with another item than was planned first: `user`, `item`, `first` (str), `planned`, `at` (UTC);
    and how many planned pushes there were, `changed`, of those `items` and `windows`, and `ended` by late binding."""
    rows = connection.execute(_REBOUND, {"over": list(occurrences), "refresh": REFRESHED}).all()
    counts = {
        "planned": sum(row.revision == 0 and row.planned for row in rows),
        "changed": sum(row.changes > 0 for row in rows),
        "items": sum(row.other_item for row in rows),
        "windows": sum(row.other_window for row in rows),
        "ended": sum(row.ended for row in rows),
    }
    sent = [row for row in rows if row.other_item and row.sent_at is not None]
    frame = pd.DataFrame(
        {
            "user": [row.user_id for row in sent],
            "item": [row.item for row in sent],
            "first": [row.first_item for row in sent],
            "planned": pd.to_datetime([row.planned_at for row in sent], utc=True),
            "at": pd.to_datetime([row.sent_at for row in sent], utc=True),
        }
    )
    return frame, counts


def local_hours(journal: pd.DataFrame, timezone: str) -> dict[int, int]:
    """Sends by local hour of the day."""
    counts = journal["at"].dt.tz_convert(timezone).dt.hour.value_counts().sort_index()
    return {int(hour): int(n) for hour, n in counts.items()}


def cap_checks(journal: pd.DataFrame, policy: Policy, timezone: str) -> tuple[CapCheck, ...]:
    """Each calendar cap over all pushes beside the most that any user got in one of its windows."""
    days = journal["at"].dt.tz_convert(timezone).dt.tz_localize(None).dt.normalize()
    windows = {"local_day": days, "local_week": days - pd.to_timedelta(days.dt.weekday, unit="D")}
    named = {"local_day": "per user and local day", "local_week": "per user and local week"}
    return tuple(
        CapCheck(
            rule=named[cap.window],
            limit=cap.limit,
            largest=int(journal.groupby(["user", windows[cap.window]]).size().max()) if len(journal) else 0,
        )
        for cap in policy.caps
        if cap.window in windows and cap.scope == "all"
    )


def spacing(journal: pd.DataFrame, policy: Policy, timezone: str) -> Spacing:
    """Gaps, quiet hours, second sends, and every violation that `campaigns.policy.check_journal` finds."""
    tz = zone(timezone)
    by_user = journal.sort_values(["user", "at"])
    gaps = by_user["at"].diff()[by_user["user"] == by_user["user"].shift()].dt.total_seconds() / 3600
    quiet = policy.quiet_hours
    instants = [at.to_pydatetime() for at in journal["at"]]
    sends = [
        Journalled(user, at, frozenset({f"campaign:{campaign}", "channel:log"}), tz)
        for user, at, campaign in zip(journal["user"], instants, journal["campaign"], strict=True)
    ]
    return Spacing(
        gap_hours=policy.min_gap.total_seconds() / 3600 if policy.min_gap else 0.0,
        smallest_gap_hours=float(np.min(gaps)) if len(gaps) else None,
        quiet_hours="–".join(f"{end:%H:%M}" for end in quiet) if quiet else "none",
        sent_in_quiet_hours=sum(in_hours(tz, at, *quiet) for at in instants) if quiet else 0,
        sent_twice=int(journal.duplicated(["user", "occurrence"]).sum()),
        violations=len(check_journal(policy, sends)),
    )
