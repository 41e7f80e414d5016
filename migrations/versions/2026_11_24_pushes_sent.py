"""Pushes sent are an event type and folded like any other; visits count once for hours; when a model was promoted.

Revision ID: 2026_11_24_pushes_sent
Revises: 2026_11_24_half_lives
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2026_11_24_pushes_sent"
down_revision = "2026_11_24_half_lives"
branch_labels = None
depends_on = None

_RUNGS = "0 push response, 1 app session, 2 any other activity"
_RUNGS_NOW = "0 push response, 1 app session, 2 other activity, 3 push sent"


def upgrade() -> None:
    """Apply the change."""
    # whoever has events of that name keeps them under another one: their ids are not the type's
    op.execute("UPDATE event_types SET name = 'push_sent_before' WHERE name = 'push_sent'")
    op.execute("INSERT INTO event_types (id, name) VALUES (11, 'push_sent')")
    op.alter_column(
        "user_hour_profiles",
        "rung",
        existing_type=sa.SmallInteger(),
        existing_nullable=False,
        comment=_RUNGS_NOW,
        existing_comment=_RUNGS,
    )
    op.add_column(
        "models",
        sa.Column(
            "promoted_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="machine time; NULL: never champion, or rolled back",
        ),
    )
    op.execute("UPDATE models SET promoted_at = created_at WHERE state <> 'challenger'")
    op.create_table(
        "user_visits",
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "at", name=op.f("pk_user_visits")),
        comment="instants whose events of rung 2 the hour profiles hold: a basket of ten lines is one visit",
    )
    # hour profiles made before count lines: `horae migrate` computes them again, as their recipe is another one
    op.execute("""
        INSERT INTO user_visits (user_id, at)
        SELECT DISTINCT user_id, occurred_at FROM events
        WHERE user_id IS NOT NULL AND (event_type IN (4, 5) OR event_type >= 100)
              AND NOT EXISTS (SELECT FROM unfolded_events w WHERE w.key = events.key)
    """)


def downgrade() -> None:
    """Take the change back."""
    op.drop_table("user_visits")
    op.drop_column("models", "promoted_at")
    op.alter_column(
        "user_hour_profiles",
        "rung",
        existing_type=sa.SmallInteger(),
        existing_nullable=False,
        comment=_RUNGS,
        existing_comment=_RUNGS_NOW,
    )
    op.execute("DELETE FROM event_types WHERE id = 11")
