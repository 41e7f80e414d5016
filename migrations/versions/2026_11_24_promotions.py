"""Promotions that a shop announces beforehand.

Revision ID: 2026_11_24_promotions
Revises: 2026_11_24_pushes_sent
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2026_11_24_promotions"
down_revision = "2026_11_24_pushes_sent"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change."""
    op.create_table(
        "promotions",
        sa.Column("item_id", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False, comment="advert | placement | discount"),
        sa.Column("starts_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("weight", sa.Double(), nullable=False, comment="how strong; 0: withdrawn"),
        sa.Column("announced_at", sa.DateTime(timezone=True), nullable=False, comment="business time"),
        sa.CheckConstraint("kind IN ('advert', 'placement', 'discount')", name=op.f("ck_promotions_known_kind")),
        sa.CheckConstraint("starts_at < ends_at", name=op.f("ck_promotions_ends_after_start")),
        sa.CheckConstraint("weight >= 0", name=op.f("ck_promotions_weight_not_negative")),
        sa.ForeignKeyConstraint(
            ["item_id"], ["items.id"], name=op.f("fk_promotions_item_id_items"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("item_id", "kind", "starts_at", "announced_at", name=op.f("pk_promotions")),
    )


def downgrade() -> None:
    """Take it back."""
    op.drop_table("promotions")
