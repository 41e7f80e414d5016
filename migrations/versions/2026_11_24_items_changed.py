"""An index that says at once whether an item changed: whoever keeps the catalogue warm asks twice a second.

Revision ID: 2026_11_24_items_changed
Revises: 2026_11_24_scopes
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2026_11_24_items_changed"
down_revision = "2026_11_24_scopes"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change."""
    op.create_index("ix_items_changed", "items", ["updated_at"], postgresql_where=sa.text("NOT stub"))


def downgrade() -> None:
    """Undo it."""
    op.drop_index("ix_items_changed", "items", postgresql_where=sa.text("NOT stub"))
