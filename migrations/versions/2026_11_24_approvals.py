"""Approvals of versions of campaigns.

Revision ID: 2026_11_24_approvals
Revises: 2026_11_24_variants
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2026_11_24_approvals"
down_revision = "2026_11_24_variants"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change."""
    op.create_table(
        "campaign_approvals",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("campaign_id", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False, comment="requested | approved | rejected"),
        sa.Column("actor", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column(
            "at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
            comment="machine time",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_campaign_approvals")),
        sa.ForeignKeyConstraint(
            ["campaign_id"],
            ["campaigns.id"],
            name=op.f("fk_campaign_approvals_campaign_id_campaigns"),
            ondelete="CASCADE",
        ),
        sa.CheckConstraint(
            "state IN ('requested', 'approved', 'rejected')", name=op.f("ck_campaign_approvals_known_state")
        ),
        comment="append-only; of a version the last word counts",
    )
    op.create_index(
        op.f("ix_campaign_approvals_campaign_id_version_id"), "campaign_approvals", ["campaign_id", "version", "id"]
    )


def downgrade() -> None:
    """Take the change back."""
    op.drop_table("campaign_approvals")
