"""For looking back: revised decisions are found by an index, the latest backtests are kept.

Revision ID: 2026_11_24_looking_back
Revises: 2026_11_24_approvals
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "2026_11_24_looking_back"
down_revision = "2026_11_24_approvals"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change."""
    op.create_index(
        "ix_decisions_revised",
        "decisions",
        ["occurrence_id", "created_at"],
        unique=False,
        postgresql_where=sa.text("revision > 0"),
    )
    op.create_table(
        "backtests",
        sa.Column("id", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "as_of",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="business time: it saw events before this",
        ),
        sa.Column("goal", sa.Text(), nullable=False),
        sa.Column("report", JSONB(), nullable=False, comment="what `horae backtest --json` prints"),
        sa.Column("page", sa.Text(), nullable=False, comment="the same with charts, as HTML"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_backtests")),
        comment="the latest backtests of the shop's own log, for the console",
    )


def downgrade() -> None:
    """Undo it."""
    op.drop_table("backtests")
    op.drop_index("ix_decisions_revised", table_name="decisions", postgresql_where=sa.text("revision > 0"))
