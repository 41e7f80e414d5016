"""Users who bought or opted out are planned again before those who only looked around.

Revision ID: 2026_11_24_urgent_marks
Revises: 2026_11_24_hot_updates
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2026_11_24_urgent_marks"
down_revision = "2026_11_24_hot_updates"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change."""
    urgent: sa.Column[bool] = sa.Column(
        "urgent", sa.Boolean(), server_default=sa.text("false"), nullable=False, comment="bought, or opted out"
    )
    op.add_column("changed_users", urgent)
    op.drop_index(op.f("ix_changed_users_slot"), table_name="changed_users")


def downgrade() -> None:
    """Undo it."""
    op.create_index(op.f("ix_changed_users_slot"), "changed_users", ["slot"], unique=False)
    op.drop_column("changed_users", "urgent")
