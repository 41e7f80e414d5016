"""Who changed what.

Revision ID: 2026_11_24_audit
Revises: 2026_11_24_planner
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "2026_11_24_audit"
down_revision = "2026_11_24_upkeep"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change."""
    op.create_table(
        "audit_log",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column(
            "at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
            comment="machine time",
        ),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False, comment="campaign.pause, policy.change, user.erase, …"),
        sa.Column("subject", sa.Text(), nullable=False, comment="campaign:NAME, policy, user:HASH, …"),
        sa.Column("before", postgresql.JSONB(none_as_null=True)),
        sa.Column("after", postgresql.JSONB(none_as_null=True)),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_log")),
        comment="who changed what; append-only",
    )
    op.create_index(op.f("ix_audit_log_subject_id"), "audit_log", ["subject", "id"])


def downgrade() -> None:
    """Undo it."""
    op.drop_index(op.f("ix_audit_log_subject_id"), table_name="audit_log")
    op.drop_table("audit_log")
