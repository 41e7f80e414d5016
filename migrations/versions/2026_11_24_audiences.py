"""Saved audiences with their versions, and which of them an occurrence's run used.

Revision ID: 2026_11_24_audiences
Revises: 2026_11_24_console
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "2026_11_24_audiences"
down_revision = "2026_11_24_console"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change."""
    op.create_table(
        "audiences",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column(
            "deleted_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="machine time; its versions stay for the runs that used them",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audiences")),
        sa.UniqueConstraint("name", name=op.f("uq_audiences_name")),
    )
    op.create_table(
        "audience_versions",
        sa.Column("audience_id", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("definition", JSONB(), nullable=False, comment="campaigns.saved_audience.SavedAudience"),
        sa.Column("author", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("audience_id", "version", name=op.f("pk_audience_versions")),
        sa.ForeignKeyConstraint(
            ["audience_id"],
            ["audiences.id"],
            name=op.f("fk_audience_versions_audience_id_audiences"),
            ondelete="CASCADE",
        ),
    )
    op.add_column(
        "occurrences",
        sa.Column(
            "audiences",
            JSONB(),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
            comment="versions of the saved audiences that its run used, by name",
        ),
    )


def downgrade() -> None:
    """Take the change back."""
    op.drop_column("occurrences", "audiences")
    op.drop_table("audience_versions")
    op.drop_table("audiences")
