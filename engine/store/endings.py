"""SQL that ends pushes which were never sent: the ledger's row of each, and the last revision of its decision.

For statements of the form `WITH gone AS (DELETE FROM pushes … RETURNING p.*) …`, so that a push leaves the hot table,
enters the ledger and gets its last word in one statement, whoever ends it: planning, dispatch or an erasure. Every
argument is SQL of the caller's own, never a value from outside.
"""

from __future__ import annotations


def into_ledger(source: str, state: str, reason: str, detail: str = "NULL") -> str:
    """The INSERT of one delivery for each push of `source`, a FROM clause that calls it `p`, at `:now`: what never left
    counts towards no cap. `state`, `reason`, `detail`: SQL expressions of text."""
    return f"""
    INSERT INTO deliveries (day, id, push_id, state, reason, at, occurrence_id, campaign_id, user_id, item_id, gateway,
                            attempts, send_at, counts, scopes, detail)
    SELECT (CAST(:now AS timestamptz) AT TIME ZONE 'UTC')::date, p.id, p.id, {state}, {reason}, :now,
           p.occurrence_id, p.campaign_id, p.user_id, p.item_id, p.gateway, p.attempts, p.send_at, false, '{{}}',
           {detail}
    FROM {source}"""


def last_revision(source: str, reason: str, shard: str) -> str:
    """The INSERT of a revision that says why each push of `source`, which calls it `p`, was given up: `reason` of its
    decision and the `shard` that decided, SQL expressions in which `d` is revision 0."""
    return f"""
    INSERT INTO decisions (date, occurrence_id, user_id, revision, run_id, shard, arm, reason, push_id, propensity)
    SELECT d.date, d.occurrence_id, d.user_id, p.revision + 1, d.run_id, {shard}, d.arm, {reason}, p.id, d.propensity
    FROM {source} JOIN decisions d ON d.date = p.date AND d.occurrence_id = p.occurrence_id
                                    AND d.user_id = p.user_id AND d.revision = 0"""
