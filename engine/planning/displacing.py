"""Planned pushes that give way to better ones: noted with the proposals, carried out when the run is settled.

A planned push is closed as `displaced` only while it is still planned and not due soon; where dispatch has taken it
meanwhile, the proposal that wanted its place is dropped as `too_late`. Either way the decision gets a new revision.
A proposal that was moved to another window in the end displaces nobody: it fits there beside everything.
"""

from __future__ import annotations

from datetime import datetime

import numpy as np
from sqlalchemy import Connection, text

from engine.planning.allotment import Allotment, Proposals
from engine.planning.decide import REASON
from engine.planning.roster import FROZEN
from engine.planning.runspec import RunSpec
from engine.store import endings

# Where the push is the user's own, the inbox has noted it already.
_NOTE = text("""
    INSERT INTO displacements (run_id, user_id, occurrence_id, rival_id, rival_user_id)
    SELECT :run, * FROM unnest(CAST(:users AS bigint[]), CAST(:occurrences AS bigint[]), CAST(:rivals AS bigint[]),
                               CAST(:rival_users AS bigint[])) ON CONFLICT DO NOTHING
""")

_GIVING = text("""
    CREATE TEMP TABLE giving ON COMMIT DROP AS
    SELECT p.id, d.rival_id, d.rival_user_id, false AS closed
    FROM displacements d JOIN pushes p ON p.occurrence_id = d.occurrence_id AND p.user_id = d.user_id
    WHERE d.run_id = :run AND p.run_id = :run AND p.state = 'proposed' AND p.revision = 0
""")

_CLOSE = text(f"""
    WITH gone AS (
        DELETE FROM pushes p USING (SELECT DISTINCT rival_id, rival_user_id FROM giving) g
        WHERE p.occurrence_id = g.rival_id AND p.user_id = g.rival_user_id AND p.state = 'planned'
          AND NOT p.explored AND p.send_at > :frozen RETURNING p.*
    ), told AS ({endings.last_revision("gone p", ":displaced", "d.shard")}
    ), ended AS ({endings.into_ledger("gone p", "'displaced'", "'worth_less'", "'by run ' || CAST(:run AS text)")}
    )
    UPDATE giving g SET closed = true FROM gone p WHERE p.occurrence_id = g.rival_id AND p.user_id = g.rival_user_id
""")

_TOO_LATE = text("""
    WITH gone AS (
        DELETE FROM pushes p USING (SELECT DISTINCT id FROM giving WHERE NOT closed) g
        WHERE p.id = g.id AND p.state = 'proposed' RETURNING p.*
    )
    INSERT INTO decisions (date, occurrence_id, user_id, revision, run_id, shard, arm, reason, propensity, receipt)
    SELECT d.date, d.occurrence_id, d.user_id, 1, d.run_id, d.shard, d.arm, :too_late, d.propensity, d.receipt
    FROM gone p JOIN decisions d ON d.date = p.date AND d.occurrence_id = p.occurrence_id AND d.user_id = p.user_id
                                AND d.revision = 0
""")


def note(connection: Connection, spec: RunSpec, proposals: Proposals, result: Allotment) -> None:
    """Note whose places the proposals take that capacity had no room for."""
    if not len(result.heirs):
        return
    ours = np.array([occasion.occurrence_id for occasion in spec.occasions], np.int64)
    connection.execute(
        _NOTE,
        {
            "run": spec.run_id,
            "users": proposals.user[result.heirs].tolist(),
            "occurrences": ours[proposals.occurrence[result.heirs]].tolist(),
            "rivals": result.displaced[:, 0].tolist(),
            "rival_users": result.displaced[:, 1].tolist(),
        },
    )


def carry_out(connection: Connection, run_id: int, now: datetime) -> dict[str, int]:
    """Close what the run's proposals displace at business time `now`: how many, and how many came too late."""
    noted = text("SELECT 1 FROM displacements WHERE run_id = :run LIMIT 1")
    if connection.execute(noted, {"run": run_id}).first() is None:
        return {"displaced": 0, "too_late": 0}
    connection.execute(_GIVING, {"run": run_id})
    given = {"run": run_id, "now": now, "frozen": now + FROZEN, "displaced": REASON["displaced"]}
    connection.execute(_CLOSE, given)
    closed = connection.execute(text("SELECT count(DISTINCT (rival_id, rival_user_id)) FROM giving WHERE closed"))
    displaced = int(closed.scalar_one())
    late = connection.execute(_TOO_LATE, {"too_late": REASON["too_late"]}).rowcount
    connection.execute(text("DELETE FROM displacements WHERE run_id = :run"), {"run": run_id})
    return {"displaced": displaced, "too_late": late}
