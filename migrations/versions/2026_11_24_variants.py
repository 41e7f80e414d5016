"""Which variant of a message under test a delivery carried.

Revision ID: 2026_11_24_variants
Revises: 2026_11_24_audiences
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2026_11_24_variants"
down_revision = "2026_11_24_audiences"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change."""
    op.add_column(
        "deliveries",
        sa.Column(
            "variant", sa.Text(), nullable=True, comment="EXPERIMENT:ARM of its message; NULL: nothing was under test"
        ),
    )


def downgrade() -> None:
    """Take the change back."""
    op.drop_column("deliveries", "variant")
